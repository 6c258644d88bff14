"""Conversations: steps that go on with the message history of earlier ones, through the code that a worker runs."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_ai import NativeOutput, TextOutput, ToolReturn
from pydantic_ai.messages import (
    BinaryContent,
    BinaryImage,
    FilePart,
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelRequest,
    ModelResponse,
    ModelResponsePart,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.profiles import ModelProfile

from paigeant_celery import PaigeantAgent, StoreRequired, WorkflowDispatcher
from paigeant_celery.agents.conversations import read_history, said_by
from paigeant_celery.core.causes import cause_of
from paigeant_celery.core.conversations import ConversationKey, batches_in
from paigeant_celery.core.errors import InvalidInput, NewerMessage, NotSerializable, Paused, WorkflowParked
from paigeant_celery.core.settings import Settings
from paigeant_celery.core.slip import ActivitySpec
from paigeant_celery.store.port import Said
from paigeant_celery.testing import WorkflowHarness
from tests.support.journalled_hop import calls, scripted

SAMPLES = Path(__file__).parents[2] / "data" / "conversations"
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


class Clerk:
    """An agent that answers `<name> <n>`, and remembers what it was sent: role and text of each part."""

    def __init__(self, name: str, **more: Any) -> None:
        self.name, self.sent, self.fails = name, list[list[str]](), 0
        self.agent = PaigeantAgent(FunctionModel(self.answer), name=name, **more)

    def answer(self, messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
        self.sent.append(
            [f"{part.part_kind}: {getattr(part, 'content', '')}" for message in messages for part in message.parts]
        )
        return ModelResponse(parts=[TextPart(f"{self.name} {len(self.sent)}")])

    def step(self, prompt: str, **more: Any) -> ActivitySpec:
        return self.agent.activity(prompt, **more)


def run(harness: WorkflowHarness, *steps: Any, **more: Any) -> Any:
    return asyncio.run(harness.run(list(steps), **more))


def test_a_step_goes_on_with_what_was_said_before(workflow_harness: WorkflowHarness) -> None:
    """The model sees the turns of earlier steps, once each, and no copy of the last answer in the prompt."""
    clerk = Clerk("clerk", system_prompt="Be kind.", instructions="Be brief.")

    run(
        workflow_harness,
        clerk.step("I am Zoë.", conversation="support"),
        clerk.step("Who am I?", conversation="support"),
        clerk.step("Alone."),
        clerk.step("And now?", conversation="support"),
    )

    first = ["system-prompt: Be kind.", "user-prompt: I am Zoë.", "text: clerk 1"]
    assert clerk.sent[1] == [*first, "user-prompt: Who am I?"]
    assert len(clerk.sent[2]) == 2
    assert clerk.sent[3][:-1] == [*clerk.sent[1], "text: clerk 2"]
    assert clerk.sent[3][-1].startswith("user-prompt: And now?\n\nThe previous step's output follows.")


def test_agents_of_one_workflow_share_a_conversation(workflow_harness: WorkflowHarness) -> None:
    """As pydantic-ai has it: the system prompts stay those of the first, the instructions are each agent's own."""
    first, second = Clerk("first_clerk", system_prompt="First."), Clerk("second_clerk", system_prompt="Second.")

    run(
        workflow_harness,
        first.step("a", conversation="c"),
        second.step("b", conversation="c"),
        first.step("c", conversation="c"),
    )

    assert second.sent == [["system-prompt: First.", "user-prompt: a", "text: first_clerk 1", "user-prompt: b"]]
    assert first.sent[1] == [*second.sent[0], "text: second_clerk 1", "user-prompt: c"]


def look_up(name: str) -> list[int]:
    """Be what makes an output of an answer."""
    return [11, 22, len(name)]


class Order(BaseModel):
    """What an agent gives."""

    number: int
    note: str = "none"


FOX = BinaryImage(b"fox", media_type="image/png", identifier="fox")


