"""What limits, judges and reminds."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from pydantic_ai import Agent, RunContext
from pydantic_ai.messages import ToolCallPart

from tests.contract.capabilities.row import Made
from tests.contract.capabilities.rows.capabilities import acting, needing_approval
from tests.contract.capabilities.rows.harness.offered import counting, of, row
from tests.contract.capabilities.rows.tools import call
from tests.contract.capabilities.world import World

__all__ = ["ROWS"]

NO = [ToolCallPart("final_result", {"response": "no"}, "answer")]
YES = [ToolCallPart("final_result", {"response": "yes"}, "answer")]


def spend_of(world: World, usd: int) -> Made:
    def price(response: Any) -> Decimal:
        return Decimal(1)

    given = of("SpendLimits")(
        budgets=[of("spend.Budget")(usd=Decimal(usd), window="day")],
        store=counting(world, of("spend.InMemorySpendStore")),
        price=price,
    )
    return acting(world, given, answers=(call("act"), call("act"), "done"))


def spend(world: World) -> Made:
    return spend_of(world, 100)


def overspent(world: World) -> Made:
    return spend_of(world, 2)


def spend_in_memory(world: World) -> Made:
    """The default store dies with the process; what was recorded of it counts all the same."""
    given = of("SpendLimits")(
        budgets=[of("spend.Budget")(usd=Decimal(100), window="run")], price=lambda response: Decimal(1)
    )
    return acting(world, given, answers=(call("act"), call("act"), "done"))


def of_guard(world: World, action: str, **more: Any) -> Any:
    def guard(*given: Any) -> Any:
        world.did("guard")
        return of("GuardrailResult")(action=action, **more)

    return guard


def input_guard(world: World) -> Made:
    return acting(world, of("InputGuardrail")(of_guard(world, "allow")))


def parallel_input_guard(world: World) -> Made:
    return acting(world, of("InputGuardrail")(of_guard(world, "allow"), parallel=True))


def input_blocked(world: World) -> Made:
    return acting(world, of("InputGuardrail")(of_guard(world, "block", message="no")))


def output_guard(world: World) -> Made:
    return acting(world, of("OutputGuardrail")(of_guard(world, "replace", replacement="redacted")))


def tool_guard(world: World) -> Made:
    return acting(
        world, of("ToolGuardrail")(of_guard(world, "allow"), of_guard(world, "replace", replacement="redacted"))
    )


def call_judge(world: World) -> Made:
    given = of("ToolCallJudge")(world.model(NO, name="judge"), id="judge", question="Is it dangerous?")
    return acting(world, given)


def call_judge_that_blocks(world: World) -> Made:
    given = of("ToolCallJudge")(world.model(YES, name="judge"), id="judge", question="Is it dangerous?")
    return acting(world, given)


def reviewer(world: World) -> Made:
    given = of("ApprovalReviewer")(world.model(NO, name="reviewer"), id="reviewer", question="Is it dangerous?")
    return needing_approval(world, given)


def trajectory(world: World) -> Made:
    given = of("TrajectoryJudge")(model=world.model("go on", name="judge"), instructions="Judge it.", every=1)
    return acting(world, given)


def reminders(world: World) -> Made:
    def dynamic(ctx: RunContext[Any]) -> str:
        world.did("remind")
        return "Think of wrens."

    given = of("SystemReminders")(
        reminders=[of("system_reminders.Reminder")("Be brief.", interval=1, tag=None)], dynamic_reminders=[dynamic]
    )
    return acting(world, given)


def repaired(world: World) -> Made:
    agent: Agent[Any, Any] = Agent(
        world.model([ToolCallPart("say", '{"text": "wren"', "say-1")], "done"),
        capabilities=[of("repair_tool_arguments.RepairToolArguments")()],
    )

    @agent.tool_plain
    def say(text: str) -> str:
        world.did(f"say {text}")
        return text

    return agent


GUARD: Any = {"again": ("guard",), "runs_again": "the guard"}

ROWS = [
    row(name="`SpendLimits`", make=spend, of=("SpendLimits",)),
    row(name="`SpendLimits` that are reached", make=overspent, of=("SpendLimits",), ends="SpendLimitExceeded"),
    row(name="`SpendLimits` in memory", make=spend_in_memory, of=("SpendLimits",)),
    row(name="`InputGuardrail`", make=input_guard, of=("InputGuardrail",), **GUARD),
    row(name="`InputGuardrail(parallel=True)`", make=parallel_input_guard, of=("InputGuardrail",), **GUARD),
    row(name="`InputGuardrail` that blocks", make=input_blocked, of=("InputGuardrail",), **GUARD),
    row(name="`OutputGuardrail`", make=output_guard, of=("OutputGuardrail",), **GUARD),
    row(name="`ToolGuardrail`", make=tool_guard, of=("ToolGuardrail",), **GUARD),
    row(name="`ToolCallJudge`", make=call_judge, of=("ToolCallJudge",)),
    row(name="`ToolCallJudge` that blocks", make=call_judge_that_blocks, of=("ToolCallJudge",)),
    row(name="`ApprovalReviewer`", make=reviewer, of=("ApprovalReviewer",)),
    row(
        name="`TrajectoryJudge`",
        make=trajectory,
        of=("TrajectoryJudge",),
        refused="UserError: `TrajectoryJudge` cannot be used inside a durable workflow",
        why="it judges beside the run; the harness refuses it wherever calls are recorded",
    ),
    row(
        name="`SystemReminders`",
        make=reminders,
        of=("SystemReminders",),
        again=("remind",),
        runs_again="dynamic reminders",
    ),
    row(name="`RepairToolArguments`", make=repaired, of=("RepairToolArguments",)),
]
