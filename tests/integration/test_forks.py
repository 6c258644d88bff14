"""Forks of workflows in every state, on both stores, through the code that a worker runs."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic_ai import BinaryContent
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, UserPromptPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from paigeant_celery import (
    PaigeantAgent,
    WorkflowDependencies,
    WorkflowDispatcher,
    WorkflowHandle,
    for_each,
    fork_workflow_sync,
    sleep_for,
)
from paigeant_celery.client.documents import export_document_sync
from paigeant_celery.client.outline import outline_of
from paigeant_celery.core.errors import InvalidInput, UnknownWorkflow, WorkflowConflict, WorkflowFailed
from paigeant_celery.core.message import reread
from paigeant_celery.core.settings import Settings
from paigeant_celery.store.limits import LIMITS
from paigeant_celery.store.port import WorkflowOrigin
from paigeant_celery.testing import WorkflowHarness
from tests.support.branched_steps import gather, read
from tests.support.ended_spans import ended
from tests.support.forked import LARGE, Writer, fail, forkable_steps, give, given, harness, inner_outputs, run, told

__all__ = ["ended", "forkable_steps", "harness"]


def forked(harness: WorkflowHarness, handle: WorkflowHandle, from_step: str, **more: Any) -> WorkflowHandle:
    """Fork, and run the fork to its end."""
    fork = WorkflowHandle(handle.fork_sync(from_step, **more), harness.transport)
    asyncio.run(harness.deliver())
    return fork


def test_a_fork_repeats_a_step_and_all_after_it_and_no_other(harness: WorkflowHarness) -> None:
    """The third of four steps had a wrong prompt: the first two are not paid for again."""
    one, two, three = Writer("one"), Writer("two"), Writer("three")
    handle = run(harness, one.agent.activity("a"), two.agent.activity("b"), three.agent.activity("c"), told.activity())
    assert handle.status_sync().usage["requests"] == 3

    fork = forked(harness, handle, "three", prompt="better")

    result, status = fork.result_sync(timeout=0), fork.status_sync()
    assert dict(result.outputs) == {
        "one": "one: a",
        "two": "two: b",
        "three": "three: better",
        "told": {"variables": {}, "previous": "three: better"},
    }
    assert [writer.sent[-1][-1] for writer in (one, two, three)] == ["a", "b", "better"]
    assert list(map(len, (one.sent, two.sent, three.sent))) == [1, 1, 2]
    assert (status.executed, status.origin) == (
        ("one", "two", "three", "told"),
        WorkflowOrigin(workflow="w", step="three", place="2"),
    )
    assert result.usage["requests"] == 1
    assert [delivery.hop_id for delivery in harness.delivered][4:] == [
        f"{fork.correlation_id}.{number}" for number in (2, 3)
    ]
    steps = outline_of(harness.store, fork.correlation_id)
    assert [step.hop_id.rpartition(".")[2] for step in steps] == ["", "", "2", "3"]
    assert handle.result_sync(timeout=0).outputs["three"] == "three: c"
    assert handle.status_sync().origin is None


def test_the_variables_and_large_outputs_go_with_a_fork(harness: WorkflowHarness) -> None:
    """What does not travel is copied in the store, and read by the next step as in the original."""
    handle = run(harness, give.activity(LARGE), told.activity(), gather.activity(), variables={"tone": "dry"})

    fork = forked(harness, handle, "told")

    result = fork.result_sync(timeout=0)
    assert result.outputs["give"] == LARGE
    assert result.outputs["told"] == {"variables": {"tone": "dry"}, "previous": LARGE}
    assert result.outputs == handle.result_sync(timeout=0).outputs


def test_a_fork_reads_the_outputs_of_branches_before_it(harness: WorkflowHarness) -> None:
    """A block is as any other step before a fork: whole, with what its branches and the blocks in them gave."""
    inner = for_each(gather.activity(), over=[LARGE, "b"], step_id="inner")
    block = for_each([read.activity(), inner], over=["a", "fail"], on_failure="collect", step_id="readings")
    paths = ["readings", "readings/0/read", "readings/0/inner/0/gather", "readings/0/inner/1/gather"]
    handle = run(harness, block, inner_outputs.activity(paths=paths))

    fork = forked(harness, handle, "inner_outputs")

    original, result = handle.result_sync(timeout=0), fork.result_sync(timeout=0)
    assert result.outputs == original.outputs
    assert result.output[1:] == ["read a", LARGE, "b"]
    assert result.outputs["readings"][1]["failed"] == "LookupError"
    assert fork.status_sync().branches == ()


def test_a_fork_at_a_block_opens_it_anew(harness: WorkflowHarness) -> None:
    """Branches are no places to fork at; their block is."""
    block = for_each(read.activity(), over="give", step_id="readings")
    handle = run(harness, give.activity(["a", "b"]), block, gather.activity())

    fork = forked(harness, handle, "readings")

    assert fork.result_sync(timeout=0).output == ["read a", "read b"]
    assert [branch.state for branch in fork.status_sync().branches] == ["completed", "completed"]
    with pytest.raises(InvalidInput, match="fork at 'readings'"):
        handle.fork_sync("readings/0/read")


def test_a_failed_workflow_is_forked_at_the_step_that_failed(harness: WorkflowHarness) -> None:
    """The rest of the plan can be another one: the step is replaced, and those after it."""
    handle = run(harness, give.activity("one"), fail.activity(), gather.activity())
    with pytest.raises(WorkflowFailed):
        handle.result_sync(timeout=0)

    again = forked(harness, handle, "fail")
    with pytest.raises(WorkflowFailed):
        again.result_sync(timeout=0)
    other = forked(harness, handle, "fail", itinerary=[give.activity("two"), gather.activity()])

    assert dict(other.result_sync(timeout=0).outputs) == {"give": "one", "give-2": "two", "gather": "two"}


def test_a_workflow_that_goes_on_is_forked_and_goes_on(harness: WorkflowHarness) -> None:
    """Nothing of it is touched, and it is told apart from its fork."""
    handle = run(harness, give.activity("one"), sleep_for(60, step_id="rest"), gather.activity())

    fork = forked(harness, handle, "give", itinerary=[give.activity("two")])

    assert fork.result_sync(timeout=0).output == "two"
    assert handle.status_sync().state == "suspended"
    sleeper = forked(harness, handle, "rest")
    assert sleeper.status_sync().state == "suspended"
    with pytest.raises(InvalidInput, match="'rest' comes before 'gather'") as error:
        handle.fork_sync("gather")
    assert error.value.reason == "not_begun"


def test_a_fork_of_a_fork_reaches_back_to_the_first_workflow(harness: WorkflowHarness) -> None:
    """The steps that a fork did not repeat can be repeated by the next one."""
    writer = Writer("writer")
    handle = run(harness, writer.agent.activity("a", step_id="first"), give.activity(LARGE), gather.activity())
    second = forked(harness, handle, "gather", correlation_id="second")

    third = forked(harness, second, "give", correlation_id="third")
    fourth = forked(harness, third, "first", prompt="b", correlation_id="fourth")

    assert third.result_sync(timeout=0).outputs == handle.result_sync(timeout=0).outputs
    assert fourth.result_sync(timeout=0).outputs["first"] == "writer: b"
    assert third.status_sync().origin == WorkflowOrigin(workflow="second", step="give", place="1")
    assert [event.type for event in fourth.events_so_far()][:2] == ["started", "forked"]
    assert fourth.events_so_far()[1].fields == {"step": "first", "from": "third"}


def test_the_same_id_and_content_are_the_same_fork(harness: WorkflowHarness) -> None:
    """A call that is repeated, also after the original went on, runs nothing twice."""
    handle = harness.dispatch([give.activity("one"), gather.activity(), told.activity()], correlation_id="w")
    asyncio.run(harness.deliver(1))

    first = handle.fork_sync("gather", correlation_id="f")
    asyncio.run(harness.deliver())
    again = handle.fork_sync("gather", correlation_id="f")

    assert first == again == "f"
    assert asyncio.run(harness.deliver()) == []
    for other in (
        lambda: handle.fork_sync("give", correlation_id="f"),
        lambda: handle.fork_sync("gather", correlation_id="f", itinerary=[gather.activity()]),
        lambda: handle.fork_sync("gather", correlation_id="w"),
    ):
        with pytest.raises(WorkflowConflict):
            other()


def test_a_fork_hears_what_was_said_before_its_step(harness: WorkflowHarness) -> None:
    """The question that went wrong is asked again in the same conversation, as if it had not been asked."""
    clerk = Writer("clerk")
    questions = ["I am Zoë.", "Who am I?", "And now?"]
    steps = [clerk.agent.activity(question, conversation="support") for question in questions]
    handle = run(harness, *steps)
    assert clerk.sent[-1] == questions

    fork = forked(harness, handle, "clerk-2", prompt="What is my name?")
    forked(harness, fork, "clerk-3")

    assert clerk.sent[3:] == [
        ["I am Zoë.", "What is my name?"],
        ["I am Zoë.", "What is my name?", "And now?"],
        ["I am Zoë.", "What is my name?", "And now?"],
    ]
    said = len(handle.conversation_sync("support"))
    assert said == len(fork.conversation_sync("support")) == 6


def test_files_of_prompts_go_with_a_fork(harness: WorkflowHarness) -> None:
    """A file that only the store has is asked about again, with the step or a later one."""
    sent: list[bytes] = []

    def look(messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
        parts = [part for message in messages for part in message.parts if isinstance(part, UserPromptPart)]
        sent.extend(item.data for part in parts for item in part.content if isinstance(item, BinaryContent))
        return ModelResponse(parts=[TextPart("seen")])

    viewer = PaigeantAgent(FunctionModel(look), name="viewer")
    picture = BinaryContent(b"\x89" * 4000, media_type="image/png")
    handle = run(harness, give.activity("a"), viewer.activity(["What is this?", picture]), gather.activity())

    forked(harness, handle, "viewer")
    forked(harness, handle, "give")

    assert sent == [picture.data] * 3


def test_steps_that_a_repeated_step_had_inserted_are_left_out(harness: WorkflowHarness) -> None:
    """It inserts them again, or others: what an agent decided is not decided for it."""
    inserting = iter(["first", "second"])
    extra = Writer("extra")

    def edit(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        if len(messages) > 1:
            return ModelResponse(parts=[TextPart("planned")])
        steps = [{"activity": "extra", "prompt": next(inserting)}]
        return ModelResponse(parts=[ToolCallPart(info.function_tools[0].name, {"steps": steps})])

    dispatcher = WorkflowDispatcher()
    planner = PaigeantAgent(FunctionModel(edit), name="planner", dispatcher=dispatcher, can_edit_itinerary=True)
    dispatcher.register(extra.agent.activity("default"))
    itinerary = [give.activity("a"), planner.activity("Plan."), gather.activity()]
    handle = harness.dispatch(itinerary, dispatcher=dispatcher, correlation_id="w")
    asyncio.run(harness.deliver())
    assert handle.status_sync().executed == ("give", "planner", "extra-1.1", "gather")

    again = forked(harness, handle, "planner")
    kept = forked(harness, handle, "extra-1.1")

    assert again.result_sync(timeout=0).outputs["extra-1.1"] == "extra: second"
    assert kept.result_sync(timeout=0).outputs["extra-1.1"] == "extra: first"
    assert again.status_sync().executed == kept.status_sync().executed == handle.status_sync().executed


def test_a_long_workflow_is_forked_in_the_middle(harness: WorkflowHarness) -> None:
    """Most of its records and steps are in the store; the fork's message is as short as any other."""
    steps = [given(f"s{number}", f"{number} {'y' * 200}") for number in range(120)]
    handle = run(harness, *steps)

    fork = forked(harness, handle, "s100")
    early = forked(harness, handle, "s3")

    outputs = handle.result_sync(timeout=0).outputs
    assert fork.result_sync(timeout=0).outputs == early.result_sync(timeout=0).outputs == outputs
    first = next(delivery for delivery in harness.delivered if delivery.hop_id == f"{fork.correlation_id}.100")
    assert len(first.envelope) < 3 * Settings().inline_log_size
    again = forked(harness, fork, "s50")
    assert again.result_sync(timeout=0).outputs == outputs


