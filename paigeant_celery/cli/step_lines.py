"""The tree of a workflow as lines: each step with what it took, what it used, who was asked and why it stands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from paigeant_celery.cli.drawing import FORMS
from paigeant_celery.cli.output import shown, shown_lines

if TYPE_CHECKING:
    from paigeant_celery.cli.runners import WorkerOf
    from paigeant_celery.client.outline import OutlinedBlock, OutlinedStep
    from paigeant_celery.core.events import WorkflowEvent
    from paigeant_celery.core.flow import Failure
    from paigeant_celery.core.slip import ExecutedStep

__all__ = ["BesideTree", "step_lines"]

BUILT_IN = "_flow"  # the activity of blocks, waits and sleeps, which nobody has written


@dataclass(frozen=True, kw_only=True)
class BesideTree:
    """What is known of steps from elsewhere: answers that were given, by their paths, and who runs which hop.

    The failure `told` is printed above the tree already.
    """

    answers: Mapping[str, Sequence[WorkflowEvent]] = field(default_factory=dict)
    runners: Mapping[str, WorkerOf] = field(default_factory=dict)
    told: Failure | None = None


def step_lines(steps: Sequence[OutlinedStep], beside: BesideTree, indent: str = "") -> Iterator[str]:
    """Yield the lines of steps, and of the branches of those that are blocks."""
    for step in steps:
        yield f"{indent}{shown(step.step_id) or '-'}{_origin(step)}: {_standing(step, beside)}"
        yield from _beneath(step, beside, f"{indent}  ")
        if step.block is not None:
            yield from _branch_lines(step.block, beside, f"{indent}  ")


def _branch_lines(block: OutlinedBlock, beside: BesideTree, indent: str) -> Iterator[str]:
    for branch in block.branches:
        yield f"{indent}{shown(branch.name)}: {branch.state}"
        yield from step_lines(branch.steps, beside, f"{indent}  ")
    for state, count in block.more.items():
        yield f"{indent}and {count} more {state}"


def _origin(step: OutlinedStep) -> str:
    """Say what a step is, if its id does not say it, and who added it."""
    about = [FORMS[step.block.form]] if step.block is not None else []
    if step.activity not in ("", BUILT_IN, step.step_id):
        about.append(step.activity)
    if step.added_by is not None:
        about.append(f"added by {shown(step.added_by)}")
    return f" ({', '.join(about)})" if about else ""


def _standing(step: OutlinedStep, beside: BesideTree) -> str:
    from paigeant_celery.core.telling import named

    if step.record is not None:
        return _ran(step.record, step.block)
    parts: list[str] = [step.state]
    answered = beside.runners.get(step.hop_id)
    if step.runner is not None and (answered is None or step.runner.lapsed_at is not None):
        parts.append(shown(step.runner.told))
    elif answered is not None:
        parts.append(str(answered))
    if step.attempt and step.state in ("queued", "retrying", "running"):
        parts.append(f"attempts spent: {step.attempt}")
    if step.retry_at is not None:
        parts.append(f"again at {step.retry_at:%Y-%m-%d %H:%M:%S} UTC")
    if step.block is not None and step.state != "planned":
        parts.append(_counts(step.block))
    is_told = step.failure == beside.told and "/" not in step.path  # in a branch it also says which one failed
    why = f": {shown(named(step.failure))}" if step.failure is not None and not is_told else ""
    return f"{', '.join(filter(None, parts))}{why}"


def _ran(record: ExecutedStep, block: OutlinedBlock | None) -> str:
    parts = [f"completed in {(record.finished_at - record.started_at).total_seconds():.2f} s"]
    if block is not None:
        parts.append(_counts(block))
    if record.attempt > 1:
        parts.append(f"attempt {record.attempt}")
    if any(used := [record.usage.get(f"{side}_tokens", 0) for side in ("input", "output")]):
        parts.append(f"{used[0]} tokens in, {used[1]} out")
    if record.cost is not None:
        parts.append(f"${record.cost}")
    return ", ".join(filter(None, parts))


def _counts(block: OutlinedBlock) -> str:
    counts = Counter[str](branch.state for branch in block.branches)
    counts.update(block.more)
    return ", ".join(f"{count} {state}" for state, count in counts.items())


def _beneath(step: OutlinedStep, beside: BesideTree, indent: str) -> Iterator[str]:
    for wait in step.waiting_for:
        if wait.path and wait.kind != "branches":  # those of the workflow's own step stand above the tree
            yield f"{indent}waits for {shown(str(wait))}"
    for event in beside.answers.get(step.path, ()):
        calls = f" ({shown(event.fields['calls'])})" if event.fields.get("calls") else ""
        by = shown(event.fields.get("by", "")) or "somebody"
        name, at = shown(event.fields.get("wait", "")), f"{event.at:%Y-%m-%d %H:%M:%S} UTC"
        yield f"{indent}{name}{calls} was answered by {by} at {at}"
    failure = step.failure
    if failure is not None and failure.cause is not None and failure != beside.told:
        yield from shown_lines(str(failure.cause), f"{indent}  ")
