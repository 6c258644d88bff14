"""The commands that list what workflows wait for, and answer it."""

from __future__ import annotations

import asyncio
import getpass
import json
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from click.testing import CliRunner, Result

from paigeant_celery import WorkflowContext, WorkflowHandle, activity, install
from paigeant_celery.activities.registry import registry
from paigeant_celery.cli import paigeant
from paigeant_celery.core.about import About, AskedCall, write_about
from paigeant_celery.core.waits import make_token
from paigeant_celery.store.port import Claim, Claimed, Closing, NewWait, Standing
from paigeant_celery.testing import WorkflowHarness, workflow_harness

__all__ = ["workflow_harness"]

HIDDEN = "\x1b[2K\u202eflipped\x9b1m"  # a terminal would erase a line, turn the text around and change colours
CALLS = (
    AskedCall(id="r1", kind="approval", tool="refund", arguments={"order": 17, "why": HIDDEN}),
    AskedCall(id="r2", kind="approval", tool="refund", arguments={"order": 18}),
)

Call = Callable[..., Result]


@pytest.fixture(autouse=True)
def own_registry() -> Iterator[None]:
    """Give each test an empty registry."""
    with registry.isolated():
        yield


@pytest.fixture
def call(workflow_harness: WorkflowHarness) -> Iterator[Call]:
    """Return what calls a command, as the `celery` program does, of an app with the harness's store."""
    with Celery("shop", broker="memory://localhost//", set_as_current=False) as app:
        install(app, store=workflow_harness.store)
        yield lambda *arguments, stdin=None: CliRunner().invoke(
            paigeant, arguments, obj=SimpleNamespace(app=app), input=stdin
        )


def waiting(harness: WorkflowHarness) -> tuple[WorkflowHandle, str]:
    """A workflow that is suspended at a question, with its token."""

    @activity
    async def ask(context: WorkflowContext) -> Any:
        return await context.wait_for("size", ask=lambda token: None, question=f"Which size? {HIDDEN}", timeout=3600)

    handle = harness.dispatch([ask.activity()], correlation_id="w")
    asyncio.run(harness.deliver())
    (wait,) = handle.pending_sync()
    return handle, wait.token


def asking(harness: WorkflowHarness) -> str:
    """The token of a hop that waits for two approvals."""

    @activity
    def pay() -> None: ...

    harness.dispatch([pay.activity()], correlation_id="w")
    claimed = harness.store.claim(Claim(hop_id="w.0", owner="o", token="d", max_attempts=3, digest=None))
    assert isinstance(claimed, Claimed)
    closing = Closing(hop_id="w.0", owner="o", fence=claimed.fence)
    about = write_about(About(step="pay", activity="pay", calls=CALLS))
    new = NewWait(
        wait_id="1", token=make_token("w.0", "s"), kind="token", name="refunds", about=about, parts=("r1", "r2")
    )
    wait = harness.store.wait(closing, new)
    assert wait is not None
    assert harness.store.suspend(closing, Standing(tokens=[wait.token], names=["refunds"])) is not None
    return wait.token


def kept(harness: WorkflowHarness) -> dict[str, Any]:
    (wait,) = harness.store.waits("w.0")
    return {part: json.loads(answer.text) for part, answer in wait.answers.items()}


def test_the_inbox_shows_who_asks_what_since_and_until_and_the_token(
    call: Call, workflow_harness: WorkflowHarness
) -> None:
    """Somebody with a shell can answer for a page that is down."""
    handle, token = waiting(workflow_harness)
    (wait,) = handle.pending_sync()
    assert wait.until is not None

    assert call("inbox").output == (
        f"{token}\n"
        "  workflow w, step ask (ask): size\n"
        f"  since {wait.since:%Y-%m-%d %H:%M:%S} UTC, until {wait.until:%Y-%m-%d %H:%M:%S} UTC\n"
        "  question: Which size? \\x1b[2K\\u202eflipped\\x9b1m\n"
    )


def test_the_inbox_shows_tools_and_arguments_and_what_a_terminal_would_obey_as_text(
    call: Call, workflow_harness: WorkflowHarness
) -> None:
    """A model writes the arguments: it must not be able to hide on the screen what it asks for."""
    asking(workflow_harness)

    lines = call("inbox").output.splitlines()

    assert lines[1] == "  workflow w, step pay (pay): refunds"
    assert json.loads(lines[3].partition(": refund ")[2]) == CALLS[0].arguments
    assert lines[3:] == [
        '  approval r1: refund {"order":17,"why":"\\u001b[2K\\u202eflipped\\u009b1m"}',
        '  approval r2: refund {"order":18}',
    ]


