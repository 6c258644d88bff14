"""One client for each Redis channel of Kombu, which would make a new one for each command that it sends.

A client of redis-py is cheap to use and dear to make: it copies a table with a function for each command, and tells all
who listen. What is used here is not part of Kombu's public interface; a contract test pins it.
"""

from __future__ import annotations

from functools import cache
from typing import Any

__all__ = ["keep_one_client"]


def keep_one_client(transport: Any) -> None:
    """Have a transport make channels that keep their client; it must not have connected yet."""
    if transport.driver_type == "redis":
        transport.Channel = _keeping(transport.Channel)


@cache
def _keeping(channel: Any) -> Any:
    class Keeping(channel):  # type: ignore[misc]
        _kept: Any = None

        def _create_client(self, asynchronous: bool = False) -> Any:
            if asynchronous:  # Kombu keeps that one, and what holds a connection must be nobody else's
                return super()._create_client(asynchronous=True)
            # The pool is another one after the channel was disconnected, and in a forked child.
            if self._kept is None or self._kept.connection_pool is not self.pool:
                self._kept = super()._create_client()
            return self._kept

    return Keeping
