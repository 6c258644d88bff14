"""Steps that wait in several ways, and record whom they ask and what they hear; their workers may die in between.

`teller` is an agent that pays when somebody has approved that: what it hears is the tool that runs.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from failpoints import die_at
from ledger import note, noted_run
from pydantic import JsonValue
from pydantic_ai import DeferredToolRequests
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from stumbles import stumble

from paigeant_celery import PaigeantAgent, WaitTimedOut, WorkflowContext, activity, workflow_context

IN_TIME = 600.0  # seconds; longer than any trial, so that nothing that is answered is late
SOON = 1.5  # seconds until a wait is over that nobody answers, or perhaps somebody
NAP = 1.2  # seconds; the shortest sleep that holds no worker is one of a second
TIMED_OUT = "timed out"
APPROVAL = "deferred_tool_calls"  # as the wait for an approval is called

Heard = dict[str, JsonValue]


@activity
async def heed(context: WorkflowContext, way: str) -> Heard:
    """Wait in this way, and return what was heard, by the names of the waits."""
    with noted_run(context.hop_id):
        heard = await WAYS[way](context)
        stumble(context.hop_id)
    return heard


async def _asked(context: WorkflowContext) -> Heard:
    return await _heard(context, "word", asks=True)


async def _asked_slowly(context: WorkflowContext) -> Heard:
    """Ask, which takes until a file is there."""
    return await _heard(context, "word", asks=True, gate=Path(os.environ["GATE"]))


async def _signalled(context: WorkflowContext) -> Heard:
    return await _heard(context, "paid", asks=False)


async def _unanswered(context: WorkflowContext) -> Heard:
    return await _heard(context, "never", asks=True, timeout=SOON)


async def _contested(context: WorkflowContext) -> Heard:
    return await _heard(context, "either", asks=True, timeout=SOON)


async def _slept(context: WorkflowContext) -> Heard:
    await context.sleep_for(NAP)
    return {}


async def _beside(context: WorkflowContext) -> Heard:
    left, right = await asyncio.gather(_asked(context), _signalled(context))
    return left | right


async def _in_turn(context: WorkflowContext) -> Heard:
    first = await _heard(context, "word", asks=True)
    await context.sleep_for(NAP)
    return first | await _heard(context, "paid", asks=False) | await _heard(context, "never", asks=True, timeout=SOON)


async def _heard(
    context: WorkflowContext,
    name: str,
    *,
    asks: bool,
    timeout: float = IN_TIME,  # noqa: ASYNC109 - of the wait
    gate: Path | None = None,
) -> Heard:
    async def ask(token: str) -> None:
        die_at("before asking")
        note(os.environ["ASKED_FILE"], hop=context.hop_id, name=name, token=token)
        die_at("asked")
        while gate is not None and not gate.exists():  # noqa: ASYNC110, ASYNC240 - another process makes it
            await asyncio.sleep(0.02)

    try:
        heard = await context.wait_for(name, ask=ask if asks else None, timeout=timeout)
    except WaitTimedOut:
        heard = TIMED_OUT
    note(os.environ["HEARD_FILE"], hop=context.hop_id, name=name, heard=heard)
    return {name: heard}


WAYS: dict[str, Callable[[WorkflowContext], Awaitable[Heard]]] = {
    "asked": _asked,
    "asked slowly": _asked_slowly,
    "signalled": _signalled,
    "unanswered": _unanswered,
    "contested": _contested,
    "slept": _slept,
    "beside": _beside,
    "in turn": _in_turn,
}


async def _think(messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
    """Ask to pay, and after that say that it is paid."""
    if not any(isinstance(part, ToolReturnPart) for message in messages for part in message.parts):
        return ModelResponse(parts=[ToolCallPart("pay", {}, tool_call_id="pay")])
    stumble(workflow_context().hop_id)
    return ModelResponse(parts=[TextPart("paid")])


teller: PaigeantAgent[None, str | DeferredToolRequests] = PaigeantAgent(
    FunctionModel(_think), output_type=[str, DeferredToolRequests]
)


@teller.tool_plain(requires_approval=True)
async def pay() -> str:
    """Pay."""
    hop_id = workflow_context().hop_id
    with noted_run(hop_id):
        note(os.environ["HEARD_FILE"], hop=hop_id, name=APPROVAL, heard="approved")
    return "paid"
