"""The commands that end a workflow, or let it go on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import click

from paigeant_celery.cli.asking import discard_journal, transport_of_app
from paigeant_celery.cli.output import Exit, Refused, command, ended_with, refusal, shown, tell, tell_next

if TYPE_CHECKING:
    from paigeant_celery.broker.transport import CeleryTransport

__all__ = ["cancel", "retry"]

ALL_OF_INPUT = "-"  # in the place of an id


@command()
@click.argument("correlation_id")
@click.pass_context
def cancel(context: click.Context, correlation_id: str) -> None:
    """Cancel a workflow; nothing that a running step does is recorded any more."""
    from paigeant_celery.client.handle import WorkflowHandle

    if not WorkflowHandle(correlation_id, transport_of_app(context)).cancel_sync():
        raise Refused(f"workflow {correlation_id} has already ended", code="workflow_ended")
    tell({"correlation_id": correlation_id, "cancelled": True}, [f"workflow {correlation_id} is cancelled"])


@command()
@click.argument("correlation_id")
@click.argument("path", required=False)
@discard_journal
@click.pass_context
def retry(context: click.Context, correlation_id: str, path: str | None, discard_journal: bool) -> None:
    """Let a parked workflow go on, with all attempts of its step available again.

    PATH names a step or a branch, as in readings/3/reader: only what is parked there goes on. Without it, the current
    step does or, if that waits for branches, all that are parked.

    With - as its id, the command reads ids from the standard input, one a line, as `list --ids` prints them, and does
    the same with each.
    """
    transport = transport_of_app(context)
    if correlation_id == ALL_OF_INPUT:
        _retry_each(
            transport,
            _ids(click.open_file("-", encoding="utf-8", errors="replace")),
            path,
            discard_journal=discard_journal,
        )
        return
    what = _retried(transport, correlation_id, path, discard_journal=discard_journal)
    tell({"correlation_id": correlation_id, "path": path, "retried": True}, [f"{what} goes on"])


def _retry_each(transport: CeleryTransport, ids: Iterable[str], path: str | None, *, discard_journal: bool) -> None:
    """Let workflows go on, and tell of each; one that is refused leaves the others alone, but not the exit code."""
    from paigeant_celery.core.errors import PaigeantError, TransientError

    end, begun = Exit.FINE, False
    for correlation_id in ids:
        begun = True
        document: dict[str, object] = {"correlation_id": correlation_id, "path": path, "retried": True}
        try:
            what = _retried(transport, correlation_id, path, discard_journal=discard_journal)
            tell_next(
                document, [f"{what} of {shown(correlation_id)} goes on" if path is not None else f"{what} goes on"]
            )
        except TransientError:
            raise  # it would be so for the others, too
        except (PaigeantError, Refused) as error:
            refused = error if isinstance(error, Refused) else refusal(error)
            why = {"code": refused.code, "text": refused.message}
            tell_next(document | {"retried": False, "error": why}, [f"{shown(correlation_id)}: {refused.message}"])
            end = Exit.FAILED
    if not begun:
        tell_next({"retried": False}, ["no ids were given"])
    ended_with(end)


def _ids(lines: Iterable[str]) -> Iterator[str]:
    return (line.strip() for line in lines if line.strip())


def _retried(transport: CeleryTransport, correlation_id: str, path: str | None, *, discard_journal: bool) -> str:
    """Let what is parked go on, and return what that is."""
    from paigeant_celery.client.handle import WorkflowHandle

    if not WorkflowHandle(correlation_id, transport).redrive_sync(path, discard_journal=discard_journal):
        what = f"nothing in {shown(path)} is parked" if path is not None else f"workflow {correlation_id} is not parked"
        raise Refused(what, code="not_parked")
    return shown(path) if path is not None else f"workflow {correlation_id}"
