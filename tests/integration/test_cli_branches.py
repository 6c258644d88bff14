"""The commands about workflows with branches: the tree, the flowchart, and acting by path."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from celery import Celery
from click.testing import CliRunner, Result

from paigeant_celery import for_each, install, parallel, sleep_for, sub_workflow
from paigeant_celery.activities.registry import registry
from paigeant_celery.cli import paigeant
from paigeant_celery.store.port import Claim, Claimed
from paigeant_celery.testing import WorkflowHarness, workflow_harness
from tests.support.branched_steps import dispatched, gather, load, read, repair, stumble
from tests.support.command_page import documented, same_shape

__all__ = ["workflow_harness"]


@pytest.fixture(autouse=True)
def own_registry() -> Iterator[None]:
    """Let each test find the steps, and no others."""
    with registry.isolated():
        load()
        yield


@pytest.fixture
def call(workflow_harness: WorkflowHarness) -> Iterator[Callable[..., Result]]:
    """Call a command as the `celery` program does, of an application whose store is that of the harness."""
    with ExitStack() as stack:
        app = stack.enter_context(Celery("shop", broker="memory://localhost//", set_as_current=False))
        install(app, store=workflow_harness.store)
        yield lambda *arguments: CliRunner().invoke(paigeant, arguments, obj=SimpleNamespace(app=app))


def goes_on(harness: WorkflowHarness) -> None:
    harness.skip(10)  # what a command sends goes to the broker of its app
    asyncio.run(harness.deliver())


def test_show_draws_the_tree(workflow_harness: WorkflowHarness, call: Callable[..., Result]) -> None:
    """ "Which of the twenty is stuck?" is the second question of an incident."""
    inner = for_each(read.activity(), over=["a", "park"], step_id="inner")
    block = parallel({"facts": [gather.activity(), inner], "style": read.activity(), "money": stumble.activity()})
    dispatched(workflow_harness, block, gather.activity(), hops=7)

    shown = call("show", "w", "--no-events", "--errors").output.splitlines()

    first, _, *shown = [re.sub(r"completed in .* s$", "completed in N s", line) for line in shown]
    assert [first, *shown[:4]] == [
        "workflow w: suspended",
        "  current:   parallel is suspended (attempts spent: 0)",
        "  waits for: the branches of 'parallel' (1 suspended, 1 completed, 1 retrying)",
        "  steps:",
        "    parallel (parallel): suspended, 1 suspended, 1 completed, 1 retrying",
    ]
    assert [line for line in shown[4:] if not line.lstrip().startswith(("Traceback", "File", "ValueError"))] == [
        "      facts: suspended",
        "        gather: completed in N s",
        "        inner (for each): suspended, 1 completed, 1 parked",
        "          0: completed",
        "            read: completed in N s",
        "          1: parked",
        "            read: parked: ValueError: unreadable",
        "      style: completed",
        "        read: completed in N s",
        "      money: retrying",
        *[line for line in shown if line.startswith("        stumble: ")],
        "    gather: planned",
    ]
    (stumbles,) = [line for line in shown if line.startswith("        stumble: ")]
    assert re.fullmatch(r" +stumble: retrying, attempts spent: 1, again at .* UTC: ValueError: stumbles", stumbles)
    assert next(line for line in shown if "branched_steps.py" in line).endswith("in read")


def test_show_tells_few_branches_of_each_state(workflow_harness: WorkflowHarness, call: Callable[..., Result]) -> None:
    """A thousand lines are no picture."""
    block = for_each(read.activity(), over=["a"] * 60 + ["wait"], max_at_once=5, step_id="all")
    dispatched(workflow_harness, block, hops=1 + 30)

    shown = call("show", "w", "--no-events").output.splitlines()
    begin = shown.index("  steps:")
    assert shown[begin + 1] == "    all (for each): suspended, 30 completed, 5 queued, 26 held"
    branches = [line.split(": ")[1] for line in shown[begin + 2 : -2] if line[6] != " "]
    assert branches == [*["completed"] * 20, *["queued"] * 5, *["held"] * 20]
    assert shown[-2:] == ["      and 10 more completed", "      and 6 more held"]


def test_show_says_that_the_process_of_a_branch_is_lost(
    workflow_harness: WorkflowHarness, call: Callable[..., Result]
) -> None:
    """A worker was killed and none is there to take over: no branch is said to run that nobody runs."""
    dispatched(workflow_harness, for_each(read.activity(), over=["a", "b"], step_id="all"), hops=1)
    store, owners = workflow_harness.store, [f"boot:{pid}:1:nonce:box" for pid in (7, 8)]
    for number, owner in enumerate(owners):
        claim = Claim(hop_id=f"w.0-{number}.0", digest=None, owner=owner, token="t", max_attempts=5)
        assert isinstance(store.claim(claim), Claimed)
    store.sweep(host="there", served=["paigeant.read", "paigeant.gather"])
    long_ago = datetime.now(UTC) - timedelta(minutes=1)
    store._records.leases[owners[0]] = long_ago
    store._records.served["paigeant.read"] = long_ago
    at = f"{long_ago:%Y-%m-%d %H:%M:%S} UTC"

    told = call("show", "w", "--no-workers", "--no-events").output
    document = json.loads(call("show", "w", "--no-workers", "--json").output)

    stuck = f"read waits on paigeant.read: no worker has served it since {at} (in all/0)"
    assert f"  stuck:     {stuck}\n" in told
    first, second = [line.strip() for line in told.splitlines() if line.startswith("        read: running, ")]
    lost = rf"read: running, ran in process 7 on box since .* UTC; its lease ended at {at}, attempts spent: 1"
    assert re.fullmatch(lost, first)
    assert re.fullmatch(r"read: running, runs in process 8 on box since .* UTC, attempts spent: 1", second)
    runners = [branch["runner"] for branch in document["branches"]]
    assert (document["stuck"], [runner["pid"] for runner in runners]) == (stuck, [7, 8])
    assert datetime.fromisoformat(runners[0]["lapsed_at"]) == long_ago
    assert runners[1]["lapsed_at"] is None


def test_show_says_what_branches_wait_for_and_which_events_are_theirs(
    workflow_harness: WorkflowHarness, call: Callable[..., Result]
) -> None:
    """The line of a branch says all about it; the hop id of an event would not."""
    dispatched(workflow_harness, for_each(read.activity(), over=["wait"], step_id="all"))

    shown = call("show", "w").output

    assert re.search(
        r"\n        read: suspended\n          waits for an answer to 'size' \(in all/0/read\), since .* UTC\n", shown
    )
    assert re.search(r" claimed w\.0-0\.0 \(all/0/read\) step=all/0/read", shown)
    assert shown.count("  waits for: ") == 1


def test_what_others_wrote_does_nothing_to_a_terminal(
    workflow_harness: WorkflowHarness, call: Callable[..., Result]
) -> None:
    """Names of branches are texts of whoever dispatches."""
    dispatched(workflow_harness, parallel({'<b>&`"#; caf\u00e9': read.activity()}, step_id="x"), hops=1)

    assert '      <b>&`"#; caf\u00e9: queued\n        read: queued\n' in call("show", "w", "--no-events").output
    assert 'subgraph s0b0["#60;b#62;#38;#96;#34;#35;#59; caf\u00e9: queued"]' in call("graph", "w").output


def structure(chart: str) -> tuple[dict[str, str], set[tuple[str, str]], dict[str, str]]:
    """Return the labels of nodes and subgraphs, the arrows, and the class of each node; fails if it is no flowchart."""
    labels, arrows, classes, depth, defined = {}, set(), {}, 0, set()
    first, *lines = chart.splitlines()
    assert first == "flowchart TD"
    for line in lines:
        text = line.strip()
        if found := re.fullmatch(r'subgraph (\w+)\["([^"]*)"\]', text):
            labels[found[1]], depth = found[2], depth + 1
        elif found := re.fullmatch(r'(\w+)\["([^"]*)"\]', text):
            assert found[1] not in labels
            labels[found[1]] = found[2]
        elif found := re.fullmatch(r"(\w+) --> (\w+)", text):
            arrows.add((found[1], found[2]))
        elif text == "end":
            depth -= 1
            assert depth >= 0
        elif found := re.fullmatch(r"classDef (\w+) fill:#\w{6},stroke:#\w{6},.*", text):
            defined.add(found[1])
        elif found := re.fullmatch(r"class ([\w,]+) (\w+)", text):
            classes |= dict.fromkeys(found[1].split(","), found[2])
        else:
            raise AssertionError(f"not understood: {line}")
    assert depth == 0
    assert {each for arrow in arrows for each in arrow} <= labels.keys()
    assert set(classes) <= labels.keys()
    assert set(classes.values()) == defined
    return labels, arrows, classes


def test_a_graph_shows_what_ran_what_runs_and_what_is_planned(
    workflow_harness: WorkflowHarness, call: Callable[..., Result]
) -> None:
    """It goes into a ticket as it is, and into nobody's hands that may not read prompts and outputs."""
    readings = for_each([read.activity(), gather.activity()], over=["hunter2", "wait"], step_id="readings")
    later = parallel({"x": [gather.activity(), sleep_for(5)], "y": sub_workflow(read.activity())}, step_id="later")
    dispatched(workflow_harness, gather.activity(), readings, later, gather.activity())

    printed = call("graph", "w")

    assert printed.exit_code == 0
    labels, arrows, classes = structure(printed.output)
    assert labels == {
        "s0": "gather",
        "s1": "readings (for each)",
        "s1b0": "0: completed",
        "s1b0s0": "read",
        "s1b0s1": "gather",
        "s1b1": "1: suspended",
        "s1b1s0": "read",
        "s1b1s1": "gather",
        "s2": "later (parallel)",
        "s2b0": "x: planned",
        "s2b0s0": "gather",
        "s2b0s1": "sleep",
        "s2b1": "y: planned",
        "s2b1s0": "sub-workflow (sub-workflow)",
        "s2b1s0b0": "0: planned",
        "s2b1s0b0s0": "read",
        "s3": "gather-2 (gather)",
    }
    assert arrows == {
        ("s0", "s1"), ("s1", "s2"), ("s2", "s3"),
        ("s1b0s0", "s1b0s1"), ("s1b1s0", "s1b1s1"), ("s2b0s0", "s2b0s1"),
    }  # fmt: skip
    assert {classes[node] for node in ("s0", "s1b0", "s1b0s0", "s1b0s1")} == {"completed"}
    assert {classes[node] for node in ("s1", "s1b1", "s1b1s0")} == {"suspended"}
    planned = {node for node, state in classes.items() if state == "planned"}
    assert planned == {"s1b1s1", "s3", *(node for node in labels if node.startswith("s2"))}
    assert "hunter2" not in printed.output


