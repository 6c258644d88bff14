"""The models of an agent whose run is durable: fallbacks, instances given for a run, and models known by name."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import ReferenceType, ref

import pytest
from pydantic_ai import Agent
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.exceptions import ModelHTTPError, UserError
from pydantic_ai.models import Model
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.function import FunctionModel
from pydantic_ai.models.test import TestModel
from pydantic_ai.models.wrapper import WrapperModel

from paigeant_celery.activities.functions import in_own_thread
from paigeant_celery.agents import models as loop_models
from paigeant_celery.agents.durability import CeleryDurability
from tests.support.journalled_hop import JournalledHop, calls, history, scripted

try:
    from pydantic_ai.capabilities import ModelFallback
except ImportError:  # in the oldest supported pydantic-ai
    ModelFallback = None  # type: ignore[assignment, misc]

pytestmark = pytest.mark.anyio

with_fallback = pytest.mark.skipif(ModelFallback is None, reason="this pydantic-ai has no such capability")

DOWN = ModelHTTPError(503, "first", {"error": "overloaded"})


def durable(**arguments: Any) -> list[AbstractCapability[None]]:
    return [CeleryDurability[None](**arguments)]


def fallback_model(asked: Counter[str]) -> Agent[None, str]:
    first, second = scripted(asked, DOWN, name="first"), scripted(asked, "answer", name="second")
    return Agent(FallbackModel(first, second), name="careful", capabilities=durable())


def fallback_capability(asked: Counter[str]) -> Agent[None, str]:
    first, second = scripted(asked, DOWN, name="first"), scripted(asked, "answer", name="second")
    fallback = ModelFallback[None](second)
    return Agent(first, name="careful", capabilities=[*durable(models={"second": second}), fallback])


def unregistered_fallback_capability(asked: Counter[str]) -> Agent[None, str]:
    first, second = scripted(asked, DOWN, name="first"), scripted(asked, "answer", name="second")
    return Agent(first, name="careful", capabilities=[*durable(), ModelFallback[None](second)])


@pytest.mark.parametrize(
    "make",
    [
        fallback_model,
        pytest.param(fallback_capability, marks=with_fallback),
        pytest.param(unregistered_fallback_capability, marks=with_fallback),
    ],
)
async def test_a_model_that_was_down_is_not_asked_again_in_a_replay(
    make: Callable[[Counter[str]], Agent[None, str]],
) -> None:
    """By then it is up again and would give a different answer from the one that the run went on with."""
    asked: Counter[str] = Counter()
    hop, agent = JournalledHop(), make(asked)

    with hop.attempt():
        result = await agent.run("go")
    with hop.attempt() as again:
        replayed = await agent.run("go")

    assert asked == {"first": 1, "second": 1}
    assert again.made == 0
    assert result.output == replayed.output == "answer"
    assert history(result) == history(replayed)
    assert result.usage == replayed.usage


async def test_an_instance_may_be_given_for_a_run() -> None:
    """A step that chooses its model by the customer's contract needs no registry; each run may use a new instance."""
    asked: Counter[str] = Counter()
    hop, agent = JournalledHop(), Agent(name="bare", capabilities=durable())

    def model() -> FunctionModel:
        return scripted(asked, "answer", name="chosen")

    with hop.attempt():
        result = await agent.run("go", model=model())
    with hop.attempt() as again:
        replayed = await agent.run("go", model=model())

    assert asked == {"chosen": 1}
    assert again.made == 0
    assert (result.output, replayed.output) == ("answer", "answer")


async def test_the_default_and_an_instance_for_a_run_stay_apart() -> None:
    """Two runs of one agent in a step, each with its own model."""
    asked: Counter[str] = Counter()
    agent = Agent(scripted(asked, "cheap", name="cheap"), name="both", capabilities=durable())
    hop, dear = JournalledHop(), scripted(asked, "dear", name="dear")

    for _ in range(2):
        with hop.attempt():
            outputs = [(await agent.run("go")).output, (await agent.run("go", model=dear)).output]
            assert outputs == ["cheap", "dear"]

    assert asked == {"cheap": 1, "dear": 1}


class Provider:
    """Makes models by their names."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.made: list[ReferenceType[Model]] = []

    def infer(self, name: str) -> Model:
        model = scripted(self.asked, calls("wait"), "answer", name=name)
        self.made.append(ref(model))
        return model


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Provider:
    """Stands in for all providers."""
    provider = Provider()
    monkeypatch.setattr(loop_models, "infer_model", provider.infer)
    return provider


@pytest.fixture
def named(provider: Provider) -> Agent[None, str]:
    """An agent that knows its model only by name."""
    agent = Agent("provider:chosen", name="named", defer_model_check=True, capabilities=durable())
    agent.tool_plain(lambda: "waited", name="wait")
    return agent


async def test_a_model_known_by_its_name_is_made_once(named: Agent[None, str], provider: Provider) -> None:
    """Each client of a provider opens connections of its own; a request must not pay for a new one."""
    for _ in range(3):
        with JournalledHop().attempt():
            assert (await named.run("go")).output == "answer"

    assert len(provider.made) == 1
    assert provider.asked == {"provider:chosen": 6}


def run_sync(agent: Agent[None, str]) -> str:
    """Run an agent as a sync function step does, in its thread."""
    try:
        return agent.run_sync("go").output
    finally:
        asyncio.get_event_loop().close()  # pydantic-ai made it for the thread and leaves it open


async def test_a_model_is_not_shared_with_another_event_loop(named: Agent[None, str], provider: Provider) -> None:
    """A connection that was opened on one loop fails on another; what a thread leaves behind is dropped."""
    for _ in range(3):
        with JournalledHop().attempt():
            assert (await named.run("go")).output == "answer"
            assert await in_own_thread(partial(run_sync, named)) == "answer"
    gc.collect()

    assert len(provider.made) == 4
    assert [model() is not None for model in provider.made] == [True, False, False, True]


class Clients(WrapperModel):
    """A model that records where its client is renewed if necessary."""

    def __init__(self, wrapped: Model) -> None:
        super().__init__(wrapped)
        self.threads: list[str] = []

    def _refresh_http_client(self) -> None:
        self.threads.append(threading.current_thread().name)


async def test_an_instance_may_renew_its_client_before_each_request() -> None:
    """pydantic-ai does so at the start of a run, because its loop may differ, and leaves durable runs to us."""
    model = Clients(scripted(Counter(), "answer"))
    agent = Agent(model, name="kept", capabilities=durable())

    with JournalledHop().attempt():
        await in_own_thread(partial(run_sync, agent))
        await agent.run("go")

    assert model.threads == ["paigeant-function", threading.current_thread().name]


async def test_a_name_that_nobody_knows_is_an_error_that_says_so() -> None:
    """It is a mistake in the program, and pydantic-ai's own text explains it best."""
    agent = Agent("nobody:nothing", name="lost", defer_model_check=True, capabilities=durable())

    with JournalledHop().attempt() as journal, pytest.raises((UserError, ValueError), match="nobody"):
        await agent.run("go")

    assert (journal.made, journal.fault) == (0, None)


async def test_an_agent_without_a_name_takes_that_of_its_durability() -> None:
    """It names the run, and so the run's records."""
    agent = Agent(TestModel(), capabilities=durable(name="given"))

    with JournalledHop().attempt():
        result = await agent.run("go", infer_name=False)

    assert result.run_id == "w.0:given:0"
