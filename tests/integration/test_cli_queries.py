"""The commands about all workflows."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from click.testing import CliRunner, Result

from paigeant_celery import activity, install
from paigeant_celery.activities.registry import registry
from paigeant_celery.cli import paigeant
from paigeant_celery.core.queries import WorkflowQuery
from paigeant_celery.store.port import Claim, Claimed
from paigeant_celery.store.query_port import ListedPage
from paigeant_celery.testing import WorkflowHarness, workflow_harness

__all__ = ["workflow_harness"]


@pytest.fixture(autouse=True)
def own_registry() -> Iterator[None]:
    """Give each test an empty registry."""
    with registry.isolated():
        yield


def call(harness: WorkflowHarness, *arguments: str) -> Result:
    """Call a command as the `celery` program does."""
    with Celery("shop", broker="memory://localhost//", set_as_current=False) as app:
        install(app, store=harness.store)
        return CliRunner().invoke(paigeant, arguments, obj=SimpleNamespace(app=app))


def document(harness: WorkflowHarness, *arguments: str) -> Any:
    found = call(harness, *arguments, "--json")
    assert found.exit_code == 0, found.output
    return json.loads(found.output)


@pytest.fixture
def orders(workflow_harness: WorkflowHarness) -> WorkflowHarness:
    """Three workflows of an activity that no worker serves; one has run."""

    @activity
    def draftr() -> int:
        return 1

    for name in ("order-1", "order-2", "other"):
        workflow_harness.dispatch([draftr.activity()], correlation_id=name)
    asyncio.run(workflow_harness.deliver(1))
    workflow_harness.store.sweep(host="there", served=["paigeant.drafter"])
    return workflow_harness


def test_list_says_why_a_workflow_stands(orders: WorkflowHarness) -> None:
    """A misspelt activity is seen in the list, and not after an hour."""
    found = document(orders, "list", "--state", "queued", "--prefix", "order-")

    (order,) = found["workflows"]
    assert (order["correlation_id"], order["state"], order["activity"]) == ("order-2", "queued", "draftr")
    assert order["stuck"] == "draftr waits on paigeant.draftr: no worker serves it; did you mean drafter?"
    assert found["next"] is None
    printed = call(orders, "list", "--state", "queued").output
    assert order["stuck"] in printed
    assert "order-1" not in printed


def test_show_says_that_nobody_serves_the_step(orders: WorkflowHarness) -> None:
    """Whoever asks about one workflow sees the same words."""
    shown = call(orders, "show", "order-2", "--no-workers")

    assert "  stuck:     draftr waits on paigeant.draftr: no worker serves it; did you mean drafter?" in shown.output


def test_a_step_whose_process_is_lost_is_not_said_to_run(orders: WorkflowHarness) -> None:
    """A worker was killed and none is there to take over: nobody waits for a step that nobody runs."""
    store = orders.store
    owner = "boot:7:1:nonce:box"
    claim = Claim(hop_id="order-2.0", digest=None, owner=owner, token="t", max_attempts=5)
    assert isinstance(store.claim(claim), Claimed)
    assert document(orders, "show", "order-2", "--no-workers")["runner"]["lapsed_at"] is None

    long_ago = datetime.now(UTC) - timedelta(minutes=1)
    store._records.leases[owner] = long_ago
    store._records.served["paigeant.draftr"] = long_ago

    at = f"{long_ago:%Y-%m-%d %H:%M:%S} UTC"
    stuck = f"draftr waits on paigeant.draftr: no worker has served it since {at}"
    (listed,) = document(orders, "list", "--prefix", "order-2")["workflows"]
    shown = document(orders, "show", "order-2", "--no-workers")
    for found in (listed, shown):
        assert (found["state"], found["stuck"], found["runner"]["pid"]) == ("running", stuck, 7)
        assert datetime.fromisoformat(found["runner"]["lapsed_at"]) == long_ago
    told = call(orders, "show", "order-2", "--no-workers").output
    assert f"  stuck:     {stuck}\n" in told
    assert re.search(rf"^  ran in:    process 7 on box since .* UTC; its lease ended at {at}$", told, re.MULTILINE)
    assert "  current:   draftr is to be taken over by another worker (" in told
    row = call(orders, "list", "--prefix", "order-2").output
    assert f"{stuck}; ran in process 7 on box since " in row
    assert "runs in" not in told + row
    awaited = call(orders, "result", "order-2").output
    assert "workflow order-2 has not ended and goes on: step 'draftr' ran in process 7 on box since " in awaited


def test_a_list_goes_on_behind_its_next(orders: WorkflowHarness) -> None:
    """A script reads thousands of workflows page by page."""
    first = document(orders, "list", "--limit", "2")
    rest = document(orders, "list", "--limit", "2", "--after", first["next"])

    names = [each["correlation_id"] for page in (first, rest) for each in page["workflows"]]
    assert sorted(names) == ["order-1", "order-2", "other"]
    assert rest["next"] is None


@pytest.mark.parametrize(
    "filters",
    [
        ["--state", "gone"],
        ["--since", "tomorrow"],
        ["--before", "2026-01-02T12:00:00"],
        ["--since", "2026-13-02"],
        ["--after", "x"],
    ],
)
def test_a_filter_that_cannot_be_is_refused(orders: WorkflowHarness, filters: list[str]) -> None:
    """An empty list would say that all is well."""
    assert call(orders, "list", *filters).exit_code == 2


def test_a_list_is_filtered_by_age(orders: WorkflowHarness) -> None:
    """What began before the deploy is not of interest now."""
    assert len(document(orders, "list", "--since", "1h")["workflows"]) == 3
    assert document(orders, "list", "--before", "1h")["workflows"] == []
    assert len(document(orders, "list", "--since", "2026-01-02")["workflows"]) == 3
    assert document(orders, "list", "--before", "2026-01-02")["workflows"] == []


@pytest.mark.parametrize(
    "typed",
    [
        ["agents", "--timeout"],
        ["check", "--timeout"],
        ["agents", "-t"],
        ["check", "-t"],
        ["ready", "-t"],
        ["ready", "--timeout"],
        ["ready", "--silence"],
        ["result", "order-1", "--timeout"],
        ["run", "draftr", "x", "--timeout"],
        ["watch", "order-1", "--timeout"],
        ["watch", "order-1", "--patience"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("seconds", ["nan", "-1", "1e300", "soon"])
def test_a_time_for_which_nothing_can_wait_is_refused(orders: WorkflowHarness, typed: list[str], seconds: str) -> None:
    """A probe with a typo says so, and neither ends in a traceback nor waits for ever."""
    refused = call(orders, *typed, seconds)

    assert (refused.exit_code, type(refused.exception)) == (2, SystemExit)
    assert typed[-1] in refused.output


def test_only_a_result_is_awaited_without_an_end(orders: WorkflowHarness) -> None:
    """A script may want to; an answer of workers that never comes is no answer."""
    assert call(orders, "agents", "--timeout", "inf").exit_code == 2
    (done,) = document(orders, "list", "--state", "completed")["workflows"]
    assert call(orders, "result", done["correlation_id"], "--timeout", "inf").exit_code == 0


def test_stats_count_workflows_and_times(orders: WorkflowHarness) -> None:
    """The numbers of a dashboard, for a terminal and for a script."""
    found = document(orders, "stats")

    assert found["states"] == {"queued": 2, "completed": 1}
    assert found["activities"] == {"draftr": {"queued": 2, "completed": 1}}
    run = found["times"]["draftr"]["run"]
    assert (run["count"], sum(run["counts"]), len(run["counts"])) == (1, 1, len(run["bounds"]) + 1)
    assert "draftr" in call(orders, "stats").output


def test_an_empty_store_has_no_workflows(workflow_harness: WorkflowHarness) -> None:
    """A fresh deployment is no error."""
    assert call(workflow_harness, "list").output == "no workflows\n"
    assert call(workflow_harness, "stats").output == "no workflows\n"


def test_a_list_that_lacks_older_ones_says_so(orders: WorkflowHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Right after an upgrade an empty list would say that there are no workflows."""
    assert document(orders, "list")["complete"] is document(orders, "stats")["complete"] is True
    monkeypatch.setattr(orders.store, "list_older", lambda: False)

    assert document(orders, "list")["complete"] is document(orders, "stats")["complete"] is False
    for command in ("list", "stats"):
        assert "not all workflows are here: those that an older version recorded" in call(orders, command).output


