"""Workflows as documents, from outside: what is exported, and what a document dispatches."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import SecretStr
from pydantic_ai import Agent
from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.models.test import TestModel

from paigeant_celery import (
    InvalidInput,
    PaigeantAgent,
    StoreRequired,
    UnknownWorkflow,
    WorkflowContext,
    WorkflowDependencies,
    WorkflowHandle,
    activity,
    for_each,
    register_agent,
    wait_for,
)
from paigeant_celery.client.documents import (
    diff_documents,
    dispatch_document,
    dispatch_document_sync,
    export_document,
    export_document_sync,
    lint_document,
)
from paigeant_celery.core.document_errors import InvalidDocument
from paigeant_celery.core.documents import read_document, write_document
from paigeant_celery.core.settings import Settings
from paigeant_celery.testing import WorkflowHarness

YAML = """
version: 1
correlation_id: tea
variables: {temperature: 80}
itinerary:
  - function: boil
    arguments: {litres: 2}
  - for_each:
      - function: pour
    over: boil
    step_id: cups
  - agent: taster
    prompt: How is it?
"""


class Deps(WorkflowDependencies):
    tenant: int = 0


@dataclass
class Kitchen:
    boil: Any
    pour: Any


@pytest.fixture(autouse=True)
def kitchen(own_registry: None) -> Kitchen:
    def boil(litres: int) -> list[int]:
        return list(range(litres))

    def pour(context: WorkflowContext) -> str:
        return f"cup {context.previous_output.output}"  # type: ignore[union-attr]

    return Kitchen(activity(boil), activity(pour))


def deliver(harness: WorkflowHarness, hops: int | None = None) -> list[str]:
    return asyncio.run(harness.deliver(hops))


def taster(**more: Any) -> PaigeantAgent[Any, Any]:
    return PaigeantAgent(TestModel(custom_output_text="fine"), name="taster", **more)


def test_a_document_runs_as_the_steps_that_it_names(workflow_harness: WorkflowHarness) -> None:
    """A file is enough to start a workflow."""
    kept = taster()

    correlation_id = asyncio.run(dispatch_document(YAML, workflow_harness.transport))
    deliver(workflow_harness)

    assert correlation_id == "tea"
    result = WorkflowHandle(correlation_id, workflow_harness.transport).result_sync(timeout=0)
    assert result.outputs["cups"] == ["cup 0", "cup 1"]
    assert (result.output, kept.name) == ("fine", "taster")


def test_a_workflow_is_exported_with_what_ran_and_what_is_to_come(workflow_harness: WorkflowHarness) -> None:
    """Whoever looks sees how far it came, what was given, and what will be asked."""
    kept = taster()
    dispatch_document_sync(YAML, workflow_harness.transport)
    deliver(workflow_harness, 1)

    document = asyncio.run(export_document("tea", workflow_harness.transport))

    boiled, cups, last = document.itinerary
    assert document.workflow is not None
    assert (document.workflow.correlation_id, document.workflow.state) == ("tea", "queued")
    assert document.variables == {"temperature": 80}
    assert boiled.ran is not None
    assert (boiled.step_id, boiled.ran.place, boiled.ran.attempt, boiled.ran.output) == ("boil", "0", 1, [0, 1])
    assert (cups.ran, last.ran) == (None, None)
    assert diff_documents(YAML.replace("correlation_id: tea\n", ""), document) == []
    assert kept.name == "taster"


def test_a_completed_workflow_is_exported_whole_and_may_run_again(workflow_harness: WorkflowHarness) -> None:
    """An export is a plan as well as a record."""
    kept = taster()
    dispatch_document_sync(YAML, workflow_harness.transport)
    deliver(workflow_harness)
    document = export_document_sync("tea", workflow_harness.transport)
    assert [step.ran is not None for step in document.itinerary] == [True, True, True]
    assert [step.ran.output for step in document.itinerary if step.ran] == [[0, 1], ["cup 0", "cup 1"], "fine"]

    again = dispatch_document_sync(write_document(document, yaml=True), workflow_harness.transport)
    deliver(workflow_harness)

    assert again != "tea"
    assert WorkflowHandle(again, workflow_harness.transport).result_sync(timeout=0).output == "fine"
    assert kept.name == "taster"


def insert_once(messages: list[Any], info: AgentInfo) -> ModelResponse:
    if len(messages) > 1:
        return ModelResponse(parts=[TextPart("planned")])
    return ModelResponse(parts=[ToolCallPart("insert_activities", {"steps": [{"activity": "critic"}]})])


def test_steps_that_agents_inserted_say_so_and_are_not_sent_again(workflow_harness: WorkflowHarness) -> None:
    """They are inserted again by whoever inserted them."""
    dispatcher = workflow_harness._dispatcher
    critic = PaigeantAgent(TestModel(custom_output_text="no"), name="critic", dispatcher=dispatcher)
    critic.register_activity("Judge it.")
    planner = PaigeantAgent(FunctionModel(insert_once), name="planner", dispatcher=dispatcher, can_edit_itinerary=True)
    handle = workflow_harness.dispatch([planner.activity("Plan it.")])
    deliver(workflow_harness)

    document = export_document_sync(handle.correlation_id, workflow_harness.transport)

    added = [(step.step_id, step.added_by) for step in document.itinerary if step.added_by is not None]
    assert added
    assert {by for _, by in added} == {"planner"}
    assert [step.activity for step in document.steps()] == ["planner"]
    assert [step.agent_name for step, _ in document.registered()] == ["critic"]


def test_files_of_prompts_are_in_an_export(workflow_harness: WorkflowHarness) -> None:
    """They are in the store, which another deployment does not have."""
    seer = Agent(TestModel(custom_output_text="a cat"), name="seer")
    register_agent(seer)
    data = base64.urlsafe_b64encode(b"x" * 4000).decode()
    part = {"kind": "binary", "data": data, "media_type": "image/png"}
    document = {"version": 1, "itinerary": [{"agent": "seer", "prompt": ["What is it?", part]}] * 2}
    correlation_id = dispatch_document_sync(document, workflow_harness.transport)
    envelope = workflow_harness.store.workflow(correlation_id).envelope  # type: ignore[union-attr]
    assert data not in envelope
    deliver(workflow_harness, 1)

    exported = export_document_sync(correlation_id, workflow_harness.transport)

    assert [step.prompt[1]["data"] for step in exported.itinerary] == [data, data]  # type: ignore[attr-defined]
    assert dispatch_document_sync(exported, workflow_harness.transport)
    assert seer.name == "seer"


def test_outputs_may_be_left_out(workflow_harness: WorkflowHarness) -> None:
    """A plan is passed on without what models said."""
    kept = taster()
    dispatch_document_sync(YAML, workflow_harness.transport)
    deliver(workflow_harness)

    text = write_document(export_document_sync("tea", workflow_harness.transport, outputs=False))

    assert "fine" not in text
    assert "How is it?" in text
    assert kept.name == "taster"


def test_all_that_is_wrong_is_told_before_anything_is_recorded(workflow_harness: WorkflowHarness) -> None:
    """Nothing of it has run, and nobody tries three times."""
    document = {
        "version": 1,
        "correlation_id": "w",
        "deadline": "2020-01-01T00:00:00Z",
        "itinerary": [{"sleep_for": -1}, {"function": "boil", "step_id": "a"}, {"function": "boil", "step_id": "a"}],
    }

    with pytest.raises(InvalidDocument) as refused:
        dispatch_document_sync(document, workflow_harness.transport)

    assert [(each.reason, each.path) for each in refused.value.findings] == [
        ("invalid_wait", "itinerary[0].sleep_for"),
        ("duplicate_step_id", "itinerary[2].step_id"),
        ("deadline_passed", "deadline"),
    ]
    assert workflow_harness.store.workflow("w") is None


def test_what_a_dispatch_refuses_is_told_as_the_document_has_it(workflow_harness: WorkflowHarness) -> None:
    """The path leads to the line, although other steps were left out."""
    kept = taster(deps_type=Deps)
    step = {"agent": "taster", "prompt": "x", "deps": {"tenant": "no number"}}
    document = {
        "version": 1,
        "itinerary": [{"function": "boil", "added_by": "x"}, {"sub_workflow": [step]}],
    }

    with pytest.raises(InvalidDocument) as refused:
        dispatch_document_sync(document, workflow_harness.transport)

    assert (refused.value.reason, refused.value.path) == ("invalid_deps", "itinerary[1].sub_workflow[0].deps.tenant")
    assert kept.name == "taster"


def test_what_the_caller_says_takes_the_place_of_the_document(workflow_harness: WorkflowHarness) -> None:
    """One file, many workflows."""
    start, deadline = datetime(2100, 1, 1, tzinfo=UTC), datetime(2100, 1, 2, tzinfo=UTC)

    first = dispatch_document_sync(YAML, workflow_harness.transport, correlation_id="other")
    later = dispatch_document_sync(
        {**read_document(YAML).tree(), "deadline": "2020-01-01T00:00:00Z"},  # type: ignore[dict-item]
        workflow_harness.transport, correlation_id="later", start_at=start, deadline=deadline,
    )  # fmt: skip

    assert (first, later) == ("other", "later")
    document = export_document_sync("later", workflow_harness.transport)
    assert (document.deadline, document.itinerary[0].step_id) == (deadline, "start")


def test_the_same_document_under_one_id_is_one_workflow(workflow_harness: WorkflowHarness) -> None:
    """Whoever runs it twice by mistake pays once."""
    dispatch_document_sync(YAML, workflow_harness.transport)
    dispatch_document_sync(write_document(read_document(YAML)), workflow_harness.transport)

    assert [event.type for event in WorkflowHandle("tea", workflow_harness.transport).events_so_far()] == ["started"]


def test_an_unknown_workflow_and_a_missing_store_are_told(workflow_harness: WorkflowHarness) -> None:
    """As by every other call that reads."""
    with pytest.raises(UnknownWorkflow):
        export_document_sync("nobody", workflow_harness.transport)
    with pytest.raises(UnknownWorkflow):
        export_document_sync("no id", workflow_harness.transport)
    workflow_harness.transport.store = None  # type: ignore[assignment]
    with pytest.raises(StoreRequired, match="export_document"):
        export_document_sync("w", workflow_harness.transport)


def test_a_secret_is_in_no_document(workflow_harness: WorkflowHarness, kitchen: Kitchen) -> None:
    """It is refused before it is sent, and the token of a wait is not a part of the steps."""
    with pytest.raises(InvalidInput, match="secret_without_encryption"):
        workflow_harness.dispatch([kitchen.boil.activity(litres=SecretStr("s3cret"))])  # type: ignore[arg-type]


def test_the_token_of_a_wait_is_in_no_document(workflow_harness: WorkflowHarness, kitchen: Kitchen) -> None:
    """Whoever has it may answer."""
    handle = workflow_harness.dispatch([wait_for("go"), kitchen.boil.activity(litres=1)])
    deliver(workflow_harness)
    (wait,) = handle.pending_sync()

    text = write_document(export_document_sync(handle.correlation_id, workflow_harness.transport))

    assert wait.token not in text
    assert wait.token.partition("~")[2] not in text


def test_a_document_is_checked_against_the_activities_of_this_process() -> None:
    """As a pipeline does that loads the app."""
    assert [finding.path for finding in lint_document(YAML)] == ["itinerary[2].agent"]
    kept = taster()
    assert lint_document(YAML) == []
    assert kept.name == "taster"


def test_the_limits_of_the_settings_count() -> None:
    """They are those of the deployment."""
    harness = WorkflowHarness(Settings(max_steps=2))
    kept = taster()

    assert [finding.reason for finding in lint_document(YAML, harness.transport)] == ["too_many_steps"]
    assert kept.name == "taster"


def test_a_step_that_an_older_version_ran_is_named(workflow_harness: WorkflowHarness, kitchen: Kitchen) -> None:
    """It kept only what the step gave: nobody can run that again, and the rest can still be looked at."""
    handle = workflow_harness.dispatch(
        [kitchen.boil.activity(litres=1), for_each(kitchen.pour.activity(), over="boil")]
    )
    deliver(workflow_harness, 1)
    del workflow_harness.store._records.workflows[handle.correlation_id].blobs["ran:0"]

    document = export_document_sync(handle.correlation_id, workflow_harness.transport)

    assert write_document(document, yaml=True).count("recorded: boil") == 1
    with pytest.raises(InvalidInput, match="did not keep what the step was given"):
        dispatch_document_sync(document, workflow_harness.transport)
