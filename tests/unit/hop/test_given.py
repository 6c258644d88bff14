"""What a step is given: its deps or arguments are made once for each attempt."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest
from pydantic_ai import RunContext
from pydantic_ai.models.test import TestModel

from paigeant_celery import PaigeantAgent, StepPolicy, activity
from paigeant_celery.testing import WorkflowHarness

MADE: list[object] = []


@dataclass
class Account:
    """Opens something when it is made, as deps do that hold a client."""

    customer: str
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        MADE.append(self)


@pytest.fixture(autouse=True)
def made() -> None:
    MADE.clear()


def test_the_deps_of_an_agent_are_made_once_for_each_attempt(workflow_harness: WorkflowHarness) -> None:
    """A client that they open twice is closed once, and what an attempt noted in them is not in the next."""
    agent = PaigeantAgent(TestModel(), name="teller", deps_type=Account)
    seen: list[Account] = []

    @agent.tool
    def look(ctx: RunContext[Account]) -> str:
        seen.append(ctx.deps)
        ctx.deps.notes.append("looked")
        if len(seen) == 1:
            raise ConnectionError
        return "seen"

    step = agent.activity("Look.", Account("Ann"), policy=StepPolicy(max_attempts=2, backoff=0))
    handle = workflow_harness.dispatch([step])
    at_dispatch = len(MADE)
    asyncio.run(workflow_harness.deliver())

    assert handle.status_sync().state == "completed"
    assert len(MADE) - at_dispatch == 2
    assert [deps.notes for deps in seen] == [["looked"], ["looked"]]
    assert seen == MADE[at_dispatch:]


def test_the_arguments_of_a_function_are_made_once_for_each_attempt(workflow_harness: WorkflowHarness) -> None:
    """The function gets those that were checked."""
    seen: list[Account] = []

    @activity
    async def greet(account: Account) -> str:
        seen.append(account)
        return account.customer

    handle = workflow_harness.dispatch([greet.activity(account=Account("Ann"))])
    at_dispatch = len(MADE)
    asyncio.run(workflow_harness.deliver())

    assert handle.result_sync(0).output == "Ann"
    assert [id(account) for account in seen] == [id(account) for account in MADE[at_dispatch:]]
