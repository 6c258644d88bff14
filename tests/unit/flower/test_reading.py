"""What is read for the page of one workflow, and what never leaves the server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from paigeant_celery import FunctionSpec, WorkflowContext, WorkflowDispatcher, WorkflowHandle, activity, for_each
from paigeant_celery.activities.registry import registry
from paigeant_celery.core.steps import Step
from paigeant_celery.flower.reading import LARGEST, MOST_PENDING, output_at, read_workflow
from paigeant_celery.testing import WorkflowHarness

SECRET = "nougat"


@pytest.fixture
def harness() -> Iterator[WorkflowHarness]:
    with registry.isolated():

        @activity
        def fill(text: str, times: int) -> str:
            return text * times

        @activity
        async def ask(context: WorkflowContext) -> Any:
            return await context.wait_for("size", question=SECRET)

        held = (fill, ask)
        for each in held:
            registry.add(each, holder=each)
        yield WorkflowHarness()


def dispatched(harness: WorkflowHarness, *steps: Step) -> WorkflowHandle:
    found = WorkflowDispatcher().dispatch_workflow_sync(harness.transport, itinerary=steps, correlation_id="w")
    asyncio.run(harness.deliver())
    return WorkflowHandle(found, harness.transport)


def read(harness: WorkflowHarness, *, content: bool = True) -> Any:
    return read_workflow(harness.transport, "w", now=datetime.now(UTC), content=content)


def test_only_short_outputs_are_read_for_the_tree(harness: WorkflowHarness) -> None:
    """A page of two hundred outputs of a megabyte would be of no use to anybody."""
    short, long = (FunctionSpec("fill", {"text": "x", "times": times}) for times in (LARGEST // 2, LARGEST * 2))
    dispatched(harness, short, long)

    rows = read(harness).rows

    assert [row.output[:3] for row in rows] == ["xxx", ""]
    assert [row.has_output for row in rows] == [True, True]
    assert output_at(harness.transport, "w", rows[1].path) == "x" * LARGEST * 2
    assert output_at(harness.transport, "w", "nobody") is None


def test_a_page_names_waits_without_their_tokens(harness: WorkflowHarness) -> None:
    """Whoever has a token can answer, from anywhere and for as long as the wait is open."""
    handle = dispatched(harness, FunctionSpec("ask", {}))
    (pending,) = handle.pending_sync()

    ((name, wait),) = read(harness).pending.items()

    assert wait.question == SECRET
    assert pending.token not in name
    assert pending.token.rpartition("~")[2] not in name
    assert read(harness).pending.keys() == {name}


def test_those_who_may_not_see_content_get_no_wait_to_answer(harness: WorkflowHarness) -> None:
    """What is asked is content; that something is waited for, and how it is called, is not."""
    dispatched(harness, FunctionSpec("fill", {"text": SECRET, "times": 1}), FunctionSpec("ask", {}))

    reading = read(harness, content=False)

    assert reading.pending == {}
    assert SECRET not in str(reading)
    assert "size" in str(reading.rows)


def test_of_very_many_waits_the_oldest_are_read_to_be_answered(harness: WorkflowHarness) -> None:
    """A page with a thousand forms stops the browser."""
    steps = for_each(FunctionSpec("ask", {}), over=list(range(MOST_PENDING + 3)), max_at_once=100, step_id="all")
    handle = dispatched(harness, steps)
    pending = handle.pending_sync()

    reading = read(harness)

    assert list(reading.pending.values()) == list(pending[:MOST_PENDING])
    assert reading.more_pending == 3
    assert len(reading.answerable) == MOST_PENDING + 3
