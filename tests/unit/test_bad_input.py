"""Bad input of the dispatching side: refused with its reason before anything is recorded or enqueued."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery
from pydantic_ai import Agent

from paigeant_celery import get_transport
from paigeant_celery.activities.functions import activity
from paigeant_celery.agents.agent import PaigeantAgent, register_agent
from paigeant_celery.broker.transport import transport_of
from paigeant_celery.client.dispatch import WorkflowDispatcher
from paigeant_celery.core.errors import (
    ConfigurationError,
    EmptyItinerary,
    InvalidInput,
    UnknownActivity,
    UnknownTransport,
    WorkflowConflict,
)
from paigeant_celery.core.names import ACTIVITY_NAME_RULE
from paigeant_celery.core.slip import ActivitySpec, FunctionSpec
from paigeant_celery.store.memory import MemoryStore
from paigeant_celery.testing import WorkflowHarness
from paigeant_celery.worker.executor import ActivityExecutor
from paigeant_celery.worker.serving import start_checks
from tests.support.refused_dispatches import CASES, SECRET, agents


@pytest.mark.parametrize(("call", "reason", "path", "text"), CASES)
def test_bad_input_is_refused_before_anything_is_sent(
    workflow_harness: WorkflowHarness, call: Callable[[], dict[str, Any]], reason: str, path: str, text: str
) -> None:
    """The caller gets a fixed code, the field and the remedy; no queue, store or log gets the value."""
    _held = agents()
    started: list[object] = []
    start = workflow_harness.store.start
    workflow_harness.store.start = lambda new: started.append(new) or start(new)  # type: ignore[method-assign, func-returns-value]

    with pytest.raises(InvalidInput) as caught:
        WorkflowDispatcher().dispatch_workflow_sync(workflow_harness.transport, **call())

    error = caught.value
    assert (error.reason, error.path, error.text) == (reason, path, text)
    assert isinstance(error, EmptyItinerary) == (reason == "empty_itinerary")
    assert SECRET not in f"{error!s} {error!r} {error.__cause__!r}"
    assert (started, list(workflow_harness.pending)) == ([], [])


def test_row17_an_unknown_name_is_refused_where_the_registry_is_all_there_is(workflow_harness: WorkflowHarness) -> None:
    """A misspelt name in a test fails at once, with similar names."""
    _held = agents()

    with pytest.raises(UnknownActivity) as caught:
        workflow_harness.dispatch([ActivitySpec("orderin", "x")])

    assert str(caught.value) == (
        "no activity 'orderin' is loaded; searched 2 loaded: ordering, plain; did you mean 'ordering'?"
    )
    assert list(workflow_harness.pending) == []


def test_row17_an_unknown_name_is_sent_where_other_processes_may_know_it(workflow_harness: WorkflowHarness) -> None:
    """A web process dispatches steps of agents that it has not loaded."""
    WorkflowDispatcher().dispatch_workflow_sync(workflow_harness.transport, itinerary=[ActivitySpec("elsewhere", "x")])

    assert [sent.activity for sent in workflow_harness.pending] == ["elsewhere"]


@pytest.mark.parametrize("limit", [0, 1, 1000])
def test_row22_a_limit_in_range_is_taken(limit: int) -> None:
    """The limits themselves are allowed."""
    assert PaigeantAgent("test", name="x", max_added_steps=limit).max_added_steps == limit


def test_row25_an_id_with_other_content_is_refused_with_both_ways_out(workflow_harness: WorkflowHarness) -> None:
    """The caller chooses: another id, or the workflow that exists."""
    dispatcher = WorkflowDispatcher()
    for prompt in ("x", SECRET):
        call = {"itinerary": [ActivitySpec("a", prompt)], "correlation_id": "order-17"}
        if prompt == "x":
            dispatcher.dispatch_workflow_sync(workflow_harness.transport, **call)  # type: ignore[arg-type]
            continue
        with pytest.raises(WorkflowConflict) as caught:
            dispatcher.dispatch_workflow_sync(workflow_harness.transport, **call)  # type: ignore[arg-type]

    assert str(caught.value) == (
        "workflow_conflict: a workflow 'order-17' exists with another itinerary, variables or deadline; choose another "
        "`correlation_id`, or dispatch the same content to get the existing one"
    )
    assert len(workflow_harness.pending) == 1


@pytest.mark.parametrize("good", ["a", "A_b-9", "0" * 128])
def test_row26_an_id_of_the_allowed_letters_is_taken(workflow_harness: WorkflowHarness, good: str) -> None:
    """A caller's own order number is a good id."""
    WorkflowDispatcher().dispatch_workflow_sync(
        workflow_harness.transport, itinerary=[ActivitySpec("a", "x")], correlation_id=good
    )

    assert [sent.hop_id for sent in workflow_harness.pending] == [f"{good}.0"]


