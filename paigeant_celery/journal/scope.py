"""Where code of a step runs: in which hop's journal, and inside which call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace

from paigeant_celery.journal.hop_journal import HopJournal

__all__ = ["calling", "current_journal", "journalling", "running", "surrounding_call", "surrounding_journal"]


@dataclass(frozen=True)
class _Scope:
    """What surrounds a step's code: the hop's journal, the call and the run that it is in, if the call is recorded."""

    journal: HopJournal
    path: str = ""
    recorded: bool = False
    run_id: str = ""


_scope: ContextVar[_Scope | None] = ContextVar("paigeant_journal", default=None)


def current_journal() -> HopJournal | None:
    """Return the journal that records the calls of this context; None outside a hop and inside a recorded call."""
    scope = _scope.get()
    return None if scope is None or scope.recorded else scope.journal


def surrounding_journal() -> HopJournal | None:
    """Return the journal of the hop that this context belongs to, even inside a recorded call."""
    scope = _scope.get()
    return scope.journal if scope is not None else None


def surrounding_call() -> str:
    """Return the call that this context is the inside of; empty if it is none."""
    scope = _scope.get()
    return scope.path if scope is not None else ""


@contextmanager
def journalling(journal: HopJournal | None) -> Iterator[None]:
    """Record the calls of the block in `journal`."""
    token = _scope.set(_Scope(journal) if journal is not None else None)
    try:
        yield
    finally:
        _scope.reset(token)


@contextmanager
def calling(path: str, *, recorded: bool) -> Iterator[None]:
    """Mark the block as the inside of a call: if `recorded`, nothing in it is recorded; otherwise `path` names runs."""
    scope = _scope.get()
    token = _scope.set(replace(scope, path=path, recorded=recorded) if scope is not None else None)
    try:
        yield
    finally:
        _scope.reset(token)


@contextmanager
def running(run_id: str) -> Iterator[None]:
    """Mark the block as the inside of a run of an agent, whose calls are recorded."""
    scope = _scope.get()
    assert scope is not None, "a run is recorded only in a hop"
    if scope.run_id not in ("", run_id):
        scope.journal.note_surrounding(run_id, scope.run_id)
    token = _scope.set(replace(scope, run_id=run_id))
    try:
        yield
    finally:
        _scope.reset(token)
