"""Prompts with files and links, as an agent's run gets them."""

from __future__ import annotations

import asyncio
import copy
import json
from collections import Counter
from typing import Any

import pytest
from pydantic_ai import Agent
from pydantic_ai.messages import (
    AudioUrl,
    BinaryContent,
    BinaryImage,
    CachePoint,
    DocumentUrl,
    ImageUrl,
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelResponse,
    TextContent,
    TextPart,
    ToolCallPart,
    UploadedFile,
    UserContent,
    UserPromptPart,
    VideoUrl,
)
from pydantic_ai.models.function import AgentInfo, FunctionModel

from paigeant_celery import (
    ActivitySpec,
    InvalidInput,
    PaigeantAgent,
    StepPolicy,
    WorkflowConflict,
    WorkflowDispatcher,
    WorkflowParked,
)
from paigeant_celery.agents.durability import CeleryDurability
from paigeant_celery.core.settings import Settings
from paigeant_celery.testing import WorkflowHarness
from tests.support.journalled_hop import JournalledHop, calls, history, scripted

PNG = b"\x89PNG\r\n\x1a\n\xfb\xff" * 30
PARTS: list[UserContent] = [
    "Compare.",
    ImageUrl("https://example.com/a.png", vendor_metadata={"detail": "low"}, identifier="first"),
    AudioUrl("https://example.com/a.mp3"),
    VideoUrl("https://example.com/v", media_type="video/mp4", force_download=True),
    DocumentUrl("https://example.com/d.pdf"),
    "Also these:",
    BinaryContent(b"\x00\xff", media_type="application/pdf", vendor_metadata={"pages": [1, 2]}, identifier="second"),
    BinaryImage(PNG, media_type="image/png"),
    UploadedFile("file-1", "openai", media_type="application/pdf"),
    TextContent("a note", metadata={"page": 3}),
    CachePoint(ttl="1h"),
]


