"""The module to name in the `imports` of a Celery configuration; importing it installs paigeant_celery there."""

from __future__ import annotations

from paigeant_celery.worker.install import install_importing_apps

__all__: list[str] = []

install_importing_apps()
