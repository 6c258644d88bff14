"""The module to list in a Celery configuration's `imports`; importing it installs paigeant_celery in the app."""

from __future__ import annotations

from paigeant_celery.worker.install import install_importing_apps

__all__: list[str] = []

install_importing_apps()
