"""An agent that asks a customer within a tool and somebody else for leave, and notes all in the file `TELLER_FILE`.

If the file `TELLER_FILE.kill` is there, the first process that has asked the customer dies at once. Another agent asks
while it counts, until the file `TELLER_FILE.counted` is there.
"""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

from ledger import note
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from paigeant_celery import PaigeantAgent, activity, workflow_context

try:
    from pydantic_ai.external_events import wait_for_external_event
except ImportError:  # before pydantic-ai 2.68

    async def wait_for_external_event(name: str, *, ask: Any) -> Any:  # type: ignore[misc]
        return await workflow_context().wait_for(name, ask=ask)


def tell(what: str, **more: object) -> None:
    note(os.environ["TELLER_FILE"], what=what, workflow=workflow_context().correlation_id, **more)


def file_of(name: str) -> Path:
    return Path(f"{os.environ['TELLER_FILE']}.{name}")


def is_there(name: str) -> bool:
    return file_of(name).exists()


def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    tell("model")
    if len(messages) > 1:
        return ModelResponse(parts=[TextPart("all is paid")])
    return ModelResponse(parts=[ToolCallPart("ask", {}, "ask-1"), ToolCallPart("pay", {"amount": 100}, "pay-1")])


teller = PaigeantAgent(FunctionModel(answer), name="teller")


@teller.tool_plain(metadata={"paigeant": False})
async def ask() -> str:
    """Ask the customer."""

    async def ask(token: str) -> None:
        tell("asked", token=token)
        if is_there("kill"):
            file_of("kill").unlink()
            os.kill(os.getpid(), signal.SIGKILL)

    return str(await wait_for_external_event("are you sure", ask=ask))


@teller.tool_plain(requires_approval=True)
def pay(amount: int) -> str:
    """Pay."""
    tell("paid", amount=amount)
    return "paid"


def answer_beside(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    if len(messages) > 1:
        return ModelResponse(parts=[TextPart("counted")])
    return ModelResponse(parts=[ToolCallPart("ask", {}, "ask-1"), ToolCallPart("count", {}, "count-1")])


clerk = PaigeantAgent(FunctionModel(answer_beside), name="clerk")


@clerk.tool_plain(metadata={"paigeant": False}, name="ask")
async def ask_beside() -> str:
    """Ask the customer."""

    async def ask(token: str) -> None:
        tell("asked beside")

    heard = await wait_for_external_event("are you there", ask=ask)
    tell("heard")
    return str(heard)


@clerk.tool_plain
async def count() -> str:
    """Count for long."""
    while not is_there("counted"):  # noqa: ASYNC110 - another process makes it
        await asyncio.sleep(0.05)
    return "counted"


@activity
def greet() -> str:
    """Take no time."""
    return "hello"
