"""What this process says at its end if workflows in its memory have not ended: nobody else can go on with them."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.util import Finalize

from celery.signals import worker_process_shutdown
from kombu.transport import memory

from paigeant_celery.core.names import Names, split_hop_id
from paigeant_celery.store.port import Store

__all__ = ["said_of", "unfinished_in", "watch"]

MOST_NAMED = 5
RUNNERS = ("pytest", "django.test.runner")  # tests dispatch without wanting an end; `unittest` is loaded elsewhere, too


@dataclass(frozen=True)
class _Watched:
    """A memory of this process. What was `before` is the parent's of a forked process, who answers for it."""

    owner: weakref.ref[object]
    unfinished: Callable[[], Iterable[str]]
    before: frozenset[str]

    def left(self) -> list[str]:
        """Return the workflows that go on."""
        return [workflow for workflow in self.unfinished() if workflow not in self.before]


_watched: list[_Watched] = []


def watch(owner: object, unfinished: Callable[[], Iterable[str]]) -> None:
    """Look at `unfinished` when this process ends, also if `owner` is gone by then."""
    if any(each.owner() is owner for each in _watched):
        return
    _watched[:] = [each for each in _watched if each.owner() is not None or each.left()]
    if not _watched and multiprocessing.parent_process() is not None:
        Finalize(None, _say, exitpriority=0)  # a forked process of `multiprocessing` ends without `atexit`
    _watched.append(_Watched(weakref.ref(owner), unfinished, frozenset(unfinished())))


def unfinished_in(store: Store | None, names: Names) -> Callable[[], Iterable[str]]:
    """Return what lists the workflows that go on in the memory of this process.

    Without a store in memory, they are those with a message in Kombu's.
    """
    if store is not None and not store.shared:
        return store.unfinished
    return lambda: _with_message(names)


def said_of(workflows: Iterable[str]) -> str:
    """Return what is said about workflows that end with this process."""
    ids = list(dict.fromkeys(workflows))
    one = len(ids) == 1
    named = ", ".join(ids[:MOST_NAMED]) + (f" and {len(ids) - MOST_NAMED} more" if len(ids) > MOST_NAMED else "")
    return (
        f"paigeant_celery: {len(ids)} workflow{'' if one else 's'} in the memory of this process "
        f"{'has' if one else 'have'} not ended and {'is' if one else 'are'} lost with it: {named}. Set "
        "`PAIGEANT_REDIS_URL` (or `PAIGEANT_TRANSPORT`), so that workers run what is dispatched, or run an "
        "`ActivityExecutor` in this process until its workflows have ended."
    )


def _with_message(names: Names) -> Iterator[str]:
    for queue in list(memory.Channel.queues.values()):
        for message in list(queue.queue):
            headers = message.get("headers") or {}
            ids = split_hop_id(str(headers.get("id")))
            if ids is not None and names.activity(str(headers.get("task"))) is not None:
                yield ids[0]


def _say(**_: object) -> None:
    if any(runner in sys.modules for runner in RUNNERS):
        return
    left = [workflow for each in _watched for workflow in each.left()]
    _watched.clear()  # some processes come here twice
    if left and sys.stderr is not None:
        with suppress(OSError, ValueError):  # it may be closed
            sys.stderr.write(f"{said_of(left)}\n")  # no log: nobody may have set one up, or it is closed by now
            sys.stderr.flush()


atexit.register(_say)
worker_process_shutdown.connect(_say)  # those of Celery's prefork pool end without `atexit` as well
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _watched.clear())
