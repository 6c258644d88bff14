"""The commands about activities, and about those who serve them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from paigeant_celery.cli.asking import include, load, transport_of_app
from paigeant_celery.cli.output import command, tell

if TYPE_CHECKING:
    from paigeant_celery.broker.transport import CeleryTransport

__all__ = ["activities"]


@command()
@include
@click.pass_context
def activities(context: click.Context, include: tuple[str, ...]) -> None:
    """List the activities that this app loads, with their queues."""
    from paigeant_celery.worker.serving import listing

    transport = transport_of_app(context)
    load(context, include)
    tell(_loaded(transport), [listing(transport)])


def _loaded(transport: CeleryTransport) -> dict[str, object]:
    from paigeant_celery.activities.registry import registry
    from paigeant_celery.worker.serving import loaded_activities, queue_names

    return {
        "mode": transport.mode,
        "store": transport.store_address,
        "activities": [
            {"name": name, "kind": activity.kind, "queue": queue_names(transport, name)[0]}
            for name, activity in sorted(loaded_activities(transport).items())
        ],
        "nameless": list(registry.nameless()),
    }
