"""A host whose worker runs greenlets: its own tasks, and steps of each kind, some of which keep their thread busy."""

from __future__ import annotations

import asyncio
import ctypes
import threading
import time
from pathlib import Path

from celery import Celery
from ledger import noted_run
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from stage import note_run

from paigeant_celery import PaigeantAgent, WorkflowContext, WorkflowDispatcher, activity, workflow_context

app = Celery("greenhouse", config_source="celeryconfig")


@app.task
def run_loop(answer: str) -> str:
    """Be a task that knows nothing of us and has a loop of its own."""

    async def answered() -> str:
        await asyncio.sleep(0.01)
        return answer

    return asyncio.run(answered())


@app.task
def spin(seconds: float) -> str:
    """Keep the thread of all greenlets busy."""
    compute_for(seconds)
    return "spun"


def compute_for(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


@activity
async def doze(seconds: float) -> str:
    """Wait on the event loop."""
    note_run()
    await asyncio.sleep(seconds)
    return "dozed"


@activity
def reckon(seconds: float, gate: str) -> str:
    """Compute, in a thread: so long, and until a file is there."""
    with noted_run(workflow_context().hop_id):
        compute_for(seconds)
        while not Path(gate).exists():
            compute_for(0.01)
    return "reckoned"


@activity
def clog(seconds: float, gate: str) -> str:
    """Call a library that blocks its thread and knows nothing of greenlets."""
    with noted_run(workflow_context().hop_id):
        ctypes.CDLL(None).usleep(int(seconds * 1e6))
        while not Path(gate).exists():
            ctypes.CDLL(None).usleep(50_000)
    return "clogged"


@activity
def sow(context: WorkflowContext, seed: str) -> str:
    """Dispatch another workflow, from a thread of a step."""
    return WorkflowDispatcher().dispatch_workflow_sync(itinerary=[doze.activity(0.0)], correlation_id=seed)


@activity
async def sow_later(seed: str) -> str:
    """Do so from the event loop."""
    return await WorkflowDispatcher().dispatch_workflow(itinerary=[doze.activity(0.0)], correlation_id=seed)


@activity
def mail(letter: str) -> str:
    """Send a task of the host from a thread of a step."""
    return str(run_loop.delay(letter).id)


@activity
async def mail_later(letter: str) -> str:
    """Do so from the event loop."""
    return str(run_loop.delay(letter).id)


@activity
async def gather(seconds: float) -> list[str]:
    """Do things in threads that a library would start from the event loop."""
    async with asyncio.timeout(10):
        return list(await asyncio.gather(*(asyncio.to_thread(_named, seconds) for _ in range(3))))


def _named(seconds: float) -> str:
    time.sleep(seconds)
    return threading.current_thread().name.partition("_")[0]


@activity
async def attend(gate: str) -> str:
    """Wait for a file."""
    note_run()
    while not Path(gate).exists():  # noqa: ASYNC110, ASYNC240 - another process makes it, on this disk
        await asyncio.sleep(0.05)
    return "opened"


@activity
def stumble_once(path: str) -> str:
    """Fail the first time."""
    if not Path(path).exists():
        Path(path).touch()
        raise ConnectionError("the well is dry")
    return "recovered"


async def tend(messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
    """Ask each tool once, then say what they said."""
    await asyncio.sleep(0.01)
    said = [part.content for message in messages for part in message.parts if isinstance(part, ToolReturnPart)]
    if said:
        return ModelResponse(parts=[TextPart(" ".join(map(str, said)))])
    note_run()
    return ModelResponse(parts=[ToolCallPart("dig"), ToolCallPart("water")])


gardener = PaigeantAgent(FunctionModel(tend))


@gardener.tool_plain
def dig() -> str:
    time.sleep(0.05)
    return "dug"


@gardener.tool_plain
async def water() -> str:
    await asyncio.sleep(0.05)
    return "watered"
