"""What must hold whatever was hit: a pure function from a history to the violations in it.

A repeated call needs an excuse from an earlier run of the same hop. Each run gives one at most, and the repeated call
begins after it:

- its process was killed or frozen after the run began and before the hop was recorded as completed,
- it raised, and the store recorded that the step is retried, or that it is parked (and then resent),
- its worker was told to end, and the store recorded meanwhile that the hop was given back,
- it came neither to its end nor raised, and the store recorded that the hop was suspended.

An outage of the server, a lost reply, and a lost or doubled message are no excuse.

A block is opened and joined once, exactly when enough of its branches have succeeded or, if it collects, all have
ended; then its output has what each of those gave. Nothing below a block, and nothing of a workflow, outlives it. Once
a workflow has ended and been swept, no index has anything of it, and each of its keys expires: there are no orphans.

A wait ends once: by one answer or because its time is over, which is recorded once, and its step goes on with that,
however often it runs. Nobody is asked under two tokens.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, TypeAlias

from tests.proof.chaos.block_rules import is_in_branch, of_blocks
from tests.proof.chaos.history import ORDERLY_END, TIMED_OUT, Awaited, Event, History, Hit, Run, Violation, Workflow

__all__ = ["LEFT", "excuses", "violations"]

ROUNDING = 0.002  # seconds; the store's clock is truncated to milliseconds

# What may be left of workflows that have ended.
LEFT = {
    "due": ("left_due", "in the due index"),
    "owned": ("left_owned", "an owner's set"),
    "parked": ("left_parked", "in the parked index"),
    "asleep": ("left_asleep", "in the index of sleepers"),
    "asked": ("left_asked", "in the index of open waits"),
    "ending": ("left_ending", "in the index of what ends"),
    "letters": ("left_letters", "a letter that is kept"),
    "open": ("left_open", "goes on"),
    "lasting": ("left_lasting", "a key that never expires"),
}

Why: TypeAlias = Literal["hit", "raised", "given back", "suspended"]


def violations(history: History) -> list[Violation]:
    """Return everything that does not hold."""
    found = [violation for workflow in history.workflows for violation in _of_workflow(workflow)]
    found += [violation for workflow in history.workflows for violation in of_blocks(workflow)]
    found += _of_runs(history)
    found += _of_waits(history)
    for kind, (what, seen) in LEFT.items():
        found += [Violation(kind=f"left {kind}", about=about, seen=seen) for about in getattr(history, what)]
    found += [Violation(kind="worker ended", about=name, seen="by itself") for name in history.ended_workers]
    return found


def excuses(history: History) -> Counter[Why]:
    """Return how many calls beyond one per hop are explained, and by what."""
    return Counter(why for found in _excuses(history).values() for _, why in found)


def _of_workflow(workflow: Workflow) -> Iterator[Violation]:
    about = workflow.correlation_id
    if workflow.state != workflow.end:
        yield Violation(kind="lost", about=about, seen=f"{workflow.state} after {list(workflow.executed)}")
        return
    completed = [event.hop_id for event in workflow.events if event.type == "completed"]
    for hop, times in Counter(completed).items():
        if times > 1:
            yield Violation(kind="completed twice", about=hop, seen=f"{times} times")
    own = [hop for hop in completed if not is_in_branch(hop)]
    if tuple(dict.fromkeys(own)) != workflow.hops[: len(workflow.steps)]:
        yield Violation(kind="out of order", about=about, seen=f"hops completed as {own}")
    if workflow.executed != workflow.steps:
        yield Violation(kind="out of order", about=about, seen=f"executed {list(workflow.executed)}")


def _of_runs(history: History) -> Iterator[Violation]:
    runs: dict[str, list[Run]] = defaultdict(list)
    for run in history.runs:
        runs[run.hop_id].append(run)
    excused, completed = _excuses(history), _completed_at(history)
    for workflow in history.workflows:
        for hop in workflow.bodies:
            called = sorted(runs[hop], key=lambda run: run.begun)
            given = sorted(excused.get(hop, ()))
            # Every call except the first begins after as many excuses as there were calls before it.
            if any(len(given) <= place or given[place][0] > run.begun for place, run in enumerate(called[1:])):
                seen = f"{len(called)} calls, {1 + len(given)} allowed: {_shown(called)}"
                yield Violation(kind="called too often", about=hop, seen=seen)
            if hop in completed and not any(run.ended is not None for run in runs[hop]):
                yield Violation(kind="never ran", about=hop, seen="completed, and no run came to its end")
    known = {hop for workflow in history.workflows for hop in workflow.bodies}
    for hop in runs.keys() - known:
        yield Violation(kind="unknown hop", about=hop, seen=_shown(runs[hop]))


def _excuses(history: History) -> Mapping[str, list[tuple[float, Why]]]:
    """Return, by hop, the excuse that each of its runs gives, and the time from which it applies."""
    completed, found = _completed_at(history), defaultdict[str, list[tuple[float, Why]]](list)
    events: dict[str, list[Event]] = defaultdict(list)
    for workflow in history.workflows:
        for event in workflow.events:
            events[event.hop_id].append(event)
    hits: dict[str | None, list[Hit]] = defaultdict(list)
    for hit in history.hits:
        hits[hit.process].append(hit)
    for run in history.runs:
        done = completed.get(run.hop_id, float("inf")) + ROUNDING
        on_it = [hit for hit in hits[run.process] if _reaches(hit, run)]
        of_hop = events[run.hop_id]
        given = [
            *_hit(on_it, done), *_tried_again(run, of_hop), *_given_back(on_it, of_hop), *_suspended(run, of_hop)
        ]  # fmt: skip
        if given:
            found[run.hop_id].append(min(given))
    return found


def _reaches(hit: Hit, run: Run) -> bool:
    return hit.process is not None and hit.pid in {None, run.pid} and run.begun <= hit.until


def _hit(hits: Sequence[Hit], done: float) -> Iterator[tuple[float, Why]]:
    yield from ((hit.since, "hit") for hit in hits if hit.kind != ORDERLY_END and hit.since <= done)


def _tried_again(run: Run, events: Sequence[Event]) -> Iterator[tuple[float, Why]]:
    if run.raised is not None:
        for event in events:
            if event.type in {"retrying", "parked"} and event.at + ROUNDING >= run.raised:
                yield event.at, "raised"


def _given_back(hits: Sequence[Hit], events: Sequence[Event]) -> Iterator[tuple[float, Why]]:
    for hit in hits:
        for event in events:
            if hit.kind == ORDERLY_END and event.type == "released" and hit.since <= event.at + ROUNDING <= hit.until:
                yield event.at, "given back"


def _suspended(run: Run, events: Sequence[Event]) -> Iterator[tuple[float, Why]]:
    if run.ended is None and run.raised is None:
        for event in events:
            if event.type == "suspended" and event.at + ROUNDING >= run.begun:
                yield event.at, "suspended"


def _of_waits(history: History) -> Iterator[Violation]:
    tokens: dict[tuple[str, str], set[str]] = defaultdict(set)
    for asked in history.asked:
        tokens[asked.hop_id, asked.name].add(asked.token)
    for (hop, name), known in tokens.items():
        if len(known) > 1:
            yield Violation(kind="two tokens", about=f"{hop} {name}", seen=f"{len(known)} tokens")
    for workflow in history.workflows:
        if workflow.state == workflow.end:
            for wait in workflow.waits:
                yield from _of_wait(wait, history, workflow, bool(tokens[wait.hop_id, wait.name]))


def _of_wait(wait: Awaited, history: History, workflow: Workflow, was_asked: bool) -> Iterator[Violation]:
    about, key = f"{wait.hop_id} {wait.name}", (wait.hop_id, wait.name)
    ends = [
        event.type for event in workflow.events
        if (event.hop_id, event.wait) == key and event.type in {"answered", "wait_timed_out"}
    ]  # fmt: skip
    heard = {each.heard for each in history.heard if (each.hop_id, each.name) == key}
    told = [each for each in history.told if (each.hop_id, each.name) == key]
    if len(ends) != 1:
        yield Violation(kind="ended twice" if ends else "never ended", about=about, seen=f"{ends}")
        return
    is_excused = ends == ["wait_timed_out"]  # nobody is asked for what nobody can answer in time
    if was_asked != wait.asks and not (wait.asks and is_excused):
        yield Violation(kind="asked", about=about, seen="asked" if was_asked else "not asked")
    if len(heard) != 1:
        yield Violation(kind="heard twice" if heard else "never heard", about=about, seen=f"{sorted(heard)}")
        return
    (word,) = heard
    if (word == TIMED_OUT) != (ends == ["wait_timed_out"]):
        yield Violation(kind="heard otherwise", about=about, seen=f"heard {word!r} after {ends}")
    if wait.ending != "either" and (word == TIMED_OUT) != (wait.ending == "timed out"):
        yield Violation(kind="wrong end", about=about, seen=f"heard {word!r}")
    if word != TIMED_OUT and word not in {each.payload for each in told}:
        yield Violation(kind="heard otherwise", about=about, seen=f"heard {word!r}, which nobody said")
    settled = [each.payload for each in told if each.outcome == "settled"]
    if len(settled) > 1 or any(payload != word for payload in settled):
        yield Violation(kind="told otherwise", about=about, seen=f"heard {word!r}, and {settled} are said to count")


def _completed_at(history: History) -> dict[str, float]:
    return {
        event.hop_id: event.at
        for workflow in history.workflows
        for event in workflow.events
        if event.type == "completed"
    }


def _shown(runs: Sequence[Run]) -> str:
    return "; ".join(
        f"{run.process} {run.pid} at {run.begun:.3f} to {run.ended or run.raised or 0:.3f}" for run in runs
    )
