"""The settings of the tests: broker, store and database are in memory, so they need no server."""

from __future__ import annotations

from examples.django_project.mysite.settings import *  # noqa: F403

DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
CELERY_BROKER_URL = "memory://"
CELERY_PAIGEANT_STORE_URL = "memory://"
