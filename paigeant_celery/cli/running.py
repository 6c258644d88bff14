"""The command that begins a workflow, of a document or of agents and prompts, and follows it to its end."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from paigeant_celery.cli.asking import transport_of_app
from paigeant_celery.cli.documents import named, of_document, text_of
from paigeant_celery.cli.output import Exit, Refused, command, refusal, shown, tell
from paigeant_celery.cli.results import result
from paigeant_celery.cli.seconds import SECONDS

if TYPE_CHECKING:
    from paigeant_celery.broker.transport import CeleryTransport
    from paigeant_celery.client.handle import WorkflowHandle
    from paigeant_celery.core.document_errors import Finding
    from paigeant_celery.core.events import WorkflowEvent

__all__ = ["run"]

UNSHOWN = ("agent", "events_dropped", "note")  # there are thousands, and what models say is confidential


@command()
@click.argument("steps", nargs=-1, metavar="[AGENT PROMPT]...")
@click.option("--document", "file", metavar="FILE", help="Run the workflow of this document; - is the standard input.")
@click.option("--id", "own_id", metavar="ID", help="The id of the workflow: with one, the command may be repeated.")
@click.option("--stream", is_flag=True, help="Let agents tell what they write while they do: see `watch`.")
@click.option("--wait", is_flag=True, help="Follow it to its end, and print what it gave.")
@click.option("--timeout", type=SECONDS, metavar="SECONDS", help="With --wait: at most so long; by default to the end.")
@click.option("--unchecked", is_flag=True, help="Also send steps of activities that this app does not load.")
@click.pass_context
def run(
    context: click.Context,
    steps: tuple[str, ...],
    file: str | None,
    own_id: str | None,
    stream: bool,
    wait: bool,
    timeout: float | None,
    unchecked: bool,
) -> None:
    """Begin a workflow of agents, each with its prompt, or of a document."""
    from paigeant_celery.client.documents import dispatch_document_sync
    from paigeant_celery.client.handle import WorkflowHandle
    from paigeant_celery.core.documents import read_document
    from paigeant_celery.core.errors import StoreRequired

    if (file is None) == (not steps):
        text = "give either agents, each with its prompt, or `--document FILE`"
        raise Refused(text, code="usage", ends=Exit.USAGE)
    if timeout is not None and not wait:
        raise Refused("`--timeout` says how long `--wait` waits; give both", code="usage", ends=Exit.USAGE)
    transport = transport_of_app(context)
    if wait and transport.store is None:
        raise StoreRequired("run --wait")
    used = partial(of_document, about=named(file)) if file is not None else _typed(steps)
    given = used(lambda: read_document(text_of(file) if file is not None else _document_of(steps)))
    if stream:
        given = given.model_copy(update={"stream": True})
    if not unchecked:
        used(lambda: _check_known(given, transport))
    is_named = own_id is not None or given.correlation_id is not None
    begun = own_id if own_id is not None else given.correlation_id or str(uuid.uuid4())
    with _naming(begun, is_named=is_named):
        used(lambda: dispatch_document_sync(given, transport, correlation_id=begun))
        if not wait:
            tell({"correlation_id": begun}, [begun])
            return
        click.echo(f"workflow {begun}", err=True)
        _follow(WorkflowHandle(begun, transport), timeout)
        context.invoke(result, correlation_id=begun, timeout=0.0, step=None)


@contextmanager
def _naming(correlation_id: str, *, is_named: bool) -> Iterator[None]:
    """Let each error from here on say which workflow it is about, and how to repeat the command without a second one.

    The workflow may be recorded, or even run, whatever the error.
    """
    from paigeant_celery.core.errors import PaigeantError

    try:
        yield
    except Refused as error:
        if error.exit_code != Exit.USAGE:  # then nothing was sent
            error.more.setdefault("correlation_id", correlation_id)
        raise
    except (PaigeantError, TimeoutError) as error:
        told = refusal(error)
        if told.exit_code == Exit.USAGE:
            raise
        text = shown(_for_shells(error, correlation_id, is_named=is_named))
        more = {**told.more, "correlation_id": correlation_id}
        raise Refused(text, code=told.code, ends=told.exit_code, more=more) from error


def _for_shells(error: Exception, correlation_id: str, *, is_named: bool) -> str:
    """Return the text of an error that names options, and no arguments of Python."""
    from paigeant_celery.core.errors import NotPublished, NotRecorded, NotSent, TransientError, WorkflowConflict

    again = "repeat the command" if is_named else f"repeat the command with `--id {correlation_id}`"
    twice = "" if is_named else "; without it a second workflow would run, and be paid for"
    match error:
        case WorkflowConflict():
            look = f"look at it with `celery … paigeant show {correlation_id}`"
            return f"a workflow {correlation_id!r} exists with another content; choose another `--id`, or {look}"
        case NotRecorded():
            return f"nothing was sent: {error.cause}. It may be recorded if only the reply was lost: {again}{twice}"
        case NotPublished():
            begins = f"workflow {correlation_id} is recorded, but its first message was not sent ({error.cause})"
            when = "no longer refuses it" if error.refused else "is back"
            swept = f"A sweep of any worker sends it once the broker {when}, without your help"
            return f"{begins}. {swept}. To try at once, {again}{twice}"
        case NotSent():
            return str(error)
        case TransientError() | TimeoutError():
            return f"{error}; to go on with it, {again}{twice}"
    return str(error)


def _document_of(steps: tuple[str, ...]) -> dict[str, Any]:
    if len(steps) % 2:
        text = f"{shown(steps[-1])} has no prompt; give each agent one, in quotes"
        raise Refused(text, code="usage", ends=Exit.USAGE)
    pairs = zip(steps[::2], steps[1::2], strict=True)
    return {"version": 1, "itinerary": [{"agent": agent, "prompt": prompt} for agent, prompt in pairs]}


def _typed(steps: tuple[str, ...]) -> Callable[[Callable[[], Any]], Any]:
    """Return what tells mistakes in the steps that were typed by their names, and not by places in a document."""

    def told(findings: Sequence[Finding]) -> list[str]:
        return [shown(_as_typed(finding, steps)) for finding in findings]

    return partial(of_document, about="what was typed", told=told)


def _as_typed(finding: Finding, steps: tuple[str, ...]) -> str:
    found, remedy = re.match(r"itinerary\[(\d+)\]", finding.path), finding.remedy
    if found is None:
        return str(replace(finding, path="--id") if finding.path == "correlation_id" else finding)
    if remedy.startswith(("write `function", "write `celery_task")):
        remedy = "functions and Celery tasks need `--document`"
    return str(replace(finding, path=steps[2 * int(found[1])], remedy=remedy))


def _check_known(given: Any, transport: CeleryTransport) -> None:
    """Refuse activities that the app does not load: a typo would wait for a worker for ever."""
    from paigeant_celery.client.documents import lint_document
    from paigeant_celery.core.document_errors import InvalidDocument

    if findings := lint_document(given, transport):
        raise InvalidDocument.of(findings)


def _follow(handle: WorkflowHandle, timeout: float | None) -> None:
    """Print to the standard error what happens, until the end."""

    async def show() -> None:
        async with asyncio.timeout(timeout):
            async for event in handle.events():
                if event.type not in UNSHOWN:
                    click.echo(_line(event), err=True)

    try:
        asyncio.run(show())
    except TimeoutError:
        raise TimeoutError(f"workflow {handle.correlation_id} did not end within {timeout:g} s and goes on") from None


def _line(event: WorkflowEvent) -> str:
    about = {name: value for name, value in event.fields.items() if name in ("attempt", "error", "wait", "queue")}
    details = "".join(f" {name}={shown(value)}" for name, value in about.items())
    return f"{event.at:%H:%M:%S} {event.type} {shown(event.path or event.hop_id)}{details}"