def test_a_graph_of_what_has_ended_shows_what_is_still_known(
    workflow_harness: WorkflowHarness, call: Callable[..., Result]
) -> None:
    """Messages of closed branches are gone, but which step failed, and which blocks had begun, is not."""
    inner = for_each(read.activity(), over=["a", "fail"], step_id="inner")
    block = parallel({"x": [gather.activity(), inner], "y": read.activity(), "z": inner}, on_failure="collect")
    dispatched(workflow_harness, block, for_each(read.activity(), over=["wait", "a"], join="any", step_id="race"))

    labels, _, classes = structure(call("graph", "w").output)

    assert {labels[node]: classes[node] for node in ("s0b0", "s0b0s0", "s0b0s0b0", "s0b0s0b1", "s0b0s0b1s0")} == {
        "x: failed": "failed",
        "inner (for each)": "failed",
        "0: completed": "completed",
        "1: failed": "failed",
        "read": "failed",
    }
    assert (labels["s0b1"], labels["s0b1s0"]) == ("y: completed", "read")
    assert (labels["s1b0"], classes["s1b0"]) == ("0: cancelled", "cancelled")
    assert not any(node.startswith("s1b0s") for node in labels)


def test_a_graph_of_many_branches_shows_some_of_each_state(
    workflow_harness: WorkflowHarness, call: Callable[..., Result]
) -> None:
    """A thousand boxes are no picture either."""
    dispatched(workflow_harness, for_each(read.activity(), over=list(range(50)), max_at_once=5, step_id="all"), hops=28)

    labels, _, classes = structure(call("graph", "w").output)

    assert sum(label.endswith(": completed") for label in labels.values()) == 20
    assert (labels["s0m0"], classes["s0m0"]) == ("7 more completed", "completed")
    assert "s0m1" not in labels


