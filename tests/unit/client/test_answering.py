"""Waits seen from outside: what is pending, who may answer it with what, and what each answer did."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from pydantic import TypeAdapter

from paigeant_celery.activities.context import WorkflowContext
from paigeant_celery.activities.functions import activity
from paigeant_celery.activities.registry import registry
from paigeant_celery.broker.port import Delivery
from paigeant_celery.broker.sending import Sending
from paigeant_celery.client.handle import WorkflowHandle
from paigeant_celery.client.inbox import Inbox
from paigeant_celery.client.readings import Answered, PendingWait, WaitingFor
from paigeant_celery.core.about import About, AskedCall, write_about
from paigeant_celery.core.errors import InvalidInput, StoreRequired, UnknownWorkflow, Unreachable, WorkflowFailed
from paigeant_celery.core.flow import Failure
from paigeant_celery.core.wait_errors import InvalidAnswer, SignalRefused, UnknownWait
from paigeant_celery.core.waits import make_token
from paigeant_celery.store.limits import LIMITS
from paigeant_celery.store.port import Claim, Claimed, Closing, NewWait, Standing
from paigeant_celery.testing import WorkflowHarness

SECRET = "hunter2-hunter2"
CALLS = (
    AskedCall(id="r1", kind="approval", tool="refund", arguments={"order": 17}),
    AskedCall(id="r2", kind="approval", tool="refund", arguments={"order": 18}),
    AskedCall(id="p1", kind="external", tool="print_label", arguments={}),
)


@activity
async def ask(context: WorkflowContext) -> Any:
    return await context.wait_for("size", ask=lambda token: None, question="Which size?", timeout=3600)


@activity
async def pay(context: WorkflowContext) -> Any:
    return await context.wait_for("paid")


@activity
async def nap(context: WorkflowContext) -> str:
    await context.sleep_for(3600)
    return "rested"


@activity
def end() -> str:
    return "ended"


@pytest.fixture(autouse=True)
def loaded(own_registry: None) -> None:
    """Let each test find the activities of this module."""
    for each in (ask, pay, nap, end):
        registry.add(each, holder=each)


def waiting(harness: WorkflowHarness, step: Any = None, correlation_id: str = "w") -> tuple[WorkflowHandle, str]:
    """A workflow that is suspended at a wait, with its token."""
    handle = harness.dispatch([step or ask.activity()], correlation_id=correlation_id)
    assert asyncio.run(harness.deliver()) == ["suspended"]
    (wait,) = handle.pending_sync()
    return handle, wait.token


def asking(harness: WorkflowHarness, calls: tuple[AskedCall, ...] = CALLS, *, timeout: float | None = None) -> str:
    """The token of a suspended hop that waits for calls of tools, each of which needs an answer."""
    harness.dispatch([end.activity()], correlation_id="w")
    claimed = harness.store.claim(Claim(hop_id="w.0", owner="o", token="d", max_attempts=3, digest=None))
    assert isinstance(claimed, Claimed)
    closing = Closing(hop_id="w.0", owner="o", fence=claimed.fence)
    about = write_about(About(step="end", activity="end", question="Pay back?", calls=calls))
    new = NewWait(
        wait_id="1", token=make_token("w.0", "s"), kind="token", name="refunds", timeout=timeout, about=about,
        parts=tuple(call.id for call in calls),
    )  # fmt: skip
    wait = harness.store.wait(closing, new)
    assert wait is not None
    assert harness.store.suspend(closing, Standing(tokens=[wait.token], names=["refunds"])) is not None
    harness.pending.clear()
    return wait.token


def kept(harness: WorkflowHarness, token: str) -> dict[str, Any]:
    """The answers that a wait has, as the run reads them."""
    (wait,) = [wait for wait in harness.store.waits("w.0") if wait.token == token]
    return {part: json.loads(answer.text) for part, answer in wait.answers.items()}


# What is pending.


def test_what_is_pending_says_what_is_asked_and_how_to_answer(workflow_harness: WorkflowHarness) -> None:
    """A page lists it, and a click on a row answers it."""
    handle, token = waiting(workflow_harness)

    (wait,) = handle.pending_sync()

    assert (wait.workflow, wait.hop_id, wait.step_id, wait.activity) == ("w", "w.0", "ask", "ask")
    assert (wait.kind, wait.name, wait.question, wait.calls) == ("token", "size", "Which size?", ())
    assert wait.until == wait.since + timedelta(hours=1)
    assert token.startswith("w.0~")
    assert token not in repr(wait)
    assert asyncio.run(handle.pending()) == [wait]


def test_only_what_still_needs_an_answer_is_pending(workflow_harness: WorkflowHarness) -> None:
    """Two people share the work without asking each other."""
    token = asking(workflow_harness)
    handle = WorkflowHandle("w", workflow_harness.transport)

    pending = [[call.id for wait in handle.pending_sync() for call in wait.calls]]
    assert handle.approve_sync(token, "r1").outcome == "recorded"
    pending.append([call.id for wait in handle.pending_sync() for call in wait.calls])
    handle.resolve_sync(token, {"approvals": {"r2": True}, "calls": {"p1": None}})

    assert [*pending, handle.pending_sync()] == [["r1", "r2", "p1"], ["r2", "p1"], []]


def test_a_workflow_that_has_ended_has_nothing_pending(workflow_harness: WorkflowHarness) -> None:
    """Nobody should think about what nobody needs any more."""
    handle, _ = waiting(workflow_harness)

    assert handle.cancel_sync()

    assert (handle.pending_sync(), Inbox(workflow_harness.transport).pending_sync()) == ([], [])
    assert handle.status_sync().waiting_for == ()


def test_the_inbox_reads_all_workflows_page_by_page(workflow_harness: WorkflowHarness) -> None:
    """One page of a company's back office shows what any agent asks."""
    found = {waiting(workflow_harness, correlation_id=name)[1] for name in ("a", "b", "c")}
    inbox = Inbox(workflow_harness.transport)

    first = inbox.pending_sync(limit=2)
    rest = asyncio.run(inbox.pending(after=first[-1].cursor))

    assert [len(first), len(rest)] == [2, 1]
    assert {wait.token for wait in (*first, *rest)} == found
    assert all(wait.token not in repr(wait) for wait in first)
    assert inbox.pending_sync(after=rest[-1].cursor) == []


