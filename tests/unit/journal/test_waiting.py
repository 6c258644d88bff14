"""Waiting in a step: what asking gave, and what others answered meanwhile."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping

import pytest
from pydantic import JsonValue

from paigeant_celery.core.errors import UsageError
from paigeant_celery.journal.hop_journal import HopJournal
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
