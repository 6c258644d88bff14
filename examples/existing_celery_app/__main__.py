"""A shop's Celery app gets agents: its own task and a workflow run on the same worker.

It starts a Redis server (unless `PAIGEANT_REDIS_URL` names one) and `celery worker` for the shop's app, files
your message with the shop's own task, sends it through triage -> check_stock -> responder, and stops both.
`--fail` closes the warehouse: a step fails in the worker, and the caller is told where and why.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

# So that `python examples/existing_celery_app` finds its neighbours, as `python -m examples.existing_celery_app` does.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from celery.exceptions import TimeoutError as NoResult
from kombu.exceptions import OperationalError
from kombu.utils.url import maybe_sanitize_url

from examples.console import Unexpected, command_line, expect, given_text, parse, reporting, show_outputs, show_slip
from examples.existing_celery_app.celeryapp import app
from examples.existing_celery_app.tasks import open_ticket
from examples.processes import redis_server, worker
from paigeant_celery import (
    ActivitySpec,
    FunctionSpec,
    WorkflowDispatcher,
    WorkflowFailed,
    WorkflowHandle,
    get_transport,
)

EXAMPLE = "My teapot arrived broken and its lid is cracked! I am still waiting for the two mugs."
NAMES = ("triage", "check_stock", "responder")
WORKER = "celery -A examples.existing_celery_app.celeryapp worker -E"
PATIENCE = 30.0  # seconds, for a task that takes milliseconds on a worker that is not busy


def main(text: str, *, fail: bool, patience: float) -> None:
    """Run the shop's own task, then a workflow, on the worker that serves them."""
    print(f"ticket    {file_ticket(text, patience=patience)}, from the shop's own task\n")

    # A process that only dispatches needs the names of the activities, not the agents.
    transport = get_transport(app=app)
    itinerary: list[ActivitySpec | FunctionSpec] = [
        ActivitySpec("triage", text),
        FunctionSpec("check_stock"),
        ActivitySpec("responder", "Draft a reply to the customer of this case."),
    ]
    dispatcher = WorkflowDispatcher()
    correlation_id = dispatcher.dispatch_workflow_sync(
        transport, itinerary=itinerary, variables={"warehouse": "closed" if fail else "open"}
    )
    show_slip(itinerary, correlation_id)

    handle = dispatcher.handle(correlation_id, transport)
    if fail:
        show_failure(handle, patience=patience)
        return
    result = handle.result_sync(timeout=300)
    show_outputs(result, handle.events_sync(), transport)
    expect(tuple(result.outputs) == NAMES, f"the steps were {tuple(result.outputs)}, and not {NAMES}")


def file_ticket(message: str, *, patience: float) -> str:
    """Run the shop's own task and return its result; if no worker answers, say what to start."""
    url = maybe_sanitize_url(app.conf.broker_url)
    with app.connection_for_write() as connection:
        try:
            connection.ensure_connection(max_retries=1)  # the result backend, if asked first, would try for 20 s
            answer = open_ticket.delay(message)
            try:
                return str(answer.get(timeout=patience))
            finally:
                answer.forget()  # unsubscribes now; when Python exits it is too late
        except NoResult as error:
            raise Unexpected(
                f"no worker filed the message within {patience:g} s; start one on {url}: `{WORKER}`"
            ) from error
        except (OperationalError, RuntimeError) as error:  # the latter is the result backend's
            raise Unexpected(
                f"no Redis answers at {url}; start one, or name it in `PAIGEANT_REDIS_URL`; "
                f"then start a worker: `{WORKER}`"
            ) from error


def show_failure(handle: WorkflowHandle, *, patience: float) -> None:
    """Print what the caller is told about a step that failed in the worker."""
    try:
        handle.result_sync(timeout=300)
    except WorkflowFailed as failure:
        print(f"\nThe workflow failed at step {failure.step_id!r}: {failure.error_class}: {failure.text}")
        expect((failure.step_id, failure.error_class) == ("check_stock", "ConnectionError"), "another failure came")
        expect(handle.status_sync().executed == ("triage",), "other steps ran than the one before the failure")
        expect(file_ticket("Are you still there?", patience=patience), "the shop's own task runs no more")
        print("The worker lives on: the shop's own task still runs.")
    else:
        expect(False, "the warehouse was closed, and the workflow completed")


if __name__ == "__main__":
    parser = command_line(__doc__, EXAMPLE)
    parser.add_argument("--fail", action="store_true", help="let a step fail in the worker, and show what is reported")
    parser.add_argument("--no-worker", action="store_true", help="use the Redis and the worker that you run yourself")
    parser.add_argument(
        "--patience", metavar="SECONDS", type=float, default=PATIENCE, help="how long to wait for the shop's own task"
    )
    arguments = parse(parser)
    if arguments.no_worker and arguments.model:
        parser.error("the model is the worker's: give it SHOP_MODEL instead of --model")
    text = given_text(arguments.text)
    with reporting(), ExitStack() as stack:
        if not arguments.no_worker:
            url = stack.enter_context(redis_server())
            app.conf.update(broker_url=url, result_backend=url)
            environment = {"PAIGEANT_REDIS_URL": url, "SHOP_MODEL": arguments.model or ""}
            process = stack.enter_context(worker("examples.existing_celery_app.celeryapp", environment))
            print(f"worker    process {process.pid}, on {url}")
        main(text, fail=arguments.fail, patience=arguments.patience)
