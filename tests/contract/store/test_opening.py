"""How a store is chosen, bound to its broker and closed."""

from __future__ import annotations

import pytest

from paigeant_celery.core.errors import ConfigurationError
from paigeant_celery.store import open_store
from tests.contract.store.bench import Bench
from tests.contract.store.given import new


def test_the_first_broker_is_remembered(bench: Bench) -> None:
    """Two brokers that share a prefix by mistake are found at start-up."""
    assert bench.store.bound_broker() is None
    assert bench.store.bind_broker("redis://one/0") == "redis://one/0"
    assert bench.store.bind_broker("redis://two/0") == "redis://one/0"
    assert bench.store.bound_broker() == "redis://one/0"


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
