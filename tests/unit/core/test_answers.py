"""Answers to waits: what is taken, what is refused before it settles anything, and what pydantic-ai reads of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import TypeAdapter
from pydantic_ai.exceptions import ModelRetry
from pydantic_ai.messages import ToolReturn
from pydantic_ai.tools import DeferredToolResults, ToolApproved, ToolDenied

from paigeant_celery.core.about import About, AskedCall
from paigeant_celery.core.answers import (
    Given,
    answers_of,
    approval_of,
    decisions_of,
    denial_of,
    failure_answers,
    given_of,
    results_of,
)
from paigeant_celery.core.wait_errors import InvalidAnswer
from paigeant_celery.core.waits import WHOLE

RESULTS = TypeAdapter(DeferredToolResults)
SECRET = "hunter2-hunter2"
NOW = datetime(2026, 1, 2, tzinfo=UTC)

REFUND = AskedCall(id="r1", kind="approval", tool="refund", arguments={"order": 17})
ASK = AskedCall(id="q1", kind="question", tool="ask_user", arguments={"question": "Which size?"})
PRINT = AskedCall(id="p1", kind="external", tool="print_label", arguments="{}")
ABOUT = About(step="pay", activity="cashier", question="Pay back?", calls=(REFUND, ASK, PRINT))
PARTS = ("r1", "q1", "p1")


def read(answers: Mapping[str, str]) -> dict[str, Any]:
    return {part: json.loads(text) for part, text in answers.items()}


# What is taken.


@pytest.mark.parametrize("payload", [None, True, 17, 0.5, "yes", [1, [2]], {"a": {"b": None}}, "größe → 🐈\0"])
def test_a_wait_without_calls_takes_any_json(payload: Any) -> None:
    """A webhook's body is passed on as it came."""
    answers = answers_of(payload, parts=(WHOLE,), about=About(question="?"))

    assert {part: given_of(text) for part, text in answers.items()} == {WHOLE: Given(payload=payload)}


@pytest.mark.parametrize(
    "given",
    [
        DeferredToolResults(approvals={"r1": True}),
        DeferredToolResults(approvals={"r1": False}, calls={"q1": None}),
        DeferredToolResults(approvals={"r1": ToolApproved(override_args={"order": 18})}),
        DeferredToolResults(approvals={"r1": ToolDenied("too late")}, metadata={"r1": {"seen": [1]}}),
        DeferredToolResults(calls={"q1": "large", "p1": {"kind": "label", "url": "x"}}),
        DeferredToolResults(calls={"q1": ModelRetry("ask again"), "p1": ToolReturn("done", content="see")}),
    ],
)
def test_what_pydantic_ai_writes_is_split_into_calls_and_read_back_whole(given: DeferredToolResults) -> None:
    """Code that answers runs of pydantic-ai elsewhere answers here as well, call by call."""
    payload = RESULTS.dump_python(given, mode="json")

    answers = answers_of(payload, parts=PARTS, about=ABOUT)

    assert set(answers) == {*given.approvals, *given.calls}
    assert RESULTS.validate_python(results_of(read(answers))) == given
    whole = answers_of(payload, parts=(WHOLE,), about=ABOUT)
    assert RESULTS.validate_python(given_of(whole[WHOLE]).payload) == given


def test_approving_and_denying_write_what_pydantic_ai_reads() -> None:
    """`approve` and `deny` need no pydantic-ai, but mean the same."""
    made = {"a": True, "b": approval_of(), "c": approval_of({"order": 3}), "d": denial_of(), "e": denial_of("no")}

    assert RESULTS.validate_python({"approvals": made}).approvals == {
        "a": True, "b": True, "c": ToolApproved(override_args={"order": 3}), "d": False, "e": ToolDenied("no"),
    }  # fmt: skip


def test_a_wait_that_is_given_up_denies_and_fails_its_calls_with_the_reason() -> None:
    """The model reads why nobody will answer."""
    whole = failure_answers("nobody is in", parts=(WHOLE,), about=About())
    parts = failure_answers("nobody is in", parts=PARTS, about=ABOUT)

    assert given_of(whole[WHOLE]) == Given(failed="nobody is in")
    failed = {"kind": "tool-failed", "message": "nobody is in"}
    results = results_of(read(parts))
    assert results["approvals"] == {"r1": {"kind": "tool-denied", "message": "nobody is in"}}
    assert results["calls"] == {"q1": failed, "p1": failed}


