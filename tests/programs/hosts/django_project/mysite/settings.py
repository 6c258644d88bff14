"""Settings of the project; one line of them adds paigeant_celery."""

from __future__ import annotations

import os

SECRET_KEY = "for tests"
INSTALLED_APPS = ["django.contrib.contenttypes", "blog"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
USE_TZ = True

CELERY_BROKER_URL = os.environ.get("SHOP_BROKER", "memory://localhost//")
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_TASK_DEFAULT_QUEUE = "blog"
if os.environ.get("SHOP_WITH") == "imports":
    CELERY_IMPORTS = ("paigeant_celery.tasks",)
CELERY_PAIGEANT_STORE_URL = os.environ.get("SHOP_STORE")
CELERY_PAIGEANT_LEASE = 7.5
