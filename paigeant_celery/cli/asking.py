"""What every command does: it finds the transport of the app, and tells an error as one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import click

from paigeant_celery.cli.output import refusal, shown

if TYPE_CHECKING:
    from paigeant_celery.broker.transport import CeleryTransport

__all__ = ["discard_journal", "reading", "shown", "transport_of_app"]

T = TypeVar("T")

discard_journal = click.option(
    "--discard-journal", is_flag=True, help="Make and pay for all calls of the step again, even recorded ones."
)


def reading(ask: Callable[[], T]) -> T:
    """Return what is asked for; an error of ours ends the command with its text."""
    from paigeant_celery.core.errors import PaigeantError

    try:
        return ask()
    except PaigeantError as error:
        raise refusal(error) from error


def transport_of_app(context: click.Context) -> CeleryTransport:
    """Return the transport of the app that the command was called with."""
    from paigeant_celery.broker.transport import transport_of
    from paigeant_celery.core.errors import ConfigurationError

    app = context.obj.app
    app.loader.import_default_modules()
    transport = transport_of(app)
    if transport.faults:
        raise ConfigurationError(transport.faults)
    return transport