@pytest.mark.parametrize("after", [17, "x", "1", "1 "])
def test_what_is_no_cursor_is_refused(workflow_harness: WorkflowHarness, after: Any) -> None:
    """A page number is none."""
    with pytest.raises(InvalidInput, match="bad_cursor"):
        Inbox(workflow_harness.transport).pending_sync(after=after)


def test_the_status_says_what_is_waited_for_but_not_how_to_answer_it(workflow_harness: WorkflowHarness) -> None:
    """Whoever may look may not always answer."""
    handle, token = waiting(workflow_harness)
    status = handle.status_sync()

    (wait,) = handle.pending_sync()
    assert (status.state, status.in_progress, status.running) == ("suspended", True, False)
    assert status.waiting_for == (WaitingFor(kind="token", name="size", since=wait.since, until=wait.until),)
    assert token not in repr(status)
    assert (status.step_id, status.attempt) == ("ask", 0)


def test_the_status_names_signals_times_and_the_tools_whose_calls_wait(workflow_harness: WorkflowHarness) -> None:
    """ "What is it waiting for?" has an answer for each kind of wait."""
    asking(workflow_harness)
    for step, name in ((pay, "p"), (nap, "n")):
        workflow_harness.dispatch([step.activity()], correlation_id=name)
    assert asyncio.run(workflow_harness.deliver()) == ["suspended"] * 2

    found = {
        name: WorkflowHandle(name, workflow_harness.transport).status_sync().waiting_for for name in ("w", "p", "n")
    }

    assert [[(each.kind, each.name, each.tools) for each in found[name]] for name in ("w", "p", "n")] == [
        [("token", "refunds", ("refund", "refund", "print_label"))], [("signal", "paid", ())], [("time", "", ())],
    ]  # fmt: skip
    assert [str(found[name][0]).partition(", ")[0] for name in ("p", "n")] == ["the signal 'paid'", "a time"]


