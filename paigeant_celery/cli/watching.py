"""The command that follows a workflow to its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from paigeant_celery.cli.asking import transport_of_app
from paigeant_celery.cli.output import Exit, command, ended_with, shown, tell_piece
from paigeant_celery.cli.screen import Screen
from paigeant_celery.cli.seconds import SECONDS

if TYPE_CHECKING:
    from paigeant_celery.client.handle import WorkflowHandle
    from paigeant_celery.core.events import WorkflowEvent

__all__ = ["watch"]

BETWEEN_TRIES = 1.0  # seconds, while the store is away


@command()
@click.argument("correlation_id")
@click.option("--after", metavar="CURSOR", help="Go on after the event with this cursor; by default from the start.")
@click.option("--agents/--no-agents", default=True, help="Also show what agents write and call while they do.")
@click.option("--timeout", type=SECONDS, metavar="SECONDS", help="Watch for at most so long; by default to the end.")
@click.option(
    "--patience",
    default=60.0,
    type=SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="Try so long if the store is away.",
)
@click.pass_context
def watch(
    context: click.Context,
    correlation_id: str,
    after: str | None,
    agents: bool,
    timeout: float | None,
    patience: float,
) -> None:
    """Show what happens to a workflow, and what its agents write, until it ends or is parked.

    What agents write is there if the workflow was dispatched with `stream=True`; it may be confidential.
    """
    from paigeant_celery.client.handle import WorkflowHandle

    watching = _Watching(WorkflowHandle(correlation_id, transport_of_app(context)), after, patience)
    screen = Screen()
    try:
        asyncio.run(_show(watching, screen, agents=agents, within=timeout))
    except KeyboardInterrupt:
        if watching.cursor is not None:
            click.echo(f"\nto go on from here, add --after '{shown(watching.cursor)}'", err=True)
        raise
    except TimeoutError:
        raise TimeoutError(f"workflow {correlation_id} did not end within {timeout:g} s and goes on") from None
    status = watching.handle.status_sync()
    document = {
        "correlation_id": correlation_id,
        "state": status.state,
        "failure": status.failure,
    }
    failure = status.failure
    why = f": {shown(failure.error_class)}: {shown(failure.text)}" if failure is not None else ""
    tell_piece(document, f"{screen.end_of_line()}workflow {correlation_id}: {status.state}{why}\n")
    ended_with(Exit.FINE if status.state == "completed" else Exit.FAILED)


async def _show(watching: _Watching, screen: Screen, *, agents: bool, within: float | None) -> None:
    async with asyncio.timeout(within):
        async for event in watching.events():
            if agents or event.type != "agent":
                bare = _without_tokens(event)
                tell_piece(bare, screen.text_of(bare))


def _without_tokens(event: WorkflowEvent) -> WorkflowEvent:
    """Return an event that answers no wait: the arguments of a tool may have the link with which somebody does."""
    from paigeant_celery.core.waits import without_tokens

    return replace(event, fields={name: without_tokens(text) for name, text in event.fields.items()})


class _Watching:
    """The events of a workflow, each once, even if the store is away for a while."""

    def __init__(self, handle: WorkflowHandle, after: str | None, patience: float) -> None:
        self.handle, self.cursor = handle, after
        self._patience = patience

    async def events(self) -> AsyncIterator[WorkflowEvent]:
        """Yield them; `cursor` is that of the last one."""
        from paigeant_celery.core.errors import TransientError

        while True:
            try:
                async for event in self.handle.events(self.cursor):
                    self.cursor = event.cursor
                    yield event
                return
            except TransientError as error:
                click.echo(f"{shown(str(error))}; trying again for {self._patience:g} s", err=True)
                await self._back(error)

    async def _back(self, error: Exception) -> None:
        """Wait until the store is back; raises the last error when the patience is over."""
        from paigeant_celery.core.errors import TransientError

        end = time.monotonic() + self._patience
        while (left := end - time.monotonic()) > 0:
            await asyncio.sleep(min(BETWEEN_TRIES, left))
            try:
                await self.handle.status()
                return
            except TransientError as again:
                error = again
        raise error