def test_a_graph_of_a_block_that_has_not_begun_or_had_nothing_to_do(
    workflow_harness: WorkflowHarness, call: Callable[..., Result]
) -> None:
    """Nobody knows yet how many branches there will be."""
    blocks = [for_each(read.activity(), over=[], step_id="none"), for_each(read.activity(), over=["a"], step_id="one")]
    dispatched(workflow_harness, *blocks, hops=1)

    labels, _, classes = structure(call("graph", "w").output)

    assert labels["s0"] == "none"
    assert (labels["s1"], labels["s1b0"], classes["s1"]) == ("one (for each)", "each: planned", "queued")


def test_a_graph_of_an_unknown_workflow_says_so(call: Callable[..., Result]) -> None:
    """A typing mistake prints no empty picture."""
    for correlation_id in ("nobody", "no workflow has this id"):
        printed = call("graph", correlation_id)
        assert (printed.exit_code, "flowchart" in printed.output) == (3, False)
        assert "no workflow" in printed.output


def test_retry_takes_a_path(workflow_harness: WorkflowHarness, call: Callable[..., Result]) -> None:
    """One branch is let go on from a shell."""
    handle = dispatched(workflow_harness, for_each(read.activity(), over=["park", "park"], step_id="all"))
    repair()

    told = call("retry", "w", "all/1/read")
    assert (told.exit_code, told.output) == (0, "all/1/read goes on\n")
    goes_on(workflow_harness)
    assert [branch.state for branch in handle.status_sync().branches] == ["parked", "completed"]

    refused = call("retry", "w", "all/1")
    assert (refused.exit_code, "the branch 'all/1' has ended" in refused.output) == (3, True)
    assert call("retry", "w").output == "workflow w goes on\n"
    goes_on(workflow_harness)
    assert call("retry", "w").output == "Error: workflow w is not parked\n"


