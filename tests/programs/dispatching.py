"""A program that dispatches workflows: reads one per line, answers with its id, and may be killed at any time."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from typing import Any

import failpoints  # noqa: F401 - this module makes it die
from celery import Celery
from fanning import BRANCHES, FANS, WINDOW, Fan, seconds_of

from paigeant_celery import (
    ActivitySpec,
    BlockSpec,
    FunctionSpec,
    StepPolicy,
    TransientError,
    WorkflowDispatcher,
    get_transport,
    parallel,
)

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


def step(index: int, work: Mapping[str, Any]) -> ActivitySpec | FunctionSpec | BlockSpec:
    """Return a step of a workflow; one may be a block, one may wait, and one that parks has no second attempt."""
    step_id = f"step-{index}"
    policy = StepPolicy(max_attempts=1) if work["parks_at"] == index else None
    if work["fans_at"] == index:
        return block(FANS[work["fan"]], "0", work["seconds"], step_id)
    if work["waits_at"] == index and work["way"] == "approved":
        return ActivitySpec("teller", "Pay.", step_id=step_id, policy=policy)
    if work["waits_at"] == index:
        return FunctionSpec("heed", {"way": work["way"]}, step_id=step_id, policy=policy)
    return body(STEPS[index % len(STEPS)], work["seconds"], step_id, policy)


def body(name: str, seconds: float, step_id: str, policy: StepPolicy | None) -> ActivitySpec | FunctionSpec:
    """Return a step of `toil`."""
    if name == "plant":
        return ActivitySpec(name, str(seconds), step_id=step_id, policy=policy)
    return FunctionSpec(name, {"seconds": seconds}, step_id=step_id, policy=policy)


def block(fan: Fan, hop: str, seconds: float, step_id: str) -> BlockSpec:
    """Return the block that a fan is."""
    branches: dict[str, list[ActivitySpec | FunctionSpec | BlockSpec]] = {str(n): [] for n in range(BRANCHES)}
    for number, way in fan.waits.items():
        branches[str(number)].append(FunctionSpec("heed", {"way": way}))
    for number, inner in fan.nested.items():
        branches[str(number)].append(block(inner, f"{hop}-{number}.0", seconds, "inner"))
    for hop_id, name, number in fan.bodies(hop):
        policy = StepPolicy(max_attempts=1) if number in fan.parks else None
        own_id = f"body-{hop_id.rpartition('.')[2]}"
        branches[str(number)].append(body(name, seconds_of(fan, number, seconds), own_id, policy))
    return parallel(
        branches,
        join=fan.needed or "all",
        on_failure="collect" if fan.collects or fan.needed else "fail",
        max_at_once=WINDOW,
        step_id=step_id,
    )


if __name__ == "__main__":
    main()
