"""Forks by documents, on both stores: an export is corrected, and what ran before the correction is not run again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from pydantic_ai import BinaryContent
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, UserPromptPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from paigeant_celery import (
    ForkedWorkflow,
    PaigeantAgent,
    WorkflowDispatcher,
    WorkflowHandle,
    export_document_sync,
    for_each,
    fork_workflow,
    fork_workflow_sync,
    parallel,
    sleep_for,
)
from paigeant_celery.core.document_errors import InvalidDocument
from paigeant_celery.core.errors import (
    InvalidInput,
    StoreRequired,
    UnknownWorkflow,
    WorkflowConflict,
    WorkflowFailed,
)
from paigeant_celery.core.settings import Settings
from paigeant_celery.store.port import WorkflowOrigin
from paigeant_celery.testing import WorkflowHarness
from tests.support.branched_steps import gather, read
from tests.support.forked import LARGE, Writer, fail, forkable_steps, give, given, harness, run, told

__all__ = ["forkable_steps", "harness"]

Change = Callable[[dict[str, Any]], object]


def changed(harness: WorkflowHarness, workflow: str, change: Change) -> str:
    """Return the text of a workflow's document, changed as with an editor."""
    tree = json.loads(json.dumps(export_document_sync(workflow, harness.transport).tree()))
    change(tree)
    return json.dumps(tree)


def fork(harness: WorkflowHarness, handle: WorkflowHandle, step: str, change: Change, **more: Any) -> ForkedWorkflow:
    text = changed(harness, handle.correlation_id, change)
    return fork_workflow_sync(handle.correlation_id, text, harness.transport, from_step=step, **more)


def forked(harness: WorkflowHarness, handle: WorkflowHandle, step: str, change: Change, **more: Any) -> WorkflowHandle:
    """Fork, and run the fork to its end."""
    begun = fork(harness, handle, step, change, **more)
    asyncio.run(harness.deliver())
    return WorkflowHandle(begun.correlation_id, harness.transport)


def without_store() -> Any:
    transport = WorkflowHarness().transport
    transport.store = None  # type: ignore[assignment]
    return transport


def nothing(tree: dict[str, Any]) -> None:
    pass


def test_several_wrong_steps_are_corrected_at_once_and_those_before_them_are_not_repeated(
    harness: WorkflowHarness,
) -> None:
    """The workflow has ended; its second step had a wrong prompt, and a function behind it a wrong argument."""
    one, two = Writer("one"), Writer("two")
    handle = run(
        harness, one.agent.activity("a"), two.agent.activity("b"), give.activity("c"), told.activity(),
        variables={"tone": "dry"},
    )  # fmt: skip
    before = handle.result_sync(timeout=0)

    def correct(tree: dict[str, Any]) -> None:
        tree["itinerary"][1]["prompt"] = "better"
        tree["itinerary"][2]["arguments"]["what"] = LARGE

    begun = fork(harness, handle, "two", correct, fork_id="f")
    asyncio.run(harness.deliver())

    assert [(change.kind, change.path) for change in begun.changes] == [
        ("changed", "itinerary.two.prompt"),
        ("changed", "itinerary.give.arguments.what"),
    ]
    corrected = WorkflowHandle("f", harness.transport)
    result, status = corrected.result_sync(timeout=0), corrected.status_sync()
    assert dict(result.outputs) == {
        "one": "one: a",
        "two": "two: better",
        "give": LARGE,
        "told": {"variables": {"tone": "dry"}, "previous": LARGE},
    }
    assert (len(one.sent), len(two.sent)) == (1, 2)
    assert result.usage["requests"] == 1
    assert status.origin == WorkflowOrigin(workflow="w", step="two", place="1")
    assert handle.result_sync(timeout=0) == before


def test_steps_are_added_taken_out_and_replaced(harness: WorkflowHarness) -> None:
    """The rest of the slip is what stands in the document, also if the fork begins with a step that is new."""
    handle = run(harness, given("first", 1), fail.activity(), gather.activity())

    def replace(tree: dict[str, Any]) -> None:
        first, _, last = tree["itinerary"]
        mended = {"function": "give", "arguments": {"what": 2}, "step_id": "mended"}
        tree["itinerary"] = [first, mended, {"function": "told"}, last, {"function": "give", "arguments": {"what": 3}}]

    corrected = forked(harness, handle, "mended", replace)

    assert dict(corrected.result_sync(timeout=0).outputs) == {
        "first": 1, "mended": 2, "told": {"variables": {}, "previous": 2},
        "gather": {"variables": {}, "previous": 2}, "give": 3,
    }  # fmt: skip
    assert corrected.status_sync().executed == ("first", "mended", "told", "gather", "give")
    assert export_document_sync(corrected.correlation_id, harness.transport).itinerary[1].step_id == "mended"


