"""A clerk pays refunds; a person in another process must agree to those above 100.00.

It starts a Redis server (unless `PAIGEANT_REDIS_URL` names one) and a Celery worker, and sends your text to the
clerk. For each large refund the workflow waits, and holds no worker, until you answer in the terminal.
`--kill` (or `--fail`) kills the worker while the workflow waits, starts another one and kills that, too.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

# So that `python examples/approvals` finds its neighbours, as `python -m examples.approvals` does.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.approvals import ledger
from examples.approvals.refunds import LIMIT, refunds_in
from examples.console import (
    Unexpected,
    checked_model,
    command_line,
    expect,
    given_text,
    parse,
    reporting,
    show_outputs,
    show_slip,
)
from examples.processes import Process, redis_server, worker
from paigeant_celery import ActivitySpec, WorkflowDispatcher, WorkflowHandle, get_transport

EXAMPLE = "Ann's kettle leaks: 39.90. Bob wants 180.00 back for the sofa, and Cy 250.50 for a desk that came broken."
REPOSITORY = Path(__file__).resolve().parents[2]
PATIENCE = 300.0  # seconds, for a step of a real model
LOOK = 0.05  # seconds between two looks at the workflow


def main(text: str, *, answers: list[str], model: str, kill: bool) -> None:
    """Run the workflow on a worker, and have a person asked whenever it waits."""
    with ExitStack() as stack:
        url = stack.enter_context(redis_server())
        environment = {"PAIGEANT_REDIS_URL": url, "APPROVALS_MODEL": model}
        running = started(stack, environment)

        transport, dispatcher = get_transport(url), WorkflowDispatcher()
        slip = [ActivitySpec("clerk", text)]
        handle = dispatcher.handle(dispatcher.dispatch_workflow_sync(transport, itinerary=slip), transport)
        show_slip(slip, handle.correlation_id)
        while is_suspended(handle):
            show("waits", "; ".join(map(str, handle.status_sync().waiting_for)))
            if kill:
                killed(running)
                killed(started(stack, environment))
            ask(handle, answers[len(ledger.decisions()) :], environment)
            if kill:
                running = started(stack, environment)

        result = handle.result_sync(timeout=PATIENCE)
        expect(ledger.decisions() or not kill, "nobody had to be asked, so no worker was killed; name a larger amount")
        show_outputs(result, handle.events_sync(), transport)
        check(text, handle, model=model)


def started(stack: ExitStack, environment: Mapping[str, str]) -> Process:
    """Start a worker that ends with the stack; it has one process, so that nothing of it survives."""
    options = ("--include=examples.approvals.agents", "--pool=threads")
    process = stack.enter_context(worker("paigeant_celery", environment, *options))
    show("worker", f"process {process.pid} is started")
    return process


def killed(process: Process) -> None:
    """Kill a worker, and see that the workflow does not notice."""
    process.kill()
    show("worker", f"process {process.pid} is killed while the workflow waits")


def is_suspended(handle: WorkflowHandle) -> bool:
    """Wait until a worker has left the workflow, and say whether that is because it waits for an answer."""
    end = time.monotonic() + PATIENCE
    while (status := handle.status_sync()).in_progress and status.state != "suspended":
        if time.monotonic() > end:
            raise Unexpected(f"the workflow is still {status.state} after {PATIENCE:g} s")
        time.sleep(LOOK)
    return status.state == "suspended"


def ask(handle: WorkflowHandle, answers: list[str], environment: Mapping[str, str]) -> None:
    """Start the person's process in this terminal, with the answers that were given in advance."""
    command = [sys.executable, "-m", "examples.approvals.person", handle.correlation_id, *answers]
    done = subprocess.run(command, cwd=REPOSITORY, env={**os.environ, **environment}, check=False)
    expect(done.returncode == 0, "the process of the person who is asked failed")


def check(text: str, handle: WorkflowHandle, *, model: str) -> None:
    """Prove, from what was written outside the workers, that each refund was paid as was decided, and once."""
    decided, paid = dict(ledger.decisions()), ledger.payments()
    agreed = Counter({(call, cents): 1 for call, cents in decided.items() if cents is not None})
    asked_for = Counter((call, cents) for call, cents in paid if call in decided)

    expect(asked_for == agreed, f"a person agreed to {dict(agreed)}, and paid was {dict(asked_for)}")
    expect(len(dict(paid)) == len(paid), f"something was paid twice: {paid}")
    large = [cents for call, cents in paid if call not in decided and cents > LIMIT]
    expect(not large, f"nobody was asked about {large}")
    if not model:
        refused = sum(cents is None for cents in decided.values())
        wanted = len(refunds_in(text))
        expect(len(paid) + refused == wanted, f"of {wanted} refunds {len(paid)} were paid and {refused} refused")
    answered = sum(event.type == "answered" for event in handle.events_sync())
    expect(answered == len(decided), f"{len(decided)} answers were given, and {answered} recorded")
    print(f"\nPaid, each once: {len(paid)}. Decided by a person: {len(decided)}.")


def show(what: str, text: str) -> None:
    """Print a line, before another process writes the next one."""
    print(f"{what:10}{text}", flush=True)


if __name__ == "__main__":
    parser = command_line(__doc__, EXAMPLE)
    parser.add_argument(
        "--kill", "--fail", action="store_true", help="kill two workers while the workflow waits, and start others"
    )
    parser.add_argument(
        "--answer", metavar="YES|NO|AMOUNT", action="append", default=[],
        help="answer the next question in advance; may be repeated",
    )  # fmt: skip
    arguments = parse(parser)
    text = given_text(arguments.text)
    with reporting(), tempfile.TemporaryDirectory() as temporary:
        os.environ["APPROVALS_FOLDER"] = temporary
        model = checked_model(arguments.model) if arguments.model else ""
        main(text, answers=arguments.answer, model=model, kill=arguments.kill)
