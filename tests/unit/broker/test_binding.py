"""When a process looks whether its broker is the store's, and what it then remembers."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from celery import Celery

from paigeant_celery.broker import binding
from paigeant_celery.broker.binding import BrokerBinding
from paigeant_celery.broker.identity import SeenBroker
from paigeant_celery.broker.sending import Sending
from paigeant_celery.broker.threads import BrokerThreads
from paigeant_celery.core.errors import ConfigurationError, Unreachable
from paigeant_celery.core.names import Names
from paigeant_celery.store.limits import LIMITS
from paigeant_celery.store.memory import MemoryStore
from paigeant_celery.store.port import BoundBroker, Store

NAME, OTHER_NAME = "redis://one:6379/0", "redis://two:6379/0"


class Shared(MemoryStore):
    """A store that other processes see; it counts who asks for its broker."""

    shared = True
    asked = 0
    away = False

    def __init__(self) -> None:
        super().__init__(lease=1, ttl=1, limits=LIMITS)

    def bound_broker(self) -> BoundBroker | None:
        self.asked += 1
        if self.away:
            raise Unreachable("store", "redis://store", "ConnectionError")
        return super().bound_broker()


@dataclass
class Server:
    """A Redis that has an id of ours, or none; `refuses` to keep one, or is `away`."""

    id: str | None = None
    away: bool = False
    refuses: bool = False
    looks: int = 0
    rivals: list[str] = field(default_factory=list)  # ids that others give it just before this process does

    def look(self, address: str, *, key: str, give: str | None = None) -> SeenBroker:
        assert key == "p:broker"
        self.looks += 1
        if self.away:
            raise Unreachable("broker", address, "ConnectionError")
        if give is not None and self.refuses:
            return SeenBroker(address=address, plain=address)
        if give is not None and self.id is None:
            self.id = self.rivals.pop() if self.rivals else give
        return SeenBroker(address=address, plain=address, known_by="key", id=self.id)


def bound_to(store: Store, name: str) -> BrokerBinding:
    app = Celery(set_as_current=False)
    return BrokerBinding(app, store, Names("p"), BrokerThreads(app, timeout=1), address=lambda: name)


@pytest.fixture
def store() -> Shared:
    return Shared()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    """The broker that all bindings of the test see, whatever they call it."""
    server = Server()
    monkeypatch.setattr(
        binding, "look_at_broker",
        lambda threads, app, address, **asked: Sending.made(lambda: server.look(address, **asked)),
    )  # fmt: skip
    return server


@pytest.fixture
def process(store: Shared, server: Server) -> Callable[..., BrokerBinding]:
    """Make what a process has whose broker has this name."""
    return lambda name=NAME: bound_to(store, name)


def test_the_first_worker_that_serves_steps_gives_the_broker_its_id(
    store: Shared, server: Server, process: Callable[..., BrokerBinding]
) -> None:
    """One that serves nothing may have a broker of its own, and would keep the others from starting."""
    assert process().check_worker(serves=False)
    looked_at = (store.bound_broker(), server.id)
    assert process().check_worker(serves=True)

    assert looked_at == (None, None)
    assert server.id is not None
    assert len(server.id) == 32
    assert store.bound_broker() == BoundBroker(address=NAME, id=server.id)


def test_workers_that_begin_at_once_give_one_id(
    store: Shared, server: Server, process: Callable[..., BrokerBinding]
) -> None:
    """A deployment starts all of its workers in the same second."""
    server.rivals = ["rival"]

    assert process().check_worker(serves=True)

    assert store.bound_broker() == BoundBroker(address=NAME, id="rival")


def test_the_last_address_is_remembered(store: Shared, server: Server, process: Callable[..., BrokerBinding]) -> None:
    """It is what a person reads who looks for the broker, and by which one that was emptied is known."""
    process().check_worker(serves=True)

    process(OTHER_NAME).check_worker(serves=True)
    process(NAME).check_worker(serves=False)

    assert store.bound_broker() == BoundBroker(address=OTHER_NAME, id=server.id)


def test_the_address_that_an_earlier_version_remembered_becomes_an_id(
    store: Shared, server: Server, process: Callable[..., BrokerBinding]
) -> None:
    """An upgrade asks nobody anything."""
    store.bind_broker(BoundBroker(address=NAME), instead_of=None)

    process(OTHER_NAME).check_dispatch()  # it may be a second name; the first worker knows
    with pytest.raises(ConfigurationError, match="earlier versions remembered names alone"):
        process(OTHER_NAME).check_worker(serves=True)
    process(NAME).check_worker(serves=True)
    process(OTHER_NAME).check_worker(serves=True)

    assert store.bound_broker() == BoundBroker(address=OTHER_NAME, id=server.id)


def test_an_emptied_broker_gets_its_id_back(
    store: Shared, server: Server, process: Callable[..., BrokerBinding]
) -> None:
    """Whoever knows it gives it back: the process that used it, or one that starts at the remembered address."""
    running, starting = process(OTHER_NAME), process(NAME)
    process(NAME).check_worker(serves=True)
    given = server.id
    starting.check_worker(serves=True)
    running.check_worker(serves=True)
    process(NAME).check_worker(serves=True)
    for comes_back in (lambda: running.check_worker(serves=True), running.keep_id, starting.keep_id):
        server.id = None
        comes_back()
        assert server.id == given

    server.id = None
    with pytest.raises(ConfigurationError, match="has lost its data and has a new name"):
        process("redis://three:6379/0").check_worker(serves=True)
    assert server.id is None
    process(OTHER_NAME).check_worker(serves=True)
    assert server.id == given


def test_a_broker_that_may_keep_no_id_is_known_by_its_address(
    store: Shared, server: Server, process: Callable[..., BrokerBinding]
) -> None:
    """Some users of a Redis may write queues and nothing else."""
    server.refuses = True

    assert process().check_worker(serves=True)

    assert store.bound_broker() == BoundBroker(address=NAME)
    server.refuses = False
    assert process().check_worker(serves=True)
    assert store.bound_broker() == BoundBroker(address=NAME, id=server.id)


def test_a_process_that_has_found_the_stores_broker_looks_no_more(
    store: Shared, server: Server, process: Callable[..., BrokerBinding], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the first dispatch it costs nothing. A process that was forked after it looks for itself."""
    process().check_worker(serves=True)
    store.asked = server.looks = 0
    dispatching = process(OTHER_NAME)

    for _ in range(3):
        dispatching.check_dispatch()

    assert (store.asked, server.looks) == (1, 1)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    dispatching.check_dispatch()
    assert (store.asked, server.looks) == (2, 2)


