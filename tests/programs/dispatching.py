"""A program that dispatches workflows: reads one per line, answers with its id, and may be killed at any time."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from typing import Any

import failpoints  # noqa: F401 - this module makes it die
from celery import Celery

from paigeant_celery import ActivitySpec, FunctionSpec, StepPolicy, TransientError, WorkflowDispatcher, get_transport

PATIENCE = 30.0  # seconds for one dispatch to survive an outage
BETWEEN_ATTEMPTS = 0.1  # seconds
STEPS = ("dig", "plant", "water")


def main() -> None:
    app = Celery("dispatching", set_as_current=False)
    app.config_from_object("celeryconfig")
    transport, dispatcher = get_transport(app=app), WorkflowDispatcher()
    for line in sys.stdin:
        work = json.loads(line)
        itinerary = [step(index, work) for index in range(work["steps"])]
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                dispatcher.dispatch_workflow_sync(transport, itinerary=itinerary, correlation_id=work["correlation_id"])
            except TransientError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(BETWEEN_ATTEMPTS)
            else:
                break
        print(work["correlation_id"], flush=True)


def step(index: int, work: Mapping[str, Any]) -> ActivitySpec | FunctionSpec:
    """Return a step of a workflow; one may wait, and the one that parks it has no second attempt."""
    name, step_id, seconds = STEPS[index % len(STEPS)], f"step-{index}", work["seconds"]
    policy = StepPolicy(max_attempts=1) if work["parks_at"] == index else None
    if work["waits_at"] == index and work["way"] == "approved":
        return ActivitySpec("teller", "Pay.", step_id=step_id, policy=policy)
    if work["waits_at"] == index:
        return FunctionSpec("heed", {"way": work["way"]}, step_id=step_id, policy=policy)
    if name == "plant":
        return ActivitySpec(name, str(seconds), step_id=step_id, policy=policy)
    return FunctionSpec(name, {"seconds": seconds}, step_id=step_id, policy=policy)


if __name__ == "__main__":
    main()
