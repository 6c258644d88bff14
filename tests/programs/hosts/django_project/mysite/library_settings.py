"""The project with a database that can be restarted, and steps that ask it."""

from __future__ import annotations

import os

from mysite.settings import *  # noqa: F403
from mysite.settings import INSTALLED_APPS as OTHERS

INSTALLED_APPS = [*OTHERS, "library"]
DATABASES = {"default": {"ENGINE": "mortal", "NAME": os.path.join(os.environ["LIBRARY"], "books.sqlite3")}}
CELERY_PAIGEANT_MAX_ATTEMPTS = 1
CELERY_PAIGEANT_AROUND_STEP = "library.surroundings.in_language"
