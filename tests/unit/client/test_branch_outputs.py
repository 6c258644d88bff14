"""The outputs of steps in branches, by their paths: in results, and for later steps."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic_ai.models.test import TestModel

from paigeant_celery import (
    PaigeantAgent,
    UsageError,
    WorkflowContext,
    activity,
    for_each,
    parallel,
    sleep_for,
    sub_workflow,
)
from paigeant_celery.activities.registry import registry
from paigeant_celery.core.errors import StoreCorrupt, WorkflowFailed
from paigeant_celery.core.settings import Settings
from paigeant_celery.testing import WorkflowHarness
from tests.support.branched_steps import dispatched, gather, load, read

LARGE = "x" * 3000


@activity
async def measure(context: WorkflowContext) -> Any:
    before = context.previous_output
    return {"size": len(before.output), "of": before.step_id} if before is not None else None


@activity
async def look_up(context: WorkflowContext, paths: list[str]) -> Any:
    found = []
    for path in paths:
        try:
            found.append((await context.output(path)).output)
        except UsageError as error:
            found.append(f"error: {error}")
    return found


@pytest.fixture(autouse=True)
def loaded(own_registry: None) -> None:
    """Let each test find the steps."""
    load()
    for each in (measure, look_up):
        registry.add(each, holder=each)


def test_a_result_has_the_outputs_of_branches_by_path(workflow_harness: WorkflowHarness) -> None:
    """Whoever checks one source of twenty reads what was made of it, and not only the report."""
    readings = for_each([read.activity(), measure.activity()], over=["a", "bb"], step_id="readings")
    handle = dispatched(workflow_harness, gather.activity(), readings, gather.activity())

    result = handle.result_sync(timeout=0)

    both = [{"size": 6, "of": "read"}, {"size": 7, "of": "read"}]
    assert result.outputs == {
        "gather": None,
        "readings/0/read": "read a",
        "readings/0/measure": both[0],
        "readings/1/read": "read bb",
        "readings/1/measure": both[1],
        "readings": both,
        "gather-2": both,
    }
    assert result.output == both
    assert result.output_as(dict[str, Any], step_id="readings/1/measure") == both[1]
    assert [step.activity for step in result.steps] == ["gather", *["read", "measure"] * 2, "_flow", "gather"]


def test_outputs_of_blocks_in_branches_have_longer_paths(workflow_harness: WorkflowHarness) -> None:
    """However deep a block stands, and wherever its outputs are kept."""
    inner = for_each(read.activity(), over=[LARGE, "b"], step_id="inner")
    block = parallel({"facts": [gather.activity(), inner], "style": sub_workflow(read.activity())}, step_id="both")
    handle = dispatched(workflow_harness, gather.activity(), block)

    result = handle.result_sync(timeout=0)

    inside = [f"read {LARGE}", "read b"]
    assert list(result.outputs) == [
        "gather",
        "both/facts/gather",
        "both/facts/inner/0/read",
        "both/facts/inner/1/read",
        "both/facts/inner",
        "both/style/sub-workflow/0/read",
        "both/style/sub-workflow",
        "both",
    ]
    assert result.outputs["both/facts/inner"] == inside
    assert result.outputs["both/facts/inner/0/read"] == inside[0]
    assert result.output == {"facts": inside, "style": "read None"}


def test_only_branches_that_are_in_the_output_are_in_the_result(workflow_harness: WorkflowHarness) -> None:
    """A branch that failed, or lost the race, gave nothing that others could build upon."""
    block = for_each([gather.activity(), read.activity()], over=["fail", "a", "wait"], join=1, step_id="race")
    handle = dispatched(workflow_harness, block)

    result = handle.result_sync(timeout=0)

    assert list(result.outputs) == ["race/1/gather", "race/1/read", "race"]
    assert result.output == [{"failed": "LookupError", "text": "no such source"}, "read a"]


def test_a_branch_of_many_steps_has_all_of_them_in_the_result() -> None:
    """Their records leave the message, and are read back."""
    harness = WorkflowHarness(Settings(inline_log_size=0))
    handle = dispatched(harness, for_each([gather.activity()] * 9, over=["a"], step_id="long"))

    assert list(handle.result_sync(timeout=0).outputs) == [
        "long/0/gather", *[f"long/0/gather-{number}" for number in range(2, 10)], "long",
    ]  # fmt: skip


def test_a_block_over_nothing_and_a_sleep_add_nothing(workflow_harness: WorkflowHarness) -> None:
    """A result is complete although there was nothing to do."""
    handle = workflow_harness.dispatch(
        [for_each(read.activity(), over=[], step_id="none"), sub_workflow([sleep_for(5), gather.activity()])],
        correlation_id="w",
    )
    asyncio.run(workflow_harness.deliver())
    workflow_harness.skip(6)
    asyncio.run(workflow_harness.deliver())

    assert handle.result_sync(timeout=0).outputs == {"none": [], "sub-workflow/0/gather": [], "sub-workflow": []}


def test_a_result_of_many_branches_takes_few_calls(
    workflow_harness: WorkflowHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fan-out of 120 branches costs a few calls, not one for each."""
    handle = dispatched(workflow_harness, for_each(read.activity(), over=list(range(120)), step_id="all"))
    calls: list[int] = []
    blobs = workflow_harness.store.blobs

    def counted(correlation_id: str, names: Any) -> Any:
        calls.append(len(names))
        return blobs(correlation_id, names)

    monkeypatch.setattr(workflow_harness.store, "blobs", counted)
    monkeypatch.setattr(workflow_harness.store, "blob", None)
    result = handle.result_sync(timeout=0)

    assert len(result.outputs) == 121
    assert len(calls) < 10


