"""What a step in a branch has and may do: all that a step of the workflow's own slip has and may do."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_ai import BinaryContent
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, UserPromptPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.models.test import TestModel

from paigeant_celery import (
    ActivitySpec,
    FunctionSpec,
    PaigeantAgent,
    UsageError,
    WorkflowContext,
    WorkflowDispatcher,
    WorkflowHandle,
    activity,
    for_each,
    parallel,
    sub_workflow,
)
from paigeant_celery.core.settings import Settings
from paigeant_celery.testing import WorkflowHarness

PICTURE = b"a picture " * 500
NO_STEP = "'out/b' names no step: behind the id of a block come the name of a branch and a step"
PLANNED = {"planner": "planned", "critic-0.1": "judged"}


@pytest.fixture
def seen() -> Any:
    """A function that returns what it gets."""

    @activity
    async def seen(context: WorkflowContext) -> Any:
        before = context.previous_output
        return before.output if before is not None else None

    return seen


@pytest.fixture
def made() -> Any:
    """A function that returns a text of a size."""

    @activity
    async def made(size: int) -> str:
        return "x" * size

    return made


@pytest.fixture(params=[Settings(), Settings(inline_log_size=0)], ids=["short slips", "folded slips"])
def harness(request: pytest.FixtureRequest) -> WorkflowHarness:
    """A harness whose slips travel, or leave all that they may to the store."""
    return WorkflowHarness(request.param)


def run(harness: WorkflowHarness, *steps: Any, **options: Any) -> Any:
    return asyncio.run(harness.run(steps, correlation_id="w", **options))


# Outputs.


@pytest.mark.parametrize("size", [10, 5000], ids=["inline", "by reference"])
def test_the_first_steps_of_branches_get_the_output_before_the_block(
    harness: WorkflowHarness, seen: Any, made: Any, size: int
) -> None:
    """A draft goes to three reviewers; it is in the store once if it is large."""
    result = run(
        harness,
        made.activity(size),
        parallel({"a": seen.activity(), "b": [seen.activity(), seen.activity()], "c": sub_workflow(seen.activity())}),
        seen.activity(),
    )

    assert result.outputs["parallel"] == result.output == dict.fromkeys("abc", "x" * size)


def test_a_step_reads_the_outputs_of_steps_around_it_and_in_other_blocks_by_their_paths(
    harness: WorkflowHarness, made: Any
) -> None:
    """A branch may need what the plan said, and a writer what the second reader of the third source said."""

    @activity
    async def look(context: WorkflowContext, paths: list[str]) -> list[Any]:
        found: list[Any] = []
        for path in paths:
            try:
                found.append((await context.output(path)).output)
            except UsageError as error:
                found.append(str(error))
        return found

    pair = [FunctionSpec("made", {"size": 1}, "one"), FunctionSpec("made", {"size": 2000}, "two")]
    inner = for_each(pair, over=[1, 2], step_id="in")
    paths = ["out/a/in/1/one", "out/a/in/1/two", "out/a/in", "out/b/look", "out/b", "before"]
    result = run(
        harness,
        FunctionSpec("made", {"size": 3}, "before"),
        parallel({"a": inner, "b": look.activity(["before", "out", "look-2"])}, step_id="out"),
        FunctionSpec("look", {"paths": paths}, "last"),
    )

    in_branch = result.outputs["out"]["b"]
    assert in_branch[0] == "xxx"
    assert in_branch[1].startswith("no step 'out' ran before")
    assert result.output == ["x", "x" * 2000, ["x" * 2000] * 2, in_branch, NO_STEP, "xxx"]


def test_long_slips_in_branches_leave_their_records_and_pages_to_the_store(seen: Any, made: Any) -> None:
    """Each branch has its own, whatever the names of its steps."""
    harness = WorkflowHarness(Settings(inline_log_size=600))
    branch = [FunctionSpec("made", {"size": number}, f"step-{number}") for number in range(40)]
    block = parallel({"a": branch, "b": [*branch, seen.activity()]}, step_id="both")
    result = run(harness, block, seen.activity())

    assert result.output == {"a": "x" * 39, "b": "x" * 39}
    longest = [len(delivery.envelope) for delivery in harness.delivered if delivery.hop_id.startswith("w.0-0.")]
    assert len(longest) == 40
    assert max(longest[2:]) < longest[0] / 3  # from the first record that can be left behind on

    @activity
    async def look(context: WorkflowContext) -> list[Any]:
        return [(await context.output(f"both/{name}/step-7")).output for name in "ab"]

    again = WorkflowHarness(Settings(inline_log_size=600))
    assert run(again, block, look.activity()).output == ["x" * 7] * 2


# What the caller gave.


class Style(BaseModel):
    tone: str


def test_agents_in_branches_get_their_deps_files_and_variables(harness: WorkflowHarness) -> None:
    """As if they stood on a slip of their own, because they do."""
    asked: dict[str, list[object]] = {}

    def answer(messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
        (prompt,) = [part for part in messages[-1].parts if isinstance(part, UserPromptPart)]
        text, picture = prompt.content
        assert isinstance(picture, BinaryContent)
        asked.setdefault(str(text), []).append(picture.data)
        return ModelResponse(parts=[TextPart(str(text))])

    agent = PaigeantAgent(FunctionModel(answer), deps_type=Style, name="painter")

    @agent.instructions
    def tone(context: Any) -> str:
        assert isinstance(context.deps, Style)
        return context.deps.tone

    @activity
    async def told(context: WorkflowContext) -> Any:
        return [context.variables["topic"], context.correlation_id, context.hop_id, context.step_id, context.path]

    picture = BinaryContent(data=PICTURE, media_type="image/png")
    steps = [
        ActivitySpec("painter", [f"look {number}", picture], Style(tone="dry"), "look", previous_output=False)
        for number in range(2)
    ]
    block = parallel({"a": [steps[0], told.activity()], "b": steps[1]})
    result = run(harness, block, variables={"topic": "cats"})

    assert asked == {"look 0": [PICTURE], "look 1": [PICTURE]}
    assert result.output == {"a": ["cats", "w", "w.0-0.1", "told", "parallel/a/told"], "b": "look 1"}
    assert all(len(delivery.envelope) < len(PICTURE) for delivery in harness.delivered)


# Agents.


def test_an_agent_inserts_steps_into_its_own_branch_alone(harness: WorkflowHarness) -> None:
    """One that has read a source may ask for a second look at that source; the others notice nothing."""

    def insert(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        if len(messages) == 1 and info.function_tools:
            return ModelResponse(parts=[ToolCallPart("insert_activities", {"steps": [{"activity": "critic"}]})])
        return ModelResponse(parts=[TextPart("planned")])

    planner = PaigeantAgent(FunctionModel(insert), name="planner", can_edit_itinerary=True)
    critic = PaigeantAgent(TestModel(custom_output_text="judged"), name="critic")
    dispatcher = WorkflowDispatcher()
    dispatcher.register(critic.activity("Judge it."))
    steps = [parallel({"a": planner.activity("plan"), "b": planner.activity("plan")}), planner.activity("plan")]

    result = run(harness, *steps, dispatcher=dispatcher)

    in_branches = {f"parallel/{name}/{step}": gave for name in "ab" for step, gave in PLANNED.items()}
    assert result.outputs == {
        **in_branches, "parallel": {"a": "judged", "b": "judged"}, "planner": "planned", "critic-1.1": "judged",
    }  # fmt: skip
    assert [delivery.hop_id for delivery in harness.delivered if delivery.activity == "critic"] == [
        "w.0-0.1", "w.0-1.1", "w.2",
    ]  # fmt: skip


def test_a_conversation_goes_on_within_a_branch_and_behind_its_block(harness: WorkflowHarness) -> None:
    """Its name means one history in the whole workflow."""
    heard: list[list[str]] = []

    def answer(messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
        heard.append([str(part.content) for message in messages for part in message.parts if hasattr(part, "content")])
        return ModelResponse(parts=[TextPart(f"answer {len(heard)}")])

    _held = PaigeantAgent(FunctionModel(answer), name="talker")
    talk = [ActivitySpec("talker", text, conversation="talk", previous_output=False) for text in ("one", "two")]
    after = ActivitySpec("talker", "three", conversation="talk", previous_output=False)
    result = run(harness, sub_workflow(talk), after)

    assert result.output == "answer 3"
    assert heard == [["one"], ["one", "answer 1", "two"], ["one", "answer 1", "two", "answer 2", "three"]]
    assert len(WorkflowHandle("w", harness.transport).conversation_sync("talk")) == 6


def test_agents_in_branches_stream_with_their_paths(workflow_harness: WorkflowHarness) -> None:
    """A page that shows five readers at once must know who says what."""
    agent = PaigeantAgent(TestModel(custom_output_text="read"), name="reader")
    run(workflow_harness, for_each(agent.activity("read"), over=["a", "b"], step_id="readings"), stream=True)

    events = WorkflowHandle("w", workflow_harness.transport).events_so_far()
    told = {event.hop_id for event in events if event.type == "agent"}
    assert told == {"w.0-0.0", "w.0-1.0"}


def test_what_branches_used_is_what_the_workflow_used(harness: WorkflowHarness) -> None:
    """A bill counts each call once, also where blocks stand in blocks."""
    agent = PaigeantAgent(TestModel(custom_output_text="read"), name="reader")
    alone = asyncio.run(harness.run([agent.activity("read")])).usage
    inner = for_each(ActivitySpec("reader", "read", previous_output=False), over=[1, 2], step_id="inner")
    block = parallel({"a": inner, "b": agent.activity("read")}, step_id="outer")
    result = run(harness, block, ActivitySpec("reader", "read", previous_output=False))

    assert alone["requests"] == 1
    assert result.usage["requests"] == 4
    assert result.usage["output_tokens"] == 4 * alone["output_tokens"]