def test_a_result_that_is_not_there_names_the_command_that_lists_what_can_be_answered(
    call: Call, workflow_harness: WorkflowHarness
) -> None:
    """Whoever is on call types commands, and calls nothing in Python."""
    asking(workflow_harness)

    refused = call("result", "w")

    assert refused.exit_code == 4
    assert refused.output.startswith(
        "Error: workflow w has not ended and goes on: step 'pay' is suspended and waits for "
    )
    assert refused.output.endswith("; `celery … paigeant inbox` has what can be answered\n")


def test_an_inbox_is_read_page_by_page(call: Call, workflow_harness: WorkflowHarness) -> None:
    """An empty one says so."""
    assert call("inbox").output == "nothing waits for an answer\n"
    waiting(workflow_harness)
    (more,) = [line for line in call("inbox", "--limit", "1").output.splitlines() if line.startswith("there may")]

    assert call("inbox", "--after", more.partition("'")[2].rstrip("'")).output == "nothing waits for an answer\n"
    assert call("inbox", "--after", "x").exit_code == 2


def test_an_answer_lets_the_step_go_on(call: Call, workflow_harness: WorkflowHarness) -> None:
    """The user of the shell is who answered, unless another is named."""
    handle, token = waiting(workflow_harness)

    first = call("answer", token, '{"size": "large"}')
    second, read = (call("answer", token, '"small"', "--by", "bob", *form) for form in ((), ("--json",)))

    assert (first.exit_code, first.output) == (0, "the workflow goes on\n")
    assert second.exit_code == 1
    assert second.output.startswith(
        f"Error: somebody was faster, and this answer does not count: {getpass.getuser()} answered at "
    )
    assert "large" not in second.output + read.output, "what was answered is for the step"
    assert json.loads(read.output)["first"].keys() == {"by", "at"}
    (event,) = [event for event in handle.events_so_far() if event.type == "answered"]
    assert event.fields == {"wait": "size", "by": getpass.getuser()}


@pytest.mark.parametrize(
    ("arguments", "told", "answers"),
    [
        (["approve"], "the workflow goes on", {"r1": True, "r2": True}),
        (["approve", "--call", "r1"], "this counts; still open: r2", {"r1": True}),
        (["approve", "--call", "r1", "--args", '{"order": 3}'], "this counts; still open: r2",
         {"r1": {"kind": "tool-approved", "override_args": {"order": 3}}}),
        (["deny", "--call", "r2", "--message", "no"], "this counts; still open: r1",
         {"r2": {"kind": "tool-denied", "message": "no"}}),
        (["answer", '{"approvals": {"r1": false, "r2": true}}'], "the workflow goes on", {"r1": False, "r2": True}),
        (["answer", "--failed", "closed"], "the workflow goes on",
         {call_id: {"kind": "tool-denied", "message": "closed"} for call_id in ("r1", "r2")}),
    ],
)  # fmt: skip
def test_calls_are_approved_and_denied_from_a_shell(
    call: Call, workflow_harness: WorkflowHarness, arguments: list[str], told: str, answers: dict[str, Any]
) -> None:
    """What the shell says is what the run gets."""
    token = asking(workflow_harness)

    done = call(arguments[0], token, *arguments[1:])

    assert (done.exit_code, done.output) == (0, f"{told}\n")
    assert {part: answer["approval"] for part, answer in kept(workflow_harness).items()} == answers


@pytest.mark.parametrize(
    ("arguments", "stdin", "answers"),
    [
        (["answer", "-", "-"], '{token}\n{"approvals":\n {"r1": false, "r2": true}}\n', {"r1": False, "r2": True}),
        (["answer", "TOKEN", "-"], '{"approvals": {"r1": true, "r2": true}}', {"r1": True, "r2": True}),
        (["approve", "-", "--call", "r1", "--args", "-"], '{token}\n{"order": 3}',
         {"r1": {"kind": "tool-approved", "override_args": {"order": 3}}}),
        (["deny", "-", "--call", "r2", "--message", "-"], "{token}\nno,\nnever\n",
         {"r2": {"kind": "tool-denied", "message": "no,\nnever"}}),
    ],
)  # fmt: skip
def test_a_token_and_what_is_answered_may_come_from_the_standard_input(
    call: Call, workflow_harness: WorkflowHarness, arguments: list[str], stdin: str, answers: dict[str, Any]
) -> None:
    """What is typed stands in the history of a shell, and in the list of processes that every user can read."""
    token = asking(workflow_harness)
    typed = [token if argument == "TOKEN" else argument for argument in arguments]

    done = call(*typed, stdin=stdin.replace("{token}", token))

    assert done.exit_code == 0, done.output
    assert {part: answer["approval"] for part, answer in kept(workflow_harness).items()} == answers


