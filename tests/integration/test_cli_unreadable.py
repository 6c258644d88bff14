"""What `show` says of a workflow whose steps it cannot read: never that what runs has not begun."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from click.testing import CliRunner

from paigeant_celery import for_each, install
from paigeant_celery.activities.registry import registry
from paigeant_celery.cli import paigeant
from paigeant_celery.store.port import Claim, Claimed, HopRecord, NewWorkflow
from paigeant_celery.testing import WorkflowHarness, workflow_harness
from tests.support.branched_steps import dispatched, gather, load, read

__all__ = ["workflow_harness"]

Call = Callable[..., str]


@pytest.fixture(autouse=True)
def own_registry() -> Iterator[None]:
    """Let each test find the steps, and no others."""
    with registry.isolated():
        load()
        yield


@pytest.fixture
def call(workflow_harness: WorkflowHarness) -> Iterator[Call]:
    """Return what calls a command of an app with the harness's store, and returns what it prints."""
    with Celery("shop", broker="memory://localhost//", set_as_current=False) as app:
        install(app, store=workflow_harness.store)

        def called(*arguments: str) -> str:
            done = CliRunner().invoke(paigeant, arguments, obj=SimpleNamespace(app=app))
            assert done.exit_code == 0, done.output
            return done.stdout

        yield called


def steps_of(shown: str) -> list[str]:
    lines = shown.splitlines()
    return lines[next(number for number, line in enumerate(lines) if line.startswith("  steps")) :]


def running(harness: WorkflowHarness, hop: str) -> None:
    assert isinstance(
        harness.store.claim(Claim(hop_id=hop, owner="ann", token="t", max_attempts=5, digest=None)), Claimed
    )


def test_a_damaged_record_is_said_and_a_step_that_runs_is_not_planned(
    workflow_harness: WorkflowHarness, call: Call
) -> None:
    """Whoever reads `planned` of a step that runs looks in the wrong place."""
    dispatched(workflow_harness, for_each(read.activity(), over=["a"], step_id="all"), gather.activity(), hops=3)
    workflow_harness.sweep()
    running(workflow_harness, "w.1")
    blobs: Any = workflow_harness.store._records.workflows["w"].blobs
    del blobs["0-0::slip"]

    shown = steps_of(call("show", "w", "--no-events", "--no-workers"))
    told = steps_of(call("show", "w", "--no-events", "--no-workers", "--errors"))
    read_ = json.loads(call("show", "w", "--no-workers", "--json"))

    text = "a record of the store is damaged or gone; `--errors` says which."
    text = f"{text} If it does not go on, cancel it and begin it again"
    assert shown == [f"  steps cannot be read: {text} (store_corrupt)", "    all: completed", "    gather: running"]
    assert "0-0 is missing" in told[0]
    assert (read_["steps"], read_["unreadable"]) == (None, {"code": "store_corrupt", "text": text})
    assert json.loads(call("show", "w", "--no-workers", "--json"))["state"] == "running"


def test_steps_of_a_newer_version_are_shown_by_their_ids_with_what_to_do(
    workflow_harness: WorkflowHarness, call: Call
) -> None:
    """During a deploy the commands of either version are at hand."""
    dispatched(workflow_harness, gather.activity(), hops=0)
    found = workflow_harness.store.hop("w.0")
    assert found is not None
    tree = {**json.loads(found.envelope), "correlation_id": "w-1", "message_id": "w-1.0", "spec_version": "1.9"}
    tree["slip"]["itinerary"].append({"step_id": "both", "kind": "edit", "rest": []})
    record = HopRecord(hop_id="w-1.0", queue="q", envelope=json.dumps(tree), digest="d")
    workflow_harness.store.start(NewWorkflow(correlation_id="w-1", content="x", hop=record))

    shown = steps_of(call("show", "w-1", "--no-events", "--no-workers"))
    read_ = json.loads(call("show", "w-1", "--no-workers", "--json"))

    text = "a newer version of paigeant_celery wrote them; call `show` of that version"
    assert shown == [f"  steps cannot be read: {text} (newer_version)", "    gather: queued", "    both: planned"]
    assert read_["unreadable"] == {"code": "newer_version", "text": text}


def test_steps_that_can_be_read_have_no_such_line(workflow_harness: WorkflowHarness, call: Call) -> None:
    """It is about what is wrong."""
    dispatched(workflow_harness, gather.activity())

    assert json.loads(call("show", "w", "--no-workers", "--json"))["unreadable"] is None
    assert steps_of(call("show", "w", "--no-events", "--no-workers"))[0] == "  steps:"