def test_the_slip_of_a_branch_that_is_lost_is_told(workflow_harness: WorkflowHarness) -> None:
    """A result is never silently without a part of what was made."""
    handle = dispatched(workflow_harness, for_each(read.activity(), over=["a"], step_id="all"))
    del workflow_harness.store._records.workflows["w"].blobs["0-0::slip"]

    with pytest.raises(StoreCorrupt, match="0-0 is missing"):
        handle.result_sync(timeout=0)


def test_a_failed_branch_fails_its_workflow_by_the_path_of_its_step(workflow_harness: WorkflowHarness) -> None:
    """The error names the branch in which it began, however deep."""
    inner = for_each(read.activity(), over=["a", "fail"], step_id="inner")
    handle = dispatched(workflow_harness, parallel({"x": inner}, step_id="outer"))

    with pytest.raises(WorkflowFailed) as failed:
        handle.result_sync(timeout=0)

    assert (failed.value.step_id, failed.value.error_class) == ("outer/x/inner/1/read", "LookupError")


def test_later_steps_read_outputs_of_branches_by_path(workflow_harness: WorkflowHarness) -> None:
    """A writer quotes one of twenty sources."""
    inner = for_each(read.activity(), over=["a", LARGE], step_id="inner")
    paths = ["both/x/inner/1/read", "both/x/inner", "both", "both/x/inner/7/read", "both/x/inner/0/none", "both/x"]
    handle = dispatched(workflow_harness, parallel({"x": inner}, step_id="both"), look_up.activity(paths))

    large, in_x, both, *errors = handle.result_sync(timeout=0).output  # type: ignore[misc, union-attr]
    assert large == f"read {LARGE}"
    assert in_x == ["read a", f"read {LARGE}"]
    assert both == {"x": in_x}
    assert [text.split(";")[0] for text in errors] == [  # type: ignore[union-attr]
        "error: 'both/x/inner/7/read' names no step: no branch '7' of the block had ended",
        "error: no step 'none' ran before None",
        "error: 'both/x' names no step: behind the id of a block come the name of a branch and a step",
    ]


def test_steps_in_branches_read_outputs_around_them(workflow_harness: WorkflowHarness) -> None:
    """Each judge has the plan at hand, which was made outside, and not what its siblings say."""
    look = look_up.activity(["gather", "read", "before/0/read", "both", "both/y/gather"])
    inner = sub_workflow([read.activity(), look], step_id="inner")
    before = for_each(read.activity(), over=[1], step_id="before")
    block = parallel({"x": inner, "y": gather.activity()}, step_id="both")
    handle = dispatched(workflow_harness, gather.activity(), before, block)

    found = handle.result_sync(timeout=0).outputs["both/x/inner/0/look_up"]
    assert isinstance(found, list)
    assert found[:3] == [None, "read ['read 1']", "read 1"]
    assert all(isinstance(text, str) and text.startswith("error: ") for text in found[3:])


def test_usage_of_branches_is_that_of_the_workflow(workflow_harness: WorkflowHarness) -> None:
    """A bill leaves out nothing that a branch in the output has used."""
    writer = PaigeantAgent(TestModel(custom_output_text="text"), name="writer")
    inner = for_each(writer.activity("write"), over=[1, 2, 3], step_id="inner")
    handle = dispatched(
        workflow_harness, writer.activity("plan"), parallel({"x": inner, "y": writer.activity("judge")}, step_id="both")
    )

    result = handle.result_sync(timeout=0)

    assert result.usage["requests"] == 5
    assert handle.status_sync().usage == result.usage