def test_a_run_learns_who_answered_each_call() -> None:
    """An audit asks who allowed it; what the answer itself says of that counts first."""
    payload = {"approvals": {"r1": True}, "calls": {"p1": 1}, "answered_by": {"p1": "printer"}}

    answers = answers_of(payload, parts=PARTS, about=ABOUT, by="ann")

    assert results_of(read(answers))["answered_by"] == {"r1": "ann", "p1": "printer"}


TWO = About(calls=(REFUND, AskedCall(id="r2", kind="approval", tool="refund"), PRINT))


@pytest.mark.parametrize(
    ("call", "unanswered", "decided"),
    [
        (None, ("r1", "r2", "p1"), {"r1", "r2"}),
        (None, ("r2", "p1"), {"r2"}),
        (None, ("p1",), {"r1", "r2"}),  # the store then says who was first
        ("r1", ("r1", "r2", "p1"), {"r1"}),
        ("r1", (), {"r1"}),
    ],
)
def test_a_decision_is_about_one_call_or_about_all_approvals_that_are_open(
    call: str | None, unanswered: tuple[str, ...], decided: set[str]
) -> None:
    """A person clicks on one row, or on "approve all"; the result of a call is no decision."""
    answers = decisions_of(True, call=call, parts=("r1", "r2", "p1"), unanswered=unanswered, about=TWO)

    assert {part: given_of(text).payload for part, text in answers.items()} == dict.fromkeys(decided, True)


def test_a_decision_about_a_wait_that_is_answered_as_a_whole_is_its_payload() -> None:
    """The run gets what it would get from `resolve`."""
    only = About(calls=(REFUND,))

    for call in (None, "r1"):
        answers = decisions_of(False, call=call, parts=(WHOLE,), unanswered=(WHOLE,), about=only)
        assert {part: given_of(text).payload for part, text in answers.items()} == {WHOLE: {"approvals": {"r1": False}}}


@pytest.mark.parametrize(
    ("decision", "call", "parts", "about", "path"),
    [
        (True, None, (WHOLE,), About(), "token"),
        (True, None, ("p1",), About(calls=(PRINT,)), "token"),
        (True, "p1", ("r1", "r2", "p1"), TWO, "payload.approvals.p1"),
        (True, "r3", ("r1", "r2", "p1"), TWO, "payload.approvals.r3"),
        (True, ["r1"], ("r1", "r2", "p1"), TWO, "call"),
        (approval_of({}), None, ("r1", "r2", "p1"), TWO, "override_args"),
        (True, "r1", (WHOLE,), TWO, "call"),
        (True, None, (WHOLE,), TWO, "call"),
    ],
)
def test_a_decision_that_fits_no_approval_decides_nothing(
    decision: Any, call: Any, parts: tuple[str, ...], about: About, path: str
) -> None:
    """Arguments that were meant for one call must not reach another."""
    with pytest.raises(InvalidAnswer) as caught:
        decisions_of(decision, call=call, parts=parts, unanswered=parts, about=about)

    assert caught.value.path == path


# What is refused.


def circle() -> list[Any]:
    found: list[Any] = [SECRET]
    found.append(found)
    return found


def deep(levels: int) -> Any:
    return SECRET if levels == 0 else [deep(levels - 1)]


@pytest.mark.parametrize(
    ("payload", "path"),
    [
        (float("nan"), "payload"),
        ({"a": [float("inf")]}, "payload"),
        ("\ud800" + SECRET, "payload"),
        ({"a": ["\ud800"]}, "payload.a[0]"),
        ({1: SECRET}, "payload"),
        ((1, 2), "payload"),
        ({SECRET}, "payload"),
        (b"bytes", "payload"),
        (NOW, "payload"),
        ([10**5000], "payload"),
        (circle(), "payload"),
        (deep(30), "payload" + "[0]" * 24),
    ],
)
def test_what_is_no_json_answers_nothing(payload: Any, path: str) -> None:
    """What would arrive as something else is refused while somebody can still correct it."""
    with pytest.raises(InvalidAnswer) as caught:
        answers_of(payload, parts=(WHOLE,), about=About())

    assert (caught.value.reason, caught.value.path) == ("invalid_answer", path)
    assert SECRET not in f"{caught.value!s}{caught.value.__cause__!r}"


