"""`PaigeantAgent`: an ordinary agent with a name on the slip, and the signature that it repeats."""

from __future__ import annotations

import ast
import asyncio
import copy
import gc
import inspect
import types
import weakref
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from pydantic_ai import Agent, RunContext
from pydantic_ai.models.test import TestModel

import paigeant_celery.agents.agent
from paigeant_celery.activities.context import WorkflowDependencies
from paigeant_celery.activities.registry import registry
from paigeant_celery.agents.agent import PaigeantAgent, register_agent
from paigeant_celery.client.dispatch import WorkflowDispatcher
from paigeant_celery.core.errors import DuplicateActivity, InvalidInput, UsageError
from paigeant_celery.core.policy import StepPolicy
from paigeant_celery.core.slip import ActivitySpec

OUR_ARGUMENTS = {
    "dispatcher", "can_edit_itinerary", "max_added_steps", "allowed_activities", "policy", "queue", "deps_factory",
}  # fmt: skip

# Those of `pydantic_ai.Agent` in the oldest supported version, 2.62: written down so that deleting one from
# our constructor is told apart from a newer version that has more.
THEIR_ARGUMENTS = {
    "model", "output_type", "instructions", "system_prompt", "deps_type", "name", "description", "model_settings",
    "retries", "validation_context", "tools", "toolsets", "defer_model_check", "end_strategy", "metadata",
    "tool_timeout", "max_concurrency", "capabilities",
}  # fmt: skip


@dataclass
class Town:
    name: str


def spelt_out() -> set[str]:
    """The arguments that type checkers see: those of the constructor under TYPE_CHECKING."""
    tree = ast.parse(Path(paigeant_celery.agents.agent.__file__).read_text())
    constructors = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
    lists = [{argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)} for node in constructors]
    (shown,) = (arguments for arguments in lists if "output_type" in arguments)
    return shown - {"self"}


def installed_arguments() -> set[str]:
    parameters = inspect.signature(Agent.__init__).parameters.values()
    return {each.name for each in parameters if each.kind is not inspect.Parameter.VAR_KEYWORD} - {"self"}


def imported(code: str, name: str) -> types.ModuleType:
    """A module made from source text, as an import would make it."""
    module = types.ModuleType(name)
    exec(compile(dedent(code), f"/{name}.py", "exec"), module.__dict__)
    return module


# The signature.


def test_a_checker_is_shown_each_argument_of_the_oldest_supported_agent_and_ours() -> None:
    """One that is deleted or misspelt here would be refused in an editor, although it works."""
    assert spelt_out() == THEIR_ARGUMENTS | OUR_ARGUMENTS


def test_each_argument_of_the_oldest_supported_agent_exists_in_the_installed_one() -> None:
    """An argument renamed or removed there must not type-check here only to fail when the agent is made."""
    assert THEIR_ARGUMENTS - installed_arguments() == set()


def test_an_argument_that_is_new_in_the_installed_agent_is_reported() -> None:
    """It works at once because it is forwarded; spelling it out can wait until older versions are dropped."""
    new = sorted(installed_arguments() - spelt_out())

    if new:
        pytest.xfail(f"`pydantic_ai.Agent` has arguments that the constructor does not spell out: {', '.join(new)}")


def test_no_argument_of_ours_hides_one_of_pydantic_ai() -> None:
    """If they added a `queue` or `policy` of their own, ours would swallow it unnoticed."""
    assert installed_arguments() & OUR_ARGUMENTS == set()


def test_the_constructor_takes_what_a_checker_is_shown() -> None:
    """What a checker accepts also works at run time."""
    ours = inspect.signature(PaigeantAgent.__init__).parameters

    assert set(ours) - {"self"} == {"model", *OUR_ARGUMENTS, "agent_arguments"}
    assert ours["agent_arguments"].kind is inspect.Parameter.VAR_KEYWORD


def test_an_argument_that_does_not_exist_is_refused() -> None:
    """Forwarding every argument must not swallow a typo."""
    with pytest.raises(TypeError, match="instruction"):
        PaigeantAgent("test", name="x", instruction="be brief")


@pytest.mark.parametrize("make", [PaigeantAgent.from_spec, PaigeantAgent.from_file])
def test_ways_that_would_give_a_plain_agent_are_refused(make: Any) -> None:
    """An agent that looks like ours but cannot be a step would be found out only on a worker."""
    with pytest.raises(
        UsageError, match=rf"`PaigeantAgent.{make.__name__}` would return a plain `Agent`; use `register"
    ):
        make("agent.yaml")


# Ordinary behaviour.


def test_outside_a_step_it_is_an_ordinary_agent() -> None:
    """Tests, scripts and other frameworks use it as they use any agent."""

    agent = PaigeantAgent(TestModel(), name="guide", deps_type=Town, output_type=int, can_edit_itinerary=True)

    @agent.tool
    def town(ctx: RunContext[Town]) -> str:
        return ctx.deps.name

    result = asyncio.run(agent.run("where?", deps=Town("Turin")))

    calls = [
        part.tool_name for message in result.all_messages() for part in message.parts if hasattr(part, "tool_name")
    ]
    assert result.output == 0
    assert calls[:2] == ["town", "town"]
    assert "insert_activities" not in calls


