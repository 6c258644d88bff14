"""A researcher's worker is killed in the middle of its step; another one goes on and asks nothing again.

It answers your question from Python's own documentation and the texts of this repository, with a dozen calls of its
model and tools in one step. `--kill` (or `--fail`) starts a Redis server (unless `PAIGEANT_REDIS_URL` names one) and
a Celery worker, kills the worker during the third request to the model, and starts another one.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

# So that `python examples/durable_research` finds its neighbours, as `python -m examples.durable_research` does.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pydantic_ai.exceptions import UserError

from examples.console import Unexpected, command_line, expect, given_text, parse, run, serving, show_outputs, show_slip
from examples.durable_research.agents import dispatcher, researcher
from examples.durable_research.ledger import Call, CountedModel, Entry, entries, folder
from examples.durable_research.watching import Watch, show_calls
from examples.processes import Process, redis_server, worker
from paigeant_celery import WorkflowHandle, get_transport
from paigeant_celery.broker.transport import CeleryTransport

EXAMPLE = "How do I merge sorted lists and keep them sorted?"
NAME = "researcher"
HELD = 3  # the request to the model during which the worker is killed; a real model may not need more than two
HELD_OF_REAL_MODEL = 2
PATIENCE = 300.0  # seconds


async def ordinary(text: str) -> None:
    """Run the researcher in this process and print its calls."""
    transport = get_transport("inmemory")
    watch = Watch(await dispatch(text, transport))
    async with serving(transport, NAME):
        following = asyncio.create_task(watch.follow())
        result = await watch.handle.result(timeout=PATIENCE)
        await following
    show_outputs(result, watch.events, transport)
    expect(set(made(entries()).values()) == {1}, "a call was made twice, and no worker was killed")


async def killed(text: str, *, model: str) -> None:
    """Run the researcher on a worker that is killed, then on another one."""
    held = Call(HELD_OF_REAL_MODEL if model else HELD, "model")
    with ExitStack() as stack:
        url = stack.enter_context(redis_server())
        transport = get_transport(url)
        environment = {"PAIGEANT_REDIS_URL": url, "RESEARCH_MODEL": model}
        first = await started(stack, {**environment, "RESEARCH_HOLD": str(held.step)})

        watch = Watch(await dispatch(text, transport))
        following = asyncio.create_task(watch.follow())
        await in_flight(held, watch, following)
        first.kill()
        before = entries()
        show_worker(first, f"is killed during request {held.step} to the model")
        await started(stack, environment)

        result = await watch.handle.result(timeout=PATIENCE)
        await following
        show_outputs(result, watch.events, transport)
        show_calls(entries(), watch.count("call_replayed", attempt=2))
        check(before, entries(), watch)


async def dispatch(text: str, transport: CeleryTransport) -> WorkflowHandle:
    """Dispatch the slip with the question, and ask for live events."""
    slip = [researcher.activity(text)]
    correlation_id = await dispatcher.dispatch_workflow(transport, itinerary=slip, stream=True)
    show_slip(slip, correlation_id)
    return dispatcher.handle(correlation_id, transport)


async def started(stack: ExitStack, environment: Mapping[str, str]) -> Process:
    """Start a worker that ends with the stack; it has one process, so that nothing of it survives."""
    options = ("--include=examples.durable_research.agents", "--pool=threads")
    process = await asyncio.to_thread(stack.enter_context, worker("paigeant_celery", environment, *options))
    show_worker(process, "is started")
    return process


async def in_flight(call: Call, watch: Watch, following: asyncio.Task[None]) -> None:
    """Wait until a call is in progress and all calls before it are on the screen."""
    end = time.monotonic() + PATIENCE
    while not following.done():
        written = entries()
        ended = sum(entry.ended for entry in written)
        being_made = written[-1:] == [Entry(1, call, ended=False)]
        if being_made and watch.count("call_made", attempt=1).total() == ended:
            return
        if time.monotonic() > end:
            raise Unexpected(f"request {call.step} to the model did not come within {PATIENCE:g} s")
        await asyncio.sleep(0.02)
    await following
    await watch.handle.result(timeout=PATIENCE)
    raise Unexpected(f"the workflow was over before request {call.step} to the model, and no worker was killed")


def made(written: Sequence[Entry]) -> Counter[Call]:
    """Count how often each call was actually made."""
    return Counter(entry.call for entry in written if not entry.ended)


def check(before: Sequence[Entry], after: Sequence[Entry], watch: Watch) -> None:
    """Prove, from what model and tools recorded themselves, that only the call in flight was made twice."""
    answered = {entry.call for entry in before if entry.ended}
    cut_off = made(before).keys() - answered
    twice = {call: count for call, count in made(after).items() if count > 1}
    replayed = watch.count("call_replayed", attempt=2)
    resumed = watch.fields_of("resumed")

    expect(not answered & twice.keys(), f"calls that had been answered were made again: {twice}")
    expect(twice.keys() <= cut_off and len(twice) <= 1, f"these calls were made more than once: {twice}")
    expect(set(twice.values()) <= {2}, f"a call was made more than twice: {twice}")
    shown = Counter((call.step, call.kind, call.name) for call in answered)
    expect(replayed == shown, f"{len(answered)} calls had been answered, and these were replayed: {dict(replayed)}")
    counts = [int(fields["replayed"]) for fields in resumed]
    expect(counts == [len(answered)], f"the workflow tells of {counts} replayed calls, and not of {len(answered)}")
    expect(len(list(folder().glob("report-*.md"))) == 1, "there is more than one report, or none")
    print(f"\n{len(answered)} calls were answered before the kill, and none of them was made again.")


def show_worker(process: Process, what: str) -> None:
    """Print what happens to a worker."""
    print(f"{'worker':10}process {process.pid} {what}", flush=True)


def checked_model(name: str) -> CountedModel:
    """Return a real model; raises `Unexpected` with what is wrong with its name or key."""
    try:
        return CountedModel(name)
    except (UserError, ValueError, ImportError) as error:
        raise Unexpected(str(error)) from error


async def main(text: str, *, model: str, kill: bool) -> None:
    """Answer a question, with or without an accident."""
    if model:
        researcher.model = checked_model(model)
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["RESEARCH_FOLDER"] = temporary
        await (killed(text, model=model) if kill else ordinary(text))


if __name__ == "__main__":
    parser = command_line(__doc__, EXAMPLE)
    parser.add_argument(
        "--kill", "--fail", action="store_true", help="kill the worker in the middle, and start another"
    )
    arguments = parse(parser)
    run(main(given_text(arguments.text), model=arguments.model or "", kill=arguments.kill))
