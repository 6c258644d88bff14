"""The tree of a workflow as JSON has it, without outputs; texts of errors are in it only where they are asked for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from paigeant_celery.client.outline import OutlinedBlock, OutlinedStep

__all__ = ["steps_document"]


def steps_document(steps: Iterable[OutlinedStep], *, failures: bool) -> list[dict[str, object]]:
    """Return the steps of a tree; `failures` says whether those of steps are in it, which quote what was raised."""
    return [_step(step, failures=failures) for step in steps]


def _step(step: OutlinedStep, *, failures: bool) -> dict[str, object]:
    record = step.record
    document: dict[str, object] = {
        "step_id": step.step_id,
        "path": step.path,
        "activity": step.activity,
        "state": step.state,
        "hop_id": step.hop_id,
        "attempt": step.attempt,
        "queue": step.queue,
        "added_by": step.added_by,
        "started_at": record.started_at if record is not None else None,
        "finished_at": record.finished_at if record is not None else None,
        "retry_at": step.retry_at,
        "usage": record.usage if record is not None else {},
        "cost": record.cost if record is not None else None,
        "waiting_for": step.waiting_for,
        "block": _block(step.block, failures=failures) if step.block is not None else None,
    }
    return {**document, "failure": step.failure} if failures else document


def _block(block: OutlinedBlock, *, failures: bool) -> dict[str, object]:
    return {
        "form": block.form,
        "branches": [
            {"name": branch.name, "state": branch.state, "steps": steps_document(branch.steps, failures=failures)}
            for branch in block.branches
        ],
        "more": block.more,
    }