def test_a_model_can_be_overridden_as_on_any_agent() -> None:
    """The agent's own way of running is not replaced."""
    agent = PaigeantAgent("test", name="x", instructions="be kind")

    with agent.override(model=TestModel(custom_output_text="replaced")):
        result = asyncio.run(agent.run("hello"))

    assert result.output == "replaced"


def test_no_key_is_needed_to_make_and_dispatch_an_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the workers hold the provider's keys."""
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)

    agent = PaigeantAgent("anthropic:claude-sonnet-4-5", name="writer")

    assert agent.activity("write") == ActivitySpec("writer", "write")


def test_the_check_of_the_model_can_be_asked_for() -> None:
    """A worker that should fail at start-up says so."""
    with pytest.raises(Exception, match="nonsense"):
        PaigeantAgent("nonsense:model", name="writer", defer_model_check=False)


def test_an_agent_stores_its_options_and_lives_only_as_long_as_it_is_held() -> None:
    """A registry that kept every agent would leak in tests and reloading servers."""
    policy, dispatcher = StepPolicy(timeout=3), WorkflowDispatcher()

    def factory(data: dict[str, int], context: object) -> dict[str, int]:
        return data

    agent = PaigeantAgent(
        "test",
        name="x",
        dispatcher=dispatcher,
        can_edit_itinerary=True,
        max_added_steps=7,
        allowed_activities=["b", "a"],
        policy=policy,
        queue="gpu",
        deps_factory=factory,
    )
    stored = (
        agent.dispatcher, agent.can_edit_itinerary, agent.max_added_steps, agent.allowed_activities, agent.policy,
        agent.queue, agent.deps_factory,
    )  # fmt: skip
    held = weakref.ref(agent)

    assert stored == (dispatcher, True, 7, frozenset({"a", "b"}), policy, "gpu", factory)
    assert list(registry.activities()) == ["x"]
    del agent, stored
    gc.collect()
    assert (held(), registry.activities()) == (None, {})


# Names.


def test_an_agent_is_named_by_the_global_that_holds_it() -> None:
    """`triage = PaigeantAgent(…)` is all that a module needs to say."""
    module = imported(
        """
        from paigeant_celery import PaigeantAgent
        triage = PaigeantAgent("test")
        """,
        "shop_agents",
    )

    assert list(registry.activities()) == ["triage"]
    assert module.triage.name == "triage"


def test_a_name_does_not_depend_on_what_the_importer_calls_it() -> None:
    """Dispatcher and worker agree, although one says `from shop_agents import triage as t`."""
    module = imported("from paigeant_celery import PaigeantAgent\ntriage = PaigeantAgent('test')\n", "shop_agents")
    t = module.triage

    assert t.activity("look").agent_name == "triage"


def test_a_public_global_names_an_agent_rather_than_a_private_one() -> None:
    """A helper variable of the module does not decide what operators read."""
    module = imported(
        "from paigeant_celery import PaigeantAgent\n_last = triage = PaigeantAgent('test')\n", "shop_agents"
    )

    assert module._last.activity("look").agent_name == "triage"


def test_a_local_variable_names_an_agent_that_no_global_holds() -> None:
    """A quick start inside `main()` works without `name=`."""
    drafter: PaigeantAgent[Any, str] = PaigeantAgent("test")

    step = drafter.activity("draft")

    assert (step.agent_name, drafter.name, list(registry.activities())) == ("drafter", "drafter", ["drafter"])


def test_an_agent_that_nothing_names_is_refused_with_the_remedy() -> None:
    """A name that differs from process to process would strand its messages."""
    agents = [PaigeantAgent("test", dispatcher=WorkflowDispatcher())]

    for call in ("activity", "add_to_runway", "register_activity"):
        with pytest.raises(UsageError, match=r"^UnnamedAgent: .*; pass `name=` to it$"):
            getattr(agents[0], call)("draft")
    assert registry.activities() == {}


def test_a_given_name_wins() -> None:
    """Renaming a variable must not move an activity to another queue."""
    module = imported(
        "from paigeant_celery import PaigeantAgent\ntriage = PaigeantAgent('test', name='shop.triage')\n", "shop_agents"
    )

    assert module.triage.activity("x").agent_name == "shop.triage"
    assert list(registry.activities()) == ["shop.triage"]


@pytest.mark.parametrize("name", ["", "a b", "../x", "a" * 129, "ä", "1st", "a..b", "a.", "-a"])
def test_a_name_that_cannot_name_a_queue_is_refused(name: str) -> None:
    """Names are part of queue and task names on every broker."""
    for make in (lambda: PaigeantAgent("test", name=name), lambda: register_agent(Agent("test"), name=name)):
        with pytest.raises(InvalidInput) as caught:
            make()
        assert caught.value.reason == "bad_agent_name"


