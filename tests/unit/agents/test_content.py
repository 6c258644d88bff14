"""Prompts with files and links, as an agent's run gets them."""

from __future__ import annotations

import asyncio
import json
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
    UploadedFile,
    UserContent,
    UserPromptPart,
    VideoUrl,
)
from pydantic_ai.models.function import AgentInfo, FunctionModel

from paigeant_celery import ActivitySpec, InvalidInput, PaigeantAgent, WorkflowDispatcher, WorkflowParked
from paigeant_celery.testing import WorkflowHarness

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
