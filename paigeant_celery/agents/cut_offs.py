"""Why a call was cut off: what ends a block that it runs in is recorded as its error.

A replay raises that error at once. If nobody says why a call was cut off, its replay waits to be cut off again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeAlias

__all__ = ["explained_by", "when_explained"]

Tell: TypeAlias = Callable[[Exception], object]

_waiting: ContextVar[list[Tell] | None] = ContextVar("paigeant_cut_offs", default=None)


@contextmanager
def explained_by(error_class: type[Exception]) -> Iterator[None]:
    """Tell the calls that are cut off inside the block which error of this class it ended with."""
    told: list[Tell] = []
    token = _waiting.set(told)
    try:
        yield
    except error_class as error:
        for tell in told:
            tell(error)
        raise
    finally:
        _waiting.reset(token)


def when_explained(tell: Tell) -> None:
    """Have `tell` called with the error that a call's being cut off turns into, if that is ever known."""
    waiting = _waiting.get()
    if waiting is not None:
        waiting.append(tell)
