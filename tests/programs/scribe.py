"""Steps that write to loggers of their own, which know nothing of hops."""

from __future__ import annotations

import logging
import threading

from pydantic_ai.models.test import TestModel

from paigeant_celery import PaigeantAgent, activity

logger = logging.getLogger("a.library")
agent = PaigeantAgent(TestModel(custom_output_text="said"), name="writer")


def write(where: str) -> None:
    logger.warning("written in %s", where)


@activity
async def alone() -> None:
    """Write on the event loop."""
    write("a coroutine")


@activity
def threaded() -> None:
    """Write in the thread of a sync function, and in one that it starts."""
    write("a function")
    thread = threading.Thread(target=write, args=("a new thread",))
    thread.start()
    thread.join()


@agent.tool_plain
def note() -> str:
    """Write in a sync tool."""
    write("a tool")
    return "noted"


@agent.tool_plain
async def think() -> str:
    """Write in an async tool."""
    write("an async tool")
    return "thought"
