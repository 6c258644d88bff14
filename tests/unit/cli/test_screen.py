"""A workflow on the screen while it runs."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from paigeant_celery.cli.screen import Screen
from paigeant_celery.core.events import WorkflowEvent

NOW = datetime(2026, 1, 2, 12, tzinfo=UTC)


def event(type_: str, path: str = "writer", hop: str = "w.0", **fields: str) -> WorkflowEvent:
    return WorkflowEvent(cursor="1-0", at=NOW, type=type_, hop_id=hop, fields=fields, path=path)


def part(
    kind: str, text: str, *, path: str = "writer", hop: str = "w.0", index: int = 0, what: str = "text"
) -> WorkflowEvent:
    data: dict[str, Any] = {"index": index}
    if kind == "part_delta":
        data["delta"] = {"content_delta": text, "part_delta_kind": what}
    else:
        data["part"] = {"content": text, "part_kind": what}
    return event("agent", path, hop, event=kind, run="r", step="1", data=json.dumps(data))


def screen(*events: WorkflowEvent) -> str:
    """Return what stands on the screen after these events and the end."""
    made = Screen()
    return "".join(map(made.text_of, events)) + made.end_of_line()


def test_a_text_grows_under_the_name_of_its_step() -> None:
    """It reads like a text, and what happens next begins a line of its own."""
    shown = screen(
        event("claimed", step="writer", attempt="1"),
        part("part_start", "Once"),
        part("part_delta", " upon\na time"),
        part("part_end", "Once upon\na time"),
        event("completed", step="writer"),
    )

    assert shown == (
        "12:00:00 claimed writer attempt=1\n12:00:00 writer writes:\n  Once upon\n  a time\n12:00:00 completed writer\n"
    )


def test_agents_that_write_at_the_same_time_take_turns() -> None:
    """Two texts in one would be none."""
    shown = screen(
        part("part_start", "A", path="all/0/read", hop="w.0-0.0"),
        part("part_start", "B", path="all/1/read", hop="w.0-1.0"),
        part("part_delta", "a", path="all/0/read", hop="w.0-0.0"),
    )

    assert shown == (
        "12:00:00 all/0/read writes:\n  A\n12:00:00 all/1/read writes:\n  B\n12:00:00 all/0/read writes:\n  a\n"
    )


def test_a_part_whose_beginning_is_not_there_is_shown_whole_at_its_end() -> None:
    """Whoever comes late, or whose model cannot stream, sees it once."""
    assert screen(part("part_end", "All of it")) == "12:00:00 writer writes:\n  All of it\n"


def test_thoughts_calls_and_failures_have_their_lines() -> None:
    """One sees why nothing is written for a while."""
    call = {"part": {"tool_name": "search", "args": '{"q": "' + "x" * 300 + '"}', "tool_call_id": "c"}}
    shown = screen(
        part("part_start", "Hm", what="thinking"),
        event("agent", event="function_tool_call", run="r", data=json.dumps(call)),
        event("agent", event="call_replayed", run="r", name="search"),
        event("agent", event="run_failed", run="r", error="ValueError"),
        event("agent", event="agent_run_result", run="r", data="{}"),
    ).splitlines()

    assert shown[:2] == ["12:00:00 writer thinks:", "  Hm"]
    assert shown[2].startswith('12:00:00 writer calls search {"q": "xxx')
    assert shown[2].endswith("x…")
    assert shown[3:] == [
        "12:00:00 writer goes on with the recorded answer of search", "12:00:00 writer failed with ValueError",
    ]  # fmt: skip


def test_what_a_model_writes_gives_no_order_to_the_terminal() -> None:
    """Line ends and tabs are part of a text; all else that a terminal obeys is an escape."""
    shown = screen(
        part("part_start", "a\tb\x1b[2K\u202e\r"),
        event("note", "writer\x1b", note="\x07"),
        event("agent", event="function_tool_call", data='{"part": {"tool_name": "\\u001b", "args": {"a": "\\u009b"}}}'),
    )

    assert shown.splitlines() == [
        "12:00:00 writer writes:",
        "  a\tb\\x1b[2K\\u202e\\r",
        "12:00:00 note writer\\x1b note=\\x07",
        '12:00:00 writer calls \\x1b {"a":"\\u009b"}',
    ]


def test_a_text_of_any_language_is_shown_as_it_was_written() -> None:
    """Its blanks, joined characters and accents are none of a terminal's orders."""
    text = "Prêt\u00a0? 東京\u3000駅 👩\u200d💻 می\u200cخواهم"

    assert screen(part("part_start", text)) == f"12:00:00 writer writes:\n  {text}\n"
    assert screen(event("note", "writer", note=text)) == f"12:00:00 note writer note={text}\n"


def test_an_event_that_cannot_be_read_adds_nothing() -> None:
    """A newer version may have others."""
    assert (
        screen(
            event("agent", event="part_start", data="no JSON"),
            event("agent", event="part_start", data="[]"),
            event("agent", event="part_delta", data='{"delta": 1}'),
            event("agent", event="something_new"),
        )
        == ""
    )
