"""The contestants of `hop.py`: workers that differ only in how a step leads to the next one.

A worker is started with `celery -A contestants worker`; the environment says which one it is. All of them
run the same agent on the same prompts. The client makes the same apps to send work and to read outputs; it
needs no agent for that.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import Coroutine
from typing import Any, Literal, TypeAlias, cast, get_args

import redis
from celery import Celery

__all__ = ["AGENT", "COMMON", "DONE", "LAST", "STEP", "Contestant", "chain_app", "prompt_of", "slip_app"]

# slip: ours with its store; chain: Celery's own, with a result backend; bare: a slip without a store.
Contestant: TypeAlias = Literal["slip", "chain", "bare"]

AGENT = "stepper"
STEP = "bench.step"
LAST = "last"  # begins the prompt of the last step
DONE = "bench:done:"  # and the workflow: where a bare slip, which nobody can ask, leaves its outputs

# What all contestants are configured with, as a deployment that is watched in Flower.
COMMON = {
    "worker_prefetch_multiplier": 1,
    "worker_send_task_events": True,
    "broker_connection_retry_on_startup": True,
}


def slip_app(broker: str, *, store: bool) -> Celery:
    """Return an app of ours, with its store on the broker's database or without one."""
    from paigeant_celery import install

    app = Celery("bench", broker=broker, set_as_current=False)
    app.conf.update(COMMON, paigeant_store_url="broker" if store else None, task_ignore_result=True)
    install(app)
    return app


def chain_app(broker: str) -> Celery:
    """Return an app with a result backend on the broker's database."""
    app = Celery("bench", broker=broker, backend=broker, set_as_current=False)
    app.conf.update(COMMON, task_acks_late=True, task_reject_on_worker_lost=True)
    return app


def prompt_of(index: int, steps: int) -> str:
    """Return the prompt of a step."""
    return f"{LAST if index == steps - 1 else 'step'} {index}"


def agent_arguments(*, report: bool) -> dict[str, Any]:
    """Return what makes the agent of every contestant: a model that answers at once, with the time."""
    from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, TextPart, UserPromptPart
    from pydantic_ai.models.function import AgentInfo, FunctionModel

    async def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        request = cast("ModelRequest", messages[-1])
        part = next(part for part in request.parts if isinstance(part, UserPromptPart))
        line = str(part.content).partition("\n")[0]
        output = f"done {line}|{time.monotonic()!r}"
        if report and line.startswith(LAST):
            await asyncio.to_thread(leave_outputs, output)
        return ModelResponse(parts=[TextPart(output)])

    return {"model": FunctionModel(answer), "name": AGENT}


def leave_outputs(last: str) -> None:
    """Push the outputs of this workflow, read from its slip, to the client, past any proxy."""
    from paigeant_celery import workflow_context

    context = workflow_context()
    outputs = [record.output for record in context.message.slip.executed] + [last]
    with redis.Redis.from_url(os.environ["BENCH_DIRECT_URL"], socket_timeout=10) as client:
        client.rpush(DONE + context.correlation_id, json.dumps(outputs))


def chain_worker(broker: str) -> Celery:
    """Return the chain's app with its task."""
    from pydantic_ai import Agent

    app = chain_app(broker)
    agent = Agent(**agent_arguments(report=False))
    per_thread = threading.local()

    def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
        # The cheapest form: one loop for each thread that runs tasks, kept for its life. `asyncio.run` makes a
        # new loop each time, and a loop in a thread of its own (which real model clients need where threads
        # share an agent) costs two switches.
        if not hasattr(per_thread, "runner"):
            per_thread.runner = asyncio.Runner()
        return per_thread.runner.run(coroutine)

    @app.task(name=STEP)
    def step(previous: str | None, prompt: str) -> str:
        text = prompt if previous is None else f"{prompt}\n\n{previous}"
        return cast("str", run(agent.run(text)).output)

    return app


def slip_worker(broker: str, *, store: bool) -> Celery:
    """Return our app with its agent."""
    from paigeant_celery import PaigeantAgent

    global stepper
    stepper = PaigeantAgent(**agent_arguments(report=not store))
    return slip_app(broker, store=store)


stepper: Any = None  # what nobody holds is not served

if contestant := os.environ.get("BENCH_CONTESTANT"):
    assert contestant in get_args(Contestant), contestant
    url = os.environ["BENCH_BROKER_URL"]
    app = chain_worker(url) if contestant == "chain" else slip_worker(url, store=contestant == "slip")
