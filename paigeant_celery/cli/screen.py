"""A workflow on the screen while it runs: what happens as lines, and between them what its agents write, as they do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from paigeant_celery.cli.output import shown, shown_json

if TYPE_CHECKING:
    from paigeant_celery.core.events import WorkflowEvent

__all__ = ["Screen"]

INDENT = "  "
LONGEST_ARGUMENTS = 200  # characters of the arguments of a call of a tool
TEXTS = ("text", "thinking")  # kinds of parts that are shown as they are written


class Screen:
    """Says what each event puts on the screen. Agents that write at the same time take turns."""

    def __init__(self) -> None:
        self._writes: tuple[str, str, str] | None = None  # who wrote last: hop, run, and the kind of part
        self._begun: set[tuple[str, str, int]] = set()  # parts of which something was shown

    def text_of(self, event: WorkflowEvent) -> str:
        """Return the text that an event adds, with its line ends; "" for none."""
        if event.type != "agent":
            fields = {name: value for name, value in event.fields.items() if name != "step"}
            details = " ".join(f"{name}={shown(value)}" for name, value in fields.items())
            return self._line(event, f"{event.type} {_who(event)} {details}".rstrip())
        data = _data(event)
        match event.fields.get("event"):
            case "part_start":
                return self._write(event, data, data.get("part"), "content")
            case "part_delta":
                return self._write(event, data, data.get("delta"), "content_delta")
            case "part_end" if self._key(event, data) not in self._begun:
                return self._write(event, data, data.get("part"), "content")
            case "function_tool_call":
                return self._line(event, f"{_who(event)} calls {_call(data.get('part'))}")
            case "call_replayed":
                name = shown(event.fields.get("name", ""))
                return self._line(event, f"{_who(event)} goes on with the recorded answer of {name}".rstrip())
            case "run_failed":
                return self._line(event, f"{_who(event)} failed with {shown(event.fields.get('error', ''))}")
        return ""

    def end_of_line(self) -> str:
        """Return what ends a line that an agent has begun."""
        begun, self._writes = self._writes is not None, None
        return "\n" if begun else ""

    def _line(self, event: WorkflowEvent, text: str) -> str:
        return f"{self.end_of_line()}{event.at:%H:%M:%S} {text}\n"

    def _write(self, event: WorkflowEvent, data: Mapping[str, Any], part: object, field: str) -> str:
        """Return what an agent has written, under a line that names it if somebody else wrote last."""
        given = part if isinstance(part, Mapping) else {}
        kind, text = str(given.get("part_kind") or given.get("part_delta_kind")), given.get(field)
        if kind not in TEXTS or not isinstance(text, str) or not text:
            return ""
        self._begun.add(self._key(event, data))
        writer = (event.hop_id, event.fields.get("run", ""), kind)
        begins = ""
        if writer != self._writes:
            begins = self._line(event, f"{_who(event)} {'thinks' if kind == 'thinking' else 'writes'}:") + INDENT
            self._writes = writer
        return begins + f"\n{INDENT}".join(map(_shown, text.split("\n")))

    @staticmethod
    def _key(event: WorkflowEvent, data: Mapping[str, Any]) -> tuple[str, str, int]:
        index = data.get("index")
        step = f"{event.fields.get('run', '')}/{event.fields.get('step', '')}"
        return (event.hop_id, step, index if isinstance(index, int) else -1)


def _data(event: WorkflowEvent) -> Mapping[str, Any]:
    try:
        data = json.loads(event.fields.get("data", "{}"))
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}


def _who(event: WorkflowEvent) -> str:
    return shown(event.path or event.hop_id)


def _call(part: object) -> str:
    given = part if isinstance(part, Mapping) else {}
    arguments = given.get("args")
    text = arguments if isinstance(arguments, str) else shown_json(arguments) if arguments else ""
    short = f"{text[:LONGEST_ARGUMENTS]}…" if len(text) > LONGEST_ARGUMENTS else text
    return f"{shown(str(given.get('tool_name', '')))} {shown(short)}".rstrip()


def _shown(line: str) -> str:
    return "\t".join(map(shown, line.split("\t")))