def test_a_signal_may_come_from_the_standard_input(call: Call, workflow_harness: WorkflowHarness) -> None:
    """A webhook's body is piped as it came."""

    @activity
    async def pay(context: WorkflowContext) -> Any:
        return await context.wait_for("paid")

    handle = workflow_harness.dispatch([pay.activity()], correlation_id="w")

    assert call("signal", "w", "paid", "-", stdin="no JSON\n").exit_code == 2
    assert call("signal", "w", "paid", "-", stdin='{"amount": 5}\n').exit_code == 0
    asyncio.run(workflow_harness.deliver())
    assert handle.result_sync(timeout=0).output == {"amount": 5}


def test_who_decides_about_all_calls_too_late_is_told_which_are_open(
    call: Call, workflow_harness: WorkflowHarness
) -> None:
    """All or none count: whoever denies everything must learn that a part of it still waits."""
    token = asking(workflow_harness)
    assert call("approve", token, "--call", "r1").exit_code == 0

    done = call("answer", token, '{"approvals": {"r1": false, "r2": false}}')

    assert done.exit_code == 1
    assert done.output.rstrip().endswith("; still open: r2")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["approve", "w.0~x"], "has no such wait"),
        (["approve", "TOKEN", "--call", "r9"], "no call of this id is pending"),
        (["approve", "TOKEN", "--args", "[1]"], "`--args` must be a JSON object"),
        (["approve", "TOKEN", "--args", '{"order": 3}'], "several calls wait for approval"),
        (["deny", "TOKEN", "--by", "\x07"], "invalid_wait"),
        (["answer", "TOKEN"], "give either JSON or `--failed REASON`"),
        (["answer", "TOKEN", "1", "--failed", "x"], "give either JSON or `--failed REASON`"),
        (["answer", "TOKEN", "so"], "not JSON"),
        (["answer", "TOKEN", "NaN"], "NaN is not a JSON number"),
        (["answer", "TOKEN", "17"], "must be an object with `approvals`"),
        (["signal", "nobody", "paid"], "knows no workflow 'nobody'"),
        (["signal", "w", "paid", "so"], "not JSON"),
    ],
)
def test_what_does_not_fit_ends_the_command_with_one_line(
    call: Call, workflow_harness: WorkflowHarness, arguments: list[str], text: str
) -> None:
    """No traceback, and nothing is settled."""
    token = asking(workflow_harness)

    done = call(*(token if argument == "TOKEN" else argument for argument in arguments))

    unknown = arguments[1] in ("w.0~x", "nobody")
    assert (done.exit_code, done.output.count("\n")) == (3 if unknown else 2, 1)
    assert done.output.startswith("Error: ")
    assert text in done.output
    assert token not in done.output
    assert kept(workflow_harness) == {}


def test_a_signal_is_sent_from_a_shell(call: Call, workflow_harness: WorkflowHarness) -> None:
    """The webhook never came, and somebody knows that the money did."""

    @activity
    async def pay(context: WorkflowContext) -> list[Any]:
        return [await context.wait_for("paid"), await context.wait_for("paid")]

    handle = workflow_harness.dispatch([pay.activity()], correlation_id="w")
    told = [call("signal", "w", "paid", "--signal-id", "evt-1").output for _ in range(2)]
    asyncio.run(workflow_harness.deliver())
    listed = call("inbox").output
    told.append(call("signal", "w", "paid", '{"amount": 5}').output)

    assert told == [
        "the signal is kept until a step waits for it\n",
        "a signal with this id was taken before; nothing is changed\n",
        "the workflow goes on\n",
    ]
    assert "  workflow w, step pay (pay): signal paid\n" in listed
    assert handle.status_sync().state == "queued"


def test_one_who_is_late_is_told_so(call: Call, workflow_harness: WorkflowHarness) -> None:
    """The command fails, so that a script does not take it for done."""
    handle, token = waiting(workflow_harness)
    handle.cancel_sync()

    done = call("answer", token, "1")

    assert (done.exit_code, done.output) == (
        1, "Error: too late: the time of the wait is over, or its step has ended\n",
    )  # fmt: skip


def test_show_says_what_a_workflow_waits_for_but_not_how_to_answer(
    call: Call, workflow_harness: WorkflowHarness
) -> None:
    """Its output ends up in tickets and chats."""
    handle, token = waiting(workflow_harness)
    (wait,) = handle.status_sync().waiting_for

    shown = call("show", "w").output

    since, until = f"{wait.since:%Y-%m-%d %H:%M:%S} UTC", f"{wait.until:%Y-%m-%d %H:%M:%S} UTC"
    first, _, *lines = shown.splitlines()
    assert [first, *lines[:4]] == [
        "workflow w: suspended",
        "  current:   ask is suspended (attempts spent: 0)",
        f"  waits for: an answer to 'size', since {since}, until {until}",
        "  steps:",
        "    ask: suspended",
    ]
    assert token not in shown
    assert token.partition("~")[2] not in shown
    assert "suspended w.0 waits_for=size" in shown
