"""Errors of failed hops: each has a class with the name of the step's own error, because monitors group by it.

`paigeant_celery.core.hop_failures.KeyError` is such a class. It is made when it is first asked for, also by pickle and
by result backends, which look it up here by its name.
"""

from __future__ import annotations

from functools import cache

from paigeant_celery.core.errors import HopFailed

__all__ = ["hop_failed"]


def hop_failed(hop_id: str, step_id: str, error_class: str) -> HopFailed:
    """Return what Celery is told of a failed hop."""
    kind = _named(error_class) if _is_free(error_class) else HopFailed
    return kind(hop_id, step_id, error_class)


def _is_free(name: str) -> bool:
    """Say whether a class may have this name and be found here by it."""
    return name.isidentifier() and not name.startswith("__") and name not in globals()


@cache  # a class is found again by its name; there are as many names as the host's code has errors
def _named(name: str) -> type[HopFailed]:
    return type(name, (HopFailed,), {"__module__": __name__, "__doc__": HopFailed.__doc__})


def __getattr__(name: str) -> type[HopFailed]:
    if not _is_free(name):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _named(name)
