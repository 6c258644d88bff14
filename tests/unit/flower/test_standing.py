"""What the page of a workflow says about who runs its step, and what is before it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from paigeant_celery import Failure, WorkflowStatus
from paigeant_celery.client.readings import BranchStatus, Runner
from paigeant_celery.flower.workflow import standing

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
AT = "2026-11-29 12:00:00 UTC"
ERROR = Failure(step_id="clerk", error_class="ValueError", text="nougat")


def status(**known: Any) -> WorkflowStatus:
    given = {"state": "queued", **known}
    return WorkflowStatus(
        correlation_id="w", step_id="clerk", activity="clerk", queue="q", attempt=1, executed=(), remaining=("clerk",),
        failure=None, created_at=NOW, updated_at=NOW, **given,
    )  # fmt: skip


def branch(number: int, lapsed_at: datetime | None = None) -> BranchStatus:
    runner = Runner(host="box", pid=7, since=NOW, lapsed_at=lapsed_at)
    return BranchStatus(path=f"all/{number}", name=f"{number}", state="running", step_id="clerk", runner=runner)


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ({}, []),
        ({"ahead": 0}, []),
        ({"ahead": 1200}, ["about 1,200 messages are ahead of it in its queue"]),
        ({"last_failure": ERROR}, ["its last attempt failed with ValueError: nougat"]),
        ({"state": "running", "last_failure": ERROR}, []),
        (
            {"state": "running", "runner": Runner(host="box", pid=7, since=NOW)},
            [f"it runs in process 7 on box since {AT}"],
        ),
        (
            {"state": "running", "runner": Runner(host="box", pid=7, since=NOW, lapsed_at=NOW)},
            [f"it ran in process 7 on box since {AT}; its lease ended at {AT}"],
        ),
        (
            {"state": "suspended", "branches": (branch(0), branch(1, lapsed_at=NOW))},
            [f"all/1/clerk ran in process 7 on box since {AT}; its lease ended at {AT}"],
        ),
        (
            {"state": "suspended", "branches": tuple(branch(number, lapsed_at=NOW) for number in range(9))},
            [f"all/{number}/clerk ran in process 7 on box since {AT}; its lease ended at {AT}" for number in range(3)],
        ),
    ],
    ids=["nothing", "next", "ahead", "failed", "runs again", "runs", "lost", "a branch is lost", "many are lost"],
)
def test_it_says_who_runs_the_step_or_what_is_before_it(known: dict[str, Any], said: list[str]) -> None:
    """Whether one must wait, or do something, is the first question."""
    assert list(standing(status(**known), content=True)) == said


def test_texts_of_errors_are_content() -> None:
    """They may quote a prompt, and a Flower without a sign-in is open to all."""
    assert list(standing(status(last_failure=ERROR), content=False)) == ["its last attempt failed with ValueError"]
