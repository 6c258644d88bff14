"""A Django project with a Celery app, as Celery's documentation lays it out."""

from mysite.celery import app as celery_app

__all__ = ("celery_app",)
