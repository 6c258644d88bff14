"""Calls that need much of a thread's stack: all but a few threads of a process have them made in one other thread.

What a thread has once used of its stack stays in memory for as long as it lives. Reading and writing an envelope uses
20 KB, which every task thread of a worker would keep while its agent waits for a model.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import TypeVar

from paigeant_celery.activities.real_threads import are_greenlets
from paigeant_celery.activities.threads import SharedThreads

__all__ = ["FEW", "DeepCalls", "deep_calls"]

FEW = 16  # threads that make such calls themselves, which is quicker; a pool of this size hands nothing over

T = TypeVar("T")


class DeepCalls:
    """Makes such calls: here, if this thread is one of the first few, otherwise in a thread that is for them."""

    def __init__(self, few: int = FEW) -> None:
        self._few = few
        self._forget()
        os.register_at_fork(after_in_child=self._forget)

    def make(self, call: Callable[[], T]) -> T:
        """Make a call that neither waits nor looks at its context or thread."""
        if self._is_deep():
            return call()
        try:
            future = self._other.submit(call)
        except RuntimeError:  # there can be no other thread, and depth costs only memory
            return call()
        return future.result()

    def _is_deep(self) -> bool:
        here = threading.current_thread()
        if are_greenlets() or here in self._deep:  # greenlets that wait keep no stack
            return True
        if len(self._deep) < self._few:
            self._deep.add(here)
            return True
        return False

    def _forget(self) -> None:
        """Begin anew in a forked child, in which the parent's threads are not."""
        self._deep = weakref.WeakSet[threading.Thread]()
        self._other = SharedThreads(1, name="paigeant-deep-calls")


deep_calls = DeepCalls()
