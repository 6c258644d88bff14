"""The person who is asked: a process of its own, which knows the store and no agent.

`python -m examples.approvals.person WORKFLOW` asks about all that the workflow waits for. What else is given on the
command line are answers, one for each question; for the others it reads lines.
"""

from __future__ import annotations

import os
import re
import sys
from typing import Any

import click

from examples.approvals import ledger
from examples.approvals.refunds import euros
from examples.console import INTERRUPTED
from paigeant_celery import AskedCall, WorkflowDispatcher, WorkflowHandle, get_transport

__all__ = ["main"]

YES = re.compile(r"y(?:es)?", re.IGNORECASE)
NO = re.compile(r"n(?:o)?\b[\s:,]*(.*)", re.IGNORECASE)
AMOUNT = re.compile(r"(\d{1,9})(?:\.(\d{2}))?")
NOBODY = "no, because nobody answered"


def main(correlation_id: str, answers: list[str]) -> None:
    """Ask about each call that waits, and pass the answers on."""
    handle = WorkflowDispatcher().handle(correlation_id, get_transport("redis"))
    for wait in handle.pending_sync():
        for call in wait.calls:
            decide(handle, wait.token, call, asked(call, answers))


def asked(call: AskedCall, answers: list[str]) -> str:
    """Ask until there is an answer that can be understood, and return it."""
    arguments = arguments_of(call)
    what = click.style(f"{call.tool} {euros(int(arguments['cents']))}", bold=True)
    while True:
        click.echo(f"{'person':10}{what} ({arguments['reason']})? yes, no and why, or an amount: ", nl=False)
        typed = not answers and sys.stdin.isatty()  # so it stands on the screen
        line = answers.pop(0) if answers else read_line()
        if not typed or line == NOBODY:
            click.echo(line)
        if YES.fullmatch(line) or NO.fullmatch(line) or AMOUNT.fullmatch(line):
            return line


def read_line() -> str:
    """Return a line, and read nothing beyond it: the next process is asked, too."""
    line = sys.stdin.buffer.raw.readline().decode(errors="replace")
    return line.strip() if line else NOBODY


def decide(handle: WorkflowHandle, token: str, call: AskedCall, line: str) -> None:
    """Approve or deny a call."""
    arguments, by = arguments_of(call), os.environ.get("USER", "somebody")
    cents: int | None = int(arguments["cents"])
    if (no := NO.fullmatch(line)) is not None:
        cents = None
        given = handle.deny_sync(token, call.id, message=no[1] or "a person said no", by=by)
    elif (amount := AMOUNT.fullmatch(line)) is not None:
        cents = int(amount[1]) * 100 + int(amount[2] or 0)
        given = handle.approve_sync(token, call.id, override_args={**arguments, "cents": cents}, by=by)
    else:
        given = handle.approve_sync(token, call.id, by=by)
    if not given.taken:
        sys.exit(f"somebody else answered first ({given.outcome}); the example counts only what is answered here")
    ledger.decide(call=call.id, cents=cents)


def arguments_of(call: AskedCall) -> dict[str, Any]:
    """Return the arguments of a call of `refund`."""
    assert isinstance(call.arguments, dict)
    return call.arguments


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2:])
    except KeyboardInterrupt:  # the program that started it says so
        sys.exit(INTERRUPTED)
