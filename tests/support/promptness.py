"""A good workflow after a bad one: its worker takes it up at once.

The store's clock counts, so that a test may be slow to ask when other tests have the processors.
"""

from __future__ import annotations

from datetime import timedelta

from paigeant_celery import WorkflowHandle, WorkflowResult

__all__ = ["PROMPT", "prompt_result"]

PROMPT = timedelta(seconds=2)  # within which the next good workflow ends; two steps took at most 0.13
PATIENCE = 20.0  # seconds


def prompt_result(handle: WorkflowHandle) -> WorkflowResult:
    """Return the result of a workflow that took no longer than `PROMPT` from its start to its end."""
    result = handle.result_sync(PATIENCE)
    events = handle.events_so_far()
    assert (events[0].type, events[-1].type) == ("started", "workflow_completed")
    assert events[-1].at - events[0].at < PROMPT
    return result
