"""The JSON of each command has the shape that `docs/commands.md` shows."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import click
import pytest
from celery import Celery
from click.testing import CliRunner

from paigeant_celery import ActivitySpec, PaigeantAgent, WorkflowContext, activity, for_each, install, parallel
from paigeant_celery.activities.registry import registry
from paigeant_celery.cli import paigeant
from paigeant_celery.cli.output import Command, Exit
from paigeant_celery.core.about import About, AskedCall, write_about
from paigeant_celery.core.waits import make_token
from paigeant_celery.store.port import Claim, Claimed, Closing, NewWait, Standing
from paigeant_celery.testing import WorkflowHarness, workflow_harness
from tests.support.branched_steps import dispatched, gather, load, read, stumble
from tests.support.command_page import PAGE, differences, documented, same_shape, unseen

__all__ = ["workflow_harness"]

Call = Callable[..., tuple[int, Any]]


@pytest.fixture(autouse=True)
def own_registry() -> Iterator[None]:
    """Let each test find the steps, and no others."""
    with registry.isolated():
        load()
        yield


@pytest.fixture
def call(workflow_harness: WorkflowHarness) -> Iterator[Call]:
    """Return what calls a command with `--json`, of an app with the harness's store; it returns code and document."""
    with Celery("shop", broker="memory://localhost//", set_as_current=False) as app:
        install(app, store=workflow_harness.store)

        def called(*arguments: str) -> tuple[int, Any]:
            done = CliRunner().invoke(paigeant, [*arguments, "--json"], obj=SimpleNamespace(app=app))
            assert done.stderr == ""
            return done.exit_code, json.loads(done.stdout)

        yield called


def test_a_difference_between_page_and_document_is_found() -> None:
    """The comparison that the tests below make can fail."""
    assert list(differences({"a": [{"b": 1}]}, {"a": [{"c": 1}]})) == [".a[]: ['b', 'c']"]
    assert list(differences({"a": "1"}, {"a": 1})) == [".a: str on the page, int in the document"]
    assert list(differences({"usage": {"x": 1}}, {"usage": {"y": 1}})) == []
    assert list(differences({"a": [1]}, {"a": [2, "3"]})) == [".a[]: int on the page, str in the document"]
    assert list(differences({"retry_at": None}, {"retry_at": 3})) == [".retry_at: str on the page, int in the document"]
    assert list(differences({"new": None}, {"new": 3})) == [".new: NoneType on the page, int in the document"]
    assert list(unseen({"a": [{"b": 1}], "c": None}, [{"a": [], "c": 1}, {"a": [{"b": None}], "c": 1}])) == [".a[].b"]


def commands_in(group: click.Group, path: str = "") -> Iterator[tuple[str, click.Command]]:
    """Yield every command with its words."""
    for name, found in group.commands.items():
        words = f"{path}{name}"
        if isinstance(found, click.Group):
            yield from commands_in(found, f"{words} ")
        else:
            yield words, found


@pytest.mark.parametrize("words", [words for words, _ in commands_in(paigeant)])
def test_each_command_takes_json_and_has_its_place_on_the_page(words: str) -> None:
    """A command without a documented form is one that no script may use."""
    made = dict(commands_in(paigeant))[words]

    assert isinstance(made, Command)
    assert re.search(rf"^### [^\n]*`{words}[` ]", PAGE, re.MULTILINE)
    assert made.help


def test_the_page_has_each_exit_code() -> None:
    """A number in the code that the page does not explain helps nobody."""
    table = PAGE.partition("### Exit codes")[2].partition("\n## ")[0]

    assert [int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)] == [code.value for code in Exit]