def test_retry_of_a_branch_that_is_not_parked_says_so(
    workflow_harness: WorkflowHarness, call: Callable[..., Result]
) -> None:
    """Nothing was done, and the command fails."""
    dispatched(workflow_harness, for_each(read.activity(), over=["wait"], step_id="all"))

    assert call("retry", "w", "all/0").output == "Error: nothing in all/0 is parked\n"


def test_signals_and_answers_reach_branches(workflow_harness: WorkflowHarness, call: Callable[..., Result]) -> None:
    """The inbox says which branch asks, and a signal may be for one of them."""
    handle = dispatched(workflow_harness, for_each(read.activity(), over=["signal", "wait", "signal"], step_id="all"))

    listed = call("inbox").output
    assert "  workflow w, step all/1/read (read): size\n" in listed
    assert "  workflow w, step all/2/read (read): signal paid\n" in listed
    assert call("signal", "w", "paid", "17", "--path", "all/2").output == "the workflow goes on\n"
    assert "nothing in 'all/1' waits for 'paid'" in call("signal", "w", "paid", "--path", "all/1").output
    token = next(wait.token for wait in handle.pending_sync() if wait.kind == "token")
    assert call("answer", token, '"XL"').output == "the workflow goes on\n"
    assert call("signal", "w", "paid", "1").output == "the workflow goes on\n"
    goes_on(workflow_harness)
    assert handle.result_sync(timeout=0).output == [1, "XL", 17]


def test_the_list_says_that_nobody_serves_the_queue_of_a_branch(
    workflow_harness: WorkflowHarness, call: Callable[..., Result]
) -> None:
    """Otherwise twenty branches that nobody will ever run look like a workflow that waits for something."""
    dispatched(workflow_harness, for_each(read.activity(), over=["a"] * 20, step_id="mails"), hops=1)
    workflow_harness.store.sweep(host="there", served=["paigeant._flow", "paigeant.reader"])

    (listed,) = json.loads(call("list", "--json").output)["workflows"]

    why = "read waits on paigeant.read: no worker serves it; did you mean reader?"
    assert (listed["state"], listed["step_id"], listed["stuck"]) == ("suspended", "mails", f"{why} (in a branch)")
    assert f"  {why} (in a branch)\n" in call("list").output
    assert f"  stuck:     {why} (in mails/0)\n" in call("show", "w", "--no-workers").output
    workflow_harness.store.sweep(host="there", served=["paigeant.read"])
    assert json.loads(call("list", "--json").output)["workflows"][0]["stuck"] is None


@pytest.mark.parametrize("ends_as", ["parked", "failed", "suspended", "cancelled"])
def test_what_a_step_gave_is_printed_however_its_workflow_stands(
    workflow_harness: WorkflowHarness, call: Callable[..., Result], ends_as: str
) -> None:
    """It was paid for, and whoever looks into a parked workflow wants to see what its next step was given."""
    items = {"parked": ["a", "park"], "failed": ["a", "fail"], "suspended": ["a", "sleep"], "cancelled": ["a", "sleep"]}
    all_of = for_each(read.activity(), over=items[ends_as], step_id="all")
    handle = dispatched(workflow_harness, read.activity(), all_of)
    if ends_as == "cancelled":
        handle.cancel_sync()
    assert handle.status_sync().state == ends_as

    given, in_branch = call("result", "w", "--step", "read"), call("result", "w", "--step", "all/0/read", "--json")
    none, unknown = call("result", "w", "--step", "all/1/read"), call("result", "w", "--step", "nothing", "--json")

    assert (given.exit_code, given.stdout) == (0, "read None\n")
    is_kept = ends_as in ("parked", "suspended")  # of a branch that was cut off nothing is left
    if is_kept:
        found = json.loads(in_branch.stdout)
        assert (found["state"], found["output"], found["outputs"]) == (ends_as, "read a", {"all/0/read": "read a"})
        assert same_shape(documented("result")[0], found)
    ends = 4 if ends_as == "suspended" else 3
    assert (none.exit_code, unknown.exit_code) == (ends, ends)
    if ends == 3:
        assert json.loads(unknown.stdout)["error"]["code"] == "unknown_path"
        assert "these have: read" in none.stderr
