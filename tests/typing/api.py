"""Checked by a strict type checker and never run: the types of deps and outputs survive."""

from __future__ import annotations

from typing import assert_type

from pydantic import BaseModel

from paigeant_celery import (
    ActivitySpec,
    FunctionSpec,
    PaigeantAgent,
    StepOutput,
    WorkflowDispatcher,
    WorkflowResult,
    activity,
)


class Draft(BaseModel):
    text: str


@activity
def score(limit: int) -> int:
    return limit


dispatcher = WorkflowDispatcher()
writer = PaigeantAgent("anthropic:claude-sonnet-4-5", output_type=Draft, dispatcher=dispatcher)

assert_type(writer.activity("write"), ActivitySpec)
assert_type(score.activity(limit=3), FunctionSpec)


async def outputs(step: StepOutput, result: WorkflowResult) -> None:
    assert_type(step.output_as(Draft), Draft)
    assert_type(result.output_as(Draft), Draft)
    assert_type((await writer.run("now")).output, Draft)
