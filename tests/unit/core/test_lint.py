"""What is wrong with a document is told all together, each with its path and a remedy."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from paigeant_celery.core.document_errors import Finding
from paigeant_celery.core.documents import read_document
from paigeant_celery.core.errors import InvalidInput, MessageError
from paigeant_celery.core.lint import Known, in_document, lint
from paigeant_celery.core.steps import MOST_DEEP, Step

NOW = datetime(2030, 1, 1, tzinfo=UTC)
A = {"agent": "a", "prompt": "x"}


def found(itinerary: list[Any], known: Known | None = None, **more: Any) -> list[tuple[str, str]]:
    findings = lint({"version": 1, "itinerary": itinerary, **more}, known)
    assert all(finding.remedy for finding in findings)
    return [(finding.reason, finding.path) for finding in findings]


def deep(levels: int) -> dict[str, Any]:
    step: dict[str, Any] = A
    for _ in range(levels):
        step = {"sub_workflow": [step]}
    return step


def test_a_sound_document_has_no_findings() -> None:
    """`lint` in a pipeline passes what a dispatch would take."""
    itinerary = [A, {"for_each": [A, A], "over": "a#/x"}, {"wait_for": "y"}, deep(MOST_DEEP)]

    assert found(itinerary, Known(activities={"a": "agent"}, now=NOW), deadline="2031-01-01T00:00:00Z") == []


@pytest.mark.parametrize(
    ("step", "reason", "path"),
    [
        ({"agent": "a", "prompt": [{"kind": "binary", "data": "!"}]}, "invalid_prompt", "prompt[0]"),
        ({**A, "policy": {"timeout": -1}}, "invalid_policy", "policy.timeout"),
        ({"wait_for": "\t"}, "invalid_wait", "wait_for"),
        ({"wait_for": "x", "timeout": -1}, "invalid_wait", "timeout"),
        ({"sleep_for": -1}, "invalid_wait", "sleep_for"),
        ({"parallel": {"a": [A]}, "max_at_once": 0}, "invalid_block", "max_at_once"),
        ({"parallel": {"a": [A]}, "join": 2}, "invalid_block", "join"),
        ({"parallel": {"a": [A]}, "join": 1, "on_failure": "fail"}, "invalid_block", "on_failure"),
        ({"for_each": [A], "over": "no step"}, "invalid_over", "over"),
        ({"for_each": [A], "over": 7}, "invalid_over", "over"),
        ({"for_each": [A], "over": "nobody"}, "invalid_over", "over"),
        (deep(MOST_DEEP + 1), "too_many_blocks", "sub_workflow[0]" + ".sub_workflow[0]" * (MOST_DEEP - 1)),
        ({"parallel": {"a/b": [A]}}, "invalid_block", "parallel"),
        ({"parallel": {"x": [A, {"sleep_for": -1}]}}, "invalid_wait", "parallel.x[1].sleep_for"),
    ],
)
def test_a_step_that_a_dispatch_would_refuse_is_found_where_it_stands(
    step: dict[str, Any], reason: str, path: str
) -> None:
    """The path is that in the document, also for a step in a branch."""
    assert [each for each, _ in found([A, step])] == [reason]
    assert found([A, step])[0][1].startswith(f"itinerary[1].{path}")


def test_what_is_wrong_in_several_steps_is_told_together() -> None:
    """Mistakes of form do not hide the others."""
    itinerary = [
        {"agent": "a", "promt": "x"},
        {"sleep_for": -1},
        {"agent": "writr", "prompt": "x", "step_id": "s"},
        {"parallel": {"x": [{**A, "step_id": "t"}, {**A, "step_id": "t"}]}, "step_id": "s"},
    ]
    known = Known(activities={"writer": "agent", "a": "agent"}, now=NOW)

    assert found(itinerary, known) == [
        ("invalid_document", "itinerary[0].prompt"),
        ("unknown_field", "itinerary[0].promt"),
        ("invalid_wait", "itinerary[1].sleep_for"),
        ("duplicate_step_id", "itinerary[3].step_id"),
        ("duplicate_step_id", "itinerary[3].parallel.x[1].step_id"),
        ("unknown_agent", "itinerary[2].agent"),
    ]


def test_an_unknown_activity_is_told_with_what_may_be_meant() -> None:
    """A typo costs no run: nobody would ever serve it."""
    itinerary = [{"agent": "writr", "prompt": "x"}, {"function": "zzz"}, {"function": "writer"}]

    findings = lint({"version": 1, "itinerary": itinerary}, Known(activities={"writer": "agent"}))

    assert findings == [
        Finding("unknown_agent", "itinerary[0].agent", "no activity 'writr' is loaded", "did you mean 'writer'?"),
        Finding("unknown_agent", "itinerary[1].function", "no activity 'zzz' is loaded", "add its module to `imports`"),
        Finding("unknown_agent", "itinerary[2].function", "'writer' is of the kind `agent`", "write `agent: writer`"),
    ]


def test_without_an_app_no_activity_is_unknown() -> None:
    """A process that dispatches need not have loaded the agents."""
    assert found([{"agent": "anyone", "prompt": "x"}]) == []


@pytest.mark.parametrize("error", [MessageError, InvalidInput])
def test_what_an_activity_would_not_take_is_found(error: type[MessageError] | type[InvalidInput]) -> None:
    """Deps that the agent's type refuses are seen before a worker gets them."""

    def check(step: Step) -> None:
        raise error("invalid_deps", "deps.tenant", "must be a number; give one")

    known = Known(activities={"a": "agent"}, check=check)

    assert lint({"version": 1, "itinerary": [{"sub_workflow": [{**A, "deps": 1}]}]}, known) == [
        Finding("invalid_deps", "itinerary[0].sub_workflow[0].deps.tenant", "must be a number", "give one")
    ]


