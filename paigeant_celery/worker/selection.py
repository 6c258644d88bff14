"""Which queues a worker was told to take: by `-Q` and `-X`, or by the code of a host that does the same."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from celery.signals import celeryd_init
from celery.utils.text import str_to_list

__all__ = ["NO_SELECTION", "Selection", "selection_of", "told_to"]

# What a worker was told on its command line, by its instance. Celery forgets it once it is applied, and queues that are
# added later are not checked against it.
_told: weakref.WeakKeyDictionary[Any, Mapping[str, Any]] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Selection:
    """The queues of `-Q` (None without it), and those of `-X`."""

    chosen: frozenset[str] | None = None
    excluded: frozenset[str] = frozenset()

    def followed(self, *, added: frozenset[str], consumed: frozenset[str]) -> Selection:
        """Return it as it stands after a host's code, or a remote command, has changed what is `consumed`.

        `added` are the queues of ours that were consumed at first.
        """
        return Selection(None if self.chosen is None else consumed, self.excluded | (added - consumed))


NO_SELECTION = Selection()


def told_to(worker: Any) -> Mapping[str, Any]:
    """Return the options of a Celery worker's command line; none if it was made in code."""
    return _told.get(worker, {})


def selection_of(worker: Any) -> Selection:
    """Return what a Celery worker was told about its queues."""
    queues, told = worker.app.amqp.queues, told_to(worker)
    excluded = frozenset(str_to_list(told.get("exclude_queues")) or ())
    # Before Celery 5.7, `-X` alone looks as if the other queues had been chosen.
    unchosen = queues._consume_from is None or (excluded and not told.get("queues"))
    return Selection(None if unchosen else frozenset(queues.consume_from), excluded)


def _remember(instance: Any = None, options: Mapping[str, Any] | None = None, **_: object) -> None:
    _told[instance] = dict(options or {})


celeryd_init.connect(_remember)