def test_row21_as_many_steps_as_allowed_are_taken(workflow_harness: WorkflowHarness) -> None:
    """The limit itself still works."""
    WorkflowDispatcher().dispatch_workflow_sync(workflow_harness.transport, itinerary=[ActivitySpec("a", "x")] * 256)

    assert len(workflow_harness.pending) == 1


def test_row38_a_worker_with_two_activities_of_one_name_says_where_both_are() -> None:
    """Which of the two would run must not depend on the order of imports."""
    first = PaigeantAgent("test", name="twin")
    second = PaigeantAgent("test", name="twin")
    app = Celery(set_as_current=False, broker="memory://localhost//")
    app.conf.update(paigeant_consume="twin,nobody", task_always_eager=True)

    with pytest.raises(ConfigurationError) as caught:
        start_checks(transport_of(app, store=MemoryStore(lease=10, ttl=10)))

    eager, memory, twins = caught.value.mistakes
    assert eager.startswith("`task_always_eager` is set")
    assert memory.startswith("the broker is `memory://`, which no other process can reach; set `PAIGEANT_REDIS_URL`")
    here = re.escape(__file__)
    text = rf"two activities are named 'twin': one made at {here}:(\d+), another at {here}:(\d+); "
    lines = re.fullmatch(text + "give one of them another `name=`", twins)
    assert lines is not None
    assert int(lines[1]) + 1 == int(lines[2])
    assert first is not second


def test_row38_every_mistake_of_a_configuration_is_listed_at_once() -> None:
    """One start shows all mistakes, not one after the other."""
    app = Celery(set_as_current=False, broker="memory://localhost//")
    app.conf.update(
        paigeant_laese=SECRET, paigeant_max_steps=0, paigeant_prefix="a b", paigeant_store_url=f"db://:{SECRET}@host"
    )

    with pytest.raises(ConfigurationError) as caught:
        get_transport(app=app)

    assert sorted(caught.value.mistakes) == [
        "`paigeant_laese` is not a setting; did you mean `paigeant_lease`?",
        "`paigeant_max_steps`: Input should be greater than or equal to 1",
        f"`paigeant_prefix`: must have {ACTIVITY_NAME_RULE}",
        "`paigeant_store_url`: the scheme 'db' is not supported; use 'redis://host:6379/0', 'rediss://…', "
        "'unix:///path/to/socket' or 'memory://'",
    ]
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "given"),
    [
        (f"postgres://me:{SECRET}@host/db", "the scheme 'postgres' is not supported"),
        (SECRET, "it is not a URL"),
        ("", "it is not a URL"),
        ("broken://", "the scheme 'broken' is not supported"),
    ],
)
def test_row38_a_store_url_that_is_not_understood_is_refused_without_its_password(url: str, given: str) -> None:
    """A start-up log is read by more people than may know the password."""
    app = Celery(set_as_current=False, broker="memory://localhost//")
    app.conf.paigeant_store_url = url

    with pytest.raises(ConfigurationError) as caught:
        get_transport(app=app)

    remedy = "use 'redis://host:6379/0', 'rediss://…', 'unix:///path/to/socket' or 'memory://'"
    assert caught.value.mistakes == [f"`paigeant_store_url`: {given}; {remedy}"]


@pytest.mark.parametrize(
    ("module", "searched"),
    [
        ("no_such_module.agents", "the module 'no_such_module.agents', which does not exist"),
        ("no_such_file.py", "the file 'no_such_file.py', which does not exist"),
        ("textwrap", "the module 'textwrap' and what it loads; 2 loaded: ordering, plain"),
        (None, "2 loaded: ordering, plain; did you mean 'ordering'?"),
    ],
)
def test_row39_an_executor_that_finds_nothing_says_what_it_searched(module: str | None, searched: str) -> None:
    """A typo in a module or name is found at the start, not by a step that never runs."""
    _held = agents()

    with pytest.raises(UnknownActivity) as caught:
        asyncio.run(ActivityExecutor(get_transport("inmemory"), "orderings", module).start(lifespan=0))

    assert str(caught.value).startswith(f"no activity 'orderings' is loaded; searched {searched}")


