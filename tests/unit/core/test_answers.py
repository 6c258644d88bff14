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

from paigeant_celery.core.answers import (
    About,
    AskedCall,
    Given,
    answers_of,
    approval_of,
    denial_of,
    failure_answers,
    given_of,
    read_about,
    results_of,
    write_about,
)
from paigeant_celery.core.wait_errors import InvalidAnswer
from paigeant_celery.core.waits import WHOLE, Answer

RESULTS = TypeAdapter(DeferredToolResults)
SECRET = "hunter2-hunter2"
NOW = datetime(2026, 1, 2, tzinfo=UTC)

REFUND = AskedCall(id="r1", kind="approval", tool="refund", arguments={"order": 17})
ASK = AskedCall(id="q1", kind="question", tool="ask_user", arguments={"question": "Which size?"})
PRINT = AskedCall(id="p1", kind="external", tool="print_label", arguments="{}")
ABOUT = About(step="pay", activity="cashier", question="Pay back?", calls=(REFUND, ASK, PRINT))
PARTS = ("r1", "q1", "p1")


def as_results(answers: Mapping[str, str], by: str = "") -> DeferredToolResults:
    """What a run gets of answers, as pydantic-ai reads it."""
    kept = {part: Answer(text=text, by=by, at=NOW, call="c") for part, text in answers.items()}
    return RESULTS.validate_json(json.dumps(results_of(kept)))


# What a wait is about.


def test_what_a_wait_is_about_is_read_as_it_was_written() -> None:
    """Whoever answers sees what the agent wants to do, and with what."""
    assert read_about(write_about(ABOUT)) == ABOUT
    assert read_about(write_about(About())) == About()


def test_what_a_wait_is_about_has_this_form() -> None:
    """It is kept with the wait: later versions must read it."""
    text = (
        '{"v":1,"step":"pay","activity":"cashier","question":"Pay back?","calls":'
        '[{"id":"r1","kind":"approval","tool":"refund","arguments":{"order":17}}]}'
    )

    assert write_about(About(step="pay", activity="cashier", question="Pay back?", calls=(REFUND,))) == text


@pytest.mark.parametrize(
    ("text", "about"),
    [
        ("", About()),
        ("[]", About()),
        ("{", About()),
        ('{"v":2,"step":3,"question":{"a":1},"calls":{}}', About()),
        ('{"v":9,"step":"s","urgency":1,"calls":[1,{"id":2},{"id":"a","kind":"vote","tool":"t","more":1}]}',
         About(step="s", calls=(AskedCall(id="a", kind="external", tool="t"),))),
    ],
)  # fmt: skip
def test_what_a_later_version_wrote_is_read_as_far_as_it_is_known(text: str, about: About) -> None:
    """An old console shows a wait of a new worker, rather than none at all."""
    assert read_about(text) == about


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
    assert as_results(answers) == given
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
    kept = {part: Answer(text=text, by="", at=NOW, call="c") for part, text in parts.items()}
    assert results_of(kept)["approvals"] == {"r1": {"kind": "tool-denied", "message": "nobody is in"}}
    assert results_of(kept)["calls"] == {"q1": failed, "p1": failed}


def test_a_run_learns_who_answered_each_call() -> None:
    """An audit asks who allowed it; what the answer itself says of that counts first."""
    payload = {"approvals": {"r1": True}, "calls": {"p1": 1}, "answered_by": {"p1": "printer"}}
    kept = {
        part: Answer(text=text, by="ann", at=NOW, call="c")
        for part, text in answers_of(payload, parts=PARTS, about=ABOUT).items()
    }

    assert results_of(kept)["answered_by"] == {"r1": "ann", "p1": "printer"}


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
        "a": Given(payload=True, is_approval=True), "b": Given(payload=1),
    }  # fmt: skip
    with pytest.raises(InvalidAnswer):
        answers_of({"calls": {"c": 1}}, parts=("a", "b"), about=About())
