"""Errors that a run survives, and errors that end it."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from typing import Any, TypeAlias

from pydantic_ai import Agent, RunContext, exceptions
from pydantic_ai import capabilities as of
from pydantic_ai.exceptions import ModelHTTPError, ToolFailed, UnexpectedModelBehavior
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.usage import UsageLimits

from paigeant_celery import CeleryDurability
from tests.contract.capabilities.row import Made, Row
from tests.contract.capabilities.rows.capabilities import acting
from tests.contract.capabilities.rows.tools import call
from tests.contract.capabilities.world import World

__all__ = ["ROWS"]


Raised: TypeAlias = Callable[[], Exception]  # made late, because older versions lack some classes


def http(category: str, status: int) -> Raised:
    """Return what makes an error as the adapters of providers raise it."""
    return lambda: ModelHTTPError.for_category(
        getattr(exceptions, category), status_code=status, model_name="model", body={"error": "no"}, retry_after=2.0
    )


def fallback_after(error: Raised, *categories: str) -> Any:
    """Return what makes an agent whose first model fails with `error` after a tool was called."""

    def make(world: World) -> Made:
        other = world.model("unused", "done by another", name="other")
        on = {"fallback_on": tuple(getattr(exceptions, name) for name in categories)} if categories else {}
        return acting(world, of.ModelFallback(other, **on), answers=(call("act"), error()))

    return make


def fallback_model(world: World) -> Made:
    first = world.model(call("act"), http("ModelRateLimitError", 429)())
    return acting(world, model=FallbackModel(first, world.model("unused", "done by another", name="other")))


def caught(error: Raised, *classes: str) -> Any:
    """Return what makes a step that catches the error of one agent by its class and asks another."""

    def make(world: World) -> Made:
        first = Agent(world.model(error()), name="first", capabilities=[CeleryDurability()])
        second = Agent(world.model("done", name="other"), name="second", capabilities=[CeleryDurability()])

        async def run() -> Any:
            try:
                return await first.run("go")
            except tuple(getattr(exceptions, name) for name in classes) as raised:
                said = [type(raised).__name__, str(raised), sorted(vars(raised).items(), key=str)]
                return [said, (await second.run("go")).output]

        return run

    return make


def every_fallback_failed(world: World) -> Made:
    models = [world.model(http("ModelServerError", 500)(), name=name) for name in ("one", "two")]
    first = Agent(FallbackModel(*models), name="first", capabilities=[CeleryDurability()])
    second = Agent(world.model("done", name="other"), name="second", capabilities=[CeleryDurability()])

    async def run() -> Any:
        try:
            return await first.run("go")
        except exceptions.FallbackExceptionGroup as group:
            said = [[type(error).__name__, str(error)] for error in group.exceptions]
            return [said, (await second.run("go")).output]

    return run


def raised_in_a_tool(error: Exception, *classes: type[Exception]) -> Any:
    """Return what makes a step that catches what a tool of one agent raised and asks another."""

    def make(world: World) -> Made:
        first = Agent(world.model(call("read")), name="first", capabilities=[CeleryDurability()])
        second = Agent(world.model("done", name="other"), name="second", capabilities=[CeleryDurability()])

        @first.tool_plain
        def read() -> str:
            world.did("read")
            raise error

        async def run() -> Any:
            try:
                return await first.run("go")
            except classes as raised:
                said = [getattr(raised, name, None) for name in ("errno", "strerror", "filename", "message", "body")]
                return [str(raised), said, (await second.run("go")).output]

        return run

    return make


def tool_failed(world: World) -> Made:
    agent = Agent(world.model(call("read"), "done"))

    @agent.tool_plain
    def read() -> str:
        world.did("read")
        raise ToolFailed("no such page")

    return agent


def recovered_tool(world: World) -> Made:
    def recover(ctx: RunContext[Any], **given: Any) -> Any:
        world.did("recover")
        return f"it failed: {given['error']}"

    agent = Agent(world.model(call("read"), "done"), capabilities=[of.Hooks(tool_execute_error=recover)])

    @agent.tool_plain
    def read() -> str:
        world.did("read")
        raise ValueError("no such page")

    return agent


def unknown_tool(world: World) -> Made:
    return acting(world, answers=(call("nothing"), call("act"), "done"))


def limited(world: World) -> Made:
    agent = acting(world, CeleryDurability(), answers=(call("act"), call("act"), "done"), name="worker")
    return lambda: agent.run("go", usage_limits=UsageLimits(request_limit=2))


def limited_tools(world: World) -> Made:
    agent = acting(world, CeleryDurability(), answers=(call("act"), call("act"), "done"), name="worker")
    return lambda: agent.run("go", usage_limits=UsageLimits(tool_calls_limit=1))


def limited_cost(world: World) -> Made:
    """An agent inside a recorded tool uses up what the run has."""
    helper = Agent(world.model("one", name="helper"), name="helper")
    agent = Agent(world.model(call("ask"), call("ask"), "done"), name="worker", capabilities=[CeleryDurability()])

    @agent.tool
    async def ask(ctx: RunContext[None]) -> str:
        return (await helper.run("why", usage=ctx.usage)).output

    return lambda: agent.run("go", usage_limits=UsageLimits(request_limit=3))


def cancelled(world: World) -> Made:
    agent = Agent(world.model(call("stop"), "done"), name="worker", capabilities=[CeleryDurability()])

    @agent.tool(metadata={"paigeant": False})
    async def stop(ctx: RunContext[None]) -> str:
        ctx.cancel()
        await asyncio.sleep(0)
        return "not reached"

    return agent


def cancelled_recorded(world: World) -> Made:
    agent = Agent(world.model(call("stop"), "done"))

    @agent.tool
    async def stop(ctx: RunContext[None]) -> str:
        world.did("stop")
        ctx.cancel()
        await asyncio.sleep(0)
        return "not reached"

    return agent


def timed_out(world: World) -> Made:
    """The first attempt uses up more than half of the run's own timeout; the second one has the whole of it again."""
    agent = acting(world, CeleryDurability(), name="worker")

    @agent.output_validator
    async def check(output: str) -> str:
        await asyncio.sleep(0.4)
        return output

    return lambda: agent.run("go", timeout=0.7)


