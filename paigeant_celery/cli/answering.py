"""The commands that list what workflows wait for, and answer it."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

import click

from paigeant_celery.cli.asking import transport_of_app
from paigeant_celery.cli.output import Exit, Refused, command, shown, shown_json, tell

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


STDIN = "-"  # in place of a token or a value: what stands in arguments is read by every user of a machine

by = click.option("--by", default=_user, help="Who answers; the user of the shell by default.")
call = click.option("--call", metavar="ID", help="Only this call of a tool; by default all that are open.")


@command()
@click.option("--limit", default=100, show_default=True, help="List at most this many, oldest first.")
@click.option("--after", metavar="CURSOR", help="List those that come after the cursor of an earlier list.")
@click.pass_context
def inbox(context: click.Context, limit: int, after: str | None) -> None:
    """List what workflows wait for, with the tokens that answer it: show them to nobody who may not answer."""
    found = _inbox(context).pending_sync(limit=limit, after=after)
    further = found[-1].cursor if found and len(found) == limit else None
    tell({"waits": [_document(wait) for wait in found], "next": further}, _listed(found, further))


def _document(wait: PendingWait) -> dict[str, object]:
    """Return a wait as JSON has it; its cursor is `next` of a list."""
    return {each.name: getattr(wait, each.name) for each in fields(wait) if each.name != "cursor"}


def _listed(found: Sequence[PendingWait], further: str | None) -> Iterator[str]:
    for wait in found:
        yield from _told(wait)
    if not found:
        yield "nothing waits for an answer"
    elif further is not None:
        yield f"there may be more; add --after '{further}'"


def _told(wait: PendingWait) -> Iterator[str]:
    until = f", until {wait.until:%Y-%m-%d %H:%M:%S} UTC" if wait.until is not None else ""
    what = "signal " if wait.kind == "signal" else ""
    yield wait.token
    step = f"step {shown(wait.step_id) or '-'} ({wait.activity or '-'})"
    yield f"  workflow {wait.workflow}, {step}: {what}{shown(wait.name)}"
    yield f"  since {wait.since:%Y-%m-%d %H:%M:%S} UTC{until}"
    if wait.question is not None:
        yield f"  question: {shown(wait.question)}"
    for each in wait.calls:
        yield f"  {each.kind} {shown(each.id)}: {shown(each.tool)} {shown_json(each.arguments)}"


@command()
@click.argument("token")
@call
@click.option("--args", "override_args", metavar="JSON", help="All arguments, in place of those that were asked for.")
@by
@click.pass_context
def approve(context: click.Context, token: str, call: str | None, override_args: str | None, by: str) -> None:
    """Approve the calls of tools that a wait is about.

    TOKEN is the one that `inbox` shows, or - for the first line of the standard input; `--args -` reads the rest.
    """
    token = _token(token)
    given = _read_arguments(_text(override_args)) if override_args is not None else None
    _tell(_inbox(context).approve_sync(token, call, override_args=given, by=by))


@command()
@click.argument("token")
@call
@click.option("--message", help="What the model is told.")
@by
@click.pass_context
def deny(context: click.Context, token: str, call: str | None, message: str | None, by: str) -> None:
    """Deny the calls of tools that a wait is about.

    TOKEN is the one that `inbox` shows, or - for the first line of the standard input; `--message -` reads the rest.
    """
    token = _token(token)
    said = _text(message) if message is not None else None
    _tell(_inbox(context).deny_sync(token, call, message=said, by=by))


@command()
@click.argument("token")
@click.argument("payload", metavar="JSON", required=False)
@click.option("--failed", metavar="REASON", help="Say that there will be no answer, and why.")
@by
@click.pass_context
def answer(context: click.Context, token: str, payload: str | None, failed: str | None, by: str) -> None:
    """Answer a wait with JSON, or say with --failed that there will be no answer.

    TOKEN is the one that `inbox` shows, or - for the first line of the standard input; JSON of - is the rest.
    """
    if (payload is None) == (failed is None):
        text = "give either JSON or `--failed REASON`; a text is written '\"so\"'"
        raise Refused(text, code="usage", ends=Exit.USAGE)
    token = _token(token)
    if failed is not None:
        _tell(_inbox(context).fail_sync(token, _text(failed), by=by))
        return
    given = _read(_text(payload or ""))
    _tell(_inbox(context).resolve_sync(token, given, by=by))


@command()
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
    """Send a signal to a workflow; it is kept until a step waits for it, unless --path names a branch.

    JSON is null by default, and - for the standard input.
    """
    from paigeant_celery.client.handle import WorkflowHandle

    handle, given = WorkflowHandle(correlation_id, transport_of_app(context)), _read(_text(payload))
    _tell(handle.signal_sync(name, given, path=path, signal_id=signal_id, by=by))


def _token(given: str) -> str:
    """Return a token that was typed, or stands in the first line of the standard input."""
    return sys.stdin.readline().strip() if given == STDIN else given


def _text(given: str) -> str:
    """Return a value that was typed, or is the rest of the standard input."""
    return sys.stdin.read().removesuffix("\n") if given == STDIN else given


def _tell(told: Answered) -> None:
    """Say what an answer did, and who answered, but not what; the command fails if it does not count."""
    if not told.taken:
        raise Refused(_why_not(told), code=told.outcome, more=_outcome(told))
    still = f"; still open: {', '.join(map(shown, told.open))}"
    what = {
        "recorded": f"this counts{still}",
        "kept": "the signal is kept until a step waits for it",
        "repeated": "a signal with this id was taken before; nothing is changed",
    }.get(told.outcome, "the workflow goes on")
    tell(_outcome(told), [what])


def _outcome(told: Answered) -> dict[str, object]:
    return {
        "outcome": told.outcome,
        "first": _given(told.first) if told.first is not None else None,
        "answers": {part: _given(each) for part, each in told.answers.items()},
        "open": told.open,
    }


def _given(answer: GivenAnswer) -> dict[str, object]:
    """Return an answer without what it says, which is for its step alone."""
    return {"by": answer.by, "at": answer.at}


def _why_not(told: Answered) -> str:
    if told.outcome == "late":
        return "too late: the time of the wait is over, or its step has ended"
    first, when = told.first, ""
    if first is not None:
        who = f"{shown(first.by)} answered" if first.by else "it was answered"
        when = f": {who} at {first.at:%Y-%m-%d %H:%M:%S} UTC"
    left = f"; still open: {', '.join(map(shown, told.open))}" if any(told.open) else ""
    return f"somebody was faster, and this answer does not count{when}{left}"


def _read(text: str) -> JsonValue:
    from paigeant_celery.core.errors import MessageError
    from paigeant_celery.core.jsonable import loads

    try:
        return loads(text, invalid="invalid_answer")
    except MessageError as error:
        text = f"{error.text}; a text is written '\"so\"'"
        raise Refused(text, code="invalid_answer", ends=Exit.USAGE) from None


def _read_arguments(text: str) -> dict[str, JsonValue]:
    given = _read(text)
    if not isinstance(given, dict):
        text = "`--args` must be a JSON object of the names of arguments to values"
        raise Refused(text, code="usage", ends=Exit.USAGE)
    return given


def _inbox(context: click.Context) -> Inbox:
    from paigeant_celery.client.inbox import Inbox

    return Inbox(transport_of_app(context))
