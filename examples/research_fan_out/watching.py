"""What happens in the branches, on the screen: live from the workflow's events, and tables at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import click

from examples.console import show_fields
from examples.research_fan_out.documents import DOCUMENTS
from examples.research_fan_out.ledger import Entry
from examples.research_fan_out.outputs import Findings, Verdict
from paigeant_celery import WorkflowEvent, WorkflowHandle, WorkflowResult

__all__ = ["Watch", "decided", "show_readings", "show_result"]

COLUMNS = "begun before", "answered before", "begun after", "answered after"


@dataclass
class Watch:
    """The events of a workflow, printed as they come."""

    handle: WorkflowHandle
    events: list[WorkflowEvent] = field(default_factory=list)

    async def follow(self) -> None:
        """Print what happens until the workflow ends."""
        async for event in self.handle.events():
            self.events.append(event)
            self._show(event)

    def ended(self) -> Counter[str]:
        """Count how often each step was recorded, by its path."""
        return Counter(event.fields["step"] for event in self.events if event.type == "completed")

    def joins(self) -> Counter[str]:
        """Count how often each block was joined."""
        return Counter(self._step(event.hop_id) for event in self.events if event.type == "joined")

    def _show(self, event: WorkflowEvent) -> None:
        told = event.fields
        if event.type == "branches_opened":
            self._line(self._step(event.hop_id), f"has {told['branches']} branches")
        elif event.type == "joined":
            self._line(
                self._step(event.hop_id), click.style(f"its join is {told['how']}", bold=True) + self._left(event)
            )
        elif event.type == "claimed" and told["attempt"] != "1":
            self._line(told["step"], f"{_subject(told['step'])}is begun again, attempt {told['attempt']}")
        elif event.type == "completed":
            self._line(told["step"], f"{_subject(told['step'])}is done")

    def _left(self, joined: WorkflowEvent) -> str:
        """Say how many branches a join does not wait for."""
        opened = next(
            e.fields["branches"] for e in self.events if (e.hop_id, e.type) == (joined.hop_id, "branches_opened")
        )
        ended = sum(path.startswith(f"{self._step(joined.hop_id)}/") for path in self.ended())
        left = int(opened) - ended
        return f"; {left} branch is not waited for" if left else ""

    def _step(self, hop_id: str) -> str:
        """Return the path of the step that a hop runs."""
        return next(e.fields["step"] for e in self.events if e.hop_id == hop_id and e.type == "claimed")

    def _line(self, path: str, text: str) -> None:
        click.echo(f"{path:30}{text}")


def show_result(result: WorkflowResult) -> None:
    """Print what the readers found, what the judges said, and the answer."""
    click.echo(f"\n{click.style('readings', bold=True)}")
    found = zip(DOCUMENTS, result.output_as(Findings, step_id="readings").root, strict=True)
    show_fields({document.title: finding.sentences or ["nothing"] for document, finding in found})
    for judge, verdict in decided(result).items():
        click.echo(f"\n{click.style(f'verdicts/{judge}', bold=True)}")
        show_fields({"why": verdict.reason, "quotes": [quote.sentence for quote in verdict.quotes]})
    click.echo(f"\n{click.style('writer', bold=True)}")
    show_fields(result.output_as(dict[str, object]))


def decided(result: WorkflowResult) -> dict[str, Verdict]:
    """Return the verdicts that were in time, by the names of the judges, without those who failed."""
    given = result.output_as(dict[str, dict[str, Any]], step_id="verdicts")
    return {judge: Verdict.model_validate(told) for judge, told in given.items() if "failed" not in told}


def show_readings(before: Sequence[Entry], after: Sequence[Entry]) -> None:
    """Print how often each document was read before the kill and after it, according to the ledger."""
    lists = [(before, False), (before, True), (after, False), (after, True)]
    counts = [Counter(entry.document for entry in part if entry.answered is answered) for part, answered in lists]
    click.echo(f"\n{'document':22}" + "  ".join(COLUMNS))
    for title in [document.title for document in DOCUMENTS]:
        cells = (f"{count[title] or '-':>{len(column)}}" for count, column in zip(counts, COLUMNS, strict=True))
        click.echo(f"{title:22}" + "  ".join(cells))
    sums = (f"{count.total():>{len(column)}}" for count, column in zip(counts, COLUMNS, strict=True))
    click.echo(f"{'together':22}" + "  ".join(sums))


def _subject(path: str) -> str:
    """Return the title of the document that a branch of the readings has."""
    block, _, rest = path.partition("/")
    return f"{DOCUMENTS[int(rest.partition('/')[0])].title} " if block == "readings" and rest else ""
