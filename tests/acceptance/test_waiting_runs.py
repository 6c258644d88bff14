"""Agents that wait for people in the middle of their runs, with real workers that die and are replaced meanwhile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from paigeant_celery import ActivitySpec, FunctionSpec, WorkflowDispatcher, WorkflowHandle
from tests.support.processes import deployment, eventually

WITHIN = 30.0

pytestmark = [pytest.mark.acceptance, pytest.mark.xdist_group("short leases")]


def noted(file: Path, what: str) -> list[Any]:
    """Return what the program has noted of one kind."""
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [line for line in lines if line["what"] == what]


def suspended_at(handle: WorkflowHandle, name: str) -> Any:
    """Wait until a workflow is suspended at a wait, and return the wait."""

    def found() -> Any:
        if handle.status_sync().state != "suspended":
            return None
        return next((wait for wait in handle.pending_sync() if wait.name == name), None)

    return eventually(found, within=WITHIN, what=f"nobody waits for {name}")


@pytest.mark.parametrize("pool", ["threads", pytest.param("prefork", marks=pytest.mark.proof)])
def test_a_run_waits_through_kills_and_deploys(redis_url: str, tmp_path: Path, pool: str) -> None:
    """The customer's link stays good, nobody pays for a call twice, and the only slot is free for others."""
    notes = tmp_path / "notes"
    Path(f"{notes}.kill").touch()
    with deployment(redis_url, tmp_path / "bank", paigeant_lease=1.0) as made:
        made.variables["TELLER_FILE"] = str(notes)
        transport, dispatcher = made.transport(), WorkflowDispatcher()

        def dispatch(step: ActivitySpec | FunctionSpec) -> WorkflowHandle:
            return dispatcher.handle(dispatcher.dispatch_workflow_sync(transport, itinerary=[step]), transport)

        one = made.ready_worker("cashier", name="one", pool=pool, slots=1)
        handle = dispatch(ActivitySpec("teller", "go"))
        eventually(lambda: noted(notes, "asked"), within=WITHIN)
        if pool == "threads":
            one.ended()  # it died when it had asked
        one.kill()

        two = made.ready_worker("cashier", name="two", pool=pool, slots=1)
        wait = suspended_at(handle, "are you sure")
        assert dispatch(FunctionSpec("greet")).result_sync(WITHIN).output == "hello"
        assert {line["token"] for line in noted(notes, "asked")} == {wait.token}
        assert handle.resolve_sync(wait.token, "yes", by="customer").outcome == "settled"
        wait = suspended_at(handle, "deferred_tool_calls")
        assert [(call.tool, call.arguments) for call in wait.calls] == [("pay", {"amount": 100})]
        assert two.terminate() == 0
        approval = handle.approve_sync(wait.token, "pay-1", override_args={"amount": 5}, by="manager")
        assert approval.outcome == "settled"

        made.ready_worker("cashier", name="three", pool=pool, slots=1)
        result = handle.result_sync(WITHIN)
        events = [event.type for event in handle.events_so_far()]
        assert handle.approve_sync(wait.token, "pay-1", by="clerk").outcome in ("answered", "late")

        beside = dispatch(ActivitySpec("clerk", "go"))
        eventually(lambda: noted(notes, "asked beside"), within=WITHIN)
        (wait,) = beside.pending_sync()
        assert beside.resolve_sync(wait.token, "here").outcome == "settled"
        eventually(lambda: noted(notes, "heard"), within=WITHIN, what="the run beside a call is told nothing")
        Path(f"{notes}.counted").touch()
        assert beside.result_sync(WITHIN).output == "counted"
        assert "suspended" not in [event.type for event in beside.events_so_far()]

    assert result.output == "all is paid"
    assert [line["amount"] for line in noted(notes, "paid")] == [5]
    assert len(noted(notes, "model")) == 2
    assert (events.count("asked"), events.count("suspended"), events.count("answered")) == (2, 2, 2)