def test_a_subclass_is_named_where_it_is_used() -> None:
    """A team's own base class does not hide the module that makes the agent."""
    imported(
        """
        from paigeant_celery import PaigeantAgent

        class House(PaigeantAgent):
            def __init__(self, **more):
                super().__init__("test", queue="house", **more)

        triage = House()
        """,
        "shop_agents",
    )

    (activity,) = registry.activities().values()
    assert (activity.name, activity.queue, activity.origin) == ("triage", "house", "/shop_agents.py:8")


def test_a_copy_is_no_step_under_the_name_of_the_original() -> None:
    """The original would run it, without what was changed in the copy."""
    dispatcher = WorkflowDispatcher()
    original = PaigeantAgent("test", name="triage", dispatcher=dispatcher)
    other = copy.copy(original)

    for make in (other.activity, other.add_to_runway, other.register_activity):
        with pytest.raises(DuplicateActivity, match=r"'triage'.*and then copied; give one of them another `name=`"):
            make("look")
    register_agent(other, name="second")
    other.name = "second"

    assert (original.activity("look").agent_name, other.activity("look").agent_name) == ("triage", "second")
    assert sorted(registry.activities()) == ["second", "triage"]


def test_an_agent_with_type_arguments_is_named_and_located_like_any_other() -> None:
    """`PaigeantAgent[Deps, Out](…)` is made by a frame of `typing`, which names nothing."""
    imported(
        """
        from paigeant_celery import PaigeantAgent, WorkflowDependencies

        triage = PaigeantAgent[WorkflowDependencies, int]("test", deps_type=WorkflowDependencies, output_type=int)
        """,
        "shop_agents",
    )

    (activity,) = registry.activities().values()
    assert (activity.name, activity.origin) == ("triage", "/shop_agents.py:4")


# Steps.


def test_a_step_carries_what_its_agent_prescribes() -> None:
    """Queue and limits go with the step, for dispatchers and workers alike."""
    agent: PaigeantAgent[WorkflowDependencies, str] = PaigeantAgent(
        "test", name="x", deps_type=WorkflowDependencies, queue="gpu", policy=StepPolicy(timeout=3)
    )

    step = agent.activity("look", WorkflowDependencies(), step_id="s")
    other = agent.activity("look", policy=StepPolicy(max_attempts=1))

    assert step == ActivitySpec("x", "look", {}, "s", StepPolicy(timeout=3), queue="gpu")
    assert other == ActivitySpec("x", "look", None, None, StepPolicy(max_attempts=1), queue="gpu")


@pytest.mark.parametrize("method", ["add_to_runway", "register_activity"])
def test_without_a_dispatcher_there_is_no_runway(method: str) -> None:
    """The error says what to pass, and to which agent."""
    agent: PaigeantAgent[Any, str] = PaigeantAgent("test", name="x")

    with pytest.raises(UsageError, match=rf"^`{method}` needs a dispatcher; pass `dispatcher=` to the agent 'x'$"):
        getattr(agent, method)("look")


# Plain agents.


def test_any_agent_can_be_an_activity_by_any_number_of_names() -> None:
    """Agents of other packages take part without being changed."""
    agent = Agent("test", name="theirs", description="Helps.", defer_model_check=True)

    register_agent(agent)
    register_agent(agent, name="ours", queue="gpu", policy=StepPolicy(timeout=1))

    found = {name: (a.kind, a.queue, a.policy, a.description) for name, a in registry.activities().items()}
    assert found == {
        "theirs": ("agent", None, None, "Helps."),
        "ours": ("agent", "gpu", StepPolicy(timeout=1), "Helps."),
    }
    assert agent.name == "theirs"


def test_an_agent_of_ours_keeps_its_own_name_beside_another() -> None:
    """Registering it again adds a name and removes none."""
    agent: PaigeantAgent[Any, str] = PaigeantAgent("test", name="own")

    register_agent(agent, name="other")

    assert sorted(registry.activities()) == ["other", "own"]
    assert agent.activity("x").agent_name == "own"


def test_a_plain_agent_without_any_name_is_refused() -> None:
    """Nobody sees a plain agent being made, so nothing else can name it."""
    with pytest.raises(InvalidInput, match=r"^bad_agent_name at `name`: the agent has no name, .* pass `name=`$"):
        register_agent(Agent("test", defer_model_check=True))


def test_a_plain_agent_is_named_by_the_global_that_holds_it() -> None:
    """`helper = Agent(…); register_agent(helper)` is what people write first."""
    module = imported(
        """
        from pydantic_ai import Agent
        from paigeant_celery import register_agent

        helper = Agent("test")
        register_agent(helper)
        """,
        "shop_agents",
    )

    assert list(registry.activities()) == ["helper"]
    assert module.helper.name == "helper"
