"""Strict readers of the two protocols that pydantic-ai shows runs in: each event by its own type, and their order."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ag_ui.core import Event
from pydantic import TypeAdapter
from pydantic_ai.ui.ag_ui import AGUIEventStream
from pydantic_ai.ui.vercel_ai import VercelAIEventStream
from pydantic_ai.ui.vercel_ai import response_types as chunks

__all__ = ["Screen", "ag_ui", "ag_ui_screen", "vercel"]

AG_UI_EVENT = TypeAdapter(Event)
VERCEL_CHUNKS = {
    str(kind.model_fields["type"].default): kind
    for kind in vars(chunks).values()
    if isinstance(kind, type) and issubclass(kind, chunks.BaseChunk) and "type" in kind.model_fields
}


@dataclass
class Screen:
    """What a screen shows in the end; a test fails where the protocol is broken."""

    texts: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    arguments: dict[str, str] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    cancelled: bool = False
    kinds: list[str] = field(default_factory=list)


async def ag_ui(events: AsyncIterator[Any]) -> Screen:
    """Read the events as AG-UI."""
    stream = AGUIEventStream[None, Any]()
    sent = [
        event.model_dump(mode="json", by_alias=True, exclude_none=True)
        async for event in stream.transform_stream(events)
    ]
    return ag_ui_screen(sent)


def ag_ui_screen(sent: Sequence[dict[str, Any]]) -> Screen:
    """Read what was sent as AG-UI."""
    for event in sent:
        assert type(AG_UI_EVENT.validate_python(event)).__name__
    return _AGUI().read(sent)


async def vercel(events: AsyncIterator[Any], *, sdk_version: Any = 6) -> Screen:
    """Read the events as Vercel AI's data stream."""
    stream = VercelAIEventStream[None, Any](sdk_version=sdk_version)
    sent = [event async for event in stream.transform_stream(events)]
    assert isinstance(sent[-1], chunks.DoneChunk)
    dumped = [event.model_dump(mode="json", by_alias=True, exclude_none=True) for event in sent[:-1]]
    for event in dumped:
        VERCEL_CHUNKS.get(event["type"], chunks.DataChunk).model_validate(event)
    return _Vercel().read(dumped)


class _AGUI:
    def __init__(self) -> None:
        self.screen = Screen()
        self.open: dict[str, list[str]] = {}  # messages
        self.calls: dict[str, list[str]] = {}  # whose arguments are open
        self.thinking: dict[str, list[str]] = {}
        self.started = set[str]()
        self.steps = set[str]()

    def read(self, sent: Sequence[dict[str, Any]]) -> Screen:
        assert sent[0]["type"] == "RUN_STARTED"
        assert [event["type"] for event in sent if event["type"] in ("RUN_FINISHED", "RUN_ERROR")] == [sent[-1]["type"]]
        for event in sent:
            self.screen.kinds.append(event["type"])
            getattr(self, event["type"].lower(), self.other)(event)
        assert (self.open, self.calls, self.thinking) == ({}, {}, {})
        assert set(self.screen.arguments) == set(self.screen.results)
        return self.screen

    def other(self, event: dict[str, Any]) -> None:
        assert event["type"] in ("RUN_STARTED", "CUSTOM", "REASONING_START", "REASONING_END",
                                 "REASONING_ENCRYPTED_VALUE", "ACTIVITY_SNAPSHOT"), event  # fmt: skip

    def step_started(self, event: dict[str, Any]) -> None:
        assert event["stepName"] not in self.steps
        self.steps.add(event["stepName"])

    def step_finished(self, event: dict[str, Any]) -> None:
        self.steps.remove(event["stepName"])

    def run_finished(self, event: dict[str, Any]) -> None:
        assert not self.steps

    def run_error(self, event: dict[str, Any]) -> None:
        self.screen.error = event["message"]

    def _start(self, id_: str, kept: dict[str, list[str]]) -> None:
        assert (self.open, self.calls, self.thinking) == ({}, {}, {}), "one thing at a time"
        assert id_ not in self.started
        self.started.add(id_)
        kept[id_] = []

    def text_message_start(self, event: dict[str, Any]) -> None:
        self._start(event["messageId"], self.open)

    def text_message_content(self, event: dict[str, Any]) -> None:
        self.open[event["messageId"]].append(event["delta"])

    def text_message_end(self, event: dict[str, Any]) -> None:
        if text := "".join(self.open.pop(event["messageId"])):
            self.screen.texts.append(text)

    def reasoning_message_start(self, event: dict[str, Any]) -> None:
        self._start(event["messageId"], self.thinking)

    def reasoning_message_content(self, event: dict[str, Any]) -> None:
        self.thinking[event["messageId"]].append(event["delta"])

    def reasoning_message_end(self, event: dict[str, Any]) -> None:
        self.screen.thoughts.append("".join(self.thinking.pop(event["messageId"])))

    def tool_call_start(self, event: dict[str, Any]) -> None:
        self._start(event["toolCallId"], self.calls)
        assert event["parentMessageId"] in self.started

    def tool_call_args(self, event: dict[str, Any]) -> None:
        self.calls[event["toolCallId"]].append(event["delta"])

    def tool_call_end(self, event: dict[str, Any]) -> None:
        self.screen.arguments[event["toolCallId"]] = "".join(self.calls.pop(event["toolCallId"]))

    def tool_call_result(self, event: dict[str, Any]) -> None:
        assert (self.open, self.calls, self.thinking) == ({}, {}, {})
        assert event["toolCallId"] in self.screen.arguments
        assert event["toolCallId"] not in self.screen.results
        assert event["messageId"] not in self.started
        self.started.add(event["messageId"])
        self.screen.results[event["toolCallId"]] = event["content"]