def tool_timeout(world: World) -> Made:
    agent = Agent(world.model(call("slow"), "done"))

    @agent.tool_plain(timeout=0.05)
    async def slow() -> str:
        world.did("slow")
        await asyncio.Event().wait()
        return "not reached"

    return agent


def empty(world: World) -> Made:
    return Agent(world.model([]), retries=1)


MISSING = FileNotFoundError(errno.ENOENT, "No such file", "/pages/1")

ROWS = [
    Row(
        name="`ModelFallback` after a rate limit",
        make=fallback_after(http("ModelRateLimitError", 429)),
        of=("ModelFallback",),
        since="2.64",
        brief=True,
        killed=True,
    ),
    Row(
        name="`ModelFallback(fallback_on=ModelRateLimitError)`",
        make=fallback_after(http("ModelRateLimitError", 429), "ModelRateLimitError"),
        of=("ModelFallback",),
        since="2.64",
    ),
    Row(
        name="`ModelFallback` after a server error",
        make=fallback_after(http("ModelServerError", 500)),
        of=("ModelFallback",),
        since="2.64",
    ),
    Row(
        name="`ModelFallback` after `ModelRequestTimeout`",
        make=fallback_after(lambda: exceptions.ModelRequestTimeout("model", 1.5)),
        of=("ModelFallback",),
        since="2.64",
    ),
    Row(
        name="`ModelFallback` after a lost connection",
        make=fallback_after(lambda: exceptions.ModelConnectionError("model", "gone")),
        of=("ModelFallback",),
        since="2.64",
    ),
    Row(
        name="`FallbackModel` after a rate limit",
        make=fallback_model,
    ),
    Row(
        name="an `except ModelHTTPError` around another agent",
        make=caught(http("ModelRateLimitError", 429), "ModelHTTPError"),
    ),
    Row(
        name="an `except ModelRateLimitError` around another agent",
        make=caught(http("ModelRateLimitError", 429), "ModelRateLimitError"),
    ),
    Row(
        name="an `except UnexpectedModelBehavior` around another agent",
        make=caught(lambda: UnexpectedModelBehavior("odd", '{"a": 1}'), "UnexpectedModelBehavior"),
    ),
    Row(
        name="an `except FallbackExceptionGroup` around another agent",
        make=every_fallback_failed,
    ),
    Row(
        name="an `except OSError` around an agent whose tool raised `FileNotFoundError`",
        make=raised_in_a_tool(MISSING, OSError),
    ),
    Row(
        name="an `except ValueError` around an agent whose tool raised `UnicodeDecodeError`",
        make=raised_in_a_tool(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"), ValueError),
    ),
    Row(name="`ToolFailed`", make=tool_failed),
    Row(
        name="a tool's error that a hook answers",
        make=recovered_tool,
        again=("recover",),
        runs_again="the hook",
    ),
    Row(name="a tool that does not exist", make=unknown_tool),
    Row(name="`UsageLimits(request_limit=…)`", make=limited, ends="UsageLimitExceeded"),
    Row(name="`UsageLimits(tool_calls_limit=…)`", make=limited_tools, ends="UsageLimitExceeded"),
    Row(name="`UsageLimits` with agents inside tools", make=limited_cost, ends="UsageLimitExceeded"),
    Row(name='`ctx.cancel()` in a tool with `metadata={"paigeant": False}`', make=cancelled, ends="RunCancelled"),
    Row(
        name="`ctx.cancel()` in a recorded tool",
        make=cancelled_recorded,
        ends="RunCancelled",
        refused="UserError: `ctx.cancel()` is refused inside a recorded call",
        why='a replay would miss it; give the tool `metadata={"paigeant": False}`',
    ),
    Row(
        name="`run(timeout=…)`",
        make=timed_out,
    ),
    Row(name="a tool with a `timeout`", make=tool_timeout),
    Row(name="a model that answers nothing", make=empty, ends="UnexpectedModelBehavior"),
]
