"""The contestants of `hop.py`: workers that differ only in how a step leads to the next one.

A worker is started with `celery -A contestants worker`; the environment says which one it is. All run the
same agent on the same prompts. The client makes the same apps to send work and to read outputs; it needs no
agent for that. `BENCH_CODE` says where our package must come from, if not from where it is installed.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
import time
from collections.abc import Coroutine
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

from celery import Celery

__all__ = [
    "AGENT",
    "ENDED",
    "JOIN",
    "STEP",
    "Kind",
    "chain_app",
    "lean_app",
    "padding_of",
    "prompt_of",
    "slip_app",
    "waiting_at",
]

# slip: ours, with its store on the broker's Redis; chain: Celery's own, with a result backend there; lean: a plain task
# that holds the prompts and outputs in its argument, keeps nothing anywhere, and sends the next one itself.
Kind: TypeAlias = Literal["slip", "chain", "lean"]

AGENT = "stepper"
STEP = "bench.step"
JOIN = "bench.join"  # the body of a chord
ENDED = "bench.ended"  # queue that a lean slip goes to when it has ended
LOOK_UP = 0.25  # seconds until an open gate is noticed

# The configuration of all, as in a deployment that is watched in Flower.
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


def lean_app(url: str) -> Celery:
    """Return an app without a result backend."""
    app = Celery("bench", broker=url, set_as_current=False)
    app.conf.update(COMMON, task_acks_late=True, task_reject_on_worker_lost=True, task_ignore_result=True)
    return app


def prompt_of(index: int, *, size: int = 0, wait: float = 0, gate: str = "") -> str:
    """Return the prompt of a step: the padding of its output, and how long or at which gate its model waits."""
    return f"step {index} size={size} wait={wait!r} gate={gate}"


def waiting_at(gate: Path) -> int:
    """Return how many agents have come to a gate."""
    noted = _notes(gate)
    return noted.stat().st_size if noted.exists() else 0


def padding_of(line: str, size: int) -> str:
    """Return a text that no compression makes shorter than half, another for each prompt."""
    return hashlib.shake_256(line.encode()).hexdigest(size // 2)


def agent_arguments() -> dict[str, Any]:
    """Return the agent's arguments: the model answers with the prompt, the times of its call, and the padding."""
    from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, TextPart, UserPromptPart
    from pydantic_ai.models.function import AgentInfo, FunctionModel

    async def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        request = cast("ModelRequest", messages[-1])
        part = next(part for part in request.parts if isinstance(part, UserPromptPart))
        line, begun = str(part.content).partition("\n")[0], time.monotonic()
        asked = dict(word.split("=") for word in line.split() if "=" in word)
        if asked["gate"]:
            await _pass_through(Path(asked["gate"]))
        elif float(asked["wait"]):
            await asyncio.sleep(float(asked["wait"]))
        times = f"{begun!r}|{time.monotonic()!r}"
        return ModelResponse(parts=[TextPart(f"done {line}|{times}|{padding_of(line, int(asked['size']))}")])

    return {"model": FunctionModel(answer), "name": AGENT}


async def _pass_through(gate: Path) -> None:
    """Wait until there is a file `gate`; first note that one more agent is here."""
    with _notes(gate).open("ab") as notes:
        notes.write(b".")
    await _opened(gate, asyncio.get_running_loop()).wait()


@cache
def _opened(gate: Path, loop: asyncio.AbstractEventLoop) -> asyncio.Event:
    """Return what is set when the gate opens. One look is for all agents of a loop, so that they only wait."""
    opened = asyncio.Event()

    def look() -> None:
        if gate.exists():
            opened.set()
        else:
            loop.call_later(LOOK_UP, look)

    look()
    return opened


def _notes(gate: Path) -> Path:
    return gate.with_suffix(".notes")  # a byte for each agent


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

    @app.task(name=JOIN)  # type: ignore[untyped-decorator]
    def join(outputs: list[str]) -> list[str]:
        return outputs


def add_lean_step(app: Celery) -> None:
    """Add the task of a lean slip: its agents share one event loop in a thread of the process."""
    from pydantic_ai import Agent

    agent, loops, starting = Agent(**agent_arguments()), list[asyncio.AbstractEventLoop](), threading.Lock()

    def loop() -> asyncio.AbstractEventLoop:
        with starting:
            if not loops:
                loops.append(asyncio.new_event_loop())
                threading.Thread(target=loops[0].run_forever, daemon=True).start()
            return loops[0]

    @app.task(name=STEP)  # type: ignore[untyped-decorator]  # Celery ships no types
    def step(slip: dict[str, Any]) -> None:
        prompts, outputs = slip["prompts"], slip["outputs"]
        prompt = prompts[len(outputs)]
        text = f"{prompt}\n\n{outputs[-1]}" if outputs else prompt
        outputs.append(asyncio.run_coroutine_threadsafe(agent.run(text), loop()).result().output)
        if len(outputs) < len(prompts):
            step.apply_async((slip,))
        else:
            app.send_task(ENDED, (slip,), queue=ENDED)


match os.environ.get("BENCH_CONTESTANT"):
    case "slip":
        from paigeant_celery import PaigeantAgent

        app = slip_app(os.environ["BENCH_BROKER_URL"])
        stepper = PaigeantAgent(**agent_arguments())
    case "chain":
        app = chain_app(os.environ["BENCH_BROKER_URL"])
        add_chain_step(app)
    case "lean":
        app = lean_app(os.environ["BENCH_BROKER_URL"])
        add_lean_step(app)

if "BENCH_CONTESTANT" in os.environ and (parts := os.environ.get("BENCH_PARTS")):
    from spans import install

    install(os.environ["BENCH_CONTESTANT"], Path(parts))
