"""A sweeper over a store and an outbox of a test."""

from __future__ import annotations

from paigeant_celery.broker.outbox import Outbox
from paigeant_celery.core.settings import Settings
from paigeant_celery.hop.claims import Claims
from paigeant_celery.hop.sweeper import Sweeper
from paigeant_celery.store.port import HopStore

__all__ = ["sweeper_of"]


def sweeper_of(store: HopStore, outbox: Outbox, *, owner: str = "sweeping") -> Sweeper:
    """Return a sweeper whose process has that owner's id."""
    settings = Settings()
    claims = Claims(store=store, outbox=outbox, settings=settings, owner=lambda: owner)
    return Sweeper(store=store, outbox=outbox, claims=claims, settings=settings)