class Asked:
    """A model that keeps the user prompts that it was asked with."""

    def __init__(self, *answers: str) -> None:
        self.answers, self.prompts, self.messages = answers or ("seen",), list[Any](), list[ModelMessage]()
        self.model = FunctionModel(self.answer)

    def answer(self, messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
        self.messages = messages
        prompts = [part.content for part in messages[-1].parts if isinstance(part, UserPromptPart)]
        self.prompts += prompts
        return ModelResponse(parts=[TextPart(self.answers[(len(self.prompts) - 1) % len(self.answers)])])


def as_json(messages: list[ModelMessage]) -> Any:
    tree = ModelMessagesTypeAdapter.dump_python(messages, mode="json")
    times = {"timestamp", "run_id", "conversation_id"}
    return json.loads(json.dumps(tree), object_hook=lambda found: {k: v for k, v in found.items() if k not in times})


def test_a_step_is_asked_as_a_plain_run_is(workflow_harness: WorkflowHarness) -> None:
    """Whoever makes a step of a run changes nothing of what the model gets."""
    asked, plain = Asked(), Asked()
    viewer = PaigeantAgent(asked.model, name="viewer")

    asyncio.run(workflow_harness.run([viewer.activity(PARTS)]))
    asyncio.run(Agent(plain.model, name="viewer").run(PARTS))

    assert asked.prompts == [PARTS]
    assert as_json(asked.messages) == as_json(plain.messages)
    assert [type(part) for part in asked.prompts[0]] == [type(part) for part in PARTS]


NO_PARTS: list[tuple[dict[str, Any], str]] = [
    ({"kind": "picture", "url": "x"}, "knows no kind 'picture', but"),
    ({"kind": "p" * 50_000}, f"knows no kind '{'p' * 32}', but"),
    ({"kind": "image-url"}, "is no 'image-url' that pydantic-ai takes (url: Field required)"),
    ({"kind": "image-url", "url": 5}, "is no 'image-url' that pydantic-ai takes (url: Input should be a valid string)"),
    ({"kind": "binary", "data": b"x"}, "is no 'binary' that pydantic-ai takes (media_type: Field required)"),
    ({"kind": "cache-point", "ttl": "9d"}, "is no 'cache-point' that pydantic-ai takes (ttl: "),
]


@pytest.mark.parametrize(("part", "says"), NO_PARTS)
def test_a_part_that_the_agents_library_does_not_take_is_refused_before_anything_is_sent(
    workflow_harness: WorkflowHarness, part: dict[str, Any], says: str
) -> None:
    """A process that has loaded the agent has its library too."""
    _viewer = PaigeantAgent(Asked().model, name="viewer")

    with pytest.raises(InvalidInput) as refused:
        workflow_harness.dispatch([ActivitySpec("viewer", ["x", part])])

    assert (refused.value.reason, refused.value.path) == ("invalid_prompt", "itinerary[0].prompt[1]")
    assert says in refused.value.text
    assert not workflow_harness.pending


@pytest.mark.parametrize(("part", "says"), NO_PARTS[:2])
def test_a_part_that_no_worker_takes_parks_its_workflow(
    workflow_harness: WorkflowHarness, part: dict[str, Any], says: str
) -> None:
    """A process that has not loaded the agent can send it; the next worker may have a newer library."""
    dispatcher, transport = WorkflowDispatcher(), workflow_harness.transport
    sent = dispatcher.dispatch_workflow_sync(transport, itinerary=[ActivitySpec("viewer", ["x", part])])
    asked = Asked()
    _viewer = PaigeantAgent(asked.model, name="viewer")

    assert asyncio.run(workflow_harness.deliver()) == ["refused: invalid_prompt"]

    with pytest.raises(WorkflowParked) as parked:
        dispatcher.handle(sent, transport).result_sync(0)
    assert "prompt[1]" in str(parked.value)
    assert says in str(parked.value)
    assert asked.prompts == []


# Files that are too large to travel


LARGE = BinaryContent(
    bytes(range(256)) * 200, media_type="image/png", vendor_metadata={"detail": "high"}, identifier="big"
)
SMALL = BinaryImage(PNG, media_type="image/png")


def test_a_large_file_reaches_every_attempt_of_its_step_but_not_the_message(workflow_harness: WorkflowHarness) -> None:
    """A file is given once; a retry, a second delivery and a redrive get it too."""
    asked, failing = Asked(), ["once", "twice"]

    def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        response = asked.answer(messages, info)
        if failing:
            raise ConnectionError(failing.pop())
        return response

    viewer = PaigeantAgent(FunctionModel(answer), name="viewer", policy=StepPolicy(max_attempts=2))
    prompt = ["What is it?", LARGE, SMALL]

    handle = workflow_harness.dispatch([viewer.activity("First."), viewer.activity(prompt, step_id="second")])
    assert len(workflow_harness.pending[0].envelope) < 4000
    failing.clear()
    assert asyncio.run(workflow_harness.deliver(1)) == ["completed"]
    failing += ["once", "twice"]
    assert asyncio.run(workflow_harness.deliver(times=2))[-2:] == ["parked", "dropped: parked"]
    assert handle.redrive_sync()
    workflow_harness.sweep()
    assert asyncio.run(workflow_harness.deliver()) == ["workflow_completed"]

    assert [list(given[:3]) for given in asked.prompts[1:]] == [
        ["What is it?", BinaryImage(**vars_of(LARGE)), SMALL],
    ] * 3
    assert all(len(sent.envelope) < 4000 for sent in workflow_harness.delivered)


def vars_of(file: BinaryContent) -> dict[str, Any]:
    return {"data": file.data, "media_type": file.media_type, "vendor_metadata": file.vendor_metadata}


def test_an_inserted_step_gets_the_files_that_it_was_registered_with(workflow_harness: WorkflowHarness) -> None:
    """The model chooses an activity by name and knows from its default prompt that files belong to it."""
    asked = Asked()
    dispatcher = WorkflowDispatcher()
    viewer = PaigeantAgent(asked.model, name="viewer", dispatcher=dispatcher)
    viewer.register_activity(["Look at it.", LARGE])
    instructions: list[str] = []

    def plan(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        instructions.append(str(info.instructions))
        if len(messages) > 1:
            return ModelResponse(parts=[TextPart("planned")])
        steps = [{"activity": "viewer"}, {"activity": "viewer", "prompt": "Only text."}]
        return ModelResponse(parts=[ToolCallPart("insert_activities", {"steps": steps})])

    planner = PaigeantAgent(FunctionModel(plan), name="planner", can_edit_itinerary=True)

    asyncio.run(workflow_harness.run([planner.activity("Plan.")], dispatcher=dispatcher))

    assert "Default prompt: Look at it. [binary]" in instructions[0]
    first, second = asked.prompts
    assert first[:2] == ["Look at it.", BinaryImage(**vars_of(LARGE))]
    assert second.startswith("Only text.\n\n")
    assert all(len(sent.envelope) < 5000 for sent in workflow_harness.delivered)


def test_a_repeated_dispatch_is_the_same_workflow_wherever_its_files_are(workflow_harness: WorkflowHarness) -> None:
    """A web server that sends a request again, with another setting perhaps, begins nothing new."""
    viewer = PaigeantAgent(Asked().model, name="viewer")
    dispatcher, transport = WorkflowDispatcher(), workflow_harness.transport

    def dispatched(*prompt: Any) -> str:
        steps = [viewer.activity(prompt)]
        return dispatcher.dispatch_workflow_sync(transport, itinerary=steps, correlation_id="order-17")

    assert dispatched("x", LARGE) == "order-17"
    transport.settings = Settings(inline_output_size=200_000)
    assert dispatched("x", LARGE) == "order-17"
    with pytest.raises(WorkflowConflict):
        dispatched("x", SMALL)


def test_a_workflow_whose_files_are_lost_with_the_store_is_set_aside_with_the_reason(
    workflow_harness: WorkflowHarness,
) -> None:
    """Its message does not carry all that it needs; a step without its files would be paid for and wrong."""
    asked = Asked()
    viewer = PaigeantAgent(asked.model, name="viewer")
    workflow_harness.dispatch([viewer.activity("first"), viewer.activity(["x", LARGE])])
    emptied = WorkflowHarness()

    assert asyncio.run(emptied.redeliver(workflow_harness.pending[0])) == "refused: store_lost"

    assert asked.prompts == []
    [letter] = emptied.store.dead_letters(after=None, limit=9)
    assert (letter.reason, "slip.itinerary[1].prompt" in letter.text) == ("store_lost", True)


@pytest.mark.parametrize("kept", [None, "iVBORw0="])
def test_a_file_that_is_not_as_it_was_given_is_shown_to_no_model(
    workflow_harness: WorkflowHarness, monkeypatch: pytest.MonkeyPatch, kept: str | None
) -> None:
    """A store that lost or changed it must not make a model judge another picture."""
    asked = Asked()
    viewer = PaigeantAgent(asked.model, name="viewer", policy=StepPolicy(max_attempts=1))
    handle = workflow_harness.dispatch([viewer.activity(["x", LARGE])])
    monkeypatch.setattr(workflow_harness.store, "blob", lambda *_: kept)

    assert asyncio.run(workflow_harness.deliver()) == ["parked"]

    with pytest.raises(WorkflowParked, match=r"StoreCorrupt: .*file of a prompt"):
        handle.result_sync(0)
    assert asked.prompts == []


def test_a_file_that_no_store_can_hold_is_refused_before_anything_is_sent() -> None:
    """It may be as large as an output."""
    limited = WorkflowHarness(Settings(max_output_size=60_000))
    viewer = PaigeantAgent(Asked().model, name="viewer")

    with pytest.raises(InvalidInput, match=r"`paigeant_max_output_size` \(60000\)") as refused:
        limited.dispatch([viewer.activity(["x", LARGE])])

    assert (refused.value.reason, refused.value.path) == ("too_large", "itinerary[0].prompt[1]")
    assert not limited.pending


def test_without_a_store_files_travel_as_far_as_they_fit_into_a_message(workflow_harness: WorkflowHarness) -> None:
    """Whoever sends too many learns what would help, which for a text is nothing."""
    transport = workflow_harness.transport
    transport.store = None  # type: ignore[assignment]
    viewer = PaigeantAgent(Asked().model, name="viewer")

    def dispatch(*prompt: Any) -> str:
        return WorkflowDispatcher().dispatch_workflow_sync(transport, itinerary=[viewer.activity(prompt)])

    dispatch("x", LARGE)
    assert len(workflow_harness.pending.pop().envelope) > len(LARGE.data)
    with pytest.raises(InvalidInput, match=r"with a store \(`paigeant_store_url`\) the files") as many:
        dispatch("x", *[LARGE] * 20)
    with pytest.raises(InvalidInput, match=r"\(`paigeant_max_message_size`\)$") as long:
        dispatch("x" * 10 * 2**20)

    assert (many.value.reason, long.value.reason) == ("too_large", "too_large")
    assert not workflow_harness.pending


def test_a_replay_compares_and_answers_a_prompt_with_files(caplog: pytest.LogCaptureFixture) -> None:
    """A crash behind the last call repeats none, and the same files are no drift; other files are."""
    asked: Counter[str] = Counter()
    agent = Agent(scripted(asked, calls("look"), "seen"), name="viewer", capabilities=[CeleryDurability()])

    @agent.tool_plain
    def look() -> BinaryContent:
        asked["look"] += 1
        return LARGE

    async def run(hop: JournalledHop, *files: BinaryContent) -> Any:
        with hop.attempt():
            return history(await agent.run(["Compare.", *files]))

    hop = JournalledHop()
    first = asyncio.run(run(hop, LARGE, SMALL))
    again = asyncio.run(run(hop, *copy.deepcopy([LARGE, SMALL])))
    assert [record.message for record in caplog.records if "replay" in record.message] == []
    asyncio.run(run(hop, SMALL, SMALL))

    assert again == first
    assert asked == {"local": 2, "look": 1}
    assert [getattr(record, "action", None) for record in caplog.records] == ["replay_drift"]
    assert sum(len(text) for text in hop.records.values()) < 3 * len(LARGE.data)


def test_a_letter_about_a_prompt_with_files_has_nothing_of_them(workflow_harness: WorkflowHarness) -> None:
    """Whoever looks at dead letters may not be allowed to see a scan, or a signed link to one."""
    link = ImageUrl("https://example.com/a.png?signature=s3cret")
    steps = [ActivitySpec("viewer", ["s3cret", SMALL, LARGE, link])]
    WorkflowDispatcher().dispatch_workflow_sync(workflow_harness.transport, itinerary=steps)

    assert asyncio.run(workflow_harness.deliver()) == ["refused: unknown_agent"]

    [letter] = workflow_harness.store.dead_letters(after=None, limit=9)
    assert "s3cret" not in repr(letter)
    assert SMALL.base64[:16] not in repr(letter)
    assert "data_ref" not in letter.sample
