"""TOUCH, also for a process that does nothing else: it loads the client, and not what records consist of."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from paigeant_celery.store.endpoint import Endpoint
from paigeant_celery.store.limits import LIMITS
from paigeant_celery.store.redis_client import Server

__all__ = ["Toucher", "touch"]


class Toucher:
    """Touches owners in the store that another process has opened; `endpoint` is its endpoint as plain values."""

    def __init__(self, endpoint: Mapping[str, Any], *, prefix: str, lease: float) -> None:
        self._server = Server(Endpoint.from_plain(endpoint), prefix=prefix, limits=LIMITS)
        self._lease = round(lease * 1000)

    def touch(self, *, host: str, owners: Collection[str]) -> Sequence[str]:
        """Extend the leases of living owners, and return all owners on a host."""
        return touch(self._server, host=host, owners=owners, lease=self._lease)


def touch(server: Server, *, host: str, owners: Collection[str], lease: int) -> Sequence[str]:
    """Extend the leases of living owners by `lease` milliseconds from now, and return all owners on a host."""
    found: list[str] = server.run("touch", host, lease, *owners, about=f"host:{host}")
    return found
