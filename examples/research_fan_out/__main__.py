"""Eight documents are read side by side for your question, three judges vote, and a writer answers.

The first two judges decide, and the third is cut off. `--kill` (or `--fail`) starts a Redis server (unless
`PAIGEANT_REDIS_URL` names one) and two Celery workers, kills both while some documents are being read, and starts
another one.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

# So that `python examples/research_fan_out` finds its neighbours, as `python -m examples.research_fan_out` does.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pydantic_ai.exceptions import UserError
from pydantic_ai.models import infer_model

from examples.console import Unexpected, command_line, expect, given_text, parse, run, serving, show_slip
from examples.processes import Process, redis_server, worker
from examples.research_fan_out.agents import AT_ONCE, QUORUM, clarity, evidence, reader, relevance, slip_for, writer
from examples.research_fan_out.documents import DOCUMENTS
from examples.research_fan_out.ledger import CountedModel, Entry, entries, new_page
from examples.research_fan_out.outputs import Findings
from examples.research_fan_out.watching import Watch, decided, show_readings, show_result
from paigeant_celery import WorkflowDispatcher, WorkflowHandle, WorkflowResult, get_transport
from paigeant_celery.broker.transport import CeleryTransport

EXAMPLE = "How do animals use the sun and the sky to keep their direction?"
NAMES = ("library", "reader", "relevance", "evidence", "clarity", "writer")
REPOSITORY = Path(__file__).resolve().parents[2]
ANSWERED = 3  # documents that are answered before the kill
PATIENCE = 300.0  # seconds

dispatcher = WorkflowDispatcher()


async def ordinary(question: str) -> None:
    """Run all steps in this process."""
    transport = get_transport("inmemory")
    watch = await dispatched(question, transport)
    async with serving(transport, *NAMES):
        result = await watched(watch)
    show_result(result)
    check([], entries(), watch, result)
    print(f"\nEach of {len(DOCUMENTS)} documents was read once. Decided: {', '.join(decided(result))}.")


async def killed(question: str, *, model: str) -> None:
    """Run the steps on two workers that are killed, then on another one, and once more without a kill."""
    with ExitStack() as stack:
        url = stack.enter_context(redis_server())
        transport = get_transport(url)
        environment = {"PAIGEANT_REDIS_URL": url, "FAN_OUT_MODEL": model}
        held = {**environment, "FAN_OUT_HOLD": str(ANSWERED)}
        workers = await started(stack, held, count=2)

        watch = await dispatched(question, transport)
        following = asyncio.create_task(watch.follow())
        await in_flight(watch, following)
        for process in workers:
            process.kill()
            show("worker", f"process {process.pid} is killed while {AT_ONCE} documents are being read")
        before = entries()
        show_tree(watch.handle, environment)
        await started(stack, environment, count=1)

        result = await watch.handle.result(timeout=PATIENCE)
        await following
        show_result(result)
        after = entries()[len(before) :]
        show_readings(before, after)
        check(before, after, watch, result)
        read = sum(entry.answered for entry in before)
        print(f"\n{read} documents were answered before the kill, and none of them was read again.")
        if not model:
            await compare(question, transport, result)


async def compare(question: str, transport: CeleryTransport, killed: WorkflowResult) -> None:
    """Ask the same again, kill nobody, and see that the answer is the same."""
    handle = dispatcher.handle(await dispatcher.dispatch_workflow(transport, itinerary=slip_for(question)), transport)
    undisturbed = await handle.result(timeout=PATIENCE)
    expect(undisturbed.outputs == killed.outputs, "without a kill the workflow has another outcome")
    print("Asked again, with nobody killed: the same readings, verdicts and answer.")


async def dispatched(question: str, transport: CeleryTransport) -> Watch:
    """Dispatch the slip with the question."""
    new_page()
    slip = slip_for(question)
    correlation_id = await dispatcher.dispatch_workflow(transport, itinerary=slip)
    show_slip(slip, correlation_id)
    return Watch(dispatcher.handle(correlation_id, transport))


async def watched(watch: Watch) -> WorkflowResult:
    """Print what happens until there is a result."""
    following = asyncio.create_task(watch.follow())
    result = await watch.handle.result(timeout=PATIENCE)
    await following
    return result


async def started(stack: ExitStack, environment: Mapping[str, str], *, count: int) -> list[Process]:
    """Start workers that end with the stack; each has one process, so that nothing of it survives."""
    options = ("--include=examples.research_fan_out.agents", "--pool=threads")
    starting = [worker("paigeant_celery", environment, *options) for _ in range(count)]
    processes = await asyncio.gather(*(asyncio.to_thread(stack.enter_context, each) for each in starting))
    for process in processes:
        show("worker", f"process {process.pid} is started")
    return processes


async def in_flight(watch: Watch, following: asyncio.Task[None]) -> None:
    """Wait until the first documents are answered and recorded, and the next ones are being read."""
    end = time.monotonic() + PATIENCE
    while not following.done():
        answered = sum(entry.answered for entry in entries())
        begun = len(entries()) - answered
        recorded = sum(path.startswith("readings/") for path in watch.ended())
        if (recorded, answered, begun) == (ANSWERED, ANSWERED, ANSWERED + AT_ONCE):
            return
        if time.monotonic() > end:
            raise Unexpected(f"the documents were not read within {PATIENCE:g} s")
        await asyncio.sleep(0.02)
    await following
    await watch.handle.result(timeout=PATIENCE)
    raise Unexpected("the workflow was over before anybody was killed")


def check(before: Sequence[Entry], after: Sequence[Entry], watch: Watch, result: WorkflowResult) -> None:
    """Prove, from what the reader's model recorded itself, that no document that was read is read again."""
    titles = [document.title for document in DOCUMENTS]
    read = Counter(entry.document for entry in (*before, *after) if entry.answered)
    was_read = {entry.document for entry in before if entry.answered}
    again = was_read & {entry.document for entry in after}

    expect(not again, f"these documents had been read, and were read again: {sorted(again)}")
    expect(read == Counter(titles), f"each document is to be read once, and they were read so often: {dict(read)}")
    twice = {path: count for path, count in watch.ended().items() if count > 1}
    expect(not twice, f"these steps were recorded more than once: {twice}")
    expect(watch.joins() == Counter(["readings", "verdicts"]), f"the joins were {dict(watch.joins())}")
    findings = result.output_as(Findings, step_id="readings").root
    expect(len(findings) == len(titles), f"there are {len(findings)} findings")
    judges = decided(result)
    expect(len(judges) == QUORUM, f"{len(judges)} judges decided: {sorted(judges)}")


