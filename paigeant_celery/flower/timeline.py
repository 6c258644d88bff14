"""The tree of a workflow as the rows of a table, each with a bar on one axis of time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal

from pydantic import JsonValue

from paigeant_celery.client.outline import Outline, OutlinedBlock, OutlinedBranch, OutlinedStep
from paigeant_celery.core.jsonable import dumps
from paigeant_celery.core.names import FLOW
from paigeant_celery.flower.words import cut, text_of

__all__ = ["Bar", "Row", "Span", "rows_of", "steps_in"]

SHORT = 600  # characters of an output in the table
BRIEF = 60  # characters of one that has no row of its own
FORMS = {"parallel": "parallel", "for_each": "for each", "sub_workflow": "sub-workflow"}
ENDED = ("failed", "cancelled")
THINNEST = 0.4  # per cent of the axis; what is shorter could not be seen


@dataclass(frozen=True, kw_only=True)
class Span:
    """The time that the axis shows."""

    begins: datetime
    ends: datetime

    def bar(self, begins: datetime, ends: datetime) -> Bar:
        """Return where a time stands on the axis, in per cent."""
        whole = max((self.ends - self.begins).total_seconds(), 1e-6)
        left = 100 * (begins - self.begins).total_seconds() / whole
        width = max(100 * (ends - begins).total_seconds() / whole, THINNEST)
        left = min(max(left, 0.0), 100 - THINNEST)
        return Bar(left=round(left, 2), width=round(min(width, 100 - left), 2), lasted=ends - begins)


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A time on the axis, in per cent of it."""

    left: float
    width: float
    lasted: timedelta


@dataclass(frozen=True, kw_only=True)
class Row:
    """A step, a branch, or how many more branches there are in a state. `branch` names that of its only step.

    `output` and the texts of `error` and `trace` are confidential; they are empty for those who may not see them.
    """

    kind: str
    depth: int
    name: str
    state: str
    branch: str = ""
    path: str = ""
    activity: str = ""
    form: str = ""
    hop_id: str = ""
    attempt: int = 0
    queue: str = ""
    added_by: str = ""
    bar: Bar | None = None
    began: datetime | None = None
    retry_at: datetime | None = None
    size: int | None = None
    usage: Mapping[str, int] | None = None
    cost: Decimal | None = None
    waits: tuple[str, ...] = ()
    error: str = ""
    said: str = ""
    trace: str = ""
    output: str = ""
    has_output: bool = False

    @property
    def is_brief(self) -> bool:
        """Whether the output fits into a line beside the name."""
        return len(self.output) <= BRIEF and "\n" not in self.output

    @property
    def may_retry(self) -> bool:
        """Whether a person may let it go on: a block that is parked without an error has branches that are."""
        return self.kind == "step" and self.state == "parked" and (not self.form or bool(self.error))

    @property
    def may_forget(self) -> bool:
        """Whether it may go on without what it has recorded of its calls; a block makes none."""
        return self.may_retry and not self.form


def rows_of(outline: Outline, span: Span, *, outputs: Mapping[str, JsonValue], content: bool) -> list[Row]:
    """Return the rows of a workflow. `outputs` are known ones, by the paths of their steps."""
    return list(_Rows(span, outputs, content=content).steps(outline, 0, span.begins))


def steps_in(outline: Outline) -> Iterator[OutlinedStep]:
    """Yield all steps of a tree."""
    for step in outline:
        yield step
        for branch in step.block.branches if step.block is not None else ():
            yield from steps_in(branch.steps)


class _Rows:
    def __init__(self, span: Span, outputs: Mapping[str, JsonValue], *, content: bool) -> None:
        self._span, self._outputs, self._content = span, outputs, content

    def steps(self, steps: Sequence[OutlinedStep], depth: int, begins: datetime) -> Iterator[Row]:
        """Yield the rows of a slip that began then."""
        for step in steps:
            yield self._row(step, depth, begins)
            if step.block is not None:
                yield from self._branches(step.block, step.path, depth + 1, self._began(step, begins))
            if step.record is not None:
                begins = step.record.finished_at

    def _began(self, step: OutlinedStep, begins: datetime) -> datetime:
        return step.record.started_at if step.record is not None else begins

    def _branches(self, block: OutlinedBlock, path: str, depth: int, begins: datetime) -> Iterator[Row]:
        for branch in block.branches:
            only = branch.steps[0] if len(branch.steps) == 1 and branch.steps[0].block is None else None
            if only is not None:
                yield replace(self._row(only, depth, begins), branch=branch.name)
                continue
            yield self._branch(branch, path, depth)
            yield from self.steps(branch.steps, depth + 1, begins)
        for state, count in block.more.items():
            yield Row(kind="more", depth=depth, name=f"{count:,} more {state}", state=state)

    def _branch(self, branch: OutlinedBranch, path: str, depth: int) -> Row:
        return Row(
            kind="branch",
            depth=depth,
            name=branch.name,
            state=branch.state,
            path=f"{path}/{branch.name}" if path else "",
        )

    def _row(self, step: OutlinedStep, depth: int, begins: datetime) -> Row:
        record, failure = step.record, step.failure
        bar = None
        if record is not None:
            ran_here = record.finished_at >= self._span.begins  # and not in the workflow that this is a fork of
            bar = self._span.bar(record.started_at, record.finished_at) if ran_here else None
        elif step.state not in (("planned", "held") if depth == 0 else ("planned", "held", *ENDED)):
            # When a branch ended without a record is not known.
            bar = self._span.bar(begins, self._span.ends)
        return Row(
            kind="step",
            depth=depth,
            name=step.step_id or step.activity,
            state=step.state,
            path=step.path,
            activity="" if step.activity == FLOW else step.activity,
            form=FORMS[step.block.form] if step.block is not None else "",
            hop_id=step.hop_id,
            attempt=step.attempt,
            queue=step.queue if step.state in ("queued", "retrying") else "",
            added_by=step.added_by or "",
            bar=bar,
            began=self._began(step, begins) if bar is not None else None,
            retry_at=step.retry_at,
            size=_size(step),
            usage=record.usage if record is not None else None,
            cost=record.cost if record is not None else None,
            waits=tuple(str(replace(wait, path="")) for wait in step.waiting_for),
            error=failure.error_class if failure is not None else "",
            said=failure.text if failure is not None and self._content else "",
            trace=str(failure.cause) if failure is not None and failure.cause is not None and self._content else "",
            output=self._output(step),
            has_output=self._content and record is not None and record.gives_output,
        )

    def _output(self, step: OutlinedStep) -> str:
        if not self._content or step.path not in self._outputs:
            return ""
        return cut(text_of(self._outputs[step.path]), SHORT)


def _size(step: OutlinedStep) -> int | None:
    """Return how many bytes of JSON the output of a step has."""
    record = step.record
    if record is None or not record.gives_output:
        return None
    if record.whole_size is not None:
        return record.whole_size
    if record.output_ref is not None:
        return record.output_ref.size
    return len(dumps(record.output).encode())
