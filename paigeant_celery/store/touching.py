"""TOUCH, also for a process that does nothing else: it loads the client, and not what records consist of."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from paigeant_celery.store.limits import LIMITS
from paigeant_celery.store.redis_client import Server

__all__ = ["Toucher", "touch"]


class Toucher:
    """Touches owners in the store that a process has opened; `reopening` is what that store says about itself."""

    def __init__(self, reopening: Mapping[str, str | int]) -> None:
        self._server = Server(str(reopening["url"]), prefix=str(reopening["prefix"]), limits=LIMITS)
        self._lease = int(reopening["lease"])

    def touch(self, *, host: str, owners: Collection[str]) -> Sequence[str]:
        """Extend the leases of living owners, and return all owners on a host."""
        return touch(self._server, host=host, owners=owners, lease=self._lease)


def touch(server: Server, *, host: str, owners: Collection[str], lease: int) -> Sequence[str]:
    """Extend the leases of living owners by `lease` milliseconds from now, and return all owners on a host."""
    found: list[str] = server.run("touch", host, lease, *owners, about=f"host:{host}")
    return found