def test_a_result_goes_on_waiting_and_says_what_for(workflow_harness: WorkflowHarness) -> None:
    """A caller who gives up learns that no worker is missing, but an answer."""
    handle, token = waiting(workflow_harness)

    with pytest.raises(TimeoutError) as caught:
        handle.result_sync(timeout=0)
    handle.resolve_sync(token, 42)
    asyncio.run(workflow_harness.deliver())

    text = str(caught.value)
    assert "goes on: step 'ask' is suspended and waits for an answer to 'size', since " in text
    assert text.endswith("; `pending()` has what can be answered")
    assert token not in text
    assert handle.result_sync(timeout=0).output == 42


# Answers.


@pytest.mark.parametrize("payload", [None, "large", {"size": [1, 2]}])
@pytest.mark.parametrize("by_token_alone", [True, False])
def test_an_answer_is_what_the_step_goes_on_with(
    workflow_harness: WorkflowHarness, payload: Any, by_token_alone: bool
) -> None:
    """A token is enough: whoever gets it by mail knows no id of a workflow."""
    handle, token = waiting(workflow_harness)
    answers = Inbox(workflow_harness.transport) if by_token_alone else handle

    told = asyncio.run(answers.resolve(token, payload, by="ann"))

    assert (told.outcome, told.taken, told.open) == ("settled", True, ())
    assert told.first is not None
    assert (told.first.payload, told.first.failed, told.first.by) == (payload, None, "ann")
    assert SECRET not in repr(told)
    assert asyncio.run(workflow_harness.deliver()) == ["workflow_completed"]
    assert handle.result_sync(timeout=0).output == payload


def test_who_answered_and_when_is_an_event(workflow_harness: WorkflowHarness) -> None:
    """An audit reads it later; what was answered is not in it."""
    handle, token = waiting(workflow_harness)
    told = handle.resolve_sync(token, SECRET, by="ann")

    (event,) = [event for event in handle.events_so_far() if event.type == "answered"]

    assert (event.hop_id, event.fields) == ("w.0", {"wait": "size", "by": "ann"})
    assert told.first is not None
    assert event.at == told.first.at
    assert not any(secret in repr(handle.events_so_far()) for secret in (SECRET, token))


def test_one_who_says_that_there_will_be_no_answer_ends_the_wait(workflow_harness: WorkflowHarness) -> None:
    """Better than silence until the time is over."""
    handle, token = waiting(workflow_harness)

    told = asyncio.run(handle.fail(token, "nobody is in"))

    assert told.first is not None
    assert (told.outcome, told.first.failed) == ("settled", "nobody is in")
    assert asyncio.run(workflow_harness.deliver()) == ["failed"]
    with pytest.raises(WorkflowFailed, match="nobody is in"):
        handle.result_sync(timeout=0)


def test_calls_are_approved_and_denied_one_by_one_or_together(workflow_harness: WorkflowHarness) -> None:
    """One row, or the button below the table; the step goes on when each call has an answer."""
    token = asking(workflow_harness)
    inbox = Inbox(workflow_harness.transport)

    told = [
        asyncio.run(inbox.deny(token, "r1", message="too late", by="ann")),
        asyncio.run(inbox.approve(token, by="bob")),
        inbox.resolve_sync(token, {"calls": {"p1": {"url": "x"}}, "metadata": {"p1": {"printer": 3}}}),
    ]

    assert [(each.outcome, each.open) for each in told] == [
        ("recorded", ("r2", "p1")), ("recorded", ("p1",)), ("settled", ()),
    ]  # fmt: skip
    assert kept(workflow_harness, token) == {
        "r1": {"approval": {"kind": "tool-denied", "message": "too late"}, "answered_by": "ann"},
        "r2": {"approval": True, "answered_by": "bob"},
        "p1": {"call": {"url": "x"}, "metadata": {"printer": 3}},
    }
    assert [delivery.hop_id for delivery in workflow_harness.pending] == ["w.0"]
    happened = [event.fields for event in inbox_events(workflow_harness) if event.type == "answered"]
    assert [(fields["calls"], fields["by"]) for fields in happened] == [("r1", "ann"), ("r2", "bob"), ("p1", "")]