@pytest.mark.parametrize(
    ("answer", "output_type", "shown"),
    [
        (TextPart("yes"), str, None),
        (TextPart('{"number": 7, "note": "x"}'), NativeOutput(Order), None),
        (ToolCallPart("final_result", {"number": 7, "note": "x"}), Order, None),
        (ToolCallPart("final_result", {"response": [7]}), list[int], None),
        (ToolCallPart("final_result", {"number": 7}), Order, '{"number":7,"note":"none"}'),
        (ToolCallPart("final_result", {"name": "abc"}), look_up, "[11,22,3]"),
        (FilePart(FOX), BinaryImage, "This is file fox:"),
    ],
)
def test_an_output_that_the_history_lacks_is_in_the_prompt(
    workflow_harness: WorkflowHarness, answer: ModelResponsePart, output_type: Any, shown: str | None
) -> None:
    """A step that goes on with rows that a function has found must see them: its history says only that it ran."""
    model = FunctionModel(
        lambda _, __: ModelResponse(parts=[answer]),
        profile=ModelProfile(supports_image_output=True, supports_json_schema_output=True),
    )
    finder, clerk = PaigeantAgent(model, name="finder", output_type=output_type), Clerk("clerk")

    run(workflow_harness, finder.activity("Find.", conversation="c"), clerk.step("Sum up.", conversation="c"))

    prompt = clerk.sent[0][-1]
    assert (shown in prompt) if shown is not None else (prompt == "user-prompt: Sum up.")


def test_what_a_validator_made_of_an_answer_is_in_the_prompt(workflow_harness: WorkflowHarness) -> None:
    """The history has what the model said, which the workflow does not go on with."""
    writer, clerk = Clerk("writer"), Clerk("clerk")
    writer.agent.output_validator(lambda text: f"checked: {text}")

    run(workflow_harness, writer.step("Write.", conversation="c"), clerk.step("Read.", conversation="c"))

    assert clerk.sent[0][-2] == "text: writer 1"
    assert "checked: writer 1" in clerk.sent[0][-1]


@pytest.mark.parametrize("text", ["[" * 100_000, "NaN", '{"response": 1'])
def test_an_answer_that_is_odd_json_is_a_text(workflow_harness: WorkflowHarness, text: str) -> None:
    """No answer of a model stops the step after it."""
    clerk, model = Clerk("clerk"), FunctionModel(lambda _, __: ModelResponse(parts=[TextPart(text)]))
    writer = PaigeantAgent(model, name="writer", output_type=TextOutput(len_of))

    run(workflow_harness, writer.activity("Write.", conversation="c"), clerk.step("Read.", conversation="c"))

    assert f"\n{len(text)}\n" in clerk.sent[0][-1]


def len_of(text: str) -> int:
    """Return how long a text is."""
    return len(text)


def test_what_has_no_json_form_parks_the_step_at_once(workflow_harness: WorkflowHarness) -> None:
    """A tool that is not recorded may give its run anything. A conversation cannot keep it, however often it tries."""
    script = scripted(Counter(), calls("peek"), "done")
    agent = PaigeantAgent(script, name="peeking")

    @agent.tool_plain(metadata={"paigeant": False})
    def peek() -> ToolReturn:
        return ToolReturn("seen", metadata=object())

    handle = workflow_harness.dispatch([agent.activity("Look.", conversation="c")])
    assert asyncio.run(workflow_harness.deliver()) == ["parked"]

    with pytest.raises(WorkflowParked, match=r"result_not_serializable: .* has no JSON form"):
        handle.result_sync(0)


def test_an_id_reaches_beyond_one_workflow_and_a_name_does_not(workflow_harness: WorkflowHarness) -> None:
    """A customer comes back; two customers never meet."""
    clerk = Clerk("clerk")
    run(workflow_harness, clerk.step("one", conversation_id="c-7"))
    run(workflow_harness, clerk.step("two", conversation_id="c-7", conversation="desk"))
    run(workflow_harness, clerk.step("three", conversation="c-7"))
    run(workflow_harness, clerk.step("four", conversation="c-7"))

    assert [len(sent) for sent in clerk.sent] == [1, 3, 1, 1]


