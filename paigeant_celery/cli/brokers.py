"""The command that moves a store to another broker."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from paigeant_celery.cli.asking import transport_of_app
from paigeant_celery.cli.output import Refused, command, say_first, tell

if TYPE_CHECKING:
    from paigeant_celery.store.port import Store

__all__ = ["rebind"]

STILL_SWEPT = 10.0  # seconds; a worker that serves steps looks every second


@command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_context
def rebind(context: click.Context, yes: bool) -> None:
    """Let this app's broker take the place of the one that the store belongs to."""
    from paigeant_celery.core.errors import StoreRequired

    transport = transport_of_app(context)
    if (store := transport.store) is None:
        raise StoreRequired("rebind")
    old = transport.binding.other_broker()
    if old is None:
        broker = transport.broker
        unchanged = f"the store {store.address} belongs to no other broker than {broker}; nothing is changed"
        tell({"store": store.address, "broker": broker, "instead_of": None, "rebound": False}, [unchanged])
        return
    new = str(transport.broker_identity)
    about = (
        f"store:      {store.address}, prefix {transport.settings.prefix!r}",
        f"old broker: {old.address}",
        f"new broker: {new}",
    )
    aside = say_first([*about, *_consequences(store)])
    if not yes:
        click.confirm("Let the store belong to the new broker?", abort=True, err=aside)
    if not transport.binding.rebind(instead_of=old):
        text = "the store belongs to another broker by now; look, and run this again if it must be"
        raise Refused(text, code="rebound_meanwhile")
    document = {"store": store.address, "broker": new, "instead_of": old.address, "rebound": True}
    tell(document, ["the store belongs to the new broker; start its workers"])


def _consequences(store: Store) -> Iterator[str]:
    """Yield what a change of the broker means for the workflows under way."""
    hops, unswept = store.open_hops(), store.unswept()
    yield (
        f"steps that wait for a worker or a retry: {hops.due}, running: {hops.running}, parked: {hops.parked}. "
        "Their messages stay on the old broker. Workers of the new one send those that wait again, 100 a second, and "
        "those that are running when their worker is gone. Nothing that is recorded is lost."
    )
    if unswept is not None and unswept < STILL_SWEPT:
        yield f"A worker used the store {unswept:.0f} s ago: stop all workers and programs of the old broker first."
