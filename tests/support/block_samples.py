"""The messages that the samples of blocks and branches on the wire were made of."""

from __future__ import annotations

from datetime import UTC, datetime

from paigeant_celery.core.block_steps import for_each, parallel, sub_workflow
from paigeant_celery.core.flow_steps import wait_for
from paigeant_celery.core.message import PaigeantMessage
from paigeant_celery.core.slip import ActivitySpec, ExecutedStep, FunctionSpec, RoutingSlip, name_steps

__all__ = ["NOON", "blocks_message"]

NOON = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)


def blocks_message() -> PaigeantMessage:
    """A workflow that stands at the first of its blocks."""
    planned = ExecutedStep(
        step_id="planner",
        place="0",
        kind="agent",
        activity="planner",
        attempt=1,
        started_at=NOON,
        finished_at=NOON,
        output={"sources": ["a", "b"]},
        usage={"requests": 1},
    )
    reader = ActivitySpec("reader", "Read this source.")
    judge = ActivitySpec("judge", "Judge it.")
    steps = name_steps(
        [
            for_each([reader, FunctionSpec("score", {"best": 5})], over="planner#/sources", max_at_once=8, timeout=60,
                     step_id="readings"),
            parallel({"style": judge, "fachlich geprüft": [wait_for("checked"), judge]}, on_failure="collect"),
            parallel({"one": judge, "two": judge, "three": judge}, join=2, step_id="votes"),
            sub_workflow([parallel({"inner": judge}), for_each(judge, over=["x", {"n": 1}], join="any")]),
            ActivitySpec("writer", "Write it."),
        ]
    )  # fmt: skip
    return PaigeantMessage(
        message_id="order-17.1",
        correlation_id="order-17",
        created_at=NOON,
        sent_at=NOON,
        variables={"customer": "Zoë"},
        slip=RoutingSlip(itinerary=steps, executed=(planned,)),
    )
