"""`retry -` lets many workflows go on at once: those whose ids `list --ids` prints."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from celery import Celery
from click.testing import CliRunner, Result

from paigeant_celery import Unreachable, activity, install
from paigeant_celery.activities.registry import registry
from paigeant_celery.cli import paigeant
from paigeant_celery.core.policy import StepPolicy
from paigeant_celery.testing import WorkflowHarness, workflow_harness
from tests.support.command_page import documented, same_shape

__all__ = ["workflow_harness"]


@pytest.fixture(autouse=True)
def own_registry() -> Iterator[None]:
    """Give each test an empty registry."""
    with registry.isolated():
        yield


def call(harness: WorkflowHarness, *arguments: str, typed: str = "") -> Result:
    """Call a command as the `celery` program does, with something on its standard input."""
    with Celery("shop", broker="memory://localhost//", set_as_current=False) as app:
        install(app, store=harness.store)
        return CliRunner().invoke(paigeant, arguments, obj=SimpleNamespace(app=app), input=typed)


@pytest.fixture
def parked(workflow_harness: WorkflowHarness) -> WorkflowHarness:
    """Three parked workflows, and one that has completed."""

    @activity(policy=StepPolicy(max_attempts=1))
    def divide(by: int) -> float:
        return 1 / by

    for name, by in (("order-1", 0), ("order-2", 0), ("order-3", 0), ("well", 1)):
        workflow_harness.dispatch([divide.activity(by=by)], correlation_id=name)
    asyncio.run(workflow_harness.deliver(4))
    return workflow_harness


def test_what_an_outage_has_parked_goes_on_with_one_line(parked: WorkflowHarness) -> None:
    """Nobody types two hundred ids at night."""
    listed = call(parked, "list", "--state", "parked", "--activity", "divide", "--since", "1h", "--ids")
    assert (listed.exit_code, sorted(listed.stdout.split())) == (0, ["order-1", "order-2", "order-3"])

    done = call(parked, "retry", "-", typed=listed.stdout)

    assert (done.exit_code, sorted(done.stdout.splitlines())) == (
        0, [f"workflow order-{number} goes on" for number in (1, 2, 3)],
    )  # fmt: skip
    nothing = call(parked, "list", "--state", "parked", "--ids")
    assert (nothing.exit_code, nothing.output) == (0, "")
    again = call(parked, "retry", "-", typed=nothing.stdout)
    assert (again.exit_code, again.stdout) == (0, "no ids were given\n")


def test_ids_alone_go_to_the_next_program_and_what_is_left_out_to_a_person(parked: WorkflowHarness) -> None:
    """A line that says that there are more would be taken for an id."""
    listed = call(parked, "list", "--state", "parked", "--limit", "2", "--ids")

    assert len(listed.stdout.split()) == 2
    assert listed.stderr.startswith("more: --after ")
    assert json.loads(call(parked, "list", "--ids", "--json").stdout)["workflows"]


def test_one_that_cannot_go_on_leaves_the_others_alone(parked: WorkflowHarness) -> None:
    """Somebody else may have retried it meanwhile; a script sees that something was refused."""
    typed = "order-1\n\nwell\n ../x \nunknown\norder-2\n"

    done = call(parked, "retry", "-", "--json", typed=typed)

    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.exit_code == 1
    assert [(each["correlation_id"], each["retried"]) for each in told] == [
        ("order-1", True), ("well", False), ("../x", False), ("unknown", False), ("order-2", True),
    ]  # fmt: skip
    assert [each["error"]["code"] for each in told if not each["retried"]] == [
        "not_parked", "unknown_workflow", "unknown_workflow",
    ]  # fmt: skip
    assert [same_shape(*pair) for pair in zip(documented("retry"), told, strict=False)] == [True, True]
    read = call(parked, "retry", "-", typed="order-3\nwell\n")
    assert (read.exit_code, read.stdout) == (1, "workflow order-3 goes on\nwell: workflow well is not parked\n")


def test_a_store_that_goes_away_ends_it_with_its_own_exit_code(
    parked: WorkflowHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All others would be refused as well, and the same command lets them go on later."""
    redrive, calls = parked.store.redrive, []

    def once(*arguments: object, **options: object) -> object:
        calls.append(arguments)
        if len(calls) > 1:
            raise Unreachable("store", "redis://localhost", "ConnectionError")
        return redrive(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(parked.store, "redrive", once)

    done = call(parked, "retry", "-", typed="order-1\norder-2\norder-3\n")

    assert (done.exit_code, done.stdout) == (5, "workflow order-1 goes on\n")
    assert "cannot reach the store" in done.stderr
    assert len(calls) == 2
