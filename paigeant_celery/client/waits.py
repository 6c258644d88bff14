"""Waits as they are read from outside, made of what the store records."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import cast

from paigeant_celery.client.readings import Answered, AnswerOutcome, GivenAnswer, PendingWait, WaitingFor
from paigeant_celery.core.about import read_about
from paigeant_celery.core.answers import given_of
from paigeant_celery.core.names import split_hop_id
from paigeant_celery.core.waits import Answer, Wait
from paigeant_celery.store.branch_port import HopReading
from paigeant_celery.store.port import Resolution, WorkflowRecord

__all__ = ["answered", "open_in", "open_waits", "pending_wait", "waiting_for", "waits_of_hop"]


def open_waits(record: WorkflowRecord) -> list[Wait]:
    """Return the waits of the current step that may still be answered."""
    return open_in(record.waits) if record.state in ("running", "parked") else []


def open_in(waits: Iterable[Wait]) -> list[Wait]:
    """Return those that nothing has settled."""
    return [wait for wait in waits if wait.state == "open"]


def waiting_for(record: WorkflowRecord) -> tuple[WaitingFor, ...]:
    """Return what the current step waits for beside branches, without what would let a reader answer it."""
    return _waiting(open_waits(record), record.wake_at if record.suspended else None)


def waits_of_hop(hop: HopReading, path: str) -> tuple[WaitingFor, ...]:
    """Return what a hop in a branch waits for beside its own branches; `path` is that of its step."""
    sleeps = hop.state == "suspended" and not hop.on_branches
    return _waiting(open_in(hop.waits), hop.wake_at if sleeps else None, path)


def _waiting(waits: Iterable[Wait], wake_at: datetime | None, path: str = "") -> tuple[WaitingFor, ...]:
    found = [
        WaitingFor(
            kind=wait.kind,
            name=wait.name,
            since=wait.since,
            until=wait.until,
            tools=tuple(call.tool for call in read_about(wait.about).calls if call.id not in wait.answers),
            path=path,
        )
        for wait in waits
    ]
    if wake_at is not None:
        found.append(WaitingFor(kind="time", until=wake_at, path=path))
    return tuple(found)


def pending_wait(wait: Wait, hop_id: str, *, cursor: str = "") -> PendingWait:
    """Return an open wait as whoever answers sees it."""
    about = read_about(wait.about)
    ids = split_hop_id(hop_id)
    return PendingWait(
        token=wait.token,
        workflow=ids[0] if ids is not None else "",
        hop_id=hop_id,
        step_id=about.step,
        activity=about.activity,
        kind=wait.kind,
        name=wait.name,
        question=about.question,
        calls=tuple(call for call in about.calls if call.id not in wait.answers),
        since=wait.since,
        until=wait.until,
        cursor=cursor,
    )


def answered(resolution: Resolution, *, parts: Collection[str]) -> Answered:
    """Return what an answer to these parts did, or a signal, which is about none."""
    wait = resolution.wait
    answers = {part: _given(answer) for part, answer in wait.answers.items()} if wait is not None else {}
    return Answered(
        outcome=cast("AnswerOutcome", resolution.outcome),
        first=min((answers[part] for part in parts if part in answers), key=lambda given: given.at, default=None),
        answers=answers,
        open=wait.unanswered if wait is not None and wait.state == "open" else (),
    )


def _given(answer: Answer) -> GivenAnswer:
    given = given_of(answer.text)
    return GivenAnswer(payload=given.payload, failed=given.failed, by=answer.by, at=answer.at)
