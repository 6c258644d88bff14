"""Waits as they are read from outside, made of what the store records."""

from __future__ import annotations

from collections.abc import Collection
from typing import cast

from paigeant_celery.client.readings import Answered, AnswerOutcome, GivenAnswer, PendingWait, WaitingFor
from paigeant_celery.core.about import read_about
from paigeant_celery.core.answers import given_of
from paigeant_celery.core.names import split_hop_id
from paigeant_celery.core.waits import Answer, Wait
from paigeant_celery.store.port import Resolution, WorkflowRecord

__all__ = ["answered", "open_waits", "pending_wait", "waiting_for"]


def open_waits(record: WorkflowRecord) -> list[Wait]:
    """Return the waits that may still be answered."""
    goes_on = record.state in ("running", "parked")
    return [wait for wait in record.waits if wait.state == "open"] if goes_on else []


def waiting_for(record: WorkflowRecord) -> tuple[WaitingFor, ...]:
    """Return what a workflow waits for, without what would let a reader answer it."""
    waits = [
        WaitingFor(
            kind=wait.kind,
            name=wait.name,
            since=wait.since,
            until=wait.until,
            tools=tuple(call.tool for call in read_about(wait.about).calls if call.id not in wait.answers),
        )
        for wait in open_waits(record)
    ]
    if record.suspended and record.wake_at is not None:
        waits.append(WaitingFor(kind="time", until=record.wake_at))
    return tuple(waits)


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