@pytest.mark.parametrize(
    ("from_step", "more", "reason", "text"),
    [
        ("gahter", {}, "unknown_path", "did you mean 'gather'"),
        ("", {}, "unknown_path", "the id of a step"),
        (None, {}, "unknown_path", "the id of a step"),
        ("gather", {"prompt": "p"}, "invalid_input", "no step of an agent"),
        ("writer", {"prompt": " "}, "empty_prompt", "prompt"),
        ("writer", {"prompt": "p", "itinerary": []}, "invalid_input", "one of the two"),
        ("writer", {"itinerary": []}, "empty_itinerary", "no step to run"),
        ("writer", {"itinerary": [for_each(read.activity(), over="gather")]}, "invalid_over", "no step 'gather'"),
        ("gather", {"itinerary": [given("writer", 1)]}, "duplicate_step_id", "'writer'"),
        ("gather", {"correlation_id": "a b"}, "bad_correlation_id", "A-Z"),
    ],
)
def test_what_cannot_be_forked_is_refused_and_nothing_is_recorded(
    harness: WorkflowHarness, from_step: Any, more: dict[str, Any], reason: str, text: str
) -> None:
    """The caller is told what to change."""
    writer = Writer("writer")
    handle = run(harness, writer.agent.activity("a"), gather.activity())

    with pytest.raises(InvalidInput, match=text) as error:
        handle.fork_sync(from_step, **{"correlation_id": "f", **more})

    assert error.value.reason == reason
    assert harness.store.workflow("f") is None
    assert not harness.pending


