"""An executor serves from the store of its transport, or says why it cannot."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from celery import Celery

from paigeant_celery import ActivityExecutor, activity, get_transport, install
from paigeant_celery.activities.registry import registry
from paigeant_celery.core.errors import UsageError
from paigeant_celery.worker.app_state import installation_of


@pytest.fixture(autouse=True)
def own_registry() -> Iterator[None]:
    """Give each test an empty registry."""
    with registry.isolated():
        yield


@pytest.fixture
def app() -> Iterator[Celery]:
    with Celery("shop", broker="memory://localhost//", set_as_current=False) as app:
        yield app


def test_an_executor_refuses_a_transport_whose_store_is_not_that_of_its_app(app: Celery) -> None:
    """It would run hops that are recorded elsewhere, and nobody would see their results."""
    served = activity(name="one")(lambda: 1)
    installed = install(app, store="redis://127.0.0.1:1/0")
    other = get_transport(app=app, store="memory://")

    with pytest.raises(UsageError, match=r"installed with the store redis://127.0.0.1:1/0, not memory://"):
        asyncio.run(ActivityExecutor(other, served.name).start(lifespan=0))

    assert installation_of(app).transport is installed


def test_an_executor_refuses_a_transport_without_a_store_if_its_app_has_one(app: Celery) -> None:
    """The transport was made before the app got its store."""
    served = activity(name="one")(lambda: 1)
    early = get_transport(app=app)
    install(app, store="memory://")

    with pytest.raises(UsageError, match="the app has the store memory://, but this transport has none"):
        asyncio.run(ActivityExecutor(early, served.name).start(lifespan=0))


def test_an_executor_that_comes_first_gives_its_app_the_store_of_its_transport(app: Celery) -> None:
    """What the dispatcher recorded with that transport is found."""
    served = activity(name="one")(lambda: 1)
    get_transport(app=app)
    chosen = get_transport(app=app, store="memory://")

    asyncio.run(ActivityExecutor(chosen, served.name).start(lifespan=0))

    assert installation_of(app).transport.store is chosen.store


def test_an_executor_serves_from_the_transport_of_its_app_itself(app: Celery) -> None:
    """Its connections are made once."""
    served = activity(name="one")(lambda: 1)
    transport = get_transport(app=app, store="memory://")

    asyncio.run(ActivityExecutor(transport, served.name).start(lifespan=0))

    assert installation_of(app).transport is transport