@pytest.mark.parametrize("parts", [PARTS, (WHOLE,)])
@pytest.mark.parametrize(
    ("payload", "path"),
    [
        (SECRET, "payload"),
        ([], "payload"),
        ({}, "payload"),
        ({"approvals": {}}, "payload"),
        ({"approvals": {"r1": True}, "call": {}}, "payload"),
        ({"approvals": [True]}, "payload.approvals"),
        ({"approvals": None}, "payload.approvals"),
        ({"approvals": {"r2": True}}, "payload.approvals.r2"),
        ({"calls": {"": 1}}, "payload.calls."),
        ({"approvals": {"p1": True}}, "payload.approvals.p1"),
        ({"calls": {"r1": True}}, "payload.calls.r1"),
        ({"approvals": {"r1": "yes"}}, "payload.approvals.r1"),
        ({"approvals": {"r1": 1}}, "payload.approvals.r1"),
        ({"approvals": {"r1": {"override_args": {}}}}, "payload.approvals.r1"),
        ({"approvals": {"r1": {"kind": "tool-approved", "override_arg": {}}}}, "payload.approvals.r1.override_arg"),
        ({"approvals": {"r1": {"kind": "tool-approved", "override_args": 3}}}, "payload.approvals.r1.override_args"),
        ({"approvals": {"r1": {"kind": "tool-denied", "message": 3}}}, "payload.approvals.r1.message"),
        ({"calls": {"p1": {"kind": "tool-failed"}}}, "payload.calls.p1.message"),
        ({"calls": {"p1": {"kind": "model-retry", "message": 1}}}, "payload.calls.p1.message"),
        ({"calls": {"p1": {"kind": "tool-return"}}}, "payload.calls.p1.return_value"),
        ({"approvals": {"r1": True}, "metadata": {"p1": {}}}, "payload.metadata.p1"),
        ({"approvals": {"r1": True}, "metadata": {"r1": 1}}, "payload.metadata.r1"),
        ({"approvals": {"r1": True}, "answered_by": {"r1": 1}}, "payload.answered_by.r1"),
    ],
)
def test_what_fits_no_pending_call_answers_nothing(payload: Any, path: str, parts: tuple[str, ...]) -> None:
    """A misspelt field must not run a call with other arguments than somebody meant to allow."""
    with pytest.raises(InvalidAnswer) as caught:
        answers_of(payload, parts=parts, about=ABOUT)

    assert (caught.value.reason, caught.value.path) == ("invalid_answer", path)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "path"),
    [
        (lambda: approval_of([1]), "override_args"),
        (lambda: approval_of({"a": float("nan")}), "override_args"),
        (lambda: approval_of({1: 2}), "override_args"),
        (lambda: denial_of(3), "message"),
        (lambda: denial_of("\ud800"), "message"),
        (lambda: failure_answers(None, parts=(WHOLE,), about=About()), "reason"),
    ],
)
def test_a_decision_with_a_wrong_part_decides_nothing(make: Any, path: str) -> None:
    """The error names what to correct."""
    with pytest.raises(InvalidAnswer) as caught:
        make()

    assert caught.value.path == path


def test_a_wait_whose_calls_cannot_be_read_still_takes_only_its_parts() -> None:
    """The ids that are pending are the wait's own, whatever is written about them."""
    answers = answers_of({"approvals": {"a": True}, "calls": {"b": 1}}, parts=("a", "b"), about=About())

    assert {part: given_of(text) for part, text in answers.items()} == {
        "a": Given(payload=True), "b": Given(payload=1),
    }  # fmt: skip
    with pytest.raises(InvalidAnswer):
        answers_of({"calls": {"c": 1}}, parts=("a", "b"), about=About())
