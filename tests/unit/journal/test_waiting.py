"""Waiting in a step: what asking gave, and what others answered meanwhile."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Mapping

import pytest
from pydantic import JsonValue

from paigeant_celery.core.errors import UsageError
from paigeant_celery.journal.hop_journal import HopJournal
from paigeant_celery.journal.record import Record
from paigeant_celery.journal.waiting import Ended, ended_wait
from tests.support.journalled_hop import JournalledHop


def test_what_asking_gave_counts_for_the_parts_that_nobody_else_answered_meanwhile() -> None:
    """Somebody approves one of two calls while a terminal asks for both; the other one must not wait for ever."""
    hop = JournalledHop()

    async def ask(token: str) -> Mapping[str, JsonValue]:
        hop.store.resolve(token, {"a": json.dumps({"approval": False})}, by="ann", call="1")
        return {"a": {"approval": True}, "b": {"approval": True}}

    async def wait() -> Ended:
        with hop.attempt() as journal:
            key = journal.key("r", 1, "wait", name="calls")
            async with asyncio.timeout(5):
                return await ended_wait(journal, key, kind="token", name="calls", ask=ask, parts=("a", "b"))

    assert asyncio.run(wait()).answers == {"a": {"approval": False}, "b": {"approval": True}}
    assert {part: answer.by for part, answer in hop.store.waits("w.0")[0].answers.items()} == {"a": "ann", "b": "step"}


def test_what_a_wait_gave_is_recorded_with_the_next_call_and_known_to_the_next_attempt_without_it() -> None:
    """The store keeps the answer anyway; a round trip of its own would only keep the step from going on."""
    hop = JournalledHop()
    tokens: list[str] = []

    async def ask(token: str) -> None:
        tokens.append(token)

    async def run(journal: HopJournal, *, calls: int) -> Ended:
        key = journal.key("r", 1, "wait", name="word")
        async with asyncio.timeout(5):
            ended = await ended_wait(journal, key, kind="token", name="word", ask=ask)
        for _ in range(calls):
            call = journal.key("r", 2, "model")
            async with journal.making(call):
                await journal.add(call, Record(result="said"))
        return ended

    def attempt(*, calls: int) -> tuple[Ended, list[str]]:
        """Run an attempt, and return the kinds of what it has recorded."""
        with hop.attempt() as journal:
            ended = asyncio.run(run(journal, calls=calls))
        return ended, sorted(json.loads(key)[2] for key in hop.store.journal("w.0"))

    with hop.attempt() as journal, pytest.raises(asyncio.CancelledError):
        asyncio.run(_cut_off(run(journal, calls=0), when=lambda: hop.store.journal("w.0")))
    hop.store.resolve(tokens[0], {"": json.dumps({"payload": "yes"})}, by="ann", call="1")

    answer = Ended("settled", {"": {"payload": "yes"}})
    assert attempt(calls=0) == (answer, ["ask"])  # it died before its next call was recorded
    assert attempt(calls=1) == (answer, ["ask", "model", "wait"])
    assert attempt(calls=1) == (answer, ["ask", "model", "wait"])
    assert len(tokens) == 1


def test_what_a_wait_gave_is_recorded_if_the_hop_ends_with_it() -> None:
    hop = JournalledHop()

    async def run(journal: HopJournal) -> None:
        key = journal.key("r", 1, "wait", name="word")
        await ended_wait(journal, key, kind="token", name="word", ask=_yes)

    with hop.attempt() as journal:
        asyncio.run(run(journal))
        assert [json.loads(key)[2] for key in journal.held] == ["wait"]
        journal.write_held_now()
        assert journal.held == {}

    assert sorted(json.loads(key)[2] for key in hop.store.journal("w.0")) == ["ask", "wait"]


async def _yes(token: str) -> Mapping[str, JsonValue]:
    return {"": {"payload": "yes"}}


async def _cut_off(run: Coroutine[object, object, object], *, when: Callable[[], object]) -> None:
    """Cut off a run that waits, as soon as something is true."""
    task = asyncio.ensure_future(run)
    while not when() and not task.done():  # noqa: ASYNC110 - nothing tells of it
        await asyncio.sleep(0.001)
    task.cancel()
    await task


def test_nobody_is_asked_where_the_step_cannot_wait() -> None:
    """A sync function that runs an agent on a loop of its own holds a thread: it fails before a mail is sent."""
    hop, asked = JournalledHop(), list[str]()

    async def ask(token: str) -> None:
        asked.append(token)

    async def wait(journal: HopJournal) -> None:
        key = journal.key("r", 1, "wait", name="calls")
        await ended_wait(journal, key, kind="token", name="calls", ask=ask)

    async def attempt() -> None:
        with hop.attempt() as journal:
            journal.waits.begin(leave=lambda: None, timeout=60)
            with pytest.raises(UsageError, match="only on the event loop that runs it"):
                await asyncio.to_thread(lambda: asyncio.run(wait(journal)))

    asyncio.run(attempt())
    assert (asked, hop.store.waits("w.0")) == ([], ())


def test_what_is_known_of_a_wait_shows_neither_its_token_nor_what_was_said() -> None:
    """Tools that collect errors show the values of the frames."""
    hop = JournalledHop()

    async def ask(token: str) -> Mapping[str, JsonValue]:
        return {"": {"payload": "secret answer"}}

    async def wait() -> None:
        with hop.attempt() as journal:
            key = journal.key("r", 1, "wait", name="calls")
            await ended_wait(journal, key, kind="token", name="calls", ask=ask, about="secret question")

    asyncio.run(wait())
    (found,) = hop.store.waits("w.0")
    assert found.state == "settled"
    assert "secret" not in repr(found)
    assert found.token not in repr(found)
