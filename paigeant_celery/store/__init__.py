"""The stores, which record workflows and hops. `open_store` chooses one by URL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paigeant_celery.core.errors import ConfigurationError
from paigeant_celery.store import limits

if TYPE_CHECKING:  # the process that only touches owners loads no models
    from paigeant_celery.store.port import Store

__all__ = ["open_store"]


def open_store(url: str, *, prefix: str, lease: float, ttl: float, named: str = "store URL") -> Store:
    """Return the store at `url`; nothing is connected yet.

    `lease` and `ttl` (how long records are kept after the end) are in seconds. Raises `ConfigurationError` if the URL
    is not understood, without repeating it, because it may hold a password; `named` says where it comes from.
    """
    scheme = url.partition("://")[0].lower() if "://" in url else ""
    if scheme == "memory":
        from paigeant_celery.store.memory import MemoryStore

        return MemoryStore(lease=lease, ttl=ttl, limits=limits.LIMITS)
    if scheme in ("redis", "rediss", "unix"):
        # Imported here, so that a process with a memory store does not load the client.
        from paigeant_celery.store.redis import RedisStore

        try:
            return RedisStore(url, prefix=prefix, lease=lease, ttl=ttl, limits=limits.LIMITS)
        except ConfigurationError as error:
            mistakes = [f"{named}: {mistake}" for mistake in error.mistakes]
        # Outside, because the error would otherwise carry the first one, and what it was raised from.
        raise ConfigurationError(mistakes)
    given = f"the scheme {scheme!r} is not supported" if scheme else "it is not a URL"
    raise ConfigurationError(
        [f"{named}: {given}; use 'redis://host:6379/0', 'rediss://…', 'unix:///path/to/socket' or 'memory://'"]
    )
