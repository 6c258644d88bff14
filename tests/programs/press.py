"""Activities of the second worker."""

from __future__ import annotations

import hashlib

from stage import echo, note_run

from paigeant_celery import PaigeantAgent, WorkflowContext, activity

draft = PaigeantAgent(echo("draft"))


@activity
async def count_letters(context: WorkflowContext, letter: str) -> dict[str, int]:
    """Count a letter in the previous output."""
    note_run()
    assert context.previous_output is not None
    return {letter: str(context.previous_output.output).count(letter)}


@activity
async def digest_of(context: WorkflowContext, step_id: str) -> list[str]:
    """Return digests of the previous output and of another step's."""
    note_run()
    assert context.previous_output is not None
    other = await context.output(step_id)
    return [hashlib.sha256(str(found.output).encode()).hexdigest() for found in (context.previous_output, other)]
