"""A Django project with a Celery app, laid out as in Celery's documentation."""

from examples.django_project.mysite.celery import app as celery_app

__all__ = ("celery_app",)
