"""A sweeper over a store and an outbox of a test."""

from __future__ import annotations

from collections.abc import Callable

from paigeant_celery.broker.outbox import Outbox
from paigeant_celery.core.errors import MessageError
from paigeant_celery.core.settings import Settings
from paigeant_celery.hop.claims import Claims
from paigeant_celery.hop.lateness import Lateness
from paigeant_celery.hop.sweeper import Sweeper
from paigeant_celery.store.port import HopRecord, HopStore

__all__ = ["sweeper_of"]


def sweeper_of(
    store: HopStore, outbox: Outbox, *, set_aside: Callable[[HopRecord, MessageError], bool] | None = None
) -> Sweeper:
    """Return a sweeper that ends what is late, as that of a worker does."""
    settings = Settings()
    claims = Claims(store=store, outbox=outbox, settings=settings, owner=lambda: "sweeping")
    lateness = Lateness(store=store, claims=claims, settings=settings)
    return Sweeper(store=store, outbox=outbox, set_aside=set_aside, end_late=lateness.end)
