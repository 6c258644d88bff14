"""A store and a broker behind Redis Sentinel, and what becomes of both when the primary dies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from celery import Celery

from paigeant_celery.broker.transport import CeleryTransport, transport_of
from paigeant_celery.core.errors import ConfigurationError, Unreachable
from paigeant_celery.store import open_store
from paigeant_celery.store.port import Store, WorkflowRecord
from tests.contract.store.given import claim, closing, completion, new
from tests.support.processes import eventually
from tests.support.sentinels import MASTER, SentinelGroup

pytestmark = pytest.mark.together

PASSWORD = "s3cret"


@pytest.fixture(scope="module")
def group(own_sentinels: Callable[..., SentinelGroup]) -> SentinelGroup:
    """Two servers and three sentinels that want a password. The last test ends the primary."""
    return own_sentinels("--appendonly", "yes", sentinel_options=f"requirepass {PASSWORD}")


@pytest.fixture
def transport_to() -> Iterator[Callable[..., CeleryTransport]]:
    """Make hosts whose store is their broker, and close them."""
    made: list[CeleryTransport] = []

    def make(group: SentinelGroup, **options: object) -> CeleryTransport:
        app = Celery("shop", broker=group.url, set_as_current=False)
        app.conf.update(paigeant_store_url="broker", broker_transport_options=options)
        made.append(transport_of(app))
        return made[-1]

    yield make
    for transport in made:
        if transport.store is not None:
            transport.store.close()
        transport.app.close()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (f"?master_name=nobody&sentinel_password={PASSWORD}", r"watch no primary 'nobody'; they watch 'main': correct"),
        (f"?master_name={MASTER}", r"cannot use the sentinel at sentinel://.*NOAUTH.*`\?sentinel_password=…`"),
        (f"?master_name={MASTER}&sentinel_password=wrong", r"WRONGPASS.*\['sentinel_kwargs'\]"),
        (f"?master_name={MASTER}&sentinel_password={PASSWORD}&password=wrong&username=me", r"store.*WRONGPASS"),
    ],
)
def test_what_sentinels_do_not_accept_ends_a_start(group: SentinelGroup, options: str, said: str) -> None:
    """Each of them would otherwise look like three servers that are away."""
    store = open_store(f"{group.url}{options}", prefix="p", lease=10, ttl=60)

    with pytest.raises(ConfigurationError, match=said) as caught:
        store.check(allow_eviction=False)

    assert PASSWORD not in str(caught.value)
    store.close()


def test_sentinels_that_are_all_away_are_waited_for() -> None:
    """A network that is cut is no mistake in a configuration."""
    store = open_store("sentinel://127.0.0.1:1;sentinel://127.0.0.1:2?master_name=m", prefix="p", lease=10, ttl=60)

    with pytest.raises(Unreachable, match="none of the sentinels that answer knows a primary"):
        store.check(allow_eviction=False)
    store.close()


def test_store_and_broker_go_on_at_the_new_primary(
    group: SentinelGroup, transport_to: Callable[..., CeleryTransport]
) -> None:
    """Whoever holds an owner's lease keeps it, and no process has to start again."""
    transport = transport_to(group, master_name=MASTER, sentinel_kwargs={"password": PASSWORD})
    store = transport.store
    assert store is not None
    assert list(store.check(allow_eviction=False)) == []
    store.start(new())
    claimed = store.claim(claim())
    assert transport.publisher.waiting("nobody") == 0
    group.let_replica_catch_up()  # what follows is about what it has received

    dead = group.kill_primary()
    record = eventually(lambda: _seen(store), what="the store does not answer")

    assert record.running
    assert store.complete(completion(closing(claimed)))
    assert transport.publisher.waiting("nobody") == 0
    assert group.primary() is not dead


def _seen(store: Store) -> WorkflowRecord | None:
    with suppress(Unreachable):
        return store.workflow("w")
    return None