def test_what_a_failed_attempt_said_is_not_in_the_history(workflow_harness: WorkflowHarness) -> None:
    """A retry sees what its first attempt saw, and is heard once."""
    clerk, failures = Clerk("clerk"), [OSError("away"), OSError("away")]

    def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        if len(messages) == 3 and failures:
            raise failures.pop()
        return clerk.answer(messages, info)

    with clerk.agent.override(model=FunctionModel(answer)):
        run(workflow_harness, *(clerk.step(prompt, conversation="c") for prompt in ("a", "b", "c")))

    assert not failures
    assert clerk.sent[-1] == ["user-prompt: a", "text: clerk 1", "user-prompt: b", "text: clerk 2", "user-prompt: c"]


def test_a_retry_does_not_see_what_others_said_meanwhile(workflow_harness: WorkflowHarness) -> None:
    """Messages are appended in the order of completion, and never merged."""
    clerk, other, away = Clerk("clerk"), Clerk("other"), [OSError("away")]

    def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        if away:
            clerk.answer(messages, info)
            raise away.pop()
        return clerk.answer(messages, info)

    async def both() -> Any:
        handle = workflow_harness.dispatch([clerk.step("mine", conversation_id="c")])
        assert await workflow_harness.deliver(1) == ["retrying"]
        await workflow_harness.run([other.step("between", conversation_id="c")])
        return await handle.conversation(conversation_id="c")

    with clerk.agent.override(model=FunctionModel(answer)):
        said = asyncio.run(both())
    run(workflow_harness, clerk.step("next", conversation_id="c"))

    assert clerk.sent[0] == clerk.sent[1] == ["user-prompt: mine"]
    assert len(said) == 4
    assert clerk.sent[2] == [
        "user-prompt: between", "text: other 1", "user-prompt: mine", "text: clerk 2", "user-prompt: next",
    ]  # fmt: skip