WRONG_OPTIONS = [
    pytest.param(lambda: get_transport(5), "invalid_input", "url", id="url"),  # type: ignore[arg-type]
    pytest.param(lambda: get_transport(app="shop"), "invalid_input", "app", id="app"),  # type: ignore[arg-type]
    pytest.param(
        lambda: WorkflowDispatcher().handle("w", "redis"),  # type: ignore[arg-type]
        "invalid_input", "transport", id="transport",
    ),
    *(
        pytest.param(
            lambda given=given: PaigeantAgent("test", name="a", **given), reason, next(iter(given)), id=str(given)
        )
        for given, reason in [
            ({"allowed_activities": "publisher"}, "invalid_input"), ({"deps_factory": 3}, "invalid_input"),
            ({"queue": ""}, "invalid_queue"), ({"queue": 3}, "invalid_queue"), ({"policy": 3}, "invalid_policy"),
        ]
    ),
    pytest.param(lambda: activity(queue=" ")(len), "invalid_queue", "queue", id="function-queue"),
    pytest.param(
        lambda: register_agent(Agent("test"), name="a", policy=3),  # type: ignore[arg-type]
        "invalid_policy", "policy", id="registered-policy",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("call", "reason", "path"), WRONG_OPTIONS)
def test_an_option_of_a_wrong_kind_is_named_where_it_is_given(
    call: Callable[[], object], reason: str, path: str
) -> None:
    """A mistake in a module is found when it is imported, not by the first workflow at night."""
    with pytest.raises(InvalidInput) as caught:
        call()

    assert (caught.value.reason, caught.value.path) == (reason, path)


@pytest.mark.parametrize("given", ["kafka", "", "redis:", f"nats://me:{SECRET}@host", f"me:{SECRET}@host:6379"])
def test_row40_a_transport_that_does_not_exist_is_refused_with_those_that_do(given: str) -> None:
    """The error names what may be written instead."""
    with pytest.raises(UnknownTransport) as caught:
        get_transport(given)

    assert str(caught.value).endswith(
        "is not supported; use 'inmemory', 'redis', a Kombu URL such as 'redis://host:6379/0' or 'amqp://host//', "
        "or `app=` with an existing Celery app"
    )
    assert SECRET not in str(caught.value)


def annotated(**annotations: Any) -> dict[str, Any]:
    return {"task_annotations": annotations}


@pytest.mark.parametrize(
    ("conf", "named"),
    [
        ({"task_always_eager": True}, ["`task_always_eager` is set"]),
        (annotated(**{"*": {"serializer": "yaml", "acks_late": False}}), ["sets `acks_late`", "sets `serializer`"]),
        (annotated(**{"paigeant.probe": {"time_limit": 5}}), []),
        (annotated(**{"shop.mail": {"rate_limit": "1/m"}}), []),
    ],
    ids=["eager", "annotation", "time-limit", "of-others"],
)
def test_row42_a_setting_of_the_host_that_would_reach_our_tasks_is_named(
    conf: dict[str, Any], named: list[str]
) -> None:
    """A host's defaults never change how steps run without anyone being told."""
    app = Celery(set_as_current=False, broker="memory://localhost//")
    app.conf.update(conf)
    store = MemoryStore(lease=10, ttl=10)
    transport = transport_of(app, store=store)

    if not named:
        transport.check_dispatch()
        return
    with pytest.raises(ConfigurationError) as caught:
        WorkflowDispatcher().dispatch_workflow_sync(
            transport, itinerary=[ActivitySpec("a", "x")], correlation_id="row42"
        )

    assert [mistake for mistake, part in zip(caught.value.mistakes, named, strict=True) if part not in mistake] == []
    assert store.workflow("row42") is None


def test_a_function_step_is_checked_by_the_function_of_this_process(workflow_harness: WorkflowHarness) -> None:
    """A hand-written step must fit the signature like any other."""

    @activity
    def add(a: int) -> int:
        return a

    steps = [FunctionSpec("other"), FunctionSpec("add", {"a": SECRET})]
    with pytest.raises(InvalidInput) as caught:
        WorkflowDispatcher().dispatch_workflow_sync(workflow_harness.transport, itinerary=steps)

    assert (caught.value.reason, caught.value.path) == ("invalid_arguments", "itinerary[1].arguments.a")
    assert SECRET not in str(caught.value)
    assert add.name == "add"


def test_a_kind_that_does_not_fit_its_activity_is_refused(workflow_harness: WorkflowHarness) -> None:
    """An agent step for a function, or the reverse, is a mistake of the dispatcher."""
    held = agents()

    with pytest.raises(InvalidInput) as caught:
        WorkflowDispatcher().dispatch_workflow_sync(workflow_harness.transport, itinerary=[FunctionSpec("plain")])

    assert held[1].name == "plain"
    assert caught.value.text == "'plain' is an agent, but the step calls a function; use an `ActivitySpec`"
