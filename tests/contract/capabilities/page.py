"""`docs/capabilities.md`, as the rows have it. `python -m tests.contract.capabilities` writes it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.contract.capabilities.row import CORE, Row, Shown
from tests.contract.capabilities.rows import SECTIONS
from tests.contract.capabilities.rows.workflows import SHOWN

__all__ = ["PAGE", "page"]

PAGE = Path(__file__).parents[3] / "docs/capabilities.md"

HEAD = """\
# What a crash costs, capability by capability

Each row is an agent. A test runs it outside a hop, in a hop, in a hop whose result is lost behind the last call, and in
hops whose process dies before and after each record of the journal. The next attempt then goes on, with the agent made
anew. The test compares the output, all messages, the usage and the ids, and counts what was done outside the process.

- **works**: all of them are the same, whatever the process dies at. What was recorded is not done again. What was in
  flight is done once more. For some rows, which say so, processes of real workers are killed as well.
- **runs again**: the same is true, but the code that is named runs in each attempt, because it runs between the calls
  that are recorded. Give it no side effects, or make them in a tool or a `durable_operation`.
- **refused**: the step fails before the call is made, with an error that says what to do.

Model requests and tool calls are recorded in every row. The last column says since which version pydantic-ai has it;
2.62 is the oldest that is supported. This page is made from the tests, with `python -m tests.contract.capabilities`.
"""


def page() -> str:
    """Return the text of the page."""
    tried = (line for title, rows in SECTIONS.items() for line in _section(title, rows))
    return "\n".join([HEAD, *tried, *_shown(SHOWN)])


def _section(title: str, rows: Sequence[Row]) -> Iterator[str]:
    yield from (f"## {title}", "", "| What | After a crash | Since |", "|---|---|---|")
    for row in rows:
        since = row.since if row.package == CORE else f"{row.package} {row.since}"
        yield f"| {_cell(row.name)} | {_cell(row.outcome)} | {since} |"
    yield ""


def _shown(rows: Sequence[Shown]) -> Iterator[str]:
    said = "These go beyond one run of an agent. Tests of their own show them."
    yield from ("## Steps and workflows", "", said, "", "| What | After a crash | Shown by |", "|---|---|---|")
    for row in rows:
        file = row.by.partition("::")[0]
        yield f"| {_cell(row.name)} | {_cell(row.outcome)} | [`{Path(file).stem}`](../{file}) |"
    yield ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