def test_calls_that_were_answered_are_not_made_again_in_a_conversation(workflow_harness: WorkflowHarness) -> None:
    """Its history is the same in each attempt, so that the journal fits."""
    asked, failing = [0], [OSError("late")]

    def answer(messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
        asked[0] += 1
        last = messages[-1].parts[-1]
        if isinstance(last, UserPromptPart):
            return ModelResponse(parts=[ToolCallPart("look", {}, "look-1")])
        return ModelResponse(parts=[TextPart("found")])

    agent = PaigeantAgent(FunctionModel(answer), name="seeker")

    @agent.tool_plain
    def look() -> str:
        return "there"

    @agent.output_validator
    def check(output: str) -> str:
        if failing and asked[0] == 4:
            raise failing.pop()
        return output

    steps = [agent.activity(prompt, conversation="c") for prompt in ("one", "two", "three")]
    handle = workflow_harness.dispatch(steps)
    outcomes = asyncio.run(workflow_harness.deliver())

    assert outcomes == ["completed", "retrying", "completed", "workflow_completed"]
    assert asked == [6]
    kinds = [message["kind"] for message in handle.conversation_sync("c")]
    assert kinds == ["request", "response", "request", "response"] * 3


def test_each_delivery_is_heard_once(workflow_harness: WorkflowHarness) -> None:
    """A broker may deliver twice."""
    clerk = Clerk("clerk")
    steps = [clerk.step(prompt, conversation="c") for prompt in ("a", "b")]

    run(workflow_harness, *steps, deliver_twice=True, correlation_id="w")

    handle = WorkflowDispatcher().handle("w", workflow_harness.transport)
    assert len(handle.conversation_sync("c")) == 4
    assert handle.conversation_sync("another") == []


def test_an_inserted_step_is_in_the_conversation_that_was_registered(workflow_harness: WorkflowHarness) -> None:
    """The model changes only the prompt."""
    dispatcher = WorkflowDispatcher()
    clerk = Clerk("clerk", dispatcher=dispatcher)
    clerk.agent.register_activity("Help.", conversation="c")
    wanted = ToolCallPart("insert_activities", {"steps": [{"activity": "clerk", "prompt": "More."}]}, "i-1")

    def plan(messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
        return ModelResponse(parts=[wanted] if len(messages) == 1 else [TextPart("planned")])

    planner = PaigeantAgent(FunctionModel(plan), name="planner", can_edit_itinerary=True)
    run(
        workflow_harness,
        clerk.step("Hello.", conversation="c"),
        planner.activity("Plan."),
        dispatcher=dispatcher,
    )

    assert clerk.sent[1][:2] == ["user-prompt: Hello.", "text: clerk 1"]
    assert clerk.sent[1][2].startswith("user-prompt: More.")


def test_budgets_count_what_steps_use_and_not_what_a_history_had_used(workflow_harness: WorkflowHarness) -> None:
    """The history is in no step's usage."""
    clerk = Clerk("clerk")
    steps = [clerk.step(prompt, conversation_id="c") for prompt in ("a", "b")]

    for _ in range(2):
        result = run(workflow_harness, *steps, usage_limits={"request_limit": 2})
        assert result.usage["requests"] == 2


def test_an_id_may_outlive_a_correlation_id_that_is_used_again(workflow_harness: WorkflowHarness) -> None:
    """The runs of both workflows have the same ids, which pydantic-ai refuses within a history."""
    clerk = Clerk("clerk")
    run(workflow_harness, clerk.step("one", conversation_id="c"), correlation_id="daily")
    workflow_harness._skipped += workflow_harness.store._ttl / 2
    run(workflow_harness, clerk.step("two", conversation_id="c"))
    workflow_harness._skipped += workflow_harness.store._ttl / 2

    run(workflow_harness, clerk.step("three", conversation_id="c"), correlation_id="daily")

    assert clerk.sent[2] == [
        "user-prompt: one", "text: clerk 1", "user-prompt: two", "text: clerk 2", "user-prompt: three",
    ]  # fmt: skip


@pytest.mark.parametrize("registered", [False, True])
def test_a_dispatch_without_a_store_is_refused(registered: bool) -> None:
    """Nothing could keep the history."""
    harness, dispatcher = WorkflowHarness(), WorkflowDispatcher()
    clerk = Clerk("clerk", dispatcher=dispatcher)
    harness.transport.store = None  # type: ignore[assignment]
    steps = [clerk.step("a", conversation=None if registered else "c")]
    if registered:
        clerk.agent.register_activity("b", conversation_id="c")

    with pytest.raises(StoreRequired, match="`conversation` reads the store"):
        dispatcher.dispatch_workflow_sync(harness.transport, itinerary=steps)
    assert not harness.pending


def stored(harness: WorkflowHarness, key: ConversationKey, *messages: ModelMessage) -> None:
    text = ModelMessagesTypeAdapter.dump_json(list(messages)).decode()
    said = Said(conversation=key, text=f'{{"v":1,"messages":{text}}}\n')
    harness.store._records.histories.append(said, hop_id="x.0", now=harness._now())


OPEN = [
    [ModelResponse(parts=[ToolCallPart("ask", {}, "1")])],
    [
        ModelResponse(parts=[TextPart("Wait."), ToolCallPart("look", {}, "1"), ToolCallPart("ask", {}, "2")]),
        ModelRequest(parts=[ToolReturnPart("look", "there", "1")]),
    ],
]


@pytest.mark.parametrize("left", OPEN, ids=["no result", "one of two results"])
def test_a_history_that_ends_in_an_open_call_is_refused(
    workflow_harness: WorkflowHarness, left: list[ModelMessage]
) -> None:
    """Nobody knows the result, and no provider takes a prompt in its place."""
    clerk = Clerk("clerk")
    stored(workflow_harness, ConversationKey("c"), ModelRequest(parts=[UserPromptPart("Go.")]), *left)

    with pytest.raises(WorkflowParked, match=r"conversation_open: .*ask.*in another conversation") as parked:
        run(workflow_harness, clerk.step("And?", conversation_id="c"))

    assert parked.value.error_class == "conversation_open"
    assert clerk.sent == []
    with pytest.raises(Paused, match="conversation_open"):
        said_by(left)


def test_a_history_that_was_answered_is_no_open_one() -> None:
    """Whatever came before the last answer."""
    closed = [*OPEN[1], ModelRequest(parts=[ToolReturnPart("ask", "yes", "2")])]

    assert read_history(said_by(closed).splitlines(), hop_id="w.0") == closed


def test_a_history_that_is_too_large_parks_before_a_call(workflow_harness: WorkflowHarness) -> None:
    """It is named, and nothing is paid for."""
    harness, clerk = WorkflowHarness(Settings(max_conversation_size=1024)), Clerk("clerk")
    stored(harness, ConversationKey("c"), ModelRequest(parts=[UserPromptPart("x" * 2000)]))

    assert asyncio.run(_outcomes(harness, clerk.step("And?", conversation_id="c"))) == [
        "refused: conversation_too_large"
    ]
    assert clerk.sent == []


async def _outcomes(harness: WorkflowHarness, *steps: ActivitySpec) -> list[str]:
    harness.dispatch(steps)
    return await harness.deliver()


def test_a_step_that_says_too_much_is_kept_and_goes_on_when_more_is_allowed() -> None:
    """The answer is paid for."""
    harness, clerk = WorkflowHarness(Settings(max_conversation_size=1024)), Clerk("clerk")
    handle = harness.dispatch([clerk.step("x" * 2000, conversation="c"), clerk.step("b", conversation="c")])

    assert asyncio.run(harness.deliver()) == ["parked"]
    failure = handle.status_sync().failure
    assert failure is not None
    assert failure.error_class == "conversation_too_large"
    assert "without a call" in failure.text
    assert handle.conversation_sync("c") == []

    harness._service._steps._limits = replace(harness._service._steps._limits, max_conversation_size=10_000)
    harness._service._effects._settings = Settings(max_conversation_size=10_000)  # type: ignore[attr-defined]
    handle.redrive_sync()
    harness.sweep()
    assert asyncio.run(harness.deliver()) == ["completed", "workflow_completed"]
    assert len(clerk.sent) == 2
    assert len(handle.conversation_sync("c")) == 4


def test_a_history_of_a_newer_version_is_left_to_its_workers(workflow_harness: WorkflowHarness) -> None:
    """The hop is given back without an attempt spent."""
    clerk = Clerk("clerk")
    said = Said(conversation=ConversationKey("c"), text='{"v":2,"said":[]}\n')
    workflow_harness.store._records.histories.append(said, hop_id="x.0", now=workflow_harness._now())
    handle = workflow_harness.dispatch([clerk.step("a", conversation_id="c")])

    assert asyncio.run(workflow_harness.deliver(1)) == ["dropped: given_back"]
    assert handle.status_sync().attempt == 0
    with pytest.raises(NewerMessage):
        batches_in(said.text)


def test_a_history_that_is_gone_is_named(workflow_harness: WorkflowHarness) -> None:
    """A step must not go on as if nothing had been said."""
    clerk = Clerk("clerk")
    handle = workflow_harness.dispatch([clerk.step("a", conversation_id="c"), clerk.step("b", conversation_id="c")])
    assert asyncio.run(workflow_harness.deliver(1)) == ["completed"]
    workflow_harness.store._records.histories._histories.clear()

    assert asyncio.run(workflow_harness.deliver()) == ["refused: conversation_lost"]
    assert len(clerk.sent) == 1
    assert handle.status_sync().state == "parked"


def test_a_store_that_lost_everything_does_not_adopt_a_conversation_without_its_beginning() -> None:
    """The message alone does not have what was said."""
    clerk, plain, harness = Clerk("clerk"), Clerk("plain"), WorkflowHarness()
    harness.dispatch([clerk.step(prompt, conversation="c") for prompt in ("a", "b")])
    harness.dispatch([clerk.step("a", conversation="c"), plain.step("b")])
    asyncio.run(harness.deliver(2))

    empty = WorkflowHarness()
    outcomes = [asyncio.run(empty.redeliver(delivery)) for delivery in harness.pending]

    assert outcomes == ["refused: store_lost", "workflow_completed"]


def test_what_providers_need_back_is_kept() -> None:
    """Ids, signatures, details and files of every message come back as they were."""
    messages = full_history()

    assert read_history(batches_in(said_by(messages)), hop_id="w.1") == messages


def test_text_that_is_no_unicode_is_kept() -> None:
    """Models write lone surrogates."""
    messages = [ModelResponse(parts=[TextPart("a\ud800b\n\u2028")], timestamp=NOON)]

    (batch,) = batches_in(said_by(messages))
    batch.encode()
    with pytest.raises(NotSerializable, match="damaged, or a newer pydantic-ai"):
        read_history([batch[:-3]], hop_id="w.0")


def test_a_history_that_cannot_be_read_is_not_quoted() -> None:
    """Letters have the causes of an error with their texts, and pydantic's quote what they could not read."""
    batch = '{"v":1,"messages":[{"kind":"request","parts":[{"part_kind":"user-prompt","content":{"my iban":1}}]}]}'

    with pytest.raises(NotSerializable) as caught:
        read_history([batch], hop_id="w.0")

    assert "my iban" not in repr(cause_of(caught.value))


def full_history() -> list[ModelMessage]:
    return [
        ModelRequest(
            parts=[UserPromptPart(["Look:", BinaryContent(b"\x00\xff\x01", media_type="text/csv")], timestamp=NOON)],
            instructions="Be brief.", timestamp=NOON, run_id="w.0:clerk:0", conversation_id="w:c",
        ),
        ModelResponse(
            parts=[
                ThinkingPart("hm", id="t-1", signature="sig==", provider_name="anthropic", provider_details={"n": 1}),
                TextPart("Zoë \U0001f600", id="m-1", provider_details={"phase": "final"}),
                ToolCallPart("look", {"at": "lamp"}, "call-1", id="fc-1", provider_details={"signature": "s"}),
            ],
            model_name="gpt", timestamp=NOON, provider_name="openai", provider_response_id="resp-1",
            provider_details={"finish_reason": "stop"}, run_id="w.0:clerk:0", conversation_id="w:c",
        ),
        ModelRequest(
            parts=[ToolReturnPart("look", {"seen": [1, None]}, "call-1", timestamp=NOON)],
            timestamp=NOON, run_id="w.0:clerk:0", conversation_id="w:c",
        ),
        ModelResponse(parts=[TextPart("A lamp.")], timestamp=NOON, run_id="w.0:clerk:0", conversation_id="w:c"),
    ]  # fmt: skip


def test_a_history_that_was_written_down_is_read_for_ever() -> None:
    """It waits in the store while workers are upgraded."""
    text = (SAMPLES / "v1.jsonl").read_text(encoding="utf-8")

    assert read_history(batches_in(text), hop_id="w.1") == [*full_history(), *full_history()[-1:]]
    assert json.loads(said_by(full_history()[-1:]))["v"] == 1


@pytest.mark.parametrize("given", ["", "  ", "a\nb", "x" * 129, "\ud800", "\0"])
@pytest.mark.parametrize("field", ["conversation", "conversation_id"])
def test_a_name_that_no_conversation_can_have_is_refused(field: str, given: str) -> None:
    """Before anything is sent, with the rule."""
    with pytest.raises(InvalidInput, match=f"bad_conversation at `{field}`.* it has 1 to 128 characters"):
        ActivitySpec("clerk", "a", **{field: given})  # type: ignore[arg-type]
