"""Ids of no workflow, letters that are not there and positions that are no cursors, asked of every store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from paigeant_celery import (
    ActivitySpec,
    DeadLetters,
    InvalidInput,
    UnknownWorkflow,
    WorkflowDispatcher,
    WorkflowHandle,
)
from paigeant_celery.store import open_store
from paigeant_celery.testing import WorkflowHarness

pytestmark = pytest.mark.together("stored")

NO_IDS = ["", "a b", "w/1", "../w", "w.0", "é", "\ud800", "a\0b", "{w}", "w:w", "w" * 129, "w" * 100_000]


@pytest.fixture(params=["memory", "redis"])
def stored(request: pytest.FixtureRequest) -> WorkflowHarness:
    """Give a transport on each store."""
    harness = WorkflowHarness()
    if request.param == "redis":
        database = request.getfixturevalue("redis_db")
        harness.transport.store = open_store(database.url, prefix=database.prefix, lease=10, ttl=60)
    return harness


ASKS: list[Callable[[WorkflowHandle], object]] = [
    lambda handle: handle.status_sync(),
    lambda handle: handle.result_sync(timeout=0),
    lambda handle: handle.events_so_far(),
    lambda handle: list(handle.events_sync()),
    lambda handle: handle.cancel_sync(),
    lambda handle: handle.redrive_sync(),
]


@pytest.mark.parametrize("given", ["w", *NO_IDS], ids=lambda given: ascii(given[:9]))
def test_every_id_of_no_workflow_gets_the_same_error_from_every_call(stored: WorkflowHarness, given: str) -> None:
    """A web application takes ids from its visitors, and has one place that answers 404."""
    for ask in ASKS:
        with pytest.raises(UnknownWorkflow) as caught:
            ask(WorkflowHandle(given, stored.transport))
        assert isinstance(caught.value, LookupError)
        assert len(str(caught.value)) < 600


@pytest.mark.parametrize("given", ["x", "0" * 32, *NO_IDS], ids=lambda given: ascii(given[:9]))
def test_there_is_no_dead_letter_of_an_unknown_id(stored: WorkflowHarness, given: str) -> None:
    """Nor an error of the store's client."""
    letters = DeadLetters(stored.transport)

    assert (letters.show(given), letters.redrive(given), letters.drop(given)) == (None, False, False)


@pytest.mark.parametrize("after", ["", "x", "1-2-3", "99999999999999999999999-0", 3, b"1-1"])
def test_a_position_that_is_no_cursor_is_refused(stored: WorkflowHarness, after: Any) -> None:
    """A browser sends back whatever it was sent."""
    WorkflowDispatcher().dispatch_workflow_sync(
        stored.transport, itinerary=[ActivitySpec("nobody", "x")], correlation_id="w"
    )

    for read in (WorkflowHandle("w", stored.transport).events_so_far, list_letters(stored)):
        with pytest.raises(InvalidInput) as caught:
            read(after=after)
        assert (caught.value.reason, caught.value.path) == ("bad_cursor", "after")


def list_letters(harness: WorkflowHarness) -> Callable[..., object]:
    return DeadLetters(harness.transport).list
