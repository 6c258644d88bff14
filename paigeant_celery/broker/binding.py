"""What binds a store to one broker: its messages and its records must go together."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable

from celery import Celery

from paigeant_celery.broker.identity import SeenBroker, is_another, look_at_broker
from paigeant_celery.broker.sending import Sending
from paigeant_celery.broker.threads import BrokerThreads
from paigeant_celery.core.errors import ConfigurationError, Unreachable
from paigeant_celery.core.names import Names
from paigeant_celery.store.port import BoundBroker, Store

__all__ = ["BrokerBinding"]

AWAY_FOR = 10.0  # seconds for which a broker that did not answer is not looked at for a dispatch
MOST_LOOKS = 5  # by one worker of several that begin at once; after the first one's look nothing changes


class BrokerBinding:
    """Sees to it that what an app sends and serves goes to the broker that its store belongs to.

    A worker that serves steps decides which broker that is if none is remembered. All others only look.
    """

    def __init__(
        self, app: Celery, store: Store | None, names: Names, threads: BrokerThreads, *, address: Callable[[], str]
    ) -> None:
        self._app, self._names, self._threads, self._address = app, names, threads, address
        self._store = store if store is not None and store.shared else None
        self._known: str | None = None  # the id of the broker, once this process has seen it
        self._checked_in: int | None = None  # the process that has found the store's broker
        self._away_until = 0.0  # on the monotonic clock; until then a dispatch does not look

    def check_dispatch(self) -> None:
        """Raise `ConfigurationError` if messages sent from here go to another broker than the store's.

        A process looks until it has found the right one. As long as no worker has served steps, or if the broker is
        away, nothing can be told, and nothing is raised. Raises `TransientError` if the store is away.
        """
        if self._store is None or self._checked_in == os.getpid() or time.monotonic() < self._away_until:
            return
        bound = self._store.bound_broker()
        if bound is None:
            return
        try:
            seen = self._look()
        except Unreachable:
            self._away_until = time.monotonic() + AWAY_FOR
            return
        if is_another(bound, seen):
            if bound.id is None and seen.known_by != "address":
                return  # of an earlier version; the next worker that starts finds out
            raise ConfigurationError([self._difference(bound, seen)])
        self._checked_in = os.getpid()

    def check_worker(self, *, serves: bool) -> bool:
        """Raise `ConfigurationError` if the broker is not the store's; say whether it could be asked.

        If this worker serves steps, the broker is remembered, with the address that it has now, and gets its id back if
        it has lost it. Raises `TransientError` if the store is away.
        """
        if self._store is None:
            return True
        try:
            return any(self._is_settled(self._store, serves=serves) for _ in range(MOST_LOOKS))
        except Unreachable as error:
            if error.what != "broker":
                raise
            return False

    def keep_id(self) -> None:
        """Give the broker its id back if it has lost it while this worker was connected: it may have been emptied.

        Nobody waits for that.
        """
        if self._known is not None:
            self._asked(give=self._known)

    def other_broker(self) -> BoundBroker | None:
        """Return the broker that the store belongs to if it is another one than the app's. Raises `TransientError`."""
        bound = self._store.bound_broker() if self._store is not None else None
        return bound if bound is not None and is_another(bound, self._look()) else None

    def rebind(self, *, instead_of: BoundBroker) -> bool:
        """Let the store belong to the app's broker; False, and nothing changes, if it belongs to another one by now.

        The next sweeps send all queued hops again, because their messages stay where they are.
        """
        if self._store is None or self._store.bound_broker() != instead_of:
            return False
        seen = self._look(give=uuid.uuid4().hex)
        # First, so that this can be done once more if it ends half-way.
        self._store.send_all_again()
        return self._store.bind_broker(BoundBroker(address=seen.address, id=seen.id), instead_of=instead_of)

    def _is_settled(self, store: Store, *, serves: bool) -> bool:
        """Look once at store and broker; False if something has changed meanwhile."""
        bound, seen = store.bound_broker(), self._look()
        if bound is not None and is_another(bound, seen, known_here=self._known):
            raise ConfigurationError([self._difference(bound, seen)])
        if not serves:
            return True
        if seen.known_by == "key" and seen.id is None:
            seen = self._look(give=(bound.id if bound is not None else None) or uuid.uuid4().hex)
            if bound is not None and seen.id not in (None, bound.id):
                return False  # somebody else was first
        found = BoundBroker(address=seen.address, id=seen.id or (bound.id if bound is not None else None))
        if found != bound and not store.bind_broker(found, instead_of=bound):
            return False
        self._known = found.id if seen.known_by == "key" else None  # a cluster keeps its own name
        return True

    def _difference(self, bound: BoundBroker, seen: SeenBroker) -> str:
        """Say which two brokers these are, and what to do about it."""
        store = self._store.address if self._store is not None else ""
        uses = f"but this process uses {seen.address}"
        if bound.id is None:
            uses += ", which may be the same server under another name: earlier versions remembered names alone"
        elif seen.address == bound.address:
            uses = "but another one answers there now"
        elif seen.known_by == "key" and seen.id is None:
            uses += ", which has no mark of that broker: it is another one, or has lost its data and has a new name"
        return (
            f"the store {store} belongs to the broker {bound.address} under the prefix {self._names.prefix!r}, {uses}; "
            "choose another `paigeant_prefix`, or another store (`paigeant_store_url`); if this broker takes the place "
            "of that one, run `celery -A … paigeant rebind`"
        )

    def _look(self, *, give: str | None = None) -> SeenBroker:
        return self._asked(give=give).wait()

    def _asked(self, *, give: str | None) -> Sending[SeenBroker]:
        key = f"{self._names.prefix}:broker"
        return look_at_broker(self._threads, self._app, self._address(), key=key, give=give)
