"""Agents of a Django app, found in the same way as tasks."""

from __future__ import annotations

from django.apps import apps
from stage import echo

from paigeant_celery import PaigeantAgent, activity

title = PaigeantAgent(echo("title"))


@activity
def installed_apps() -> list[str]:
    """Use Django, which must be set up when a step runs."""
    return sorted(config.label for config in apps.get_app_configs())
