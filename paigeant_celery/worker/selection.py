"""Which queues a worker was told to take: by `-Q` and `-X`, or by the code of a host that does the same."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from celery.signals import celeryd_init
from celery.utils.text import str_to_list

__all__ = ["NO_SELECTION", "Selection", "selection_of"]

# Celery forgets `-X` once it is applied, and queues that are added later are not checked against it.
_excluded: weakref.WeakKeyDictionary[Any, frozenset[str]] = weakref.WeakKeyDictionary()


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


def selection_of(worker: Any) -> Selection:
    """Return what a Celery worker was told."""
    queues = worker.app.amqp.queues
    chosen = None if queues._consume_from is None else frozenset(queues.consume_from)
    return Selection(chosen, _excluded.get(worker, frozenset()))


def _remember(instance: Any = None, options: Mapping[str, Any] | None = None, **_: object) -> None:
    """Keep what `-X` says."""
    _excluded[instance] = frozenset(str_to_list((options or {}).get("exclude_queues")) or ())


celeryd_init.connect(_remember)
