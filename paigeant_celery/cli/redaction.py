"""Readings of a workflow without the texts of errors, which may quote prompts and answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from paigeant_celery.client.outline import Outline, OutlinedStep
from paigeant_celery.client.readings import BranchStatus, WorkflowStatus
from paigeant_celery.core.telling import without_texts

__all__ = ["bare_outline", "bare_status"]


def bare_status(status: WorkflowStatus) -> WorkflowStatus:
    """Return a status whose failures have classes and frames alone."""
    return replace(
        status,
        failure=without_texts(status.failure),
        last_failure=without_texts(status.last_failure),
        branches=_bare_branches(status.branches),
    )


def bare_outline(outline: Sequence[OutlinedStep]) -> Outline:
    """Return a tree whose failures have classes and frames alone."""
    return tuple(_bare_step(step) for step in outline)


def _bare_branches(branches: Sequence[BranchStatus]) -> tuple[BranchStatus, ...]:
    return tuple(
        replace(branch, failure=without_texts(branch.failure), branches=_bare_branches(branch.branches))
        for branch in branches
    )


def _bare_step(step: OutlinedStep) -> OutlinedStep:
    block = step.block
    if block is not None:
        block = replace(
            block, branches=tuple(replace(branch, steps=bare_outline(branch.steps)) for branch in block.branches)
        )
    return replace(step, failure=without_texts(step.failure), block=block)
