"""A step waits without a worker, for a signal, an answer or a time, and gets the same in each attempt."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest

from paigeant_celery import WorkflowContext, activity
from paigeant_celery.core.errors import WorkflowFailed
from paigeant_celery.testing import WorkflowHarness

SETTLED = json.dumps({"payload": "yes"})


def test_a_step_that_waits_for_a_signal_holds_no_attempt_and_goes_on_with_its_payload(
    workflow_harness: WorkflowHarness,
) -> None:
    """Nobody knows when the payment comes; a worker that waited for it would be one less."""
    begun = []

    @activity
    async def pay(context: WorkflowContext) -> list[Any]:
        begun.append(context.attempt)
        return [await context.wait_for("paid"), context.attempt]

    handle = workflow_harness.dispatch([pay.activity()], correlation_id="w")
    assert asyncio.run(workflow_harness.deliver()) == ["suspended"]
    record = workflow_harness.store.workflow("w")
    assert record is not None
    assert record.suspended
    assert record.attempt == 0

    resolution = workflow_harness.store.signal("w", "paid", SETTLED, by="bank", call="1")
    assert resolution.outcome == "settled"
    assert resolution.hop is not None
    workflow_harness._outbox.send(resolution.hop)
    assert asyncio.run(workflow_harness.deliver()) == ["workflow_completed"]

    assert handle.result_sync(timeout=0).output == ["yes", 1]
    assert begun == [1, 1]
    assert [event.type for event in handle.events_sync()] == [
        "started", "claimed", "asked", "suspended", "answered", "claimed", "completed",
        "workflow_completed",
    ]  # fmt: skip


def test_a_signal_that_came_first_is_taken_without_suspending(workflow_harness: WorkflowHarness) -> None:
    """The customer may pay before the step asks."""

    @activity
    async def pay(context: WorkflowContext) -> Any:
        return await context.wait_for("paid")

    handle = workflow_harness.dispatch([pay.activity()], correlation_id="w")
    assert workflow_harness.store.signal("w", "paid", SETTLED, by="bank", call="1").outcome == "kept"

    assert asyncio.run(workflow_harness.deliver()) == ["workflow_completed"]
    assert handle.result_sync(timeout=0).output == "yes"


def test_whoever_is_asked_gets_one_token_however_often_the_step_begins(workflow_harness: WorkflowHarness) -> None:
    """A second mail with another link would confuse whoever answers."""
    tokens: list[str] = []

    @activity
    async def ask(context: WorkflowContext) -> Any:
        first = await context.wait_for("first", ask=tokens.append)
        return [first, await context.wait_for("second", ask=tokens.append, timeout=60)]

    handle = workflow_harness.dispatch([ask.activity()], correlation_id="w")
    for expected in (1, 2):
        assert asyncio.run(workflow_harness.deliver()) == ["suspended"]
        assert len(tokens) == len(set(tokens)) == expected
        found = workflow_harness.store.resolve(tokens[-1], {"": SETTLED}, by="ann", call=str(expected))
        assert found.hop is not None
        workflow_harness._outbox.send(found.hop)
    asyncio.run(workflow_harness.deliver())

    assert handle.result_sync(timeout=0).output == ["yes", "yes"]


def test_a_wait_that_nobody_answers_fails_when_its_time_is_over(workflow_harness: WorkflowHarness) -> None:
    """A retry would only wait once more."""

    @activity
    async def ask(context: WorkflowContext) -> Any:
        return await context.wait_for("answer", timeout=3600)

    handle = workflow_harness.dispatch([ask.activity()], correlation_id="w")
    assert asyncio.run(workflow_harness.deliver()) == ["suspended"]
    workflow_harness._skipped += timedelta(hours=1)
    workflow_harness.sweep()
    assert asyncio.run(workflow_harness.deliver()) == ["failed"]

    with pytest.raises(WorkflowFailed, match="WaitTimedOut"):
        handle.result_sync(timeout=0)


def test_a_sleep_counts_from_the_first_attempt(workflow_harness: WorkflowHarness) -> None:
    """A deploy in the middle of an hour's sleep must not begin the hour anew."""
    ended: list[datetime] = []

    @activity
    async def nap(context: WorkflowContext) -> str:
        await context.sleep_for(3600)
        ended.append(datetime.now(UTC))
        return "rested"

    handle = workflow_harness.dispatch([nap.activity()], correlation_id="w")
    assert asyncio.run(workflow_harness.deliver()) == ["suspended"]
    workflow_harness._skipped += timedelta(minutes=59)
    workflow_harness.sweep()
    assert asyncio.run(workflow_harness.deliver()) == []
    workflow_harness._skipped += timedelta(minutes=1)
    workflow_harness.sweep()
    assert asyncio.run(workflow_harness.deliver()) == ["workflow_completed"]
    assert handle.result_sync(timeout=0).output == "rested"
    assert len(ended) == 1


