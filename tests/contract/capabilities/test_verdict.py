"""The trials find what is wrong: rows that are not true, each in another way."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from pydantic_ai import Agent
from pydantic_ai.messages import ToolCallPart

from paigeant_celery import CeleryDurability
from tests.contract.capabilities.row import Made, Row
from tests.contract.capabilities.verdict import faults_of
from tests.contract.capabilities.world import World

CALL = [ToolCallPart("act", {}, "act-1")]


def acting(world: World, *answers: Any, metadata: dict[str, Any] | None = None) -> Agent[None, str]:
    agent = Agent(world.model(*(answers or (CALL, "done"))))

    @agent.tool_plain(metadata=metadata)
    def act() -> str:
        world.did("act")
        return "acted"

    return agent


def not_durable(world: World) -> Made:
    agent = acting(world)
    return lambda: agent.run("go")


def of_chance(world: World) -> Made:
    agent = acting(world)
    agent.output_validator(lambda output: f"{output} {os.urandom(8).hex()}")
    return agent


def of_the_attempt(world: World) -> Made:
    agent = acting(world)
    agent.output_validator(lambda output: f"{output} {world.attempt}")
    return agent


def unrecorded(world: World) -> Made:
    return acting(world, metadata={"paigeant": False})


def changed(world: World) -> Made:
    agent = acting(world)
    if world.attempt > 1:
        agent.tool_plain(lambda: "new", name="new")
    return agent


def cleaned_up(world: World) -> Made:
    agent = Agent(world.model("done"), name="worker", capabilities=[CeleryDurability()])

    async def run() -> Any:
        ended = False
        try:
            result = await agent.run("go")
            ended = True
            return result
        finally:
            if not ended:
                world.did("cancelled the provider's job")

    return run


def right(world: World) -> Made:
    return acting(world)


CASES: list[tuple[Callable[[World], Made], dict[str, Any], str]] = [
    (not_durable, {}, "runs again: ['act', 'request to model']"),
    (of_chance, {}, "output/1 of a plain run is"),
    (of_the_attempt, {}, 'late: output/1 of a whole run is "done 1", of a replay "done 2"'),
    (unrecorded, {}, "late: runs again: ['act']"),
    (changed, {}, 'before 2: error of a whole run is null, of a replay "NonDeterminismError'),
    (right, {"again": ("act",), "runs_again": "the tool"}, "late: does not run again: ['act']"),
    (right, {"refused": "UserError", "why": "it is not"}, "it should be refused with 'UserError', but gives"),
]


@pytest.mark.parametrize(
    ("make", "row", "said"),
    [pytest.param(*case, marks=() if case[0] is unrecorded else pytest.mark.proof) for case in CASES],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_row_that_is_not_true_is_found_out(make: Callable[[World], Made], row: dict[str, Any], said: str) -> None:
    """A kit that cannot fail says nothing."""
    faults = faults_of(Row(name="a wrong row", make=make, **row))
    assert [fault for fault in faults if said in fault], faults


@pytest.mark.proof
def test_what_only_a_dying_process_does_is_found_out() -> None:
    """Cleaning up after a crash must not undo what the next attempt goes on with."""
    faults = faults_of(Row(name="a wrong row", make=cleaned_up))
    assert 'before 1: "cancelled the provider\'s job" is done only if the process dies' in faults
