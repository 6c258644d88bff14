"""The commands that list what workflows wait for, and answer it."""

from __future__ import annotations

import getpass
from typing import TYPE_CHECKING

import click

from paigeant_celery.cli.asking import reading, shown, transport_of_app

if TYPE_CHECKING:
    from pydantic import JsonValue

    from paigeant_celery.client.inbox import Inbox
    from paigeant_celery.client.readings import Answered, GivenAnswer, PendingWait

__all__ = ["answer", "approve", "deny", "inbox", "signal"]


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run as a user without a name
        return ""


by = click.option("--by", default=_user, help="Who answers; the user of the shell by default.")
call = click.option("--call", metavar="ID", help="Only this call of a tool; by default all that are open.")


@click.command()
@click.option("--limit", default=100, show_default=True, help="List at most this many, oldest first.")
@click.option("--after", metavar="CURSOR", help="List those that come after the cursor of an earlier list.")
@click.pass_context
def inbox(context: click.Context, limit: int, after: str | None) -> None:
    """List what workflows wait for, with the tokens that answer it: show them to nobody who may not answer."""
    found = reading(lambda: _inbox(context).pending_sync(limit=limit, after=after))
    for wait in found:
        _list(wait)
    if not found:
        click.echo("nothing waits for an answer")
    elif len(found) == limit:
        click.echo(f"there may be more; add --after '{found[-1].cursor}'")


def _list(wait: PendingWait) -> None:
    until = f", until {wait.until:%Y-%m-%d %H:%M:%S} UTC" if wait.until is not None else ""
    what = "signal " if wait.kind == "signal" else ""
    click.echo(wait.token)
    step = f"step {shown(wait.step_id) or '-'} ({wait.activity or '-'})"
    click.echo(f"  workflow {wait.workflow}, {step}: {what}{shown(wait.name)}")
    click.echo(f"  since {wait.since:%Y-%m-%d %H:%M:%S} UTC{until}")
    if wait.question is not None:
        click.echo(f"  question: {shown(wait.question)}")
    for each in wait.calls:
        click.echo(f"  {each.kind} {shown(each.id)}: {shown(each.tool)} {_json(each.arguments)}")


@click.command()
@click.argument("token")
@call
@click.option("--args", "override_args", metavar="JSON", help="All arguments, in place of those that were asked for.")
@by
@click.pass_context
def approve(context: click.Context, token: str, call: str | None, override_args: str | None, by: str) -> None:
    """Approve the calls of tools that a wait is about."""
    given = _read_arguments(override_args) if override_args is not None else None
    _tell(reading(lambda: _inbox(context).approve_sync(token, call, override_args=given, by=by)))


@click.command()
@click.argument("token")
@call
@click.option("--message", help="What the model is told.")
@by
@click.pass_context
def deny(context: click.Context, token: str, call: str | None, message: str | None, by: str) -> None:
    """Deny the calls of tools that a wait is about."""
    _tell(reading(lambda: _inbox(context).deny_sync(token, call, message=message, by=by)))


@click.command()
@click.argument("token")
@click.argument("payload", metavar="JSON", required=False)
@click.option("--failed", metavar="REASON", help="Say that there will be no answer, and why.")
@by
@click.pass_context
def answer(context: click.Context, token: str, payload: str | None, failed: str | None, by: str) -> None:
    """Answer a wait with JSON, or say with --failed that there will be no answer."""
    if (payload is None) == (failed is None):
        raise click.ClickException("give either JSON or `--failed REASON`; a text is written '\"so\"'")
    if failed is not None:
        _tell(reading(lambda: _inbox(context).fail_sync(token, failed, by=by)))
        return
    given = _read(payload or "")
    _tell(reading(lambda: _inbox(context).resolve_sync(token, given, by=by)))


@click.command()
@click.argument("correlation_id")
@click.argument("name")
@click.argument("payload", metavar="[JSON]", default="null")
@click.option("--path", metavar="PATH", help="Only a wait in this branch, or of the step there: readings/3/reader.")
@click.option("--signal-id", metavar="ID", help="A second signal with this id changes nothing.")
@by
@click.pass_context
def signal(
    context: click.Context,
    correlation_id: str,
    name: str,
    payload: str,
    path: str | None,
    signal_id: str | None,
    by: str,
) -> None:
    """Send a signal to a workflow; it is kept until a step waits for it, unless --path names a branch."""
    from paigeant_celery.client.handle import WorkflowHandle

    handle, given = WorkflowHandle(correlation_id, transport_of_app(context)), _read(payload)
    _tell(reading(lambda: handle.signal_sync(name, given, path=path, signal_id=signal_id, by=by)))


def _tell(told: Answered) -> None:
    """Say what an answer did; the command fails if it does not count."""
    if told.outcome == "late":
        raise click.ClickException("too late: the time of the wait is over, or its step has ended")
    if told.outcome == "answered":
        first = f": {_answer(told.first)}" if told.first is not None else ""
        left = f"; still open: {', '.join(map(shown, told.open))}" if any(told.open) else ""
        raise click.ClickException(f"somebody was faster, and this answer does not count{first}{left}")
    click.echo(
        {
            "recorded": f"this counts; still open: {', '.join(map(shown, told.open))}",
            "kept": "the signal is kept until a step waits for it",
            "repeated": "a signal with this id was taken before; nothing is changed",
        }.get(told.outcome, "the workflow goes on")
    )


def _answer(first: GivenAnswer) -> str:
    said = _json(first.payload) if first.failed is None else f"there will be no answer, because {shown(first.failed)}"
    return f"{said} (by {shown(first.by) or '-'} at {first.at:%Y-%m-%d %H:%M:%S} UTC)"


def _read(text: str) -> JsonValue:
    from paigeant_celery.core.errors import MessageError
    from paigeant_celery.core.jsonable import loads

    try:
        return loads(text, invalid="invalid_answer")
    except MessageError as error:
        raise click.ClickException(f"{error.text}; a text is written '\"so\"'") from None


def _read_arguments(text: str) -> dict[str, JsonValue]:
    given = _read(text)
    if not isinstance(given, dict):
        raise click.ClickException("`--args` must be a JSON object of the names of arguments to values")
    return given


def _json(value: JsonValue) -> str:
    from paigeant_celery.core.jsonable import dumps

    return shown(dumps(value))


def _inbox(context: click.Context) -> Inbox:
    from paigeant_celery.client.inbox import Inbox

    return Inbox(transport_of_app(context))
