"""The checker of the chaos suite: it finds each violation, and nothing where all holds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from chaos.checker import Violation, calls_allowed, violations
from chaos.history import Event, History, Hit, Run, Workflow, hits_in, runs_in

FIRST = Run(hop_id="w.0", pid=10, group=1, begun=1.0, ended=1.5)
SECOND = Run(hop_id="w.1", pid=20, group=2, begun=2.0, ended=2.5)
AGAIN = Run(hop_id="w.1", pid=30, group=3, begun=4.0, ended=4.5)
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
    assert calls_allowed(WHOLE) == 2


@pytest.mark.parametrize("state", ["running", "failed with attempts_exhausted"])
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
    assert found[0].seen.startswith("2 calls, 1 allowed: pid 20 at 2.000")


@pytest.mark.parametrize(
    "hit",
    [
        pytest.param(Hit(kind="kill child", pid=20, since=2.2, until=2.2), id="a process"),
        pytest.param(Hit(kind="kill group", group=2, since=2.2, until=2.3), id="its group"),
        pytest.param(Hit(kind="at ran", pid=20, since=2.6, until=2.6), id="after the body, before it is recorded"),
        pytest.param(Hit(kind="freeze", group=2, since=1.9, until=5.0), id="frozen before the body began"),
    ],
)
def test_a_run_that_was_hit_excuses_one_more_call(hit: Hit) -> None:
    history = replace(WHOLE, runs=(FIRST, SECOND, AGAIN), hits=(hit,))

    assert violations(history) == []
    assert calls_allowed(history) == 3
    assert kinds(replace(history, runs=(*history.runs, replace(AGAIN, pid=40)))) == ["called too often"]


@pytest.mark.parametrize(
    "hit",
    [
        pytest.param(Hit(kind="kill child", pid=99, since=2.2, until=2.2), id="another process"),
        pytest.param(Hit(kind="kill group", group=9, since=2.2, until=2.2), id="another group"),
        pytest.param(Hit(kind="kill child", pid=20, since=1.5, until=1.9), id="before it began"),
        pytest.param(Hit(kind="kill child", pid=20, since=4.7, until=4.7), id="after the hop was recorded"),
        pytest.param(Hit(kind="kill child", pid=20, since=4.1, until=4.1), id="after the second call began"),
        pytest.param(Hit(kind="server restarted", since=2.2, until=2.6), id="an outage"),
    ],
)
def test_what_hit_something_else_excuses_nothing(hit: Hit) -> None:
    assert kinds(replace(WHOLE, runs=(FIRST, SECOND, AGAIN), hits=(hit,))) == ["called too often"]


@pytest.mark.parametrize("runs", [(FIRST,), (FIRST, replace(SECOND, ended=None))])
def test_a_hop_that_completed_without_a_whole_run_is_found(runs: tuple[Run, ...]) -> None:
    assert kinds(replace(WHOLE, runs=runs)) == ["never ran"]


def test_a_run_of_a_hop_that_nobody_dispatched_is_found() -> None:
    assert kinds(replace(WHOLE, runs=(*WHOLE.runs, replace(AGAIN, hop_id="x.0")))) == ["unknown hop"]


def test_what_is_left_in_the_store_is_found() -> None:
    history = replace(WHOLE, left_due=("w.1",), left_owned=("p:owner:o",), ended_workers=("one",))

    assert [(violation.kind, violation.about) for violation in violations(history)] == [
        ("left due", "w.1"), ("left owned", "p:owner:o"), ("worker ended", "one"),
    ]  # fmt: skip


def test_a_history_is_read_from_the_lines_of_its_files(tmp_path: Path) -> None:
    lines = [
        {"at": 2.0, "what": "begin", "run": "r2", "hop": "w.1", "pid": 20, "group": 2},
        {"at": 1.0, "what": "begin", "run": "r1", "hop": "w.0", "pid": 10, "group": 1},
        {"at": 1.5, "what": "end", "run": "r1"},
        {"at": 1.6, "what": "done", "hop": "w.0"},
        {"at": 2.2, "kind": "kill group", "pid": None, "group": 2, "since": 2.1, "until": 2.3},
        {"at": 2.4, "kind": "at ran", "pid": 20, "group": None},
    ]
    runs, hits = tmp_path / "runs", tmp_path / "hits"
    runs.write_text("".join(json.dumps(line) + "\n" for line in lines[:4]))
    hits.write_text("".join(json.dumps(line) + "\n" for line in lines[4:]))

    assert runs_in(runs) == (FIRST, replace(SECOND, ended=None))
    assert hits_in(hits) == (
        Hit(kind="kill group", group=2, since=2.1, until=2.3), Hit(kind="at ran", pid=20, since=2.4, until=2.4),
    )  # fmt: skip
    assert runs_in(tmp_path / "none") == ()
