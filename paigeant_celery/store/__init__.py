"""The stores, which record workflows and hops. `open_store` chooses one by its URL or endpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paigeant_celery.core.errors import ConfigurationError
from paigeant_celery.store import limits
from paigeant_celery.store.endpoint import EXAMPLES, Endpoint, read_url

if TYPE_CHECKING:  # the process that only touches owners loads no models
    from paigeant_celery.store.port import Store

__all__ = ["EXAMPLES", "open_store"]


def open_store(where: str | Endpoint, *, prefix: str, lease: float, ttl: float, named: str = "store URL") -> Store:
    """Return the store at a URL or an endpoint; nothing is connected yet.

    `lease` and `ttl` (how long records are kept after the end) are in seconds. Raises `ConfigurationError` if it
    is not understood, without repeating it, because it may hold a password; `named` says where it comes from.
    """
    if isinstance(where, str) and where.lower().startswith("memory://"):
        from paigeant_celery.store.memory import MemoryStore

        return MemoryStore(lease=lease, ttl=ttl, limits=limits.LIMITS)
    try:
        endpoint = read_url(where) if isinstance(where, str) else where
        # Imported here, so that a process with a memory store does not load the client.
        from paigeant_celery.store.redis import RedisStore

        return RedisStore(endpoint, prefix=prefix, lease=lease, ttl=ttl, limits=limits.LIMITS)
    except ConfigurationError as error:
        mistakes = [f"{named}: {mistake}" for mistake in error.mistakes]
    # Outside, because the error would otherwise carry the first one, and what it was raised from.
    raise ConfigurationError(mistakes)
