"""What an event of an agent is on a page."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import TypeAdapter
from pydantic_ai.messages import (
    AgentStreamEvent,
    FunctionToolCallEvent,
    FunctionToolResultEvent,
    PartDeltaEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
)

from paigeant_celery.core.events import WorkflowEvent
from paigeant_celery.flower import live
from paigeant_celery.flower.live import LONG, told

ADAPTER: TypeAdapter[Any] = TypeAdapter(AgentStreamEvent)


def event(kind: str, data: str = "{}", **fields: str) -> WorkflowEvent:
    about = {"event": kind, "run": "r", "attempt": "2", "data": data, **fields}
    return WorkflowEvent(cursor="1", at=datetime.now(UTC), type="agent", hop_id="w.0", fields=about, path="reader")


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (PartStartEvent(index=0, part=TextPart("It")), {"as": "text", "text": "It", "begins": True}),
        (PartDeltaEvent(index=0, delta=TextPartDelta(" is")), {"as": "text", "text": " is", "begins": False}),
        (PartStartEvent(index=0, part=ThinkingPart("hm")), {"as": "thinking", "text": "hm", "begins": True}),
        (
            FunctionToolCallEvent(part=ToolCallPart("read", {"page": 1}, tool_call_id="c")),
            {"as": "call", "text": 'read({"page": 1})', "begins": True},
        ),
        (
            FunctionToolResultEvent(ToolReturnPart("read", content=["a"], tool_call_id="c")),
            {"as": "result", "text": 'read: ["a"]', "begins": True},
        ),
    ],
)
def test_what_an_agent_says_and_does_is_shown(given: Any, shown: dict[str, Any]) -> None:
    """These are the events of the pydantic-ai that is installed; another form would show nothing."""
    data = ADAPTER.dump_json(given).decode()

    assert told(event(given.event_kind, data)) == {"path": "reader", "run": "r", "attempt": "2", **shown}


def test_an_error_of_a_run_is_shown_by_its_class() -> None:
    """Its text stands with the failure of the step."""
    said = told(event("run_failed", error="ValueError"))

    assert said is not None
    assert (said["as"], said["text"]) == ("failed", "ValueError")


@pytest.mark.parametrize("data", ["", "{", "[]", "null", '{"part": 1}', '{"part": {"part_kind": "file"}}'])
def test_what_is_not_known_is_left_out(data: str) -> None:
    """A newer worker may tell more; the page goes on with what it knows."""
    assert told(event("part_start", data)) is None
    assert told(event("of_tomorrow", data)) is None


def test_long_results_are_shortened() -> None:
    """A tool may return a whole book."""
    said = told(event("part_start", json.dumps({"part": {"part_kind": "text", "content": "x" * 10_000}})))

    assert said is not None
    assert len(said["text"]) == LONG + 1


def test_an_answer_ends_after_a_while_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has signed out is let in no longer than that, also if something happens all the time."""

    class Lively:
        found = 1

        def look(self) -> tuple[list[WorkflowEvent], str]:
            return [event("run_failed", error="ValueError")], "running"

    class Answer(live.Events):
        signs_in = True

        def __init__(self) -> None:
            self.request: Any = SimpleNamespace(headers={})

        async def ask(self, question: Any) -> Any:
            return (Lively(), *Lively().look()) if isinstance(question, partial) else Lively().look()

        def get_query_argument(self, name: str, default: Any = "") -> Any:
            return default

        def set_header(self, name: str, value: Any) -> None: ...

        def write(self, chunk: Any) -> None: ...

        async def flush(self, include_footers: bool = False) -> None: ...  # type: ignore[override]

    monkeypatch.setattr(live, "LONGEST", 0.05)

    asyncio.run(asyncio.wait_for(Answer()._send_all("w"), 30))