def show_tree(handle: WorkflowHandle, environment: Mapping[str, str]) -> None:
    """Print what the store knows of the workflow while no worker lives, as an operator sees it."""
    command = ["celery", "-A", "paigeant_celery", "paigeant", "show", handle.correlation_id, "--no-events"]
    print(f"\n$ {' '.join(command)}", flush=True)
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=REPOSITORY, env={**os.environ, **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    expect(done.returncode == 0, f"the command failed:\n{done.stderr[-2000:]}")
    print(done.stdout, flush=True)


def show(what: str, text: str) -> None:
    """Print a line."""
    print(f"{what:10}{text}", flush=True)


def use(name: str) -> None:
    """Let a real model do all the work; raises `Unexpected` with what is wrong with its name or key."""
    try:
        infer_model(name)
        reader.model = CountedModel(name)
    except (UserError, ValueError, ImportError) as error:
        raise Unexpected(str(error)) from error
    for agent in (relevance, evidence, clarity, writer):
        agent.model = name


async def main(question: str, *, model: str, kill: bool) -> None:
    """Answer a question, with or without an accident."""
    if model:
        use(model)
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["FAN_OUT_FOLDER"] = temporary
        await (killed(question, model=model) if kill else ordinary(question))


if __name__ == "__main__":
    parser = command_line(__doc__, EXAMPLE)
    parser.add_argument(
        "--kill", "--fail", action="store_true", help="kill both workers in the middle, and start another one"
    )
    arguments = parse(parser)
    run(main(given_text(arguments.text), model=arguments.model or "", kill=arguments.kill))
