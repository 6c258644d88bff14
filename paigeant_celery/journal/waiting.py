"""Waiting in a step: a wait is recorded before anybody is asked, and what it gave before the code goes on with it."""

from __future__ import annotations

import json
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from pydantic import JsonValue

from paigeant_celery.core.waits import WHOLE, Wait, WaitKind, is_over, make_token, mark_of
from paigeant_celery.journal.hop_journal import HopJournal
from paigeant_celery.journal.record import CallKey, Record
from paigeant_celery.journal.scope import calling, is_recorded_here
from paigeant_celery.store.port import NewWait

__all__ = ["Ask", "Ended", "ended_wait"]

Ask = Callable[[str], Awaitable[Mapping[str, JsonValue] | None]]
BY_STEP = "step"  # who answered, if asking gave the answer at once
SECRET = 24  # bytes


@dataclass(frozen=True)
class Ended:
    """What became of a wait: the answers to its parts, as JSON, or none because its time was over."""

    state: Literal["settled", "timed_out"]
    answers: Mapping[str, Any]


async def ended_wait(
    journal: HopJournal,
    key: CallKey,
    *,
    kind: WaitKind,
    name: str,
    ask: Ask | None = None,
    timeout: float | None = None,  # noqa: ASYNC109 - of the wait, which outlasts this attempt
    parts: tuple[str, ...] = (WHOLE,),
    about: str = "",
    is_of_use: Callable[[Ended], bool] = lambda ended: True,
) -> Ended:
    """Wait for an answer, now or in a later attempt, and return it; the same in each attempt.

    `ask` gets the token, and may give answers at once; it may be called again if an attempt ends before its answer is
    recorded. `timeout` is in seconds from when the wait was first recorded. An answer that is not `is_of_use` opens the
    wait again under a new token, and `ask` is called with that. Raises `HopLost`, and `UsageError` on an event loop
    that is not the attempt's.
    """
    await journal.waits.check_may_wait()  # before anybody is asked
    found = journal.find(key, {})
    if found is not None:
        await journal.turn(found.number)
        return Ended(state=found.result["state"], answers=found.result["answers"])
    await journal.write_before(key)
    waits, instead_of = journal.waits, None
    while True:
        wait = waits.known(str(key))
        is_too_late = wait is not None and instead_of is None and is_over(wait, now=waits.now())
        if wait is None or instead_of is not None:
            new = NewWait(
                wait_id=str(key),
                token=make_token(journal.hop_id, secrets.token_urlsafe(SECRET)),
                kind=kind,
                name=name,
                timeout=timeout,
                parts=parts,
                about=about,
                instead_of=instead_of,
            )
            async with waits.recording:
                wait = await journal.patiently(partial(waits.record, new))
        if wait.state == "open" and ask is not None:
            wait = await _asked(journal, key, wait, None if is_too_late else ask)
        if wait.state == "open":
            wait = await waits.over(wait)
        ended = _ended(wait)
        if ended.state == "timed_out" or is_of_use(ended):
            break
        instead_of = wait.token
    async with journal.making(key):
        record = Record(result={"state": ended.state, "answers": dict(ended.answers)})
        number = await journal.add(key, record, is_inside=is_recorded_here(), is_kept=True)
    await journal.turn(number)
    return ended


async def _asked(journal: HopJournal, key: CallKey, wait: Wait, ask: Ask | None) -> Wait:
    """Ask unless that is recorded, or it is too late; return the wait, which asking may have settled."""
    mark = mark_of(wait.token)  # a wait that is open again is asked for again
    asking = replace(key, kind="ask", name=f"{key.name}/{mark}")
    found = journal.find(asking, {})
    if found is not None:
        answers = found.result
    elif ask is None:
        return wait
    else:
        async with journal.making(asking):
            with calling(str(asking), recorded=True):
                answers = await ask(wait.token)
            await journal.add(asking, Record(result=answers))
    texts = {part: json.dumps(answer, ensure_ascii=False) for part, answer in (answers or {}).items()}
    # Meanwhile somebody else may have answered some of the parts. The store takes answers to all given parts or none.
    while wait.state == "open" and (left := {part: texts[part] for part in wait.unanswered if part in texts}):
        wait = await journal.patiently(partial(journal.waits.answer, wait, left, by=BY_STEP, call=mark))
    return wait


def _ended(wait: Wait) -> Ended:
    if wait.state == "settled":
        return Ended("settled", {part: json.loads(answer.text) for part, answer in wait.answers.items()})
    return Ended("timed_out", {})
