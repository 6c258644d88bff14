"""The commands that show a workflow: as a tree with all that is known of it, and as a flowchart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import click

from paigeant_celery.cli.asking import transport_of_app
from paigeant_celery.cli.drawing import flowchart
from paigeant_celery.cli.output import command, shown, shown_lines, tell
from paigeant_celery.cli.runners import WorkerOf, runners_of
from paigeant_celery.cli.step_documents import steps_document
from paigeant_celery.cli.step_lines import BesideTree, step_lines

if TYPE_CHECKING:
    from paigeant_celery.client.outline import Outline, OutlinedStep
    from paigeant_celery.client.readings import WorkflowStatus
    from paigeant_celery.core.events import WorkflowEvent
    from paigeant_celery.store.port import Store

__all__ = ["graph", "show"]


@command()
@click.argument("correlation_id")
@click.option("--events/--no-events", default=True, help="Also tell what happened to it, and who answered what.")
@click.option("--errors", is_flag=True, help="Also print the texts of errors, which may quote prompts and answers.")
@click.option("--workers/--no-workers", default=True, help="Ask the workers which of them runs it, for a second.")
@click.pass_context
def show(context: click.Context, correlation_id: str, events: bool, errors: bool, workers: bool) -> None:
    """Show where a workflow and its branches stand, what it took and used, and why a step of it failed."""
    from paigeant_celery.cli.redaction import bare_outline, bare_status
    from paigeant_celery.client.handle import WorkflowHandle

    transport = transport_of_app(context)
    handle = WorkflowHandle(correlation_id, transport)
    status = handle.status_sync()
    outline, unreadable = _outline(transport.store, correlation_id, errors=errors)
    # There are thousands of those of agents, and what models say is confidential.
    happened = [event for event in handle.events_so_far() if event.type != "agent"] if events else None
    if not errors:
        status, outline = bare_status(status), bare_outline(outline) if outline is not None else None
    runners = runners_of(transport, list(_running(outline or ()))) if workers else {}
    reading = _Reading(status=status, outline=outline, unreadable=unreadable, happened=happened, runners=runners)
    tell(_document(reading), _lines(reading))


@dataclass(frozen=True, kw_only=True)
class _Unreadable:
    """Why there is no tree: `code` is a fixed word, and `text` says what to do."""

    code: str
    text: str


@dataclass(frozen=True, kw_only=True)
class _Reading:
    status: WorkflowStatus
    outline: Outline | None
    unreadable: _Unreadable | None
    happened: Sequence[WorkflowEvent] | None
    runners: Mapping[str, WorkerOf]


def _outline(store: Store | None, correlation_id: str, *, errors: bool) -> tuple[Outline | None, _Unreadable | None]:
    """Return the tree, or why it cannot be read; whoever looks after the workflow needs its status all the same.

    The text of the error may quote what could not be read, so it is there with the `errors` alone.
    """
    from paigeant_celery.client.outline import outline_of
    from paigeant_celery.core.errors import MessageError, NewerMessage, StoreCorrupt, StoreRequired

    if store is None:
        raise StoreRequired("show")
    try:
        return outline_of(store, correlation_id), None
    except (MessageError, StoreCorrupt) as error:
        said = f" ({error})" if errors else ""
        if isinstance(error, NewerMessage):
            text = f"a newer version of paigeant_celery wrote them{said}; call `show` of that version"
            return None, _Unreadable(code=error.reason, text=text)
        look = "" if errors else "; `--errors` says which"
        text = (
            f"a record of the store is damaged or gone{said}{look}. If it does not go on, cancel it and begin it again"
        )
        return None, _Unreadable(code=getattr(error, "reason", "store_corrupt"), text=text)


def _running(steps: Sequence[OutlinedStep]) -> Iterator[str]:
    """Yield the hops of a tree that somebody runs."""
    for step in steps:
        if step.state == "running" and step.hop_id:
            yield step.hop_id
        if step.block is not None:
            for branch in step.block.branches:
                yield from _running(branch.steps)


def _document(reading: _Reading) -> dict[str, object]:
    status, outline = reading.status, reading.outline
    return {
        **{each.name: getattr(status, each.name) for each in fields(status)},
        "steps": steps_document(outline, failures=True) if outline is not None else None,
        "unreadable": reading.unreadable,
        "running_on": reading.runners,
        "events": reading.happened,
    }


def _lines(reading: _Reading) -> Iterator[str]:
    status, happened = reading.status, reading.happened
    yield f"workflow {status.correlation_id}: {status.state}"
    yield (
        f"  created:   {status.created_at:%Y-%m-%d %H:%M:%S} UTC, "
        f"last changed: {status.updated_at:%Y-%m-%d %H:%M:%S} UTC"
    )
    if status.origin is not None:
        yield f"  fork of:   {status.origin.workflow}, from {shown(status.origin.step)} on"
    if (where := _where(status)) is not None:
        yield f"  current:   {shown(status.step_id or '-')} {where} (attempts spent: {status.attempt})"
    yield from _outlook(status)
    for wait in status.waiting_for:
        if not wait.path:  # those of branches stand in the tree
            yield f"  waits for: {shown(str(wait))}"
    if status.usage:
        cost = [f"cost=${status.cost}"] if status.cost is not None else []
        yield f"  used:      {' '.join([*(f'{name}={count}' for name, count in status.usage.items()), *cost])}"
    from paigeant_celery.core.telling import named

    failure = status.failure
    if failure is not None:
        said = "given back" if status.state == "queued" else "failed at"
        yield f"  {said}: {shown(failure.step_id or status.step_id or '-')}: {shown(named(failure))}"
        if failure.cause is not None:
            yield from shown_lines(str(failure.cause), "    ")
    yield from _steps(reading)
    for event in happened or ():
        details = " ".join(f"{name}={shown(value)}" for name, value in event.fields.items())
        about = f" ({shown(event.path)})" if "/" in event.path else ""  # a hop id alone says little of a branch
        yield f"  {event.at:%Y-%m-%d %H:%M:%S} {event.type} {event.hop_id}{about} {details}".rstrip()


def _steps(reading: _Reading) -> Iterator[str]:
    """Yield the tree or, if it cannot be read, why, and the steps that the envelope names."""
    status = reading.status
    if reading.outline is not None:
        yield "  steps:"
        beside = BesideTree(answers=_answers(reading.happened), runners=reading.runners, told=status.failure)
        yield from step_lines(reading.outline, beside, "    ")
        return
    why = f"{reading.unreadable.text} ({reading.unreadable.code})" if reading.unreadable is not None else "no store"
    yield f"  steps cannot be read: {shown(why)}"
    states = [
        *((step_id, "completed") for step_id in status.executed),
        *((step_id, status.state if number == 0 else "planned") for number, step_id in enumerate(status.remaining)),
    ]
    yield from (f"    {shown(step_id)}: {state}" for step_id, state in states)


def _outlook(status: WorkflowStatus) -> Iterator[str]:
    """Yield why nobody runs the current step, or which process does, as the store knows it."""
    if status.stuck is not None:
        yield f"  stuck:     {shown(status.stuck)}"
    if status.runner is not None:
        label = "ran in: " if _is_lost(status) else "runs in:"
        yield f"  {label}   {shown(str(status.runner))}"
    if status.ahead:
        yield f"  before it: about {status.ahead} messages"
    if status.last_failure is not None and status.failure is None:
        step_id = status.last_failure.step_id or status.step_id or "-"
        yield f"  last time: {shown(step_id)}: {status.last_failure.error_class}"


def _is_lost(status: WorkflowStatus) -> bool:
    return status.runner is not None and status.runner.lapsed_at is not None


def _where(status: WorkflowStatus) -> str | None:
    if status.retry_at is not None:
        return f"is tried again at {status.retry_at:%Y-%m-%d %H:%M:%S} UTC"
    told = {
        "queued": f"waits on queue {shown(status.queue)} for a worker",
        "running": "is to be taken over by another worker" if _is_lost(status) else "runs",
        "suspended": "is suspended",
    }
    return told.get(status.state)


def _answers(happened: Sequence[WorkflowEvent] | None) -> dict[str, list[WorkflowEvent]]:
    """Return the answers to waits by the paths of their steps."""
    found: dict[str, list[WorkflowEvent]] = {}
    for event in happened or ():
        if event.type == "answered":
            found.setdefault(event.path, []).append(event)
    return found


@command()
@click.argument("correlation_id")
@click.pass_context
def graph(context: click.Context, correlation_id: str) -> None:
    """Print what ran and what is planned as a flowchart in Mermaid's language, without prompts and outputs."""
    from paigeant_celery.client.outline import outline_of
    from paigeant_celery.core.errors import StoreRequired

    transport = transport_of_app(context)
    if (store := transport.store) is None:
        raise StoreRequired("graph")
    outline = outline_of(store, correlation_id)
    tell({"correlation_id": correlation_id, "steps": steps_document(outline, failures=False)}, flowchart(outline))
