"""How a store is chosen, bound to its broker and closed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from paigeant_celery.core.errors import ConfigurationError
from paigeant_celery.store import open_store
from paigeant_celery.store.port import BoundBroker, OpenHops
from tests.contract.store.bench import Bench
from tests.contract.store.given import FAILURE, claim, closing, new

ONE = BoundBroker(address="redis://one/0", id="1")
TWO = BoundBroker(address="redis://two/0", id="2")
NAMED = BoundBroker(address="filesystem://localhost:0/")


def test_the_first_broker_is_remembered(bench: Bench) -> None:
    """Two brokers that share a prefix by mistake are found at start-up."""
    assert bench.store.bound_broker() is None
    assert bench.store.bind_broker(ONE, instead_of=None)
    assert not bench.store.bind_broker(TWO, instead_of=None)
    assert bench.store.bound_broker() == ONE


def test_a_broker_takes_the_place_of_the_one_that_was_read(bench: Bench) -> None:
    """Two people who move a deployment at once do not undo each other's work."""
    bench.store.bind_broker(ONE, instead_of=None)

    assert not bench.store.bind_broker(NAMED, instead_of=replace(ONE, id=None))
    assert bench.store.bind_broker(NAMED, instead_of=ONE)
    assert bench.store.bound_broker() == NAMED
    assert bench.store.bind_broker(TWO, instead_of=NAMED)
    assert bench.store.bind_broker(TWO, instead_of=NAMED)  # asked again, because the reply was lost
    assert bench.store.bound_broker() == TWO


def test_the_hops_that_are_not_closed_are_counted(bench: Bench) -> None:
    """Whoever moves a deployment wants to know how many workflows it is about."""
    assert bench.store.open_hops() == OpenHops(due=0, running=0, parked=0)
    for name in ("queued", "waits", "runs", "runs-too", "parked", "ended"):
        bench.store.start(new(name))
    claimed = {
        name: bench.store.claim(claim(f"{name}.0", owner="ben" if name == "runs-too" else "ann"))
        for name in ("waits", "runs", "runs-too", "parked", "ended")
    }
    bench.store.retry_at(closing(claimed["waits"], "waits.0"), FAILURE, delay=60)
    bench.store.park(closing(claimed["parked"], "parked.0"), FAILURE)
    bench.store.fail(closing(claimed["ended"], "ended.0"), FAILURE)

    assert bench.store.open_hops() == OpenHops(due=2, running=2, parked=1)


def test_a_closed_store_can_be_used_again(bench: Bench) -> None:
    """Shutdown order does not matter."""
    bench.store.start(new())

    bench.store.close()
    bench.store.close()

    assert bench.store.workflow("w") is not None


def test_stores_are_chosen_by_url() -> None:
    """The same code runs on a laptop and in a deployment."""
    made = [
        open_store(url, prefix="p", lease=1, ttl=1)
        for url in (
            "memory://",
            "redis://:s3cret@host:7000/2",
            "rediss://host?ssl_cert_reqs=CERT_NONE",
            "unix:///s?db=1",
        )
    ]

    assert [(store.address, store.shared) for store in made] == [
        ("memory://", False),
        ("redis://host:7000/2", True),
        ("rediss://host:6379/0", True),
        ("unix:///s?db=1", True),
    ]
    assert "s3cret" not in "".join(map(repr, made))


@pytest.mark.parametrize(
    "url",
    [
        "",
        "redis",
        "sentinel://:s3cret@host:26379/0",
        "amqp://:s3cret@host",
        "redis://:s3cret@host:port/0",
        "redis://:x#s3cret@host/0",
        "redis://:1/s3cret@host/0",
        "redis://:1?s3cret@host/0",
        "redis://host/s3cret",
        "redis://:s3cret@host/0?nonsense=1",
        "redis://:s3cret@host/0?socket_timeout=long",
        "rediss://:s3cret@host/0?ssl_cert_reqs=s3cret",
    ],
)
def test_a_store_url_that_is_not_understood_is_refused_without_its_password(url: str) -> None:
    """A typo stops the worker at start-up, and the password stays out of the log."""
    with pytest.raises(ConfigurationError) as caught:
        open_store(url, prefix="p", lease=1, ttl=1)

    assert "store URL" in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
