"""What happens in the researcher's step, on the screen: live from the workflow's events, and a table at the end."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import click

from examples.durable_research.ledger import Call, Entry
from paigeant_celery import WorkflowEvent, WorkflowHandle

__all__ = ["Watch", "show_calls"]

Kind = tuple[
    int, str, str
]  # step, kind and name: what an event says about a call; parallel calls may have the same ones

COLUMNS = "made in attempt 1", "replayed in attempt 2", "made in attempt 2"


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

    def count(self, event: str, *, attempt: int) -> Counter[Kind]:
        """Count the calls for which an attempt reported `event`: `call_made` or `call_replayed`."""
        told = (e.fields for e in self.events if e.type == "agent" and e.fields["attempt"] == str(attempt))
        return Counter(
            (int(fields["step"]), fields["call"], fields["name"])
            for fields in told
            if fields["event"] == event and fields["call"] in {"model", "tool"}
        )

    def fields_of(self, type_: str) -> list[dict[str, str]]:
        """Return the fields of the events of a type."""
        return [dict(event.fields) for event in self.events if event.type == type_]

    def _show(self, event: WorkflowEvent) -> None:
        told = event.fields
        if event.type != "agent":
            return
        if told["event"] in {"call_made", "call_replayed"} and told["call"] in {"model", "tool"}:
            what = (
                click.style("MADE", bold=True) if told["event"] == "call_made" else click.style("REPLAYED", fg="green")
            )
            click.echo(f"attempt {told['attempt']}  step {told['step']}  {told['name'] or told['call']:12} {what}")
        elif told["event"] in {"part_start", "part_delta", "part_end"}:
            self._speak(told["event"], json.loads(told.get("data", "{}")))

    def _speak(self, event: str, data: dict[str, dict[str, str]]) -> None:
        """Print the text of the model as it comes."""
        part = data.get("delta" if event == "part_delta" else "part", {})
        if event == "part_start" and part.get("part_kind") == "text":
            click.echo(f"{'':11}{part['content']}", nl=False)
        elif event == "part_delta" and part.get("part_delta_kind") == "text":
            click.echo(part["content_delta"], nl=False)
        elif event == "part_end" and part.get("part_kind") == "text":
            click.echo()


def show_calls(entries: Iterable[Entry], replayed: Counter[Kind]) -> None:
    """Print how often each call was made, according to the ledger, and how often it was replayed."""
    began = [entry for entry in entries if not entry.ended]
    first = Counter(_kind(entry.call) for entry in began if entry.attempt == 1)
    second = Counter(_kind(entry.call) for entry in began if entry.attempt > 1)
    click.echo(f"\n{'calls':22}" + "  ".join(COLUMNS))
    for kind in sorted(first | second, key=lambda kind: (kind[0], kind[1] != "model", kind[2])):
        step, call, name = kind
        counts = (first[kind], replayed[kind], second[kind])
        cells = "  ".join(f"{count or '-':>{len(column)}}" for count, column in zip(counts, COLUMNS, strict=True))
        click.echo(f"step {step}  {name or call:14}{cells}")
    sums = "  ".join(
        f"{counter.total():>{len(column)}}"
        for counter, column in zip((first, replayed, second), COLUMNS, strict=True)
    )  # fmt: skip
    click.echo(f"{'together':22}{sums}")


def _kind(call: Call) -> Kind:
    return call.step, call.kind, call.name
