"""Settings of the project. Those that add paigeant_celery are at the end."""

from __future__ import annotations

import os
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent

SECRET_KEY = os.environ.get("DJANGO_SECRET_KEY") or "of an example that only this machine can reach"
DEBUG = True
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
ROOT_URLCONF = "examples.django_project.mysite.urls"
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "examples.django_project.complaints",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("COMPLAINTS_DB") or PROJECT / "db.sqlite3",
        # The server and the workers write into one file: each waits for the other.
        "OPTIONS": {"timeout": 20, "transaction_mode": "IMMEDIATE"},
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
TIME_ZONE = "UTC"
STATIC_URL = "static/"
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = LOGOUT_REDIRECT_URL = "complaints"

# What stands in the form at first, and whether the bank answers: of the example, not of a project.
COMPLAINTS_EXAMPLE = os.environ.get("COMPLAINTS_EXAMPLE", "")
COMPLAINTS_BANK_CLOSED = os.environ.get("COMPLAINTS_BANK_CLOSED", "")  # closed as long as this file is there

# As in any project with Celery.
CELERY_BROKER_URL = os.environ.get("PAIGEANT_REDIS_URL", "redis://localhost:6379/0")
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_TASK_DEFAULT_QUEUE = "mysite"

# New: the tasks of paigeant_celery; it finds `agents.py` in each app by itself.
CELERY_IMPORTS = ("paigeant_celery.tasks",)
# New: workflows are recorded in the broker's own Redis.
CELERY_PAIGEANT_STORE_URL = "broker"
# New: agents have workers of their own, which set this to `only`; the others serve none.
CELERY_PAIGEANT_CONSUME = os.environ.get("PAIGEANT_CONSUME", "no")
# New: a step is begun three times, then its workflow waits for somebody to look at it.
CELERY_PAIGEANT_MAX_ATTEMPTS = 3
