"""Which queues carry our messages, and which of them the host uses as well."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from celery import Celery
from kombu import Queue

from paigeant_celery import activity
from paigeant_celery.broker.transport import transport_of
from paigeant_celery.worker.our_queues import OurQueues


def add() -> int:
    return 1


ROUTES = {"paigeant.routed": "by-route", "shop.*": {"queue": "orders"}}


@pytest.fixture
def make_app() -> Iterator[Callable[..., Celery]]:
    """Make apps that no other test sees."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(Celery("shop", broker="memory://", set_as_current=False))


def looked(app: Celery, **settings: Any) -> OurQueues:
    app.conf.update(settings)
    app.task(name="shop.add")(add)
    app.finalize()
    queues = OurQueues(transport_of(app))
    queues.look()
    return queues


def test_a_queue_is_ours_by_its_name_alone(make_app: Callable[..., Celery]) -> None:
    """A worker that has loaded no activity may still be told to read one of our queues."""
    queues = looked(make_app(), paigeant_prefix="p")

    assert [name for name in ("p.first", "p.", "p", "p-dead-letters", "q.first", "celery", None) if name in queues] == [
        "p.first"
    ]


def test_a_queue_is_ours_if_the_steps_of_a_loaded_activity_go_there(make_app: Callable[..., Celery]) -> None:
    """Its own name says nothing: an activity names it, or a route of the host does."""
    _held = [activity(name="own", queue="slow")(lambda: 1), activity(name="routed")(lambda: 1)]

    queues = looked(make_app(), task_routes=ROUTES)

    assert [name for name in ("slow", "by-route", "paigeant.own", "orders", "celery") if name in queues] == [
        "slow", "by-route", "paigeant.own"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "shared"),
    [
        ({}, ["orders", "mail"]),
        ({"task_queues": [Queue("slow"), Queue("paigeant.own")]}, ["slow", "orders", "mail"]),
        ({"task_queues": {"slow": {"routing_key": "slow"}}}, ["slow", "orders", "mail"]),
        ({"task_default_queue": "slow"}, ["slow", "orders"]),
    ],
)
def test_a_queue_is_shared_if_the_host_names_it(
    make_app: Callable[..., Celery], settings: dict[str, Any], shared: list[str]
) -> None:
    """What waits there may be the host's; a queue under our prefix never is."""
    queues = looked(make_app(), **{"task_default_queue": "mail", "task_routes": ROUTES, **settings})

    assert [name for name in ("slow", "orders", "mail", "by-route", "paigeant.own") if queues.shared(name)] == shared


def test_a_router_that_fails_ends_no_worker(make_app: Callable[..., Celery]) -> None:
    """A host's router may count on arguments; here it is asked about tasks that nobody sends."""
    _held = activity(name="own", queue="slow")(lambda: 1)

    def route(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], options: object, task: object = None) -> str:
        return str(args[0])

    queues = looked(make_app(), task_routes=[route])

    assert "slow" in queues
    assert not queues.shared("slow")


def test_an_activity_that_is_loaded_later_adds_its_queue(make_app: Callable[..., Celery]) -> None:
    """A worker looks again whenever it connects or is told to read another queue."""
    queues = looked(make_app())
    before = "late" in queues
    _held = activity(name="own", queue="late")(lambda: 1)

    queues.look()

    assert (before, "late" in queues) == (False, True)
