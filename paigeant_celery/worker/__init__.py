"""Celery's worker, and an executor inside a program."""
