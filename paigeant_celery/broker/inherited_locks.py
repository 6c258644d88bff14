"""Locks of Celery and Kombu that a forked child gets as they were, which nobody there would ever release.

Kombu takes a lock of a whole class whenever one of its cached properties is read, such as `app.amqp`, and Celery one of
a signal whenever it tells a receiver. Another thread of the parent may hold one at the very moment of the fork.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from typing import Any

from celery import signals
from celery.utils.dispatch import Signal
from kombu.utils.objects import cached_property

__all__ = ["renew_locks"]

OF = ("celery", "kombu")


def renew_locks() -> None:
    """Give a forked child locks of its own. It takes a millisecond or two.

    They are others and not the same ones released: a greenlet that holds one goes on in the child and releases it.
    """
    for kind in _classes():
        for attribute in list(vars(kind).values()):
            if _is(attribute, cached_property):
                attribute.lock = threading.RLock()
    for signal in list(vars(signals).values()):
        if _is(signal, Signal):
            signal.lock = threading.RLock()


def _classes() -> Iterator[type]:
    """Give those of the modules that are loaded."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in OF and module is not None:
            yield from (each for each in list(vars(module).values()) if _is(each, type))


def _is(value: Any, kind: type) -> bool:
    """Say what `isinstance` does, which would ask Celery's proxies for what they stand for, and wait for a lock."""
    return issubclass(type(value), kind)
