"""The checker of the chaos suite: it finds each violation, and nothing if everything holds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.proof.chaos.checker import excuses, violations
from tests.proof.chaos.history import (
    ORDERLY_END,
    TIMED_OUT,
    Asked,
    Awaited,
    Event,
    Heard,
    History,
    Hit,
    Run,
    Told,
    Violation,
    Workflow,
    asked_in,
    heard_in,
    hits_in,
    latest_runs_in,
    runs_in,
)

FIRST = Run(hop_id="w.0", process="one", pid=2, begun=1.0, ended=1.5)
SECOND = Run(hop_id="w.1", process="two", pid=2, begun=2.0, ended=2.5)
AGAIN = Run(hop_id="w.1", process="three", pid=30, begun=4.0, ended=4.5)
RAISED = replace(SECOND, ended=None, raised=2.5)
CUT_SHORT = replace(SECOND, ended=None)
EVENTS = (Event(type="completed", hop_id="w.0", at=1.6), Event(type="completed", hop_id="w.1", at=4.6))
WORKFLOW = Workflow(
    correlation_id="w", hops=("w.0", "w.1"), steps=("a", "b"), state="completed", executed=("a", "b"), events=EVENTS
)
WHOLE = History(workflows=(WORKFLOW,), runs=(FIRST, SECOND))


def kinds(history: History) -> list[str]:
    return [violation.kind for violation in violations(history)]


def with_workflow(**changes: object) -> History:
    return replace(WHOLE, workflows=(replace(WORKFLOW, **changes),))


def test_a_history_in_which_all_holds_has_no_violations() -> None:
    assert violations(WHOLE) == []
    assert excuses(WHOLE) == {}


@pytest.mark.parametrize("state", ["running", "failed with attempts_exhausted", "parked with InPassing", "unknown"])
def test_a_workflow_that_did_not_complete_is_lost(state: str) -> None:
    assert violations(with_workflow(state=state, executed=("a",))) == [
        Violation(kind="lost", about="w", seen=f"{state} after ['a']")
    ]


def test_a_hop_that_is_recorded_twice_is_found() -> None:
    assert violations(with_workflow(events=(*EVENTS, EVENTS[1]))) == [
        Violation(kind="completed twice", about="w.1", seen="2 times")
    ]


@pytest.mark.parametrize("events", [EVENTS[::-1], EVENTS[:1], (*EVENTS, Event(type="completed", hop_id="w.2", at=5.0))])
def test_hops_that_complete_in_another_order_than_the_slip_are_found(events: tuple[Event, ...]) -> None:
    assert kinds(with_workflow(events=events)) == ["out of order"]


@pytest.mark.parametrize("executed", [("b", "a"), ("a",), ("a", "b", "b")])
def test_an_executed_log_that_is_not_the_slip_is_found(executed: tuple[str, ...]) -> None:
    assert kinds(with_workflow(executed=executed)) == ["out of order"]


def test_a_call_that_no_hit_explains_is_found() -> None:
    found = violations(replace(WHOLE, runs=(FIRST, SECOND, AGAIN)))

    assert [(violation.kind, violation.about) for violation in found] == [("called too often", "w.1")]
    assert found[0].seen.startswith("2 calls, 1 allowed: two 2 at 2.000")


@pytest.mark.parametrize(
    "hit",
    [
        pytest.param(Hit(kind="kill child", process="two", pid=2, since=2.2, until=2.2), id="a process"),
        pytest.param(Hit(kind="kill group", process="two", since=2.2, until=2.3), id="its worker"),
        pytest.param(
            Hit(kind="at ran", process="two", pid=2, since=2.6, until=2.6), id="after the body, before it is recorded"
        ),
        pytest.param(Hit(kind="freeze", process="two", since=1.9, until=5.0), id="frozen before the body began"),
    ],
)
def test_a_run_that_was_hit_excuses_one_more_call(hit: Hit) -> None:
    history = replace(WHOLE, runs=(FIRST, SECOND, AGAIN), hits=(hit,))

    assert violations(history) == []
    assert excuses(history) == {"hit": 1}
    assert kinds(replace(history, runs=(*history.runs, replace(AGAIN, pid=40)))) == ["called too often"]


@pytest.mark.parametrize(
    "hit",
    [
        pytest.param(Hit(kind="kill child", process="two", pid=9, since=2.2, until=2.2), id="another process of it"),
        pytest.param(
            Hit(kind="kill child", process="one", pid=2, since=2.2, until=2.2), id="the same id in another namespace"
        ),
        pytest.param(Hit(kind="kill group", process="one", since=2.2, until=2.2), id="another worker"),
        pytest.param(Hit(kind="kill child", process="two", pid=2, since=1.5, until=1.9), id="before it began"),
        pytest.param(Hit(kind="kill child", process="two", pid=2, since=4.7, until=4.7), id="after it was recorded"),
        pytest.param(Hit(kind="kill child", process="two", pid=2, since=4.1, until=4.1), id="after the second began"),
        pytest.param(Hit(kind="server restarted", since=2.2, until=2.6), id="an outage"),
        pytest.param(Hit(kind="hard.claim", since=2.2, until=2.2), id="a lost reply"),
        pytest.param(Hit(kind=ORDERLY_END, process="two", since=2.2, until=2.6), id="an orderly end"),
    ],
)
def test_what_hit_something_else_excuses_nothing(hit: Hit) -> None:
    assert kinds(replace(WHOLE, runs=(FIRST, SECOND, AGAIN), hits=(hit,))) == ["called too often"]


def recorded(type_: str, at: float) -> tuple[Workflow]:
    """A workflow with an additional record of its second hop."""
    return (replace(WORKFLOW, events=(*EVENTS, Event(type=type_, hop_id="w.1", at=at))),)


@pytest.mark.parametrize("type_", ["retrying", "parked"])
def test_a_run_that_raised_excuses_one_more_call_once_that_is_recorded(type_: str) -> None:
    history = replace(WHOLE, workflows=recorded(type_, 2.6), runs=(FIRST, RAISED, AGAIN))

    assert violations(history) == []
    assert excuses(history) == {"raised": 1}
    assert kinds(replace(history, runs=(*history.runs, replace(AGAIN, pid=40)))) == ["called too often"]


@pytest.mark.parametrize(
    ("run", "type_", "at"),
    [
        pytest.param(RAISED, "claimed", 2.6, id="nothing of it was recorded"),
        pytest.param(RAISED, "failed", 2.6, id="it failed for good"),
        pytest.param(RAISED, "retrying", 2.4, id="it was recorded before it raised"),
        pytest.param(RAISED, "retrying", 4.1, id="it was recorded after the second call began"),
        pytest.param(SECOND, "retrying", 2.6, id="it came to its end"),
        pytest.param(CUT_SHORT, "retrying", 2.6, id="it was cancelled"),
    ],
)
def test_a_second_attempt_that_nobody_asked_for_is_found(run: Run, type_: str, at: float) -> None:
    assert kinds(replace(WHOLE, workflows=recorded(type_, at), runs=(FIRST, run, AGAIN))) == ["called too often"]


TOLD = Hit(kind=ORDERLY_END, process="two", since=2.2, until=2.6)


def test_a_step_that_was_given_back_excuses_one_more_call() -> None:
    history = replace(WHOLE, workflows=recorded("released", 2.4), runs=(FIRST, CUT_SHORT, AGAIN), hits=(TOLD,))

    assert violations(history) == []
    assert excuses(history) == {"given back": 1}
    assert kinds(replace(history, runs=(*history.runs, replace(AGAIN, pid=40)))) == ["called too often"]


@pytest.mark.parametrize(
    ("at", "hit"),
    [
        pytest.param(2.1, TOLD, id="before its worker was told to end"),
        pytest.param(2.7, TOLD, id="after its worker had ended"),
        pytest.param(2.4, replace(TOLD, process="one"), id="another worker was told to"),
    ],
)
def test_a_step_that_is_given_back_without_need_is_found(at: float, hit: Hit) -> None:
    history = replace(WHOLE, workflows=recorded("released", at), runs=(FIRST, CUT_SHORT, AGAIN), hits=(hit,))

    assert kinds(history) == ["called too often"]


def test_a_run_excuses_one_call_whatever_befell_it() -> None:
    """It raised and its process was killed; that is only one reason."""
    kill = Hit(kind="kill child", process="two", pid=2, since=2.7, until=2.7)
    history = replace(WHOLE, workflows=recorded("retrying", 2.6), runs=(FIRST, RAISED, AGAIN), hits=(kill,))

    assert excuses(history) == {"raised": 1}
    assert kinds(replace(history, runs=(*history.runs, replace(AGAIN, pid=40)))) == ["called too often"]


FAILED = replace(
    WORKFLOW, steps=("a",), end="failed with E", state="failed with E", executed=("a",),
    events=(EVENTS[0], Event(type="failed", hop_id="w.1", at=2.6)),
)  # fmt: skip


def test_a_workflow_may_be_meant_to_fail() -> None:
    history = replace(WHOLE, workflows=(FAILED,), runs=(FIRST, RAISED))

    assert violations(history) == []
    assert kinds(replace(history, workflows=(replace(FAILED, state="completed"),))) == ["lost"]
    assert kinds(replace(history, workflows=(replace(FAILED, events=EVENTS),))) == ["out of order", "never ran"]
    assert kinds(replace(history, runs=(*history.runs, AGAIN))) == ["called too often"]
    assert kinds(replace(history, runs=(*history.runs, replace(AGAIN, hop_id="w.2")))) == ["unknown hop"]


@pytest.mark.parametrize("runs", [(FIRST,), (FIRST, replace(SECOND, ended=None))])
def test_a_hop_that_completed_without_a_whole_run_is_found(runs: tuple[Run, ...]) -> None:
    assert kinds(replace(WHOLE, runs=runs)) == ["never ran"]


def test_a_run_of_a_hop_that_nobody_dispatched_is_found() -> None:
    assert kinds(replace(WHOLE, runs=(*WHOLE.runs, replace(AGAIN, hop_id="x.0")))) == ["unknown hop"]


def test_what_is_left_in_the_store_is_found() -> None:
    history = replace(
        WHOLE, left_due=("w.1",), left_owned=("p:owner:o",), left_parked=("w.0",), left_asleep=("w.1",),
        left_asked=("w.1~t",), left_ending=("w.2",), left_letters=("l",), left_open=("w.2-0.0",),
        left_lasting=("p:hop:w.2",), ended_workers=("one",),
    )  # fmt: skip

    assert [(violation.kind, violation.about) for violation in violations(history)] == [
        ("left due", "w.1"), ("left owned", "p:owner:o"), ("left parked", "w.0"), ("left asleep", "w.1"),
        ("left asked", "w.1~t"), ("left ending", "w.2"), ("left letters", "l"), ("left open", "w.2-0.0"),
        ("left lasting", "p:hop:w.2"), ("worker ended", "one"),
    ]  # fmt: skip


SUSPENDED = Event(type="suspended", hop_id="w.1", at=2.6)


def test_a_run_that_was_left_at_a_wait_excuses_one_more_call() -> None:
    """An async function runs again from its top when it is woken."""
    workflows = (replace(WORKFLOW, events=(*EVENTS, SUSPENDED)),)
    history = replace(WHOLE, workflows=workflows, runs=(FIRST, CUT_SHORT, AGAIN))

    assert violations(history) == []
    assert excuses(history) == {"suspended": 1}
    assert kinds(replace(history, runs=(*history.runs, replace(AGAIN, pid=40)))) == ["called too often"]


@pytest.mark.parametrize(
    ("run", "at"),
    [
        pytest.param(CUT_SHORT, 1.9, id="it was suspended before"),
        pytest.param(CUT_SHORT, 4.1, id="it was suspended after the second call began"),
        pytest.param(SECOND, 2.6, id="it came to its end"),
        pytest.param(RAISED, 2.6, id="it raised"),
    ],
)
def test_what_was_not_left_at_a_wait_excuses_nothing(run: Run, at: float) -> None:
    workflows = (replace(WORKFLOW, events=(*EVENTS, replace(SUSPENDED, at=at))),)

    assert kinds(replace(WHOLE, workflows=workflows, runs=(FIRST, run, AGAIN))) == ["called too often"]


ANSWERED = Event(type="answered", hop_id="w.1", at=2.7, wait="word")
LATE = replace(ANSWERED, type="wait_timed_out")
ASKED = Asked(hop_id="w.1", name="word", token="t")
YES, NO = (Told(hop_id="w.1", name="word", payload=payload, outcome="settled") for payload in ("yes", "no"))
HEARD = Heard(hop_id="w.1", name="word", heard="yes")
MEANT = Awaited(hop_id="w.1", name="word", ending="answered")
SECOND_NO = replace(NO, outcome="answered")


def waiting(*ends: Event, meant: Awaited = MEANT, **changes: object) -> History:
    """A history with a wait that ended so; an answer of "yes" that somebody heard of, unless that is changed."""
    workflows = (replace(WORKFLOW, events=(*EVENTS, *ends), waits=(meant,)),)
    known = {"asked": (ASKED,), "told": (YES, SECOND_NO), "heard": (HEARD,)}
    return replace(WHOLE, workflows=workflows, **{**known, **changes})


def test_a_wait_that_is_answered_once_has_no_violations() -> None:
    assert violations(waiting(ANSWERED)) == []
    assert violations(waiting(ANSWERED, asked=(ASKED, ASKED), heard=(HEARD, HEARD))) == []
    assert violations(waiting(ANSWERED, told=(replace(YES, outcome=""), SECOND_NO))) == []
    assert violations(waiting(ANSWERED, meant=replace(MEANT, asks=False), asked=())) == []


@pytest.mark.parametrize("ending", ["timed out", "either"])
def test_a_wait_that_timed_out_once_has_no_violations(ending: str) -> None:
    late = waiting(
        LATE, meant=replace(MEANT, ending=ending), told=(replace(YES, outcome="late"),),
        heard=(replace(HEARD, heard=TIMED_OUT),),
    )  # fmt: skip

    assert violations(late) == []


@pytest.mark.parametrize(
    ("history", "kind"),
    [
        (waiting(ANSWERED, asked=(ASKED, replace(ASKED, token="u"))), "two tokens"),
        (waiting(ANSWERED, asked=()), "asked"),
        (waiting(ANSWERED, meant=replace(MEANT, asks=False)), "asked"),
        (waiting(), "never ended"),
        (waiting(ANSWERED, ANSWERED), "ended twice"),
        (waiting(ANSWERED, LATE), "ended twice"),
        (waiting(ANSWERED, heard=()), "never heard"),
        (waiting(ANSWERED, heard=(HEARD, replace(HEARD, heard="no"))), "heard twice"),
        (waiting(LATE), "heard otherwise"),
        (waiting(ANSWERED, told=(SECOND_NO,)), "heard otherwise"),
        (waiting(ANSWERED, meant=replace(MEANT, ending="timed out")), "wrong end"),
        (waiting(ANSWERED, told=(YES, NO)), "told otherwise"),
        (waiting(ANSWERED, told=(replace(YES, outcome="answered"), NO)), "told otherwise"),
    ],
)
def test_a_wait_that_ended_otherwise_than_once_and_for_all_is_found(history: History, kind: str) -> None:
    assert kinds(history) == [kind]


def test_a_wait_of_a_workflow_that_is_lost_is_not_judged() -> None:
    assert kinds(replace(waiting(), workflows=(replace(waiting().workflows[0], state="suspended"),))) == ["lost"]


def test_whom_steps_ask_and_what_they_hear_is_read_from_files(tmp_path: Path) -> None:
    (tmp_path / "asked").write_text(json.dumps({"at": 1.0, "hop": "w.1", "name": "word", "token": "t"}) + "\n")
    (tmp_path / "heard").write_text(json.dumps({"at": 1.0, "hop": "w.1", "name": "word", "heard": "yes"}) + "\n")

    assert asked_in(tmp_path / "asked") == (ASKED,)
    assert heard_in(tmp_path / "heard") == (HEARD,)
    assert asked_in(tmp_path / "none") == ()


def test_a_history_is_read_from_the_lines_of_its_files(tmp_path: Path) -> None:
    lines = [
        {"at": 2.0, "what": "begin", "run": "r2", "hop": "w.1", "process": "two", "pid": 2},
        {"at": 1.0, "what": "begin", "run": "r1", "hop": "w.0", "process": "one", "pid": 2},
        {"at": 1.5, "what": "end", "run": "r1"},
        {"at": 2.5, "what": "raised", "run": "r2", "hop": "w.1"},
        {"at": 1.6, "what": "done", "hop": "w.0"},
        {"at": 2.2, "kind": "kill group", "process": "two", "pid": None, "since": 2.1, "until": 2.3},
        {"at": 2.4, "kind": "at ran", "process": "two", "pid": 2},
        {"at": 2.4, "kind": "soft.claim"},
    ]
    runs, hits = tmp_path / "runs", tmp_path / "hits"
    runs.write_text("".join(json.dumps(line) + "\n" for line in lines[:5]))
    hits.write_text("".join(json.dumps(line) + "\n" for line in lines[5:]))

    assert runs_in(runs) == (FIRST, RAISED)
    assert latest_runs_in(runs) == (FIRST, RAISED)
    assert hits_in(hits) == (
        Hit(kind="kill group", process="two", since=2.1, until=2.3),
        Hit(kind="at ran", process="two", pid=2, since=2.4, until=2.4),
        Hit(kind="soft.claim", since=2.4, until=2.4),
    )
    assert [hit.kills for hit in hits_in(hits)] == [True, True, False]
    assert runs_in(tmp_path / "none") == latest_runs_in(tmp_path / "none") == ()


def test_the_latest_runs_are_read_from_the_end_of_a_long_file(tmp_path: Path) -> None:
    """Many times a second the storm asks which step has just begun."""
    begun = [
        {"at": float(n), "what": "begin", "run": n, "hop": f"w.{n}", "process": "one", "pid": 2} for n in range(99)
    ]
    (tmp_path / "runs").write_text("".join(json.dumps(line) + "\n" for line in begun))

    found = latest_runs_in(tmp_path / "runs")

    assert found == runs_in(tmp_path / "runs")[-len(found) :]
    assert 30 < len(found) < 99