def test_a_workflow_is_shown_in_the_documented_form(call: Call, workflow_harness: WorkflowHarness) -> None:
    """Also one with a step that ran, one that failed, and one that is planned."""
    talker = PaigeantAgent("test", name="talker")
    dispatched(workflow_harness, ActivitySpec("talker", "talk"), stumble.activity(), gather.activity(), hops=2)
    assert talker.name == "talker"

    code, found = call("show", "w")

    (shown,) = documented("show")
    assert code == 0
    assert same_shape(shown, found)
    assert [(step["step_id"], step["state"]) for step in found["steps"]] == [
        ("talker", "completed"), ("stumble", "retrying"), ("gather", "planned"),
    ]  # fmt: skip
    ran, failed, _ = found["steps"]
    assert (ran["usage"]["requests"], ran["attempt"], failed["attempt"]) == (1, 1, 1)
    assert (failed["failure"]["error_class"], failed["retry_at"]) == ("ValueError", found["retry_at"])
    assert failed["failure"]["cause"]["frames"][0].keys() == {"file", "line", "function", "skipped"}
    assert {"started", "claimed", "completed"} <= {event["type"] for event in found["events"]}
    assert call("show", "w", "--no-events")[1]["events"] is None


def test_blocks_and_their_branches_are_shown_in_the_documented_form(
    call: Call, workflow_harness: WorkflowHarness
) -> None:
    """A tree is a tree in JSON, too, and outputs are not in it."""
    dispatched(
        workflow_harness, parallel({"a": for_each(read.activity(), over=["hunter2", "park"]), "b": read.activity()})
    )

    _, shown = call("show", "w")
    _, drawn = call("graph", "w")

    (block,) = [step["block"] for step in shown["steps"]]
    assert (block.keys(), block["form"], block["more"]) == ({"form", "branches", "more"}, "parallel", {})
    assert [branch["name"] for branch in block["branches"]] == ["a", "b"]
    inner = block["branches"][0]["steps"][0]["block"]
    assert [branch["state"] for branch in inner["branches"]] == ["completed", "parked"]
    assert (drawn.keys(), drawn["correlation_id"]) == ({"correlation_id", "steps"}, "w")
    assert drawn["steps"][0].keys() == shown["steps"][0].keys() - {"failure"}
    assert "unreadable" not in json.dumps(drawn)
    assert "hunter2" not in json.dumps([shown, drawn])


def test_a_fork_says_of_what(call: Call, workflow_harness: WorkflowHarness) -> None:
    """Whoever finds it in a list wants to know whose outputs it began with."""
    handle = dispatched(workflow_harness, gather.activity(), gather.activity())
    handle.fork_sync("gather-2", correlation_id="f")

    assert call("show", "f")[1]["origin"] == {"workflow": "w", "step": "gather-2", "place": "1"}
    with Celery("shop", broker="memory://localhost//", set_as_current=False) as app:
        install(app, store=workflow_harness.store)
        shown = CliRunner().invoke(paigeant, ["show", "f"], obj=SimpleNamespace(app=app)).output
    assert "\n  fork of:   w, from gather-2 on\n" in shown


def test_what_an_operator_does_is_told_in_the_documented_form(call: Call, workflow_harness: WorkflowHarness) -> None:
    """Letters, a retry and the end of a workflow."""
    dispatched(workflow_harness, for_each(read.activity(), over=["park"], step_id="all"))
    _, listed = call("letters", "list")
    letter = listed["letters"][0]["letter_id"]

    assert same_shape(documented("letters list")[0], listed)
    assert call("letters", "list", "--limit", "1")[1]["next"] is not None
    assert call("letters", "show", letter) == (0, listed["letters"][0])
    assert call("letters", "redrive", letter) == (0, {"letter_id": letter, "redriven": True})
    assert call("letters", "redrive", letter)[0] == Exit.UNKNOWN
    goes_on(workflow_harness)
    assert call("letters", "drop", letter) == (0, {"letter_id": letter, "dropped": True})
    retried = call("retry", "w", "all/0/read")
    assert retried == (0, {"correlation_id": "w", "path": "all/0/read", "retried": True})
    assert call("retry", "w", "all/0/read")[1]["error"]["code"] == "not_parked"
    assert call("retry", "w", "nowhere/0")[1]["error"]["code"] == "unknown_path"
    cancelled = call("cancel", "w")
    assert cancelled == (0, {"correlation_id": "w", "cancelled": True})
    for heading, (_, found) in {"retry": retried, "cancel": cancelled}.items():
        assert same_shape(documented(heading)[0], found)
    result = call("result", "w")
    assert (result[0], result[1]["error"]["code"], result[1]["state"]) == (1, "workflow_cancelled", "cancelled")