def inbox_events(harness: WorkflowHarness) -> Any:
    return WorkflowHandle("w", harness.transport).events_so_far()


def test_a_call_is_approved_with_other_arguments(workflow_harness: WorkflowHarness) -> None:
    """ "Yes, but only half of it.\""""
    token = asking(workflow_harness, CALLS[:1])
    handle = WorkflowHandle("w", workflow_harness.transport)

    assert handle.approve_sync(token, override_args={"order": 17, "amount": 5}).outcome == "settled"

    approval = {"kind": "tool-approved", "override_args": {"order": 17, "amount": 5}}
    assert kept(workflow_harness, token) == {"r1": {"approval": approval}}


def test_one_who_gives_calls_up_leaves_what_was_answered(workflow_harness: WorkflowHarness) -> None:
    """The approval was given, and counts."""
    token = asking(workflow_harness)
    handle = WorkflowHandle("w", workflow_harness.transport)
    handle.approve_sync(token, "r1")

    assert handle.fail_sync(token, "closed").outcome == "settled"

    assert kept(workflow_harness, token) == {
        "r1": {"approval": True},
        "r2": {"approval": {"kind": "tool-denied", "message": "closed"}},
        "p1": {"call": {"kind": "tool-failed", "message": "closed"}},
    }


# Answers that do not count, and what is told.


Answering = Callable[[Inbox, str], Answered]
TWICE: list[Answering] = [
    lambda inbox, token: inbox.resolve_sync(token, "small", by="bob"),
    lambda inbox, token: inbox.fail_sync(token, "no", by="bob"),
]


@pytest.mark.parametrize("again", TWICE)
def test_one_who_answers_second_is_told_the_first_answer(workflow_harness: WorkflowHarness, again: Answering) -> None:
    """Two people click at once; the second sees what the first decided."""
    _, token = waiting(workflow_harness)
    inbox = Inbox(workflow_harness.transport)
    first = inbox.resolve_sync(token, "large", by="ann")

    told = again(inbox, token)

    assert (told.outcome, told.taken, told.first) == ("answered", False, first.first)
    assert len(workflow_harness.pending) == 1
    asyncio.run(workflow_harness.deliver())
    assert again(inbox, token).outcome == "answered"
    assert WorkflowHandle("w", workflow_harness.transport).result_sync(timeout=0).output == "large"


def test_one_who_decides_second_about_a_call_changes_nothing(workflow_harness: WorkflowHarness) -> None:
    """Also if the other calls of the same answer are open: it is told, and asked again."""
    token = asking(workflow_harness)
    inbox = Inbox(workflow_harness.transport)
    inbox.deny_sync(token, "r1", by="ann")

    told = inbox.resolve_sync(token, {"approvals": {"r1": True, "r2": True}}, by="bob")

    assert told.first is not None
    assert (told.outcome, told.first.payload, told.first.by, told.open) == ("answered", False, "ann", ("r2", "p1"))
    assert set(kept(workflow_harness, token)) == {"r1"}
    assert inbox.approve_sync(token, "r1").outcome == "answered"