def test_a_dispatcher_decides_nothing(store: Shared, server: Server, process: Callable[..., BrokerBinding]) -> None:
    """One with a wrong address would keep every worker from starting. What it sends is sent again by a sweep."""
    dispatching = process()

    dispatching.check_dispatch()

    assert (store.bound_broker(), server.id, server.looks) == (None, None, 0)
    server.id = "a"
    store.bind_broker(BoundBroker(address=OTHER_NAME, id="b"), instead_of=None)
    with pytest.raises(ConfigurationError, match="belongs to the broker redis://two:6379/0"):
        dispatching.check_dispatch()


def test_a_refused_process_is_accepted_after_a_rebind(
    store: Shared, server: Server, process: Callable[..., BrokerBinding]
) -> None:
    """A web server is not restarted because its first dispatch came too early."""
    server.id = "a"
    old = BoundBroker(address=OTHER_NAME, id="b")
    store.bind_broker(old, instead_of=None)
    dispatching = process()
    with pytest.raises(ConfigurationError):
        dispatching.check_dispatch()

    assert process().other_broker() == old
    assert not process().rebind(instead_of=BoundBroker(address=OTHER_NAME, id="c"))
    assert process().rebind(instead_of=old)

    dispatching.check_dispatch()
    assert process().other_broker() is None
    assert store.bound_broker() == BoundBroker(address=NAME, id="a")


def test_a_broker_that_is_away_keeps_nobody_from_recording(
    store: Shared, server: Server, process: Callable[..., BrokerBinding], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The workflow is recorded and sent by a sweep, and a worker that starts waits for its broker."""
    process().check_worker(serves=True)
    dispatching, starting = process(), process()
    server.away = True

    dispatching.check_dispatch()
    assert not starting.check_worker(serves=True)
    starting.keep_id()

    server.away, server.id, server.looks = False, "b", 0
    dispatching.check_dispatch()
    assert server.looks == 0  # a broker that does not answer costs time, and each dispatch would pay it
    monkeypatch.setattr(binding, "AWAY_FOR", 0.0)
    server.away, dispatching = True, process()
    dispatching.check_dispatch()
    server.away = False
    with pytest.raises(ConfigurationError, match="but another one answers there now"):
        dispatching.check_dispatch()


def test_a_store_that_is_away_is_told(store: Shared, process: Callable[..., BrokerBinding]) -> None:
    """Nothing can be recorded, so nothing needs to be compared."""
    store.away = True

    with pytest.raises(Unreachable):
        process().check_dispatch()
    with pytest.raises(Unreachable):
        process().check_worker(serves=True)


def test_a_store_in_memory_belongs_to_its_process(server: Server) -> None:
    """So does the broker beside it, and neither has a second name."""
    alone = bound_to(MemoryStore(lease=1, ttl=1, limits=LIMITS), NAME)

    alone.check_dispatch()
    assert alone.check_worker(serves=True)
    assert alone.other_broker() is None
    assert not alone.rebind(instead_of=BoundBroker(address=NAME))
    assert server.looks == 0
