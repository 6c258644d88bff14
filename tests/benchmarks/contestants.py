"""The contestants of `hop.py`: workers that differ only in how a step leads to the next one.

A worker is started with `celery -A contestants worker`; the environment says which one it is. All run the
same agent on the same prompts. The client makes the same apps to send work and to read outputs; it needs no
agent for that. `BENCH_CODE` says where our package must come from, if not from where it is installed.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

from celery import Celery

__all__ = ["AGENT", "STEP", "Kind", "chain_app", "prompt_of", "slip_app"]

# slip: ours, with its store on the broker's Redis; chain: Celery's own, with a result backend there.
Kind: TypeAlias = Literal["slip", "chain"]

AGENT = "stepper"
STEP = "bench.step"

# The configuration of both, as in a deployment that is watched in Flower.
COMMON = {
    "worker_prefetch_multiplier": 1,
    "worker_send_task_events": True,
    "broker_connection_retry_on_startup": True,
}


def slip_app(url: str) -> Celery:
    """Return an app of ours, with its store on the broker's database."""
    import paigeant_celery

    if (code := os.environ.get("BENCH_CODE")) and not Path(paigeant_celery.__file__).is_relative_to(code):
        raise RuntimeError(f"{paigeant_celery.__file__} is loaded, and not what is in {code}")
    app = Celery("bench", broker=url, set_as_current=False)
    app.conf.update(COMMON, paigeant_store_url="broker", task_ignore_result=True)
    paigeant_celery.install(app)
    return app


def chain_app(url: str) -> Celery:
    """Return an app with a result backend on the broker's database."""
    app = Celery("bench", broker=url, backend=url, set_as_current=False)
    app.conf.update(COMMON, task_acks_late=True, task_reject_on_worker_lost=True)
    return app


def prompt_of(index: int) -> str:
    """Return the prompt of a step."""
    return f"step {index}"


def agent_arguments() -> dict[str, Any]:
    """Return the agent factory of both: the model answers at once, with the prompt and the time."""
    from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, TextPart, UserPromptPart
    from pydantic_ai.models.function import AgentInfo, FunctionModel

    async def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        request = cast("ModelRequest", messages[-1])
        part = next(part for part in request.parts if isinstance(part, UserPromptPart))
        line = str(part.content).partition("\n")[0]
        return ModelResponse(parts=[TextPart(f"done {line}|{time.monotonic()!r}")])

    return {"model": FunctionModel(answer), "name": AGENT}


def add_chain_step(app: Celery) -> None:
    """Add the task that runs the agent, as a chain calls it: with the previous output in front."""
    from pydantic_ai import Agent

    agent = Agent(**agent_arguments())
    per_thread = threading.local()

    def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
        # The cheapest form: one loop for each thread that runs tasks, kept for its life. `asyncio.run` makes a
        # new loop each time, and a loop in its own thread (which real model clients need if threads share an
        # agent) costs two switches.
        if not hasattr(per_thread, "runner"):
            per_thread.runner = asyncio.Runner()
        return per_thread.runner.run(coroutine)

    @app.task(name=STEP)  # type: ignore[untyped-decorator]  # Celery ships no types
    def step(previous: str | None, prompt: str) -> str:
        text = prompt if previous is None else f"{prompt}\n\n{previous}"
        return cast("str", run(agent.run(text)).output)


match os.environ.get("BENCH_CONTESTANT"):
    case "slip":
        from paigeant_celery import PaigeantAgent

        app = slip_app(os.environ["BENCH_BROKER_URL"])
        stepper = PaigeantAgent(**agent_arguments())
    case "chain":
        app = chain_app(os.environ["BENCH_BROKER_URL"])
        add_chain_step(app)
