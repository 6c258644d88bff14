"""The process that sends TOUCH for a worker: a step that holds the interpreter lock keeps its own from renewing.

`worker/touching.py` starts it. It extends the lease of each process of the worker that is there and not stopped, and
ends when its standard input is closed, which is when the worker ends, however that happens. It loads as little as it
can.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

from paigeant_celery.core.errors import PaigeantError
from paigeant_celery.hop.liveness import goes_on, host_id, is_gone
from paigeant_celery.store.touching import Toucher

__all__ = ["touch_until_closed"]

STDIN = 0


def touch_until_closed(given: Mapping[str, Any]) -> None:
    """Touch the owners of a worker until it closes the standard input or is gone."""
    toucher = Toucher(given["endpoint"], prefix=given["prefix"], lease=given["lease"])
    touch, worker = partial(toucher.touch, host=host_id() or ""), str(given["worker"])
    owners = _touched(touch, (), worker)  # who is there; they are touched at once
    while not is_gone(worker):
        owners = _touched(touch, owners, worker)
        if select.select([STDIN], [], [], given["interval"])[0]:
            return  # nothing more is ever written there


def _touched(touch: Callable[..., Sequence[str]], owners: Collection[str], worker: str) -> Sequence[str]:
    """Touch those of the owners that go on and return all that the store lists, for the next time."""
    try:
        return touch(owners=[owner for owner in owners if goes_on(owner, of=worker)])
    except PaigeantError:  # the owners say so as well when they renew
        return [*owners]
