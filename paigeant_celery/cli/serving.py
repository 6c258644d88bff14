"""The commands about activities, and about those who serve them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from paigeant_celery.cli.asking import transport_of_app
from paigeant_celery.cli.output import Exit, Refused, command, tell

if TYPE_CHECKING:
    from paigeant_celery.broker.transport import CeleryTransport

__all__ = ["activities"]


@command()
@click.option("-I", "--include", multiple=True, metavar="MODULE", help="Also load this module; may be repeated.")
@click.pass_context
def activities(context: click.Context, include: tuple[str, ...]) -> None:
    """List the activities that this app loads, with their queues."""
    from paigeant_celery.worker.serving import banner

    transport = transport_of_app(context)
    for module in include:
        try:
            context.obj.app.loader.import_from_cwd(module)
        except ImportError as error:
            raise Refused(f"cannot import {module!r}: {error}", code="import_failed", ends=Exit.USAGE) from error
    tell(_served(transport), [banner(transport)])


def _served(transport: CeleryTransport) -> dict[str, object]:
    from paigeant_celery.activities.registry import registry
    from paigeant_celery.worker.serving import queue_names, served_activities

    served = served_activities(transport)
    return {
        "mode": transport.mode,
        "store": transport.store_address,
        "activities": [
            {"name": name, "kind": activity.kind, "queue": queue_names(transport, name)[0]}
            for name, activity in sorted(served.items())
        ],
        "nameless": list(registry.nameless()),
    }