def test_more_steps_or_branches_than_the_settings_allow_are_found() -> None:
    """The limits are those of the deployment."""
    known = Known(max_steps=2, max_branches=1)
    block = {"parallel": {"x": [A, A, A], "y": [A]}}

    assert found([A, block, A], known) == [
        ("too_many_steps", "itinerary"),
        ("too_many_steps", "itinerary[1].parallel.x"),
        ("too_many_branches", "itinerary[1]"),
    ]


@pytest.mark.parametrize(
    ("times", "reasons"),
    [
        ({"deadline": "2029-12-31T00:00:00Z"}, ["deadline_passed"]),
        ({"deadline": "2030-06-01T00:00:00Z", "start_at": "2030-06-02T00:00:00Z"}, ["deadline_passed"]),
        ({"deadline": "2030-06-01T00:00:00Z", "start_at": "2020-01-01T00:00:00Z"}, []),
    ],
)
def test_a_deadline_that_cannot_be_met_is_found(times: dict[str, str], reasons: list[str]) -> None:
    """The workflow would fail before its first step."""
    assert [reason for reason, _ in found([A], Known(now=NOW), **times)] == reasons


def test_what_agents_may_insert_and_the_limits_are_looked_at() -> None:
    """They are sent with the workflow."""
    offered = [{"agent": "critc", "prompt": "x"}, {**A, "policy": {"max_attempts": 0}}]
    known = Known(activities={"critic": "agent", "a": "agent"})

    assert found([A], known, registered_activities=offered, usage_limits={"request_limit": -1}) == [
        ("unknown_agent", "registered_activities[0].agent"),
        ("invalid_policy", "registered_activities[1].policy.max_attempts"),
        ("invalid_usage_limits", "usage_limits.request_limit"),
    ]


def test_a_text_that_cannot_be_read_is_one_finding() -> None:
    """`lint` never raises for what a person wrote."""
    assert [finding.reason for finding in lint("a: [\n")] == ["invalid_document"]
    assert [finding.reason for finding in lint("{")] == ["invalid_document"]


def test_a_path_on_the_slip_is_found_in_the_document() -> None:
    """What a dispatch refuses is told as the document has it."""
    steps = list(
        enumerate(read_document({"version": 1, "itinerary": [A, {"parallel": {"x": [A], "y": [A, A]}}]}).itinerary)
    )

    assert in_document(steps, "itinerary[1].branches[1].steps[1].prompt[0]") == "itinerary[1].parallel.y[1].prompt[0]"
    assert in_document(steps, "itinerary[0].agent_name") == "itinerary[0].agent"
    assert in_document(steps, "variables.x") == "variables.x"
    assert in_document(steps[1:], "itinerary[0].branches[0].steps[0]") == "itinerary[1].parallel.x[0]"