def test_a_document_that_changes_nothing_is_a_fork_as_any_other(harness: WorkflowHarness) -> None:
    """What a step was asked for is read back from the document as the store has it."""
    writer, picture = Writer("writer"), BinaryContent(b"\x89" * 4000, media_type="image/png")
    seen: list[bytes] = []

    def look(messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
        parts = [part for message in messages for part in message.parts if isinstance(part, UserPromptPart)]
        seen.extend(item.data for part in parts for item in part.content if isinstance(item, BinaryContent))
        return ModelResponse(parts=[TextPart("seen")])

    viewer = PaigeantAgent(FunctionModel(look), name="viewer")
    block = parallel({"a": read.activity(), "b": [writer.agent.activity("in b")]}, step_id="both", on_failure="collect")
    handle = run(harness, give.activity("a"), block, viewer.activity(["What is it?", picture]), gather.activity())

    plain = WorkflowHandle(handle.fork_sync("both", correlation_id="plain"), harness.transport)
    by_document = fork(harness, handle, "both", nothing, fork_id="by-document")
    same = fork(harness, handle, "both", nothing, fork_id="plain")
    asyncio.run(harness.deliver())

    assert (by_document.changes, same.correlation_id) == ((), "plain")
    ends = [each.result_sync(timeout=0) for each in (plain, WorkflowHandle("by-document", harness.transport))]
    assert ends[0].outputs == ends[1].outputs == handle.result_sync(timeout=0).outputs
    assert seen == [picture.data] * 3


def test_a_block_is_corrected_in_its_branches(harness: WorkflowHarness) -> None:
    """Branches are no places to fork at; their block is, with other steps in it."""
    block = for_each(read.activity(), over="give", step_id="readings")
    handle = run(harness, give.activity(["a", "b"]), block, gather.activity())

    def correct(tree: dict[str, Any]) -> None:
        tree["itinerary"][1]["for_each"].append({"function": "give", "arguments": {"what": "read"}})

    corrected = forked(harness, handle, "readings", correct)

    assert corrected.result_sync(timeout=0).outputs["readings"] == ["read", "read"]


def test_a_workflow_that_goes_on_is_forked_by_what_it_was_when_it_was_exported(harness: WorkflowHarness) -> None:
    """What has happened since is no matter, as long as the steps before the fork are the same."""
    handle = run(harness, give.activity("one"), sleep_for(60, step_id="rest"), gather.activity())
    text = changed(harness, "w", lambda tree: tree["itinerary"].pop(1))
    assert handle.cancel_sync()

    begun = fork_workflow_sync("w", text, harness.transport, from_step="give", fork_id="f")
    asyncio.run(harness.deliver())

    assert [change.path for change in begun.changes] == ["itinerary.rest"]
    assert WorkflowHandle("f", harness.transport).result_sync(timeout=0).output == "one"


def test_steps_that_a_repeated_step_had_inserted_are_left_out(harness: WorkflowHarness) -> None:
    """It inserts them again, or others; one that is corrected is a step of the document's own."""
    extra, inserting = Writer("extra"), iter(["first", "second", "third"])

    def edit(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        if len(messages) > 1:
            return ModelResponse(parts=[TextPart("planned")])
        steps = [{"activity": "extra", "prompt": next(inserting)}]
        return ModelResponse(parts=[ToolCallPart(info.function_tools[0].name, {"steps": steps})])

    dispatcher = WorkflowDispatcher()
    planner = PaigeantAgent(FunctionModel(edit), name="planner", dispatcher=dispatcher, can_edit_itinerary=True)
    dispatcher.register(extra.agent.activity("default"))
    steps = [give.activity("a"), planner.activity("Plan."), gather.activity()]
    handle = harness.dispatch(steps, dispatcher=dispatcher, correlation_id="w")
    asyncio.run(harness.deliver())

    def kept(tree: dict[str, Any]) -> None:
        del tree["itinerary"][2]["added_by"]
        tree["itinerary"][2] |= {"step_id": "own", "prompt": "mine"}

    again = forked(harness, handle, "planner", nothing)
    behind = forked(harness, handle, "extra-1.1", lambda tree: tree["itinerary"][2].update(prompt="better"))
    own = forked(harness, handle, "planner", kept)

    assert again.result_sync(timeout=0).outputs["extra-1.1"] == "extra: second"
    assert behind.result_sync(timeout=0).outputs["extra-1.1"] == "extra: better"
    assert export_document_sync(behind.correlation_id, harness.transport).itinerary[2].added_by == "planner"
    assert own.status_sync().executed == ("give", "planner", "extra-1.1", "own", "gather")
    assert own.result_sync(timeout=0).outputs["own"] == "extra: mine"
    assert export_document_sync(own.correlation_id, harness.transport).itinerary[3].added_by is None


def test_the_same_id_and_document_are_the_same_fork(harness: WorkflowHarness) -> None:
    """A command that is typed twice runs nothing twice."""
    handle = run(harness, give.activity("one"), gather.activity())

    def correct(tree: dict[str, Any]) -> None:
        tree["itinerary"].append({"function": "told"})

    text = changed(harness, "w", correct)
    first = asyncio.run(fork_workflow("w", text, harness.transport, from_step="gather", fork_id="f"))
    asyncio.run(harness.deliver())
    again = asyncio.run(fork_workflow("w", text, harness.transport, from_step="gather", fork_id="f"))

    assert first == again
    assert asyncio.run(harness.deliver()) == []
    for step, change in (("give", correct), ("gather", nothing)):
        with pytest.raises(WorkflowConflict):
            fork(harness, handle, step, change, fork_id="f")


def test_a_fork_by_a_document_has_the_limits_and_no_deadline(harness: WorkflowHarness) -> None:
    """What the original has used is not counted, and its time is not this one's."""
    writer = Writer("writer")
    steps = [writer.agent.activity("a", step_id=f"s{number}") for number in range(3)]
    handle = run(harness, *steps, usage_limits={"request_limit": 2})
    with pytest.raises(WorkflowFailed, match="request_limit"):
        handle.result_sync(timeout=0)

    corrected = forked(harness, handle, "s1", lambda tree: tree["itinerary"][1].update(prompt="b"))

    assert corrected.result_sync(timeout=0).usage["requests"] == 2
    with pytest.raises(WorkflowFailed, match="request_limit"):
        forked(harness, handle, "s0", nothing).result_sync(timeout=0)


def test_a_long_workflow_is_forked_by_a_document_in_the_middle(harness: WorkflowHarness) -> None:
    """Most of its records and steps are in the store, and not in a message."""
    handle = run(harness, *[given(f"s{number}", f"{number} {'y' * 200}") for number in range(60)])

    corrected = forked(harness, handle, "s30", lambda tree: tree["itinerary"][45]["arguments"].update(what="z"))

    outputs = {**handle.result_sync(timeout=0).outputs, "s45": "z"}
    assert corrected.result_sync(timeout=0).outputs == outputs
    first = next(delivery for delivery in harness.delivered if delivery.hop_id == f"{corrected.correlation_id}.30")
    assert len(first.envelope) < 3 * Settings().inline_log_size


def _insert_before(tree: dict[str, Any]) -> None:
    tree["itinerary"].insert(1, {"function": "told", "step_id": "new"})


@pytest.mark.parametrize(
    ("change", "path", "remedy"),
    [
        (lambda tree: tree["workflow"].update(correlation_id="other"), "workflow.correlation_id", "export this one"),
        (lambda tree: tree.pop("workflow"), "workflow", "export the workflow and edit that"),
        (lambda tree: tree["itinerary"][0]["arguments"].update(what="b"), "itinerary[0]", "or fork at 'give'"),
        (lambda tree: tree["itinerary"][0].update(step_id="gave"), "itinerary[0]", "or fork at 'gave'"),
        (lambda tree: tree["itinerary"].pop(0), "itinerary[0]", "put it back as it was exported"),
        (_insert_before, "itinerary[1]", "put it behind, or fork at 'new'"),
        (lambda tree: tree["itinerary"].reverse(), "itinerary[0]", "or fork at 'gather'"),
        (lambda tree: tree["itinerary"].pop(1), "itinerary", "put it back under this id"),
        (lambda tree: tree["itinerary"][1].update(step_id="author"), "itinerary", "put it back under this id"),
        (lambda tree: tree.update(variables={"a": 1}), "variables", "or run the document anew"),
        (lambda tree: tree.update(deadline="2100-01-01T00:00:00Z"), "deadline", "or run the document anew"),
        (lambda tree: tree.update(usage_limits={"request_limit": 9}), "usage_limits", "or run the document anew"),
        (lambda tree: tree.update(correlation_id="f"), "correlation_id", "leave it out"),
        (lambda tree: tree.update(start_at="2100-01-01T00:00:00Z"), "start_at", "leave it out"),
        (lambda tree: tree["itinerary"][1].update(prompt=""), "itinerary[1].prompt", ""),
        (lambda tree: tree["itinerary"][1].update(promt="x"), "itinerary[1].promt", "did you mean `prompt`"),
        (lambda tree: tree["itinerary"][2].update(arguments={"x": 1}), "itinerary[2].arguments.x", ""),
        (lambda tree: tree["itinerary"].append({"sleep_for": 1, "step_id": "give"}), "itinerary[3].step_id", ""),
        (lambda tree: tree["itinerary"].append({"sleep_for": 1, "step_id": "x-7.1"}), "itinerary[3].step_id", ""),
        (
            lambda tree: tree["itinerary"].append({"for_each": [{"function": "told"}], "over": "nobody"}),
            "itinerary[3].over",
            "",
        ),
        (lambda tree: tree["itinerary"].append({"sleep_for": 1, "queue": "q"}), "itinerary[3].queue", ""),
        (lambda tree: tree.update(version=2), "version", "install the version"),
    ],
)
def test_a_document_that_a_fork_cannot_use_is_refused_with_path_and_remedy(
    harness: WorkflowHarness, change: Change, path: str, remedy: str
) -> None:
    """What ran stays as it ran, and nothing else of the document is left out in silence."""
    handle = run(harness, give.activity("a"), Writer("writer").agent.activity("b"), gather.activity())

    with pytest.raises(InvalidDocument) as refused:
        fork(harness, handle, "writer", change, fork_id="f")

    found = {finding.path: finding.remedy for finding in refused.value.findings}
    assert path in found
    assert remedy in found[path]
    assert harness.store.workflow("f") is None
    assert not harness.pending


@pytest.mark.parametrize(
    ("step", "more", "reason"),
    [
        ("wirter", {}, "unknown_path"),
        ("readings/0/read", {}, "unknown_path"),
        ("gather", {}, "not_begun"),
        ("new", {}, "invalid_document"),
        ("writer", {"fork_id": "a b"}, "bad_correlation_id"),
    ],
)
def test_a_step_at_which_no_fork_can_begin_is_refused(
    harness: WorkflowHarness, step: str, more: dict[str, Any], reason: str
) -> None:
    """The step before it has not ended, or there is none of this id."""
    writer = Writer("writer")
    handle = run(harness, writer.agent.activity("b"), sleep_for(60, step_id="rest"), gather.activity())

    with pytest.raises(InvalidInput) as error:
        fork(harness, handle, step, lambda tree: tree["itinerary"].append({"sleep_for": 1, "step_id": "new"}), **more)

    assert error.value.reason == reason
    assert not harness.pending


@pytest.mark.parametrize("text", ["{", "a: [", "[]", '{"version": 1}', '{"version": 1, "itinerary": []}'])
def test_a_damaged_document_begins_nothing(harness: WorkflowHarness, text: str) -> None:
    """All that is wrong is told, as by `lint`."""
    run(harness, give.activity("a"))

    with pytest.raises(InvalidDocument):
        fork_workflow_sync("w", text, harness.transport, from_step="give", fork_id="f")

    assert harness.store.workflow("f") is None


def test_steps_that_an_older_version_ran_are_kept_or_written_down(
    harness: WorkflowHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It kept what they gave and nothing of what they were asked."""
    monkeypatch.setattr("paigeant_celery.hop.with_store.as_asked", lambda slip: {})
    handle = run(harness, give.activity("one"), gather.activity(), fail.activity())

    with pytest.raises(InvalidDocument) as error:
        fork(harness, handle, "gather", nothing)
    assert (error.value.reason, error.value.path) == ("not_kept", "itinerary[1]")

    def write_down(tree: dict[str, Any]) -> None:
        tree["itinerary"][1:] = [{"function": "gather", "step_id": "gather"}]

    assert forked(harness, handle, "gather", write_down).result_sync(timeout=0).output == "one"
    with pytest.raises(WorkflowFailed):
        forked(harness, handle, "fail", nothing).result_sync(timeout=0)


def test_a_workflow_that_nobody_knows_is_not_forked(harness: WorkflowHarness) -> None:
    """It has expired, or its id is another one; without a store there is nothing to copy."""
    run(harness, give.activity("a"))
    text = changed(harness, "w", nothing)

    with pytest.raises(UnknownWorkflow):
        fork_workflow_sync("nobody", text, harness.transport, from_step="give")
    with pytest.raises(StoreRequired, match="fork_workflow"):
        fork_workflow_sync("w", text, without_store(), from_step="give")
