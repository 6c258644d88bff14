"""What every command does first: it finds the transport of the app, and loads what is to be loaded."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from paigeant_celery.cli.output import Exit, Refused

if TYPE_CHECKING:
    from paigeant_celery.broker.transport import CeleryTransport

__all__ = ["discard_journal", "include", "load", "transport_of_app"]

discard_journal = click.option(
    "--discard-journal", is_flag=True, help="Make and pay for all calls of the step again, even recorded ones."
)


include = click.option(
    "-I", "--include", multiple=True, metavar="MODULE", help="Also load this module; may be repeated."
)


def load(context: click.Context, modules: Iterable[str]) -> None:
    """Load modules with activities, beside those that the app names."""
    context.obj.app.loader.import_default_modules()
    for module in modules:
        try:
            context.obj.app.loader.import_from_cwd(module)
        except ImportError as error:
            raise Refused(f"cannot import {module!r}: {error}", code="import_failed", ends=Exit.USAGE) from error


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