def test_a_workflow_that_nobody_knows_has_no_fork(harness: WorkflowHarness) -> None:
    with pytest.raises(UnknownWorkflow):
        WorkflowHandle("nobody", harness.transport).fork_sync("a")


def test_a_fork_has_the_limits_of_the_workflow_and_has_used_nothing(harness: WorkflowHarness) -> None:
    """Otherwise a workflow that ran into its limit could not be tried again."""
    writer = Writer("writer", deps_type=WorkflowDependencies)
    steps = [writer.agent.activity("a", WorkflowDependencies(), step_id=f"s{number}") for number in range(3)]
    handle = run(harness, *steps, usage_limits={"request_limit": 2})
    with pytest.raises(WorkflowFailed, match="request_limit"):
        handle.result_sync(timeout=0)

    fork = forked(harness, handle, "s1")

    assert fork.result_sync(timeout=0).usage["requests"] == 2
    with pytest.raises(WorkflowFailed, match="request_limit"):
        forked(harness, fork, "s0").result_sync(timeout=0)


def test_steps_that_an_older_version_ran_are_not_repeated(
    harness: WorkflowHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It kept what they gave and nothing of what they were asked; a fork begins behind them, or has its own steps."""
    monkeypatch.setattr("paigeant_celery.hop.with_store.as_asked", lambda slip: {})
    handle = run(harness, give.activity("one"), gather.activity(), fail.activity())

    with pytest.raises(InvalidInput, match="an older version ran 'gather'") as error:
        handle.fork_sync("gather")
    assert error.value.reason == "not_kept"

    fork = forked(harness, handle, "gather", itinerary=[gather.activity()])
    assert fork.result_sync(timeout=0).output == "one"
    with pytest.raises(WorkflowFailed):
        forked(harness, handle, "fail").result_sync(timeout=0)


def test_a_fork_that_would_copy_too_much_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store does nothing else while it copies, and no lease is renewed meanwhile."""
    harness = WorkflowHarness()
    handle = run(harness, given("first", LARGE), given("second", LARGE), given("third", 1))
    monkeypatch.setattr(harness.store, "_limits", replace(LIMITS, max_copied=8000))

    with pytest.raises(InvalidInput, match="fork at an earlier one, or dispatch anew") as refused:
        handle.fork_sync("third", correlation_id="f")

    assert (refused.value.reason, refused.value.path) == ("fork_too_large", "from_step")
    assert harness.store.workflow("f") is None
    assert handle.fork_sync("second", correlation_id="f") == "f"


@pytest.mark.parametrize("how", ["fork", "fork_sync", "by a document"])
def test_a_fork_is_one_trace_that_leads_to_its_original(
    harness: WorkflowHarness, ended: InMemorySpanExporter, how: str
) -> None:
    """Its hops would be as many traces as it has, and nobody would find what it was made of."""
    handle = run(harness, given("a", 1), told.activity(), told.activity())
    ended.clear()

    if how == "fork":
        correlation_id = asyncio.run(handle.fork("told"))
    elif how == "fork_sync":
        correlation_id = handle.fork_sync("told")
    else:
        document = export_document_sync(handle.correlation_id, harness.transport)
        new = fork_workflow_sync(handle.correlation_id, document, harness.transport, from_step="told")
        correlation_id = new.correlation_id
    asyncio.run(harness.deliver())

    (dispatch,) = ended.get_finished_spans()
    original, fork = (trace_of(harness, each) for each in ("w", correlation_id))
    assert dispatch.name == "dispatch workflow"
    assert (dispatch.attributes or {})["messaging.message.conversation_id"] == correlation_id
    assert WorkflowHandle(correlation_id, harness.transport).status_sync().state == "completed"
    assert fork == f"{dispatch.context.trace_id:032x}" != original, "also after its last hop"
    (link,) = dispatch.links
    assert f"{link.context.trace_id:032x}" == original
    assert dict(link.attributes or {}) == {"paigeant.link": "original"}


def trace_of(harness: WorkflowHarness, correlation_id: str) -> str:
    record = harness.store.workflow(correlation_id)
    assert record is not None
    return reread(record.envelope).trace_context["traceparent"].split("-")[1]
