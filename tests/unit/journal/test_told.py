"""What watchers have been told, as the next attempt knows it."""

from __future__ import annotations

import json
from typing import Any

from pydantic import TypeAdapter
from pydantic_ai.messages import (
    FunctionToolResultEvent,
    PartDeltaEvent,
    PartEndEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
    ThinkingPart,
    ThinkingPartDelta,
    ToolCallPart,
    ToolCallPartDelta,
    ToolReturnPart,
)

from paigeant_celery.journal.told import Told, told_before
from tests.support.journalled_hop import JournalledHop


def event(of: Any, **more: str) -> dict[str, str]:
    data = TypeAdapter(type(of)).dump_json(of).decode()
    return {"event": of.event_kind, "run": "r", "step": "1", "attempt": "1", "data": data, **more}


def start(part: Any, index: int = 0) -> dict[str, str]:
    return event(PartStartEvent(index=index, part=part))


def end(part: Any, index: int = 0) -> dict[str, str]:
    return event(PartEndEvent(index=index, part=part))


def test_a_part_that_is_open_ends_with_what_was_told_of_it() -> None:
    """Each kind of part is put together as pydantic-ai does it."""
    for part, deltas in (
        (TextPart("a"), [TextPartDelta(content_delta="b"), TextPartDelta(content_delta="c")]),
        (ThinkingPart("a"), [ThinkingPartDelta(content_delta="b"), ThinkingPartDelta(signature_delta="s")]),
        (ToolCallPart("t", '{"a"', tool_call_id="1"), [ToolCallPartDelta(args_delta=": 1}", tool_call_id="1")]),
        (ToolCallPart("t", None, tool_call_id="1"), [ToolCallPartDelta(args_delta={"a": 1}, tool_call_id="1")]),
    ):
        told, expected = Told(), part
        told.remember(start(part))
        for delta in deltas:
            told.remember(event(PartDeltaEvent(index=0, delta=delta)))
            expected = delta.apply(expected)  # type: ignore[arg-type]

        [closed] = told.close(None)

        assert (closed["event"], closed["run"], closed["step"], closed["cut"]) == ("part_end", "r", "1", "1")
        assert TypeAdapter(PartEndEvent).validate_python(json.loads(closed["data"])).part == expected
        assert list(told.close(None)) == []
        assert told.has_part(end(expected))


def test_a_new_answer_gives_up_what_was_told_of_the_one_before() -> None:
    """Its first part is told, and the others are missing, even if they say the same."""
    told = Told()
    for index, content in enumerate("abc"):
        told.remember(start(TextPart(""), index))
        told.remember(end(TextPart(content), index))
    assert all(told.has_part(end(TextPart(content), index)) for index, content in enumerate("abc"))
    assert not told.has_part(end(TextPart("b"), 0))

    told.remember(start(TextPart("")))
    told.remember(end(TextPart("a")))

    assert [told.has_part(end(TextPart(content), index)) for index, content in enumerate("abc")] == [True, False, False]


def test_a_repetition_is_known_by_its_call_and_counts_once() -> None:
    """A result that is made anew has another time; other events have what they say."""
    told = Told()
    told.remember(event(FunctionToolResultEvent(ToolReturnPart("t", 1, tool_call_id="1"))))
    told.remember({"event": "custom", "run": "r", "step": "1", "data": '{"done": 1}'})
    again = event(FunctionToolResultEvent(ToolReturnPart("t", 1, tool_call_id="1")))
    other = event(FunctionToolResultEvent(ToolReturnPart("t", 1, tool_call_id="2")))

    assert [told.is_repeated(each) for each in (other, again, again, {**again, "step": "2"})] == [
        False, True, False, False,
    ]  # fmt: skip
    assert told.is_repeated({"event": "custom", "run": "r", "step": "1", "data": '{"done": 1}'})
    assert not told.is_repeated({"event": "custom", "run": "r", "step": "1", "data": '{"done": 2}'})


def test_events_that_another_version_wrote_otherwise_fail_no_step() -> None:
    """Whoever watches a workflow must not decide whether it goes on."""
    hop, known = JournalledHop(), event(FunctionToolResultEvent(part=ToolReturnPart("look", "facts", "call-1")))
    others = [{**known, "data": data} for data in ("{}", "[]", "no JSON", '{"part": 1}', '{"part": {}}')]
    others += [{**start(TextPart("a")), "step": "none"}, {**end(TextPart("a")), "data": '{"index": 0}'}]
    with hop.attempt():
        assert hop.closing is not None
        assert hop.store.publish(hop.closing, [*others, known])

    told = told_before(hop.store, "w.0")

    assert told.is_repeated(known)
    assert not told.is_repeated(known)