def test_a_sync_function_is_told_that_it_cannot_wait(workflow_harness: WorkflowHarness) -> None:
    """Nothing can leave a thread and come back to it."""

    @activity
    def wait(context: WorkflowContext) -> str:
        context.wait_for("paid")
        return "never"

    handle = workflow_harness.dispatch([wait.activity()], correlation_id="w")
    assert asyncio.run(workflow_harness.deliver()) == ["failed"]
    with pytest.raises(WorkflowFailed, match="a sync function cannot wait"):
        handle.result_sync(timeout=0)


def test_what_runs_beside_a_wait_goes_on_until_nothing_is_in_flight(workflow_harness: WorkflowHarness) -> None:
    """Two waits of one step are both asked for before it is left, and the first answer wakes it."""

    @activity
    async def both(context: WorkflowContext) -> list[Any]:
        return list(await asyncio.gather(context.wait_for("a"), context.wait_for("b")))

    handle = workflow_harness.dispatch([both.activity()], correlation_id="w")
    assert asyncio.run(workflow_harness.deliver()) == ["suspended"]
    assert [wait.name for wait in workflow_harness.store.waits("w.0")] == ["a", "b"]
    for name in ("b", "a"):
        hop = workflow_harness.store.signal("w", name, json.dumps({"payload": name}), by="x", call=name).hop
        assert hop is not None
        workflow_harness._outbox.send(hop)
        asyncio.run(workflow_harness.deliver())
    assert handle.result_sync(timeout=0).output == ["a", "b"]


def test_the_error_of_an_ask_tells_nobody_the_token(
    workflow_harness: WorkflowHarness, caplog: pytest.LogCaptureFixture
) -> None:
    """A library names the link that it could not send, and whoever reads errors could answer in its place."""
    tokens: list[str] = []

    def send(token: str) -> None:
        tokens.append(token)
        try:
            raise OSError(f"cannot reach https://mail/{token}")
        except OSError as error:
            error.add_note(f"while sending {token!r}")
            raise ValueError(
                f"500 for url 'https://mail?to={quote(token, safe='').replace('~', '%7E')}&b=c'"
            ) from error

    @activity
    async def ask(context: WorkflowContext) -> Any:
        return await context.wait_for("answer", ask=send)

    handle = workflow_harness.dispatch([ask.activity()], correlation_id="w")
    asyncio.run(workflow_harness.deliver())

    secret = tokens[0].partition("~")[2]
    failure = handle.status_sync().failure
    assert failure is not None
    assert failure.text == "500 for url 'https://mail?to=w.0%7E…&b=c'"
    assert secret not in str(failure) + str(list(handle.events_so_far())) + caplog.text
    assert failure.cause is not None
    assert failure.cause.raised_from is not None
    assert failure.cause.raised_from.notes == ("while sending 'w.0~…'",)


@pytest.mark.parametrize("delay", [None, True, "3", -1, float("nan")])
def test_a_sleep_takes_only_a_time(workflow_harness: WorkflowHarness, delay: Any) -> None:
    """A setting that is missing must not become no sleep at all."""

    @activity
    async def nap(context: WorkflowContext) -> None:
        await context.sleep_for(delay)

    handle = workflow_harness.dispatch([nap.activity()], correlation_id="w")
    assert asyncio.run(workflow_harness.deliver()) == ["failed"]
    with pytest.raises(WorkflowFailed, match="invalid_wait at `delay`"):
        handle.result_sync(timeout=0)


def test_nobody_is_asked_when_the_time_of_the_wait_is_over(workflow_harness: WorkflowHarness) -> None:
    """The mail server was away until then, and whoever gets the mail could only be too late."""
    asked: list[str] = []

    @activity
    async def ask(context: WorkflowContext) -> Any:
        def send(token: str) -> None:
            asked.append(token)
            raise OSError("away")

        return await context.wait_for("answer", ask=send, timeout=0.5)

    handle = workflow_harness.dispatch([ask.activity()], correlation_id="w")  # the retries come after a second and more
    asyncio.run(workflow_harness.deliver())

    assert len(asked) == 1
    with pytest.raises(WorkflowFailed, match="WaitTimedOut"):
        handle.result_sync(timeout=0)
