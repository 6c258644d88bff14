"""What a wait for calls of tools consists of."""

from __future__ import annotations

from pydantic_ai.messages import ToolCallPart
from pydantic_ai.tools import DeferredToolRequests

from paigeant_celery.agents.asked_calls import AskedCalls


def test_two_calls_with_one_id_are_one_part() -> None:
    """Some local models give each call the same id; a part that no answer can name would keep the wait open."""
    twice = [ToolCallPart("pay", {"cents": cents}, "call") for cents in (1, 2)]
    assert AskedCalls(DeferredToolRequests(approvals=twice)).parts == ("call",)
