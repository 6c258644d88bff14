"""The app's name: its place in this repository is longer than that of an app in a project of its own."""

from __future__ import annotations

from django.apps import AppConfig

__all__ = ["ComplaintsConfig"]


class ComplaintsConfig(AppConfig):
    """Complaints of customers."""

    name = "examples.django_project.complaints"
    label = "complaints"
