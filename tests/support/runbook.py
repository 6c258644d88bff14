"""The runbook as tests read it: its situations, the commands in them, and what they print in the page and for real."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import partial
from itertools import pairwise, takewhile
from pathlib import Path

__all__ = ["PAGE", "Shown", "Situation", "difference", "masked", "replaced", "situations", "write_output"]

PAGE = Path(__file__).parents[2] / "docs" / "runbook.md"

LEFT_OUT = "…"  # a line of it stands for any number of lines
TITLE = re.compile(r"^## (\d+)\. (.+)$")
FENCE = re.compile(r"^```(\w*)$")

# What is different in each run. Names of hosts, folders and servers are replaced before: see `Scene`.
MASKS = (
    (re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?Z?"), "TIME"),
    (re.compile(r"(?<![\w.])\d+(\.\d+)? ?(ms|s|min)\b"), "SECONDS"),
    (re.compile(r"(?<=~)[A-Za-z0-9_-]{8,}"), "TOKEN"),
    (re.compile(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"), "UUID"),
    (re.compile(r"\b[0-9a-f]{16,64}\b"), "DIGEST"),
    (re.compile(r"(?<=\bpid )\d+|(?<=\bprocess )\d+|(?<=@web-1  )\d+"), "PID"),
    (re.compile(r"\bwhy=(owner_gone|lease_over)"), "why=GONE"),  # whichever a sweep sees first
    (re.compile(r"(?<![\d.])\d+\.\d+\.\d+(?![\d.])"), "VERSION"),
    (re.compile(r"\b[\d.]+ of [\d.]+ MiB"), "SOME MiB"),
    (re.compile(r"(?<=\bline )\d+|(?<=\.py:)\d+"), "LINE"),
    (re.compile(r"(?<=_ms=)\d+"), "MS"),
    (re.compile(r"(?<=\bsize)\s+\d+"), " SIZE"),
    (re.compile(r"(?<=\S)  +"), "  "),  # columns are as wide as what stands in them
)


@dataclass(frozen=True)
class Shown:
    """A command as the page has it, with what it prints there; `line` is that of its code block."""

    command: str
    output: tuple[str, ...]
    line: int


@dataclass(frozen=True)
class Situation:
    """A section about one thing that can be wrong."""

    number: int
    title: str
    text: str
    shown: tuple[Shown, ...]


def situations(page: str) -> Iterator[Situation]:
    """Yield the sections of the page that have a number."""
    lines = page.splitlines()
    heads = [number for number, line in enumerate(lines) if line.startswith("## ")]
    for begin, end in pairwise([*heads, len(lines)]):
        if (found := TITLE.match(lines[begin])) is not None:
            shown = tuple(_shown(lines, begin, end))
            text = "\n".join(lines[begin:end])
            yield Situation(number=int(found[1]), title=found[2], text=text, shown=shown)


def _shown(lines: list[str], begin: int, end: int) -> Iterator[Shown]:
    opened: int | None = None
    for number in range(begin, end):
        if (fence := FENCE.match(lines[number])) is None:
            continue
        if opened is None:
            opened = number if fence[1] == "console" else -1
            continue
        if opened >= 0:
            inside = lines[opened + 1 : number]
            command = [inside[0].removeprefix("$ ")]
            while command[-1].endswith("\\"):
                command.append(inside[len(command)].removeprefix("> "))
            joined = " ".join(part.removesuffix("\\").strip() for part in command)
            yield Shown(command=joined, output=tuple(inside[len(command) :]), line=opened + 1)
        opened = None


def difference(expected: tuple[str, ...], printed: str) -> str:
    """Return how what a command printed differs from the page; empty if it does not."""
    wanted, got = [masked(line) for line in expected], [masked(line) for line in printed.splitlines()]
    pattern = "".join(r"(?:.*\n)*?" if line == LEFT_OUT else re.escape(line) + r"\n" for line in wanted)
    if re.fullmatch(pattern, "".join(f"{line}\n" for line in got)):
        return ""
    return "the page has:\n{}\nand the command printed:\n{}".format("\n".join(wanted), printed)


def masked(line: str) -> str:
    """Return a line without what is different in each run."""
    for pattern, instead in MASKS:
        line = pattern.sub(instead, line)
    return line.rstrip()


def replaced(text: str, names: Mapping[str, str]) -> str:
    """Return what was printed with the names that the page has for servers, folders and hosts, in straight columns."""
    lines, done = text.split("\n"), list[str]()
    while lines:
        begins = _columns_of(lines[0])
        rows = list(takewhile(partial(_fits, begins=begins), lines)) if len(begins) > 1 else []
        if len(rows) > 1:
            done += _table([[_named(cell, names) for cell in _cells(row, begins)] for row in rows])
        else:
            rows = lines[:1]
            done.append(_named(rows[0], names))
        lines = lines[len(rows) :]
    return "\n".join(done)


def _named(text: str, names: Mapping[str, str]) -> str:
    for name in sorted(names, key=len, reverse=True):
        text = text.replace(name, names[name])
    return text


def _columns_of(line: str) -> list[int]:
    """Return where columns begin, if the line is the head of a table."""
    return [found.start() for found in re.finditer(r"(?:(?<=  )|^)\S", line)]


def _fits(line: str, *, begins: Sequence[int]) -> bool:
    return bool(line.strip()) and all(line[at - 2 : at].strip() == "" for at in begins[1:]) and line[0] != " "


def _cells(line: str, begins: Sequence[int]) -> list[str]:
    return [line[begin:end].rstrip() for begin, end in zip(begins, [*begins[1:], None], strict=True)]


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def write_output(number: int, index: int, printed: str) -> None:
    """Put what a command printed into the page, in the place of what stands there."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    found = next(each for each in situations("\n".join(lines)) if each.number == number).shown[index]
    begin = found.line
    while lines[begin].endswith("\\"):
        begin += 1
    begin += 1
    lines[begin : begin + len(found.output)] = _shortened(printed.splitlines(), found.output)
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _shortened(printed: Sequence[str], before: Sequence[str]) -> Iterator[str]:
    """Yield what was printed, with lines left out about where the page left out some."""
    wanted, got = [masked(line) for line in before], [masked(line) for line in printed]
    for tag, begin, end, low, high in SequenceMatcher(None, wanted, got, autojunk=False).get_opcodes():
        part, old = printed[low:high], wanted[begin:end]
        if tag != "equal" and LEFT_OUT in old:
            behind = old[::-1].index(LEFT_OUT)
            yield from part[: old.index(LEFT_OUT)]
            yield LEFT_OUT
            yield from part[len(part) - behind :] if behind else ()
        else:
            yield from part
