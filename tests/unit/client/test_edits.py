"""Edits of workflows that stand still: the steps to come are replaced, and nothing else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from pydantic_ai.messages import ModelResponse, TextPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.models.test import TestModel

from paigeant_celery import PaigeantAgent, StepPolicy, WorkflowHandle, activity, parallel, sleep_for, wait_for
from paigeant_celery.activities.registry import registry
from paigeant_celery.client.documents import export_document_sync
from paigeant_celery.client.edits import EditedWorkflow, edit_workflow, edit_workflow_sync
from paigeant_celery.core.document_errors import EditRefused, InvalidDocument
from paigeant_celery.core.documents import SlipDocument, read_document
from paigeant_celery.core.flow import Failure
from paigeant_celery.core.message import sha256
from paigeant_celery.core.settings import Settings
from paigeant_celery.store.port import Claim, Claimed, Closing
from paigeant_celery.testing import WorkflowHarness

Edited = Callable[[dict[str, Any]], None]


@pytest.fixture
def asked() -> list[str]:
    return []


@pytest.fixture(autouse=True)
def agents(own_registry: None, asked: list[str]) -> list[Any]:
    """A writer who cannot write poems, a critic, and a function."""

    def write(messages: list[Any], info: AgentInfo) -> Any:
        prompt = str(messages[-1].parts[-1].content)
        asked.append(prompt.partition("\n")[0])
        if "poem" in prompt:
            raise LookupError("it knows no poems")
        return ModelResponse(parts=[TextPart("a text")])

    def note(text: str = "") -> str:
        return text

    final = StepPolicy(final_on=["LookupError"])
    writer = PaigeantAgent(FunctionModel(write), name="writer", policy=final)
    critic = PaigeantAgent(TestModel(custom_output_text="fine"), name="critic")
    return [writer, critic, activity(note)]


def deliver(harness: WorkflowHarness) -> list[str]:
    return asyncio.run(harness.deliver())


def changed(document: SlipDocument, change: Edited) -> SlipDocument:
    tree = json.loads(json.dumps(document.tree()))
    change(tree)
    return read_document(tree)


def parked(harness: WorkflowHarness, agents: list[Any], *, before: int = 1, rest: int = 1) -> WorkflowHandle:
    """Dispatch a workflow whose writer is parked, with a call on record."""
    writer, critic, note = agents
    steps = [*[note.activity(text="first")] * before, writer.activity("Write."), *[critic.activity("Judge.")] * rest]
    handle = harness.dispatch(steps)
    asyncio.run(harness.deliver(before))
    held = harness.store.workflow(handle.correlation_id)
    assert held is not None
    delivery = harness.pending.popleft()
    claim = Claim(
        hop_id=held.hop_id, owner="o", token="t", max_attempts=9, digest=sha256(delivery.envelope), step="writer"
    )
    claimed = harness.store.claim(claim)
    assert isinstance(claimed, Claimed)
    closing = Closing(hop_id=held.hop_id, owner="o", fence=claimed.fence)
    harness.store.record(closing, {"call": "of the old prompt"})
    assert harness.store.park(closing, Failure(step_id="writer", error_class="LookupError", text="no"))
    harness.delivered.append(delivery)
    return handle


def edit(harness: WorkflowHarness, handle: WorkflowHandle, change: Edited, **more: Any) -> EditedWorkflow:
    document = export_document_sync(handle.correlation_id, harness.transport)
    return edit_workflow_sync(handle.correlation_id, changed(document, change), harness.transport, **more)


def events(handle: WorkflowHandle) -> list[str]:
    return [event.type for event in handle.events_so_far()]


def test_a_wrong_prompt_is_corrected_and_only_that_step_is_run(
    workflow_harness: WorkflowHarness, agents: list[Any], asked: list[str]
) -> None:
    """What ran before stays, and is not paid for again."""
    handle = parked(workflow_harness, agents)

    def correct(tree: dict[str, Any]) -> None:
        tree["itinerary"][1]["prompt"] = "Write it better."

    told = edit(workflow_harness, handle, correct, by="ann")

    assert [(change.kind, change.path, change.after) for change in told.changes] == [
        ("changed", "itinerary.writer.prompt", "Write it better.")
    ]
    assert told.restarts
    assert workflow_harness.store.journal(f"{handle.correlation_id}.1") == {}
    assert handle.status_sync().state == "parked"
    assert [event.fields.get("by") for event in handle.events_so_far() if event.type == "edited"] == ["ann"]
    assert handle.redrive_sync()
    workflow_harness.sweep()
    assert deliver(workflow_harness) == ["completed", "workflow_completed"]
    assert handle.result_sync(timeout=0).outputs == {"note": "first", "writer": "a text", "critic": "fine"}
    assert asked == ["Write it better."]


def test_a_process_that_has_other_activities_edits_what_workers_know(
    workflow_harness: WorkflowHarness, agents: list[Any]
) -> None:
    """An operator's shell has loaded the agents of one worker, and the workflow is another one's."""
    handle = parked(workflow_harness, agents)

    def correct(tree: dict[str, Any]) -> None:
        tree["itinerary"][1]["prompt"] = "Write it better."

    with registry.isolated():

        @activity
        def elsewhere() -> str:
            return ""

        told = edit(workflow_harness, handle, correct)

        def misuse(tree: dict[str, Any]) -> None:
            tree["itinerary"].append({"function": "elsewhere", "arguments": {"unknown": 1}})

        with pytest.raises(InvalidDocument, match="invalid_arguments"):
            edit(workflow_harness, handle, misuse)

    assert [change.path for change in told.changes] == ["itinerary.writer.prompt"]


def test_steps_are_added_taken_out_and_moved(workflow_harness: WorkflowHarness, agents: list[Any]) -> None:
    """The rest of the slip is now this."""
    handle = parked(workflow_harness, agents, rest=2)

    def change(tree: dict[str, Any]) -> None:
        first, second, third, fourth = tree["itinerary"]
        note = {"function": "note", "arguments": {"text": "added"}}
        tree["itinerary"] = [first, second, fourth, note, {"sleep_for": 1}, third]

    told = edit(workflow_harness, handle, change)

    assert not told.restarts
    assert workflow_harness.store.journal(f"{handle.correlation_id}.1") == {"call": "of the old prompt"}
    assert handle.status_sync().remaining == ("writer", "critic-2", "note-2", "sleep", "critic")
    again = export_document_sync(handle.correlation_id, workflow_harness.transport)
    assert again.workflow is not None
    assert again.workflow.revision == told.revision


def test_a_copy_of_the_old_message_is_dropped(workflow_harness: WorkflowHarness, agents: list[Any]) -> None:
    """No dead letter says that somebody has altered it."""
    handle = parked(workflow_harness, agents)
    old = workflow_harness.delivered[-1]

    edit(workflow_harness, handle, lambda tree: tree["itinerary"].pop())

    assert asyncio.run(workflow_harness.redeliver(old)) == "dropped: superseded"
    assert list(workflow_harness.store.dead_letters(after=None, limit=9)) == []
    handle.redrive_sync()
    workflow_harness.sweep()
    assert deliver(workflow_harness) == ["workflow_completed"]
    assert asyncio.run(workflow_harness.redeliver(old)) == "dropped: superseded"


def test_what_follows_a_suspended_step_is_edited(workflow_harness: WorkflowHarness, agents: list[Any]) -> None:
    """While a person thinks about the answer."""
    _, critic, note = agents
    handle = workflow_harness.dispatch([wait_for("go"), critic.activity("Judge.")])
    deliver(workflow_harness)

    def change(tree: dict[str, Any]) -> None:
        tree["itinerary"][1] = {"function": "note", "arguments": {"text": "instead"}}

    edit(workflow_harness, handle, change)
    handle.signal_sync("go", 1)

    assert deliver(workflow_harness) == ["completed", "workflow_completed"]
    assert handle.result_sync(timeout=0).output == "instead"
    assert note.name == "note"


def test_a_step_that_waits_and_a_block_with_branches_stay(workflow_harness: WorkflowHarness, agents: list[Any]) -> None:
    """Somebody was asked, and branches run."""
    _, critic, note = agents
    block = parallel({"a": [wait_for("go"), critic.activity("x")]})
    for step in (wait_for("go"), block, sleep_for(60)):
        handle = workflow_harness.dispatch([step, note.activity(text="x")])
        deliver(workflow_harness)

        with pytest.raises(EditRefused) as refused:
            edit(workflow_harness, handle, lambda tree: tree["itinerary"].reverse())

        assert refused.value.reason == "step_begun"
        edit(workflow_harness, handle, lambda tree: tree["itinerary"][1]["arguments"].update(text="y"))
        assert events(handle)[-1] == "edited"


def test_a_stale_document_is_refused_with_what_to_do(workflow_harness: WorkflowHarness, agents: list[Any]) -> None:
    """Two people do not overwrite each other, and nobody edits a step that has ended meanwhile."""
    handle = parked(workflow_harness, agents)
    document = export_document_sync(handle.correlation_id, workflow_harness.transport)
    mine, theirs = (changed(document, lambda tree, n=n: tree["itinerary"][2].update(prompt=n)) for n in ("a", "b"))
    asyncio.run(edit_workflow(handle.correlation_id, theirs, workflow_harness.transport))

    with pytest.raises(EditRefused, match="export it again, and edit that") as refused:
        edit_workflow_sync(handle.correlation_id, mine, workflow_harness.transport)

    assert refused.value.reason == "stale_revision"
    assert events(handle).count("edited") == 1


def test_a_document_that_changes_nothing_edits_nothing(workflow_harness: WorkflowHarness, agents: list[Any]) -> None:
    """Whoever imports an export by mistake does no harm."""
    handle = parked(workflow_harness, agents)
    before = workflow_harness.store.workflow(handle.correlation_id)

    told = edit(workflow_harness, handle, lambda tree: None)

    assert (told.changes, told.restarts) == ((), False)
    assert workflow_harness.store.workflow(handle.correlation_id) == before


@pytest.mark.parametrize("where", ["goes_on", "ended"])
def test_a_workflow_that_goes_on_or_has_ended_is_not_edited(
    workflow_harness: WorkflowHarness, agents: list[Any], where: str
) -> None:
    """A worker may have its message, or there is nothing to come."""
    handle = workflow_harness.dispatch([agents[2].activity(text="x"), agents[1].activity("y")])
    if where == "ended":
        handle.cancel_sync()

    with pytest.raises(EditRefused) as refused:
        edit(workflow_harness, handle, lambda tree: tree["itinerary"].pop())

    assert refused.value.reason == f"workflow_{where}"


def _ran(tree: dict[str, Any]) -> None:
    tree["itinerary"][0]["arguments"]["text"] = "never was"


def _unran(tree: dict[str, Any]) -> None:
    del tree["itinerary"][0]["ran"]


def _took_out(tree: dict[str, Any]) -> None:
    del tree["itinerary"][0]


def _ran_ahead(tree: dict[str, Any]) -> None:
    tree["itinerary"][1]["ran"] = tree["itinerary"][0]["ran"]


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (_ran, "itinerary[0]"),
        (_unran, "itinerary[0].ran"),
        (_took_out, "itinerary[0]"),
        (_ran_ahead, "itinerary[1].ran"),
        (lambda tree: tree.update(variables={"a": 1}), "variables"),
        (lambda tree: tree.update(deadline="2100-01-01T00:00:00Z"), "deadline"),
        (lambda tree: tree.update(stream=True), "stream"),
        (lambda tree: tree.update(usage_limits={"request_limit": 1}), "usage_limits"),
        (lambda tree: tree.update(registered_activities=[{"agent": "critic", "prompt": "x"}]), "registered_activities"),
        (lambda tree: tree.update(correlation_id="other"), "correlation_id"),
        (lambda tree: tree.update(start_at="2100-01-01T00:00:00Z"), "start_at"),
        (lambda tree: tree["itinerary"].__delitem__(slice(1, None)), "itinerary"),
        (lambda tree: tree.pop("workflow"), "workflow"),
        (lambda tree: tree["workflow"].update(correlation_id="other"), "workflow.correlation_id"),
        (lambda tree: tree["itinerary"][2].update(step_id="note"), "itinerary[2].step_id"),
        (lambda tree: tree["itinerary"][2].update(step_id="critic-7.1"), "itinerary[2].step_id"),
        (lambda tree: tree["itinerary"][2].update(deps={"a": 1}), "itinerary[2].deps"),
        (
            lambda tree: tree["itinerary"].append({"for_each": [{"function": "note"}], "over": "nobody"}),
            "itinerary[3].over",
        ),
    ],
)
def test_what_cannot_be_edited_is_told_with_its_path(
    workflow_harness: WorkflowHarness, agents: list[Any], change: Edited, path: str
) -> None:
    """The document says more than the steps to come; nothing is changed in silence, or half."""
    handle = parked(workflow_harness, agents)

    with pytest.raises(InvalidDocument) as refused:
        edit(workflow_harness, handle, change)

    assert path in [finding.path for finding in refused.value.findings]
    assert "edited" not in events(handle)


def test_who_inserted_a_step_stays_as_it_was(workflow_harness: WorkflowHarness, agents: list[Any]) -> None:
    """A document cannot say that an agent added what a person did."""
    handle = parked(workflow_harness, agents)

    edit(workflow_harness, handle, lambda tree: tree["itinerary"].append({"function": "note", "added_by": "writer"}))

    document = export_document_sync(handle.correlation_id, workflow_harness.transport)
    assert [step.added_by for step in document.itinerary] == [None] * 4


def test_a_long_workflow_is_edited_with_the_steps_that_do_not_travel(agents: list[Any]) -> None:
    """They are in the store in pages, and the new ones go there as well."""
    harness = WorkflowHarness(Settings(inline_log_size=300))
    handle = parked(harness, agents, before=3, rest=20)
    assert '"later"' in harness.store.workflow(handle.correlation_id).envelope  # type: ignore[union-attr]

    def change(tree: dict[str, Any]) -> None:
        tree["itinerary"][-1] = {"function": "note", "arguments": {"text": "the end"}}

    edit(harness, handle, change)

    assert '"later"' in harness.store.workflow(handle.correlation_id).envelope  # type: ignore[union-attr]
    handle.redrive_sync()
    harness.sweep()
    assert deliver(harness)[-1] == "workflow_completed"
    result = handle.result_sync(timeout=0)
    assert (result.output, len(result.outputs)) == ("the end", 24)
