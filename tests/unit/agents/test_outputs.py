"""Answers of agents that cannot be recorded as they are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from pydantic_ai import TextOutput
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from paigeant_celery import PaigeantAgent, WorkflowParked
from paigeant_celery.activities.registry import registry
from paigeant_celery.testing import WorkflowHarness


def test_an_agent_whose_output_has_no_json_form_asks_no_model_again_when_its_step_is_corrected(
    workflow_harness: WorkflowHarness,
) -> None:
    """The answer is paid for; only what was made of it was wrong."""
    asked: list[str] = []

    def answer(_: list[ModelMessage], __: AgentInfo) -> ModelResponse:
        asked.append("asked")
        return ModelResponse(parts=[TextPart("seven")])

    def wrong(text: str) -> object:
        return {text: object()}

    def right(text: str) -> object:
        return len(text)

    def agent(make: Callable[[str], object]) -> Any:
        return PaigeantAgent(FunctionModel(answer), name="counting", output_type=TextOutput(make))

    with registry.isolated():
        failing = agent(wrong)
        handle = workflow_harness.dispatch([failing.activity("count")])
        assert asyncio.run(workflow_harness.deliver()) == ["parked"]
    with pytest.raises(WorkflowParked, match=r"output_not_serializable: `output\.seven`: a `object` has no JSON form"):
        handle.result_sync(0)

    with registry.isolated():
        _corrected = agent(right)
        assert handle.redrive_sync()
        workflow_harness.sweep()
        assert asyncio.run(workflow_harness.deliver()) == ["workflow_completed"]
    assert handle.result_sync(0).output == 5
    assert asked == ["asked"]