def test_a_list_without_entries_says_that_there_are_more(
    orders: WorkflowHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A filter that leaves most of them out takes several pages, of which some are empty."""
    monkeypatch.setattr(orders.store, "listed", lambda query: ListedPage(items=(), next="0:order-1"))

    assert call(orders, "list", "--prefix", "o").output == "no workflows here\nmore: --after 0:order-1\n"


def test_a_list_names_what_it_leaves_out(
    orders: WorkflowHarness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One damaged record hides no other, and is not hidden itself."""
    monkeypatch.setattr(orders.store, "listed", lambda query: ListedPage(items=(), unreadable=("order-3",)))

    assert document(orders, "list")["unreadable"] == ["order-3"]
    said = "left out, because their records cannot be read: order-3\n"
    assert call(orders, "list").output.endswith(f"no workflows\n{said}")
    assert {(record.__dict__["action"], record.__dict__["correlation_id"]) for record in caplog.records} == {
        ("list_unreadable", "order-3")
    }


def test_a_record_that_cannot_be_read_is_said_once(
    orders: WorkflowHarness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A page that shows itself again every few seconds fills no log, and what was mended and breaks again is said."""
    readable = orders.store.listed(WorkflowQuery())
    damaged = ListedPage(items=(), unreadable=("order-2",))
    for page in (damaged, damaged, readable, damaged):
        monkeypatch.setattr(orders.store, "listed", lambda query, page=page: page)
        document(orders, "list")

    assert [record.__dict__["correlation_id"] for record in caplog.records] == ["order-2", "order-2"]
