"""The settings of a Django project that has nothing but the schedules of django-celery-beat."""

from __future__ import annotations

import os

SECRET_KEY = "of a test"
INSTALLED_APPS = ["django.contrib.contenttypes", "django_celery_beat"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ.get("BEAT_DATABASE", ":memory:")}}
USE_TZ = True
TIME_ZONE = "UTC"
