"""The versions of the packages that a worker's behaviour depends on."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

__all__ = ["PACKAGES", "versions_here"]

PACKAGES = ("paigeant_celery", "celery", "kombu", "redis", "pydantic", "pydantic-ai-slim")


def versions_here() -> dict[str, str]:
    """Return the versions of Python and of those packages that are installed here."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # it is on the path all the same, as in a source tree
            continue
    return found