class _Vercel:
    def __init__(self) -> None:
        self.screen = Screen()
        self.open: tuple[str, str] | None = None
        self.pieces: list[str] = []
        self.started, self.inputs = set[str](), set[str]()
        self.in_step = False

    def read(self, sent: Sequence[dict[str, Any]]) -> Screen:
        assert sent[0]["type"] == "start"
        assert sent[-1]["type"] in ("finish", "finish-step")
        for event in sent:
            kind = event["type"]
            self.screen.kinds.append(kind)
            between = ("start", "start-step", "finish", "finish-step", "abort", "error", "message-metadata")
            assert self.in_step or kind in between or kind.startswith("data-"), kind
            getattr(self, kind.replace("-", "_"), self.other)(event)
        assert self.open is None
        assert not self.in_step
        assert self.inputs == set(self.screen.arguments) == set(self.screen.results)
        return self.screen

    def other(self, event: dict[str, Any]) -> None:
        kind = event["type"]
        assert kind in ("start", "finish", "message-metadata", "file") or kind.startswith(("data-", "source-")), event

    def error(self, event: dict[str, Any]) -> None:
        self.screen.error = event["errorText"]

    def abort(self, event: dict[str, Any]) -> None:
        self.screen.cancelled = True

    def start_step(self, event: dict[str, Any]) -> None:
        assert not self.in_step
        self.in_step = True

    def finish_step(self, event: dict[str, Any]) -> None:
        assert self.open is None
        self.in_step = False

    def _start(self, kind: str, id_: str) -> None:
        assert self.open is None
        assert id_ not in self.started
        self.started.add(id_)
        self.open, self.pieces = (kind, id_), []

    def _delta(self, kind: str, id_: str, text: str) -> None:
        assert self.open == (kind, id_)
        self.pieces.append(text)

    def _end(self, kind: str, id_: str) -> str:
        assert self.open == (kind, id_)
        self.open = None
        return "".join(self.pieces)

    def text_start(self, event: dict[str, Any]) -> None:
        self._start("text", event["id"])

    def text_delta(self, event: dict[str, Any]) -> None:
        self._delta("text", event["id"], event["delta"])

    def text_end(self, event: dict[str, Any]) -> None:
        if text := self._end("text", event["id"]):
            self.screen.texts.append(text)

    def reasoning_start(self, event: dict[str, Any]) -> None:
        self._start("reasoning", event["id"])

    def reasoning_delta(self, event: dict[str, Any]) -> None:
        self._delta("reasoning", event["id"], event["delta"])

    def reasoning_end(self, event: dict[str, Any]) -> None:
        self.screen.thoughts.append(self._end("reasoning", event["id"]))

    def tool_input_start(self, event: dict[str, Any]) -> None:
        assert self.open is None
        assert event["toolCallId"] not in self.inputs
        self.inputs.add(event["toolCallId"])

    def tool_input_delta(self, event: dict[str, Any]) -> None:
        assert self.open is None
        assert event["toolCallId"] in self.inputs
        assert event["toolCallId"] not in self.screen.arguments

    def tool_input_available(self, event: dict[str, Any]) -> None:
        assert self.open is None
        assert event["toolCallId"] in self.inputs
        assert event["toolCallId"] not in self.screen.arguments
        self.screen.arguments[event["toolCallId"]] = event["input"]

    def tool_input_error(self, event: dict[str, Any]) -> None:
        self.tool_input_available(event)
        self._result(event["toolCallId"], event["errorText"])

    def tool_output_available(self, event: dict[str, Any]) -> None:
        self._result(event["toolCallId"], event["output"])

    def tool_output_error(self, event: dict[str, Any]) -> None:
        self._result(event["toolCallId"], event["errorText"])

    def tool_output_denied(self, event: dict[str, Any]) -> None:
        self._result(event["toolCallId"], None)

    def _result(self, id_: str, result: Any) -> None:
        assert self.open is None
        assert id_ in self.screen.arguments
        assert id_ not in self.screen.results
        self.screen.results[id_] = result
