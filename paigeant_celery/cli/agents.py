"""The command that asks the live workers what they serve."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from paigeant_celery.cli.asking import include, load, transport_of_app
from paigeant_celery.cli.output import Exit, Refused, Table, command, ended_with, tell
from paigeant_celery.cli.seconds import SECONDS
from paigeant_celery.cli.workers import ask_workers

if TYPE_CHECKING:
    from paigeant_celery.broker.transport import CeleryTransport

__all__ = ["agents"]


@command()
@click.option(
    "-t",
    "--timeout",
    default=1.0,
    type=SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="Wait so long for workers to answer.",
)
@include
@click.pass_context
def agents(context: click.Context, timeout: float, include: tuple[str, ...]) -> None:
    """Ask the live workers which activities they serve, with how many slots and in which versions."""
    transport = transport_of_app(context)
    load(context, include)
    if transport.in_memory:
        text = "the broker is `memory://`, which no other process can reach, so no worker of one can be asked"
        raise Refused(text, code="in_memory", ends=Exit.USAGE)
    workers = ask_workers(transport, timeout)
    served = {each["name"] for worker in workers for each in worker["serves"]}
    unserved = [name for name in _loaded(transport) if name not in served] if workers else []
    tell({"workers": workers, "unserved": unserved}, _lines(workers, unserved, timeout))
    ended_with(Exit.FINE if workers else Exit.FAILED)


def _loaded(transport: CeleryTransport) -> list[str]:
    from paigeant_celery.activities.registry import registry

    return sorted(registry.names())


def _lines(workers: Sequence[Mapping[str, Any]], unserved: Sequence[str], timeout: float) -> Iterator[str | Table]:
    if not workers:
        yield f"no worker that serves activities answered within {timeout:g} s; `--timeout` waits longer"
        return
    yield Table(
        ("worker", "pid", "pool", "slots", "running", "paigeant_celery", "celery", "pydantic-ai"),
        [
            (
                worker["worker"],
                *(_cell(worker[name]) for name in ("pid", "pool", "slots", "running")),
                *(_cell(worker["versions"].get(name)) for name in ("paigeant_celery", "celery", "pydantic-ai-slim")),
            )
            for worker in workers
        ],
    )
    rows = [
        (each["name"], each["kind"], each["queue"], worker["worker"]) for worker in workers for each in worker["serves"]
    ]
    yield Table(("activity", "kind", "queue", "served by"), sorted(rows))
    for name in unserved:
        yield f"nobody serves {name!r}, which this app loads"


def _cell(value: object) -> str:
    return str(value) if value is not None else "-"
