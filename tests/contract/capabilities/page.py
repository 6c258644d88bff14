"""`docs/capabilities.md`, as the rows have it. `python -m tests.contract.capabilities` writes it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.contract.capabilities.row import Row, Shown
from tests.contract.capabilities.rows import SECTIONS
from tests.contract.capabilities.rows.workflows import SHOWN

__all__ = ["PAGE", "page"]

PAGE = Path(__file__).parents[3] / "docs/capabilities.md"

HEAD = """\
# What a crash costs, capability by capability

Does it survive a crash? Look for what your agent uses, and read the second column:

- **works**: yes. Output, messages, usage and ids are those of a run without a crash. A call that had ended is not made
  again. One that was in progress is made once more.
- **runs again**: yes, but the code that is named runs in each attempt, because it runs between the calls that are
  recorded. Give it no side effects, or make them in a tool or a `durable_operation`.
- **refused**: this cannot be done in a step, crash or not. It ends with an error that says what to do.
- **not tried**: what no test can try, and why.

This holds for agents of a step, and for agents with `CeleryDurability` in a function step. It takes a store. Requests
of their models and calls of their tools are recorded; a tool with `metadata={"paigeant": False}` is not, and is called
*unrecorded* here. [What a crash costs](guarantees.md#what-a-crash-costs) says how that works.

Each row is an agent. A test runs it outside a step, in a step, in a step whose result is lost behind the last call, and
in steps whose process dies before and after each record. It compares the results, and counts what was done outside the
process. The last column says since which version pydantic-ai has it; 2.62 is the oldest that is supported.
Some rows say that they are shown with killed workers too: real ones, whose processes get SIGKILL before and after a
record. The section on pydantic-ai-harness is about that version of it, beside the newest pydantic-ai.
`python -m tests.contract.capabilities` writes this page.
"""


def page() -> str:
    """Return the text of the page."""
    tried = (line for title, rows in SECTIONS.items() for line in _section(title, rows))
    return "\n".join([HEAD, *tried, *_shown(SHOWN)])


def _section(title: str, rows: Sequence[Row]) -> Iterator[str]:
    yield from (f"## {title}", "", "| What | After a crash | Since |", "|---|---|---|")
    for row in rows:
        since = row.since
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
