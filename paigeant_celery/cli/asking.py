"""What every command does: it finds the transport of the app, and tells an error as one line."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeVar

import click

from paigeant_celery.cli.output import Exit, Refused, refusal, shown

if TYPE_CHECKING:
    from paigeant_celery.broker.transport import CeleryTransport

__all__ = ["discard_journal", "include", "load", "reading", "shown", "transport_of_app"]

T = TypeVar("T")

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
