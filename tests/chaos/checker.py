"""What must hold whatever was hit: a pure function from a history to the violations in it.

A repeated call needs an excuse: an earlier run of the same hop, in a process that was killed or frozen after the run
began and before the hop was recorded as completed. Each such run excuses one more,
which begins after the hit. An outage of the server, a lost
reply, a lost or doubled message and an orderly stop excuse none.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from chaos.history import History, Hit, Run, Workflow

__all__ = ["Violation", "calls_allowed", "violations"]

ROUNDING = 0.002  # seconds; the store's clock is cut to milliseconds


@dataclass(frozen=True, kw_only=True)
class Violation:
    """What does not hold, of what, and what was seen."""

    kind: str
    about: str
    seen: str


def violations(history: History) -> list[Violation]:
    """Return everything that does not hold."""
    found = [violation for workflow in history.workflows for violation in _of_workflow(workflow)]
    found += _of_runs(history)
    found += [Violation(kind="left due", about=hop, seen="in the due index") for hop in history.left_due]
    found += [Violation(kind="left owned", about=key, seen="an owner's set") for key in history.left_owned]
    found += [Violation(kind="worker ended", about=name, seen="by itself") for name in history.ended_workers]
    return found


def calls_allowed(history: History) -> int:
    """Return how many calls the faults explain: one for each step, and one for each run that was hit."""
    steps = sum(len(workflow.hops) for workflow in history.workflows)
    return steps + sum(len(hit) for hit in _hit_runs(history).values())


def _of_workflow(workflow: Workflow) -> Iterator[Violation]:
    about = workflow.correlation_id
    if workflow.state != "completed":
        yield Violation(kind="lost", about=about, seen=f"{workflow.state} after {list(workflow.executed)}")
        return
    completed = [event.hop_id for event in workflow.events if event.type == "completed"]
    for hop, times in Counter(completed).items():
        if times > 1:
            yield Violation(kind="completed twice", about=hop, seen=f"{times} times")
    if tuple(dict.fromkeys(completed)) != workflow.hops:
        yield Violation(kind="out of order", about=about, seen=f"hops completed as {completed}")
    if workflow.executed != workflow.steps:
        yield Violation(kind="out of order", about=about, seen=f"executed {list(workflow.executed)}")


def _of_runs(history: History) -> Iterator[Violation]:
    runs: dict[str, list[Run]] = defaultdict(list)
    for run in history.runs:
        runs[run.hop_id].append(run)
    hit_runs, completed = _hit_runs(history), _completed_at(history)
    for workflow in history.workflows:
        for hop in workflow.hops:
            called = sorted(runs[hop], key=lambda run: run.begun)
            hits = sorted(hit_runs.get(hop, ()))
            # Every call but the first begins after as many hits as there were calls before it.
            if any(len(hits) <= place or hits[place] > run.begun for place, run in enumerate(called[1:])):
                seen = f"{len(called)} calls, {1 + len(hits)} allowed: {_shown(called)}"
                yield Violation(kind="called too often", about=hop, seen=seen)
            if hop in completed and not any(run.ended is not None for run in runs[hop]):
                yield Violation(kind="never ran", about=hop, seen="completed, and no run came to its end")
    known = {hop for workflow in history.workflows for hop in workflow.hops}
    for hop in runs.keys() - known:
        yield Violation(kind="unknown hop", about=hop, seen=_shown(runs[hop]))


def _hit_runs(history: History) -> dict[str, list[float]]:
    """Return, by hop, when each of its runs was first hit, if that was before the hop was recorded."""
    completed, found = _completed_at(history), defaultdict(list)
    for run in history.runs:
        done = completed.get(run.hop_id, float("inf")) + ROUNDING
        hits = [
            hit.since for hit in history.hits if _hits(hit, run) and run.begun <= hit.until and hit.since <= done
        ]  # fmt: skip
        if hits:
            found[run.hop_id].append(min(hits))
    return found


def _hits(hit: Hit, run: Run) -> bool:
    return (hit.pid is not None and hit.pid == run.pid) or (hit.group is not None and hit.group == run.group)


def _completed_at(history: History) -> dict[str, float]:
    return {
        event.hop_id: event.at
        for workflow in history.workflows
        for event in workflow.events
        if event.type == "completed"
    }


def _shown(runs: Sequence[Run]) -> str:
    return "; ".join(f"pid {run.pid} at {run.begun:.3f} to {run.ended or 0:.3f}" for run in runs)
