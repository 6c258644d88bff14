"""Waiting in a step: what asking gave, and what others answered meanwhile."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping

from pydantic import JsonValue

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
