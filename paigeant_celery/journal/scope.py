"""Where code of a step runs: in which hop's journal, and inside which call."""

from __future__ import annotations

from contextlib import AbstractContextManager
from contextvars import ContextVar, Token
from dataclasses import dataclass, replace

from paigeant_celery.journal.hop_journal import HopJournal

__all__ = [
    "calling",
    "can_wait_here",
    "current_journal",
    "is_recorded_here",
    "journalling",
    "running",
    "surrounding_call",
    "surrounding_journal",
    "surrounding_run",
]


@dataclass(frozen=True, slots=True)
class _Scope:
    """What surrounds a step's code: the hop's journal, the call and the run that it is in, if the call is recorded.

    A recorded call that `may_wait` is made again from its top when it has waited.
    """

    journal: HopJournal
    path: str = ""
    recorded: bool = False
    run_id: str = ""
    may_wait: bool = False


_scope: ContextVar[_Scope | None] = ContextVar("paigeant_journal", default=None)


def current_journal() -> HopJournal | None:
    """Return the journal that records the calls of this context; None outside a hop and inside a recorded call."""
    scope = _scope.get()
    return None if scope is None or scope.recorded else scope.journal


def surrounding_journal() -> HopJournal | None:
    """Return the journal of the hop that this context belongs to, even inside a recorded call."""
    scope = _scope.get()
    return scope.journal if scope is not None else None


def is_recorded_here() -> bool:
    """Say whether this context is the inside of a recorded call."""
    scope = _scope.get()
    return scope is not None and scope.recorded


def can_wait_here() -> bool:
    """Say whether this context belongs to a hop and is not the inside of a recorded call, which cannot wait."""
    scope = _scope.get()
    return scope is not None and (scope.may_wait or not scope.recorded)


def surrounding_run() -> str:
    """Return the id of the agent's run that this context is the inside of; empty if it is none."""
    scope = _scope.get()
    return scope.run_id if scope is not None else ""


def surrounding_call() -> str:
    """Return the call that this context is the inside of; empty if it is none."""
    scope = _scope.get()
    return scope.path if scope is not None else ""


class _Within:
    """The block in which a scope surrounds the code; a generator would take several times its memory."""

    __slots__ = ("_scope", "_token")
    _token: Token[_Scope | None]

    def __init__(self, scope: _Scope | None) -> None:
        self._scope = scope

    def __enter__(self) -> None:
        self._token = _scope.set(self._scope)

    def __exit__(self, *error: object) -> None:
        _scope.reset(self._token)


def journalling(journal: HopJournal | None) -> AbstractContextManager[None]:
    """Record the calls of the block in `journal`."""
    return _Within(_Scope(journal) if journal is not None else None)


def calling(path: str, *, recorded: bool, may_wait: bool = False) -> AbstractContextManager[None]:
    """Mark the block as the inside of a call: if `recorded`, nothing in it is recorded, but for waits if it `may_wait`.

    Otherwise `path` names runs.
    """
    scope = _scope.get()
    inside = replace(scope, path=path, recorded=recorded, may_wait=may_wait) if scope is not None else None
    return _Within(inside)


def running(run_id: str) -> AbstractContextManager[None]:
    """Mark the block as the inside of a run of an agent, whose calls are recorded."""
    scope = _scope.get()
    assert scope is not None, "a run is recorded only in a hop"
    if scope.run_id not in ("", run_id):
        scope.journal.note_surrounding(run_id, scope.run_id)
    return _Within(replace(scope, run_id=run_id))