def test_a_decision_about_all_calls_that_races_with_another_is_told(
    workflow_harness: WorkflowHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between looking and answering, somebody else answered one of them."""
    token = asking(workflow_harness)
    inbox, store = Inbox(workflow_harness.transport), workflow_harness.store
    waits = store.waits

    def looked(hop_id: str) -> Any:
        found = waits(hop_id)
        monkeypatch.setattr(store, "waits", waits)
        inbox.deny_sync(token, "r2", by="ann")
        return found

    monkeypatch.setattr(store, "waits", looked)

    told = inbox.approve_sync(token, by="bob")

    assert told.first is not None
    assert (told.outcome, told.first.by, told.open) == ("answered", "ann", ("r1", "p1"))


@pytest.mark.parametrize("ended", ["time", "cancel", "end"])
def test_an_answer_that_comes_too_late_is_told_so(workflow_harness: WorkflowHarness, ended: str) -> None:
    """The mail with the link is read after the holidays."""
    handle, token = waiting(workflow_harness)
    if ended == "cancel":
        assert handle.cancel_sync()
    else:
        workflow_harness._skipped += timedelta(hours=1)
    if ended == "end":
        workflow_harness.sweep()
        assert asyncio.run(workflow_harness.deliver()) == ["failed"]

    told = handle.resolve_sync(token, "large")

    assert (told.outcome, told.taken, told.first) == ("late", False, None)
    assert len(workflow_harness.pending) == (ended == "time")  # the step goes on without an answer, and at once
    assert handle.resolve_sync(token, "large").outcome == "late"


BAD_TOKENS = [
    "", "w", "w.0", "w.0~", "~x", "w.0~nobody", "v.0~x", "w.9~x", "w.0~\0", "w.0~\ud800", "w.0~ü", "w.0 ~x", "w~x",
    "w.0~" + "x" * 129, "x" * 10_000, "w.0~*", "w.0~{x}", "w.0~x\n",
]  # fmt: skip


@pytest.mark.parametrize(
    "call",
    [
        lambda inbox, token: inbox.approve_sync(token),
        lambda inbox, token: inbox.deny_sync(token),
        lambda inbox, token: inbox.resolve_sync(token, 1),
        lambda inbox, token: inbox.fail_sync(token, "no"),
    ],
)
def test_a_token_that_nobody_made_answers_nothing(workflow_harness: WorkflowHarness, call: Answering) -> None:
    """Whatever is in a link, the store is asked only for what could be one."""
    handle, good = waiting(workflow_harness)

    for answers in (Inbox(workflow_harness.transport), handle):
        for token in BAD_TOKENS:
            with pytest.raises(UnknownWait) as caught:
                call(answers, token)  # type: ignore[arg-type]
            assert isinstance(caught.value, LookupError)
            assert str(caught.value).startswith("the store memory:")

    assert [wait.token for wait in handle.pending_sync()] == [good]


def test_a_handle_answers_no_wait_of_another_workflow(workflow_harness: WorkflowHarness) -> None:
    """A page of one customer's order must not decide about another's, whatever token it is given."""
    one, _ = waiting(workflow_harness)
    other, token = waiting(workflow_harness, correlation_id="other")

    with pytest.raises(UnknownWait):
        one.resolve_sync(token, 1)

    assert len(other.pending_sync()) == 1
    assert other.resolve_sync(token, 1).taken


def test_a_token_of_another_deployment_is_unknown(workflow_harness: WorkflowHarness) -> None:
    """Staging and production are easily mixed up."""
    waiting(workflow_harness)
    _, token = waiting(WorkflowHarness())

    with pytest.raises(UnknownWait):
        Inbox(workflow_harness.transport).resolve_sync(token, 1)


@pytest.mark.parametrize("token", [None, 17, b"w.0~x", ["w.0~x"]])
def test_what_is_no_text_is_no_token(workflow_harness: WorkflowHarness, token: Any) -> None:
    """A `PendingWait` is passed in place of its token."""
    with pytest.raises(InvalidInput) as caught:
        Inbox(workflow_harness.transport).approve_sync(token)

    assert (caught.value.reason, caught.value.path) == ("invalid_input", "token")


def test_a_wait_whose_journal_was_discarded_is_unknown(workflow_harness: WorkflowHarness) -> None:
    """The step asks anew; the old link must not answer the new question."""
    token = asking(workflow_harness)
    store = workflow_harness.store
    claimed = wake_and_claim(workflow_harness, token)
    assert store.park(
        Closing(hop_id="w.0", owner="o2", fence=claimed.fence), Failure(step_id="end", error_class="E", text="")
    )
    handle = WorkflowHandle("w", workflow_harness.transport)
    assert handle.redrive_sync(discard_journal=True)

    with pytest.raises(UnknownWait):
        handle.approve_sync(token)


def wake_and_claim(harness: WorkflowHarness, token: str) -> Claimed:
    told = Inbox(harness.transport).fail_sync(token, "no")
    assert told.outcome == "settled"
    claimed = harness.store.claim(Claim(hop_id="w.0", owner="o2", token="d2", max_attempts=3, digest=None))
    assert isinstance(claimed, Claimed)
    return claimed


# Answers that are refused before they settle anything.


@pytest.mark.parametrize(
    "call",
    [
        lambda inbox, token: inbox.resolve_sync(token, {"approvals": {"r9": True}}),
        lambda inbox, token: inbox.resolve_sync(token, {"approvals": {"r1": True, "r9": True}}),
        lambda inbox, token: inbox.resolve_sync(token, {"r1": True}),
        lambda inbox, token: inbox.resolve_sync(token, {"calls": {"p1": float("nan")}}),
        lambda inbox, token: inbox.resolve_sync(token, {"calls": {"p1": SECRET + "\ud800"}}),
        lambda inbox, token: inbox.resolve_sync(token, {"calls": {"p1": object()}}),
        lambda inbox, token: inbox.resolve_sync(token, {"calls": {"p1": SECRET * 100_000}}),
        lambda inbox, token: inbox.resolve_sync(token, True),
        lambda inbox, token: inbox.approve_sync(token, "p1"),
        lambda inbox, token: inbox.approve_sync(token, "r9"),
        lambda inbox, token: inbox.approve_sync(token, "r1", override_args={"order": {1, 2}}),
        lambda inbox, token: inbox.approve_sync(token, override_args={"order": 1}),
        lambda inbox, token: inbox.deny_sync(token, message=3),
        lambda inbox, token: inbox.fail_sync(token, None),
    ],
)
def test_an_answer_that_does_not_fit_settles_nothing(workflow_harness: WorkflowHarness, call: Answering) -> None:
    """The person who wrote it can correct it; the run could not."""
    token = asking(workflow_harness)
    before = workflow_harness.store.waits("w.0")

    with pytest.raises(InvalidAnswer) as caught:
        call(Inbox(workflow_harness.transport), token)

    assert caught.value.reason in ("invalid_answer", "answer_too_large")
    assert SECRET not in f"{caught.value!s}{caught.value!r}"
    assert workflow_harness.store.waits("w.0") == before
    assert [event.type for event in inbox_events(workflow_harness)].count("answered") == 0


def test_an_answer_is_as_large_as_it_may_be(workflow_harness: WorkflowHarness) -> None:
    """The limit itself works; a byte more is refused with what to do."""
    handle, token = waiting(workflow_harness)
    longest = "x" * (LIMITS.max_answer - len('{"payload":""}'))

    with pytest.raises(InvalidAnswer) as caught:
        handle.resolve_sync(token, longest + "x")

    assert (caught.value.reason, caught.value.path) == ("answer_too_large", "payload")
    assert caught.value.text == (
        "1048577 bytes exceed the 1048576 that one answer or signal may have; pass a reference instead"
    )
    assert handle.resolve_sync(token, longest).outcome == "settled"


def test_who_answers_is_a_short_text(workflow_harness: WorkflowHarness) -> None:
    """It is shown in events and in a shell."""
    handle, token = waiting(workflow_harness)

    bad: list[Any] = [None, 3, " ", "\0", "a\nb", "\ud800", "x" * 129, "\x1b[31m"]
    for by in bad:
        for call in (partial(handle.resolve_sync, token, 1), partial(handle.signal_sync, "x")):
            with pytest.raises(InvalidInput) as caught:
                call(by=by)
            assert (caught.value.reason, caught.value.path) == ("invalid_wait", "by")

    assert handle.resolve_sync(token, 1, by="Ann Ö. <ann@example.com>").taken


# Signals.


def test_a_signal_settles_the_wait_of_its_name(workflow_harness: WorkflowHarness) -> None:
    """The payment service knows the order, and nothing of tokens."""
    handle, token = waiting(workflow_harness, pay.activity())
    (pending,) = handle.pending_sync()

    told = asyncio.run(handle.signal("paid", {"amount": 5}, by="bank"))

    assert (pending.kind, pending.name, pending.token) == ("signal", "paid", token)
    assert told.first is not None
    assert (told.outcome, told.first.payload, told.first.by) == ("settled", {"amount": 5}, "bank")
    assert asyncio.run(workflow_harness.deliver()) == ["workflow_completed"]
    assert handle.result_sync(timeout=0).output == {"amount": 5}


def test_a_signal_that_comes_early_or_twice_counts_once(workflow_harness: WorkflowHarness) -> None:
    """A webhook is called again if its answer was lost."""
    handle = workflow_harness.dispatch([pay.activity(), pay.activity()], correlation_id="w")

    told = [handle.signal_sync("paid", 1, signal_id="evt-1") for _ in range(3)]
    assert asyncio.run(workflow_harness.deliver()) == ["completed", "suspended"]
    told.append(handle.signal_sync("paid", 9, signal_id="evt-1"))
    told.append(handle.signal_sync("paid", 2, signal_id="evt-2"))
    asyncio.run(workflow_harness.deliver())

    assert [(each.outcome, each.taken) for each in told] == [
        ("kept", True), ("repeated", True), ("repeated", True), ("repeated", True), ("settled", True),
    ]  # fmt: skip
    assert list(handle.result_sync(timeout=0).outputs.values()) == [1, 2]


def test_a_wait_for_a_signal_can_also_be_answered_by_its_token(workflow_harness: WorkflowHarness) -> None:
    """A person helps if the webhook never comes."""
    handle, token = waiting(workflow_harness, pay.activity())

    assert handle.resolve_sync(token, "by hand").outcome == "settled"
    asyncio.run(workflow_harness.deliver())
    assert handle.result_sync(timeout=0).output == "by hand"


def test_a_signal_for_a_workflow_that_has_ended_is_refused(workflow_harness: WorkflowHarness) -> None:
    """Whoever sends it must not think that somebody will read it."""
    handle = workflow_harness.dispatch([end.activity()], correlation_id="w")
    asyncio.run(workflow_harness.deliver())

    with pytest.raises(SignalRefused) as caught:
        handle.signal_sync("paid", SECRET)

    assert str(caught.value) == (
        "workflow_ended: the signal for workflow 'w' was not taken, because the workflow has ended"
    )


def test_a_workflow_keeps_a_thousand_early_signals_and_refuses_the_next(workflow_harness: WorkflowHarness) -> None:
    """A sender that has gone wild fills no store; what was kept stays."""
    handle = workflow_harness.dispatch([pay.activity()], correlation_id="w")
    outcomes = {handle.signal_sync("paid", number).outcome for number in range(LIMITS.max_signals)}

    with pytest.raises(SignalRefused) as caught:
        handle.signal_sync("paid", SECRET)

    assert outcomes == {"kept"}
    assert str(caught.value) == (
        "too_many_signals: the signal for workflow 'w' was not taken, because the workflow keeps 1000 that no wait has "
        "taken; wait until it goes on"
    )
    asyncio.run(workflow_harness.deliver())
    assert handle.result_sync(timeout=0).output == 0


def test_a_signal_is_as_large_as_it_may_be(workflow_harness: WorkflowHarness) -> None:
    """A webhook's body fits; a film does not."""
    handle = workflow_harness.dispatch([pay.activity()], correlation_id="w")
    longest = "x" * (LIMITS.max_signal - len('{"payload":""}'))

    with pytest.raises(InvalidAnswer, match="answer_too_large"):
        handle.signal_sync("paid", longest + "x")

    assert handle.signal_sync("paid", longest).outcome == "kept"


@pytest.mark.parametrize(
    ("given", "reason", "path"),
    [
        ({"name": ""}, "invalid_wait", "name"),
        ({"name": "a\nb"}, "invalid_wait", "name"),
        ({"name": "x" * 129}, "invalid_wait", "name"),
        ({"name": None}, "invalid_wait", "name"),
        ({"name": "paid", "signal_id": ""}, "invalid_wait", "signal_id"),
        ({"name": "paid", "signal_id": 7}, "invalid_wait", "signal_id"),
        ({"name": "paid", "signal_id": "\ud800"}, "invalid_wait", "signal_id"),
        ({"name": "paid", "payload": float("nan")}, "invalid_answer", "payload"),
        ({"name": "paid", "payload": [SECRET + "\ud800"]}, "invalid_answer", "payload[0]"),
        ({"name": "paid", "payload": object()}, "invalid_answer", "payload"),
    ],
)
def test_a_signal_that_makes_no_sense_is_refused(
    workflow_harness: WorkflowHarness, given: dict[str, Any], reason: str, path: str
) -> None:
    """Nothing of it is kept."""
    handle = workflow_harness.dispatch([pay.activity()], correlation_id="w")

    with pytest.raises(InvalidInput) as caught:
        handle.signal_sync(**given)

    assert (caught.value.reason, caught.value.path) == (reason, path)
    assert SECRET not in str(caught.value)
    assert handle.events_so_far()[1:] == []


@pytest.mark.parametrize("correlation_id", ["nobody", "w.0", "", "{x}"])
def test_a_signal_for_a_workflow_that_nobody_knows_is_refused(
    workflow_harness: WorkflowHarness, correlation_id: str
) -> None:
    """A web application answers 404."""
    with pytest.raises(UnknownWorkflow):
        WorkflowHandle(correlation_id, workflow_harness.transport).signal_sync("paid")


# The world.


@pytest.mark.parametrize("signalled", [True, False])
def test_an_answer_counts_although_the_broker_is_away(
    workflow_harness: WorkflowHarness, caplog: pytest.LogCaptureFixture, signalled: bool
) -> None:
    """The person has answered; the message can wait for the sweep."""
    handle, token = waiting(workflow_harness, pay.activity())
    away = Unreachable("broker", "redis://127.0.0.1", "refused")
    publisher = workflow_harness.transport.publisher
    begin = publisher.begin

    def refuse(delivery: Delivery) -> Sending[None]:
        raise away

    publisher.begin = refuse  # type: ignore[method-assign]
    with caplog.at_level(logging.WARNING):
        told = handle.signal_sync("paid", SECRET) if signalled else handle.resolve_sync(token, SECRET)
    publisher.begin = begin  # type: ignore[method-assign]

    assert told.outcome == "settled"
    (logged,) = [entry for entry in caplog.records if getattr(entry, "action", "") == "send_failed"]
    assert logged.hop == "w.0"  # type: ignore[attr-defined]
    assert not any(secret in caplog.text for secret in (token, SECRET))
    assert list(workflow_harness.pending) == []
    for _ in range(6):
        workflow_harness.sweep()
    assert asyncio.run(workflow_harness.deliver()) == ["workflow_completed"]


class WithoutStore:
    """A transport that has no store."""

    store = letters = None

    def __init__(self, harness: WorkflowHarness) -> None:
        self.settings, self.publisher = harness.transport.settings, harness.transport.publisher

    def check_dispatch(self) -> None:
        """Check nothing."""

    def check_broker(self) -> None:
        """Check nothing."""

    def serves(self, activity: str) -> bool:
        """Say no: nothing runs here."""
        return False


def test_without_a_store_nothing_is_pending_or_answered() -> None:
    """The error says what to set."""
    without = WithoutStore(WorkflowHarness())
    calls: list[Callable[[], Any]] = [
        lambda: Inbox(without).pending_sync(),
        lambda: Inbox(without).approve_sync("w.0~x"),
        lambda: WorkflowHandle("w", without).pending_sync(),
        lambda: WorkflowHandle("w", without).signal_sync("paid"),
    ]

    for call in calls:
        with pytest.raises(StoreRequired, match="paigeant_store_url"):
            call()


def test_pending_waits_are_values() -> None:
    """FastAPI returns them as they are."""
    assert TypeAdapter(PendingWait).json_schema()["properties"].keys() >= {"token", "question", "calls"}
    assert TypeAdapter(Answered).json_schema()
