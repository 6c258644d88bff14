"""One trial: a server, workers, work and a storm; the checker judges the outcome."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import redis

from tests.programs.fanning import BRANCHES
from tests.proof.chaos.block_rules import is_in_branch
from tests.proof.chaos.checker import LEFT, excuses, violations
from tests.proof.chaos.contestants import Chain, Slip, settings_of
from tests.proof.chaos.history import History, Violation, Workflow, asked_in, heard_in, hits_in, runs_in
from tests.proof.chaos.storm import Plan, Storm
from tests.support.processes import Deployment, deployment
from tests.support.servers import redis_server

__all__ = ["Report", "table_of", "try_chain", "try_slip"]

# Each write is on disk before its reply is sent.
APPEND_ONLY = ("--appendonly", "yes", "--appendfsync", "always")
PATIENCE = 90.0  # seconds after the last fault; a message is overdue after five, then with doubled waits
CHAIN_PATIENCE = 30.0  # seconds in which the control may still redeliver
NEVER = -1  # milliseconds until a key expires that does not
ENDED = {"done", "failed", "cancelled"}  # states of hops
LEFTOVER_PATIENCE = 5.0  # seconds in which owners record what they have just ended


@dataclass(frozen=True, kw_only=True)
class Report:
    """The figures of a trial.

    `twice` counts steps on the workflow's own slip, and `bodies_twice` those in branches. `orphans` are what is left of
    workflows that have ended; None if nothing is known of that. `apart` is how many of the calls were made in separate
    pid namespaces; `excused` is how many calls beyond one per step are explained, and by what.
    """

    contestant: str
    seed: int
    workflows: int
    steps: int
    kills: int
    calls: int
    lost: int
    twice: int
    blocks: int
    joins_lost: int
    joins_twice: int
    bodies_twice: int
    orphans: int | None = None
    seconds: float
    apart: int
    excused: Mapping[str, int] | None = None
    waits: int = 0
    points: frozenset[str] = frozenset()
    struck: Mapping[str, int]
    violations: tuple[Violation, ...] = ()

    def __str__(self) -> str:
        explained, whole = "", "chords" if self.orphans is None else "blocks"
        orphans = "" if self.orphans is None else f", orphans {self.orphans}"
        if self.excused is not None:
            whys = ("hit", "raised", "given back", "suspended")
            hit, raised, given_back, suspended = (self.excused.get(why, 0) for why in whys)
            explained = (
                f" and {hit} running ones hit, {raised} that failed in passing, {given_back} given back, {suspended} "
                f"suspended at {self.waits} waits"
            )
        return (
            f"{self.contestant:5} seed {self.seed}: {self.workflows} workflows, {self.kills} kills, lost {self.lost}, "
            f"completed twice {self.twice}{orphans}; of {self.blocks} {whole} {self.joins_lost} joins lost and "
            f"{self.joins_twice} done twice, {self.bodies_twice} bodies done twice; {self.calls} calls for "
            f"{self.steps} steps{explained}; {self.apart} calls "
            f"in a pid namespace of their own, {self.seconds:.1f} s"
        )


def table_of(reports: Sequence[Report]) -> str:
    """Return the figures that count, of several trials, one below the other."""
    head = (
        "", "seed", "workflows", "blocks", "kills", "lost", "twice", "joins lost", "joins twice", "bodies twice",
        "orphans",
    )  # fmt: skip
    rows = [head] + [
        tuple(
            "-" if cell is None else str(cell)
            for cell in (
                each.contestant, each.seed, each.workflows, each.blocks, each.kills, each.lost, each.twice,
                each.joins_lost, each.joins_twice, each.bodies_twice, each.orphans,
            )
        )
        for each in reports
    ]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def try_slip(seed: int, plan: Plan, folder: Path) -> Report:
    """Put our workflows under the storm of a seed."""
    begun = time.monotonic()
    with redis_server(*APPEND_ONLY) as server, deployment(server.url, folder, **settings_of(seed)) as where:
        contestant = Slip(where, seed)
        storm = Storm(contestant, server, plan, seed, folder)
        _tell(where, storm)
        where.variables |= {"ASKED_FILE": str(contestant.asked_file), "HEARD_FILE": str(contestant.heard_file)}
        contestant.people.begin()
        with closing(storm):
            storm.run(patience=PATIENCE)
        assert contestant.people.failure is None
        left = _leftovers(where)
        history = History(
            workflows=tuple(map(contestant.outcome, storm.works)),
            runs=runs_in(where.runs_file),
            hits=hits_in(storm.hits_file),
            asked=(*asked_in(contestant.asked_file), *contestant.people.found.values()),
            told=tuple(contestant.people.told),
            heard=heard_in(contestant.heard_file),
            **left,
            ended_workers=tuple(storm.unexpected_ends),
        )
    found = tuple(violations(history))
    return Report(
        contestant="slip", seed=seed, workflows=plan.workflows,
        steps=sum(len(workflow.bodies) for workflow in history.workflows),
        kills=sum(hit.kills for hit in history.hits),
        calls=len(history.runs),
        apart=sum(run.process in storm.apart for run in history.runs),
        lost=sum(violation.kind == "lost" for violation in found),
        twice=sum(
            violation.kind == "completed twice" and not is_in_branch(violation.about) for violation in found
        ),
        blocks=sum(len(workflow.all_blocks) for workflow in history.workflows),
        joins_lost=sum(_lost_joins(workflow) for workflow in history.workflows),
        joins_twice=sum(violation.kind == "joined twice" for violation in found),
        bodies_twice=sum(violation.kind == "completed twice" and is_in_branch(violation.about) for violation in found),
        orphans=sum(violation.kind.removeprefix("left ") in LEFT for violation in found),
        seconds=time.monotonic() - begun,
        excused=excuses(history),
        waits=sum(len(workflow.waits) for workflow in history.workflows),
        points=frozenset(hit.kind for hit in history.hits if hit.kind.startswith(("at ", "soft.", "hard."))),
        struck=dict(storm.struck),
        violations=found,
    )  # fmt: skip


def try_chain(seed: int, plan: Plan, folder: Path) -> Report:
    """Put plain Celery chains, with chords for blocks, under the same storm."""
    begun = time.monotonic()
    with redis_server(*APPEND_ONLY) as server, deployment(server.url, folder, store=None) as where:
        contestant = Chain(where)
        storm = Storm(contestant, server, plan, seed, folder)
        _tell(where, storm)
        with closing(storm):
            storm.run(patience=CHAIN_PATIENCE)
        lost = contestant.unfinished(storm.works)
        unjoined = contestant.unjoined(storm.works)
        completions = Counter(contestant.completions())
        runs = runs_in(where.runs_file)
    joins = {f"{work.correlation_id}.{work.fans_at}" for work in storm.works if work.fan}
    return Report(
        contestant="chain", seed=seed, workflows=plan.workflows,
        steps=sum(work.called + BRANCHES * bool(work.fan) for work in storm.works),
        kills=sum(hit.kills for hit in hits_in(storm.hits_file)),
        calls=len(runs),
        apart=sum(run.process in storm.apart for run in runs),
        lost=len(lost),
        twice=sum(times > 1 and hop not in joins and not is_in_branch(hop) for hop, times in completions.items()),
        blocks=len(joins),
        joins_lost=len(unjoined),
        joins_twice=sum(completions[hop] > 1 for hop in joins),
        bodies_twice=sum(times > 1 and is_in_branch(hop) for hop, times in completions.items()),
        seconds=time.monotonic() - begun,
        struck=dict(storm.struck),
    )  # fmt: skip


def _tell(where: Deployment, storm: Storm) -> None:
    """Tell the workers where to record what they do, and where their crash points are."""
    where.variables = {
        "HITS_FILE": str(storm.hits_file), "FAILPOINTS": str(storm.failpoints), "STUMBLES": str(storm.stumbles),
        "CHAIN_QUEUE": where.prefix,
    }  # fmt: skip


def _lost_joins(workflow: Workflow) -> int:
    """Count the blocks of a workflow that did not end that have opened branches, but are not joined."""
    opened, joined = (
        {event.hop_id for event in workflow.events if event.type == kind} for kind in ("branches_opened", "joined")
    )
    return len(opened - joined) if workflow.state != workflow.end else 0


def _leftovers(where: Deployment) -> dict[str, tuple[str, ...]]:
    """Return the contents of the indexes, the owners' sets and what never expires, once nothing changes any more."""
    deadline = time.monotonic() + LEFTOVER_PATIENCE
    indexes = {
        "left_due": "due", "left_parked": "parked", "left_asleep": "asleep", "left_asked": "asked",
        "left_ending": "ending", "left_letters": "kept",
    }  # fmt: skip
    with redis.Redis.from_url(where.url, decode_responses=True) as client:
        while True:
            left = {what: tuple(client.zrange(f"{where.prefix}:{index}", 0, -1)) for what, index in indexes.items()}
            left["left_owned"] = tuple(client.scan_iter(f"{where.prefix}:owner:*", count=1000))
            if not any(left.values()) or time.monotonic() > deadline:
                return {**left, **_unended(client, where.prefix)}
            time.sleep(0.1)


def _unended(client: redis.Redis, prefix: str) -> dict[str, tuple[str, ...]]:
    """Return the hops that have not ended, and the keys of workflows and hops that never expire."""
    keys = [
        key for kind in ("wf", "hops", "events", "stream", "blob", "hop", "journal", "letter")
        for key in client.scan_iter(f"{prefix}:{kind}:*", count=1000)
    ]  # fmt: skip
    hops = [key for key in keys if key.startswith(f"{prefix}:hop:")]
    asking = client.pipeline(transaction=False)
    for key in keys:
        asking.pttl(key)
    for key in hops:
        asking.hget(key, "state")
    answers = asking.execute()
    lasting, states = answers[: len(keys)], answers[len(keys) :]
    return {
        "left_lasting": tuple(key for key, milliseconds in zip(keys, lasting, strict=True) if milliseconds == NEVER),
        "left_open": tuple(
            f"{key} ({state})" for key, state in zip(hops, states, strict=True) if state not in ENDED
        ),
    }  # fmt: skip
