"""What people try in their first hour: each slip is answered with what to write instead."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent

import paigeant_celery
from paigeant_celery import (
    ActivityExecutor,
    ActivitySpec,
    FunctionSpec,
    InvalidInput,
    PaigeantAgent,
    StepPolicy,
    UnknownActivity,
    UsageError,
    WorkflowContext,
    WorkflowDependencies,
    WorkflowDispatcher,
    activity,
    idempotency_key,
    install,
    register_agent,
)
from paigeant_celery.activities.registry import registry
from paigeant_celery.testing import WorkflowHarness

CONTEXT = "; a first parameter annotated `WorkflowContext` gets the context"
STEP = "as `agent.activity(…)` and `function.activity(…)` return, not a"

writer = PaigeantAgent("test", name="writer")


@activity
def shout(text: str) -> str:
    return text.upper()


@pytest.fixture(autouse=True)
def loaded(own_registry: None) -> None:
    """Let each test find the activities of this module."""
    registry.add(writer._own_activity, holder=writer)
    registry.add(shout, holder=shout)


class Customer(WorkflowDependencies):
    customer_id: int


class Money(BaseModel):
    cents: int = 1


strict = PaigeantAgent("test", name="strict", deps_type=Customer)


def test_a_method_is_no_step() -> None:
    """Its step would lack an argument that nobody can give."""
    with pytest.raises(UsageError, match=r"summed: a step is a function, not a method; take it out of its class"):

        class Till:
            @activity
            def summed(self, cents: int) -> int:
                return cents


async def later() -> str:
    return "w-1"


dispatcher = WorkflowDispatcher()
transport: Any = WorkflowHarness().transport
wrong: Any = None  # what a checker would refuse


def steps(itinerary: Any) -> Callable[[], object]:
    return lambda: dispatcher.dispatch_workflow_sync(transport, itinerary=itinerary)


def unawaited() -> object:
    call: Any = later()
    try:
        return dispatcher.handle(call, transport)
    finally:
        call.close()


def harnessed(itinerary: Any) -> Callable[[], object]:
    return lambda: WorkflowHarness().dispatch(itinerary)


@activity
def unannotated(context, limit: int) -> int:  # type: ignore[no-untyped-def]
    return limit


@activity
def not_first(limit: int, where: WorkflowContext) -> int:
    return limit


def executor(*arguments: Any) -> Callable[[], object]:
    return lambda: ActivityExecutor(*arguments)


SLIPS: dict[str, tuple[Callable[[], object], str, str]] = {
    "an agent as itinerary": (steps(writer), "itinerary", "is a list of steps, not a PaigeantAgent"),
    "a function as itinerary": (steps(shout), "itinerary", "is a list of steps, not a FunctionActivity"),
    "a number as itinerary": (steps(3), "itinerary", "is a list of steps, not a int"),
    "an agent as step": (steps([writer]), "itinerary[0]", f"{STEP} PaigeantAgent"),
    "a function as step": (steps([shout]), "itinerary[0]", f"{STEP} FunctionActivity"),
    "what a function returned": (steps([shout("x")]), "itinerary[0]", f"{STEP} str"),
    "a plain agent": (steps([Agent("test")]), "itinerary[0]", f"{STEP} Agent"),
    "a list in the list": (steps([[writer.activity("x")]]), "itinerary[0]", f"{STEP} list"),
    "an agent in the harness": (harnessed(writer), "itinerary", "is a list of steps, not a PaigeantAgent"),
    "an agent as step in the harness": (harnessed([writer]), "itinerary[0]", f"{STEP} PaigeantAgent"),
    "a context without annotation": (lambda: unannotated.activity(limit=wrong or 3), "arguments", CONTEXT),
    "a context that is not first": (lambda: not_first.activity(limit=wrong or 3), "arguments", CONTEXT),
    "an agent on the runway": (lambda: dispatcher.add(wrong or writer), "step", f"{STEP} PaigeantAgent"),
    "an agent to insert": (lambda: dispatcher.register(wrong or writer), "step", "as `agent.activity(…)` returns"),
    "the steps in place of the transport": (
        lambda: dispatcher.dispatch_workflow_sync(wrong or [writer.activity("x")]), "transport", "`get_transport(…)`",
    ),
    "the transport as dispatcher": (
        lambda: PaigeantAgent("test", dispatcher=transport), "dispatcher", "must be a `WorkflowDispatcher`, not a",
    ),
    "a dispatch without await": (unawaited, "correlation_id", "pass what `await dispatch_workflow(…)` returns"),
    "a timeout as text": (
        lambda: dispatcher.handle("w", transport).result_sync(timeout=wrong or "5"), "timeout", "a number of seconds",
    ),
    "a function's step for an agent": (steps([FunctionSpec("writer")]), "itinerary[0].kind", "use an `ActivitySpec`"),
    "an agent's step for a function": (
        steps([ActivitySpec("shout", "x")]), "itinerary[0].kind", "use a `FunctionSpec`",
    ),
    "one class that is final": (lambda: StepPolicy(final_on=wrong or OSError), "final_on", "must be a list of"),
    "a number of classes": (lambda: StepPolicy(retry_on=wrong or 3), "retry_on", "must be a list of"),
    "a name without its keyword": (lambda: activity(wrong or "shout"), "function", "names are given as `name=`"),
    "deps of another class": (
        lambda: strict.activity("x", deps=wrong or Money()), "deps", "is not what its type takes (Input should be",
    ),
    "an agent as function": (lambda: activity(wrong or writer), "function", "not for a PaigeantAgent"),
    "an agent by its name": (lambda: register_agent(wrong or "writer"), "agent", "must be a pydantic-ai agent"),
    "the name of the app": (lambda: install(wrong or "shop"), "app", "must be a `Celery` app, not a str"),
    "a transport by its name": (executor("inmemory", "writer"), "transport", "must be what `get_transport(…)` returns"),
    "an executor's arguments swapped": (executor("writer", transport), "transport", "must be what"),
}  # fmt: skip


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_is_refused_with_its_place_and_the_remedy(slip: str) -> None:
    """An `AttributeError` from inside the package would send people to read its source."""
    call, path, text = SLIPS[slip]

    with pytest.raises(InvalidInput) as caught:
        call()

    assert caught.value.path == path
    assert text in caught.value.text


@pytest.mark.parametrize(
    ("name", "module", "text"),
    [
        (writer, "shop.agents", "must be the name of an activity, not a PaigeantAgent"),
        ("writer", ModuleType("shop"), "the dotted name or the file of a module, not a module"),
        ("writer", Path("agents.py"), "the dotted name or the file of a module, not a PosixPath"),
    ],
)
def test_an_executor_is_given_names(name: Any, module: Any, text: str) -> None:
    """It loads the module itself."""
    real = paigeant_celery.get_transport("inmemory")

    with pytest.raises(InvalidInput, match=text):
        ActivityExecutor(real, name, module)


@pytest.mark.parametrize("module", ["./agents", "shop/agents", ".agents", "..", "shop\\agents"])
def test_an_executor_says_how_a_module_is_named(module: str) -> None:
    """A path without `.py` is neither a file nor a dotted name."""
    real = paigeant_celery.get_transport("inmemory")

    with pytest.raises(UnknownActivity, match=r"no dotted name such as 'shop.agents' and no file that ends in '.py'"):
        asyncio.run(ActivityExecutor(real, "writer", module).start(0))


def test_an_executor_that_cannot_start_says_so_at_once(caplog: pytest.LogCaptureFixture) -> None:
    """It runs as a task whose error nobody has looked at yet, while the program waits for the result."""
    real = paigeant_celery.get_transport("inmemory")

    async def main() -> None:
        task = asyncio.create_task(ActivityExecutor(real, "writr", __name__).start())
        await asyncio.wait([task])
        assert caplog.messages[0].startswith("the executor of 'writr' ended: no activity 'writr' is loaded; searched ")
        with pytest.raises(UnknownActivity):
            await task

    asyncio.run(main())

    assert [record.action for record in caplog.records if record.levelname == "ERROR"] == ["executor_failed"]


def test_a_misspelt_public_name_is_corrected() -> None:
    """Python suggests the name that was meant, if the error says where to look."""
    with pytest.raises(AttributeError) as caught:
        _ = paigeant_celery.WorkflowDispatchr

    assert (caught.value.name, caught.value.obj) == ("WorkflowDispatchr", paigeant_celery)


def test_a_key_is_asked_for_inside_a_tool() -> None:
    """Someone who passes nothing of use is told where it works."""
    with pytest.raises(UsageError, match="call it inside a tool"):
        idempotency_key(wrong)