def test_one_cannot_cancel_what_has_ended(call: Call, workflow_harness: WorkflowHarness) -> None:
    """The document says why, and what it gave is printed in the documented form."""
    dispatched(workflow_harness, gather.activity())

    code, found = call("cancel", "w")

    assert (code, found["error"]["code"]) == (1, "workflow_ended")
    assert same_shape(documented("result")[0], call("result", "w")[1])


def test_what_is_waited_for_and_answered_is_told_in_the_documented_form(
    call: Call, workflow_harness: WorkflowHarness
) -> None:
    """An approval in a chat is made of these."""
    token = asking(workflow_harness)
    _, listed = call("inbox")
    shown = documented("inbox")[0]

    first, second = call("approve", token, "--call", "r1"), call("deny", token, "--call", "r1")
    late = call("approve", token, "--args", "[]")

    assert same_shape(shown, listed)
    assert listed["waits"][0]["token"] == token
    assert same_shape(documented("approve")[0], first[1])
    assert (first[0], first[1]["outcome"], first[1]["open"]) == (0, "recorded", ["r2"])
    assert (second[0], second[1]["error"]["code"], second[1]["outcome"]) == (1, "answered", "answered")
    assert second[1].keys() == {"error", *documented("approve")[0]}
    assert (late[0], late[1]["error"]["code"]) == (2, "usage")


def test_a_signal_is_told_in_the_same_form(call: Call, workflow_harness: WorkflowHarness) -> None:
    """It is an answer, too."""

    @activity
    async def pay(context: WorkflowContext) -> Any:
        return await context.wait_for("paid")

    workflow_harness.dispatch([pay.activity()], correlation_id="w")

    code, found = call("signal", "w", "paid", '{"amount": 5}')

    assert (code, found["outcome"]) == (0, "kept")
    assert same_shape(documented("approve")[0], found)


def test_activities_and_brokers_are_told_in_the_documented_form(call: Call) -> None:
    """What is loaded; and that nothing need change."""
    _, loaded = call("activities")
    code, unchanged = call("rebind")

    assert same_shape(documented("activities")[0], loaded)
    assert {each["name"]: each["queue"] for each in loaded["activities"]}["gather"] == "paigeant.gather"
    assert code == 0
    assert same_shape(documented("rebind")[0], unchanged)
    assert unchanged["rebound"] is False


def goes_on(harness: WorkflowHarness) -> None:
    """Let what a command sent run; it goes to the broker of its own app."""
    harness.skip(10)
    asyncio.run(harness.deliver())


def asking(harness: WorkflowHarness) -> str:
    """The token of a hop that waits for two approvals."""
    harness.dispatch([gather.activity()], correlation_id="w")
    claimed = harness.store.claim(Claim(hop_id="w.0", owner="o", token="d", max_attempts=3, digest=None))
    assert isinstance(claimed, Claimed)
    closing = Closing(hop_id="w.0", owner="o", fence=claimed.fence)
    calls = tuple(AskedCall(id=id_, kind="approval", tool="refund", arguments={"order": 17}) for id_ in ("r1", "r2"))
    about = write_about(About(step="gather", activity="gather", calls=calls))
    new = NewWait(
        wait_id="1", token=make_token("w.0", "s"), kind="token", name="refunds", about=about, parts=("r1", "r2")
    )
    wait = harness.store.wait(closing, new)
    assert wait is not None
    assert harness.store.suspend(closing, Standing(tokens=[wait.token], names=["refunds"])) is not None
    return wait.token
