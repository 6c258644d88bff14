"""One trial: a server, workers, work and a storm; the checker judges the outcome."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import redis

from tests.proof.chaos.checker import Violation, excuses, violations
from tests.proof.chaos.contestants import Chain, Slip, settings_of
from tests.proof.chaos.history import History, asked_in, heard_in, hits_in, runs_in
from tests.proof.chaos.storm import Plan, Storm
from tests.support.processes import Deployment, deployment
from tests.support.servers import redis_server

__all__ = ["Report", "try_chain", "try_slip"]

# Each write is on disk before its reply is sent.
APPEND_ONLY = ("--appendonly", "yes", "--appendfsync", "always")
PATIENCE = 90.0  # seconds after the last fault; a message is overdue after five, then with doubled waits
CHAIN_PATIENCE = 30.0  # seconds in which the control may still redeliver
LEFTOVER_PATIENCE = 5.0  # seconds in which owners record what they have just ended


@dataclass(frozen=True, kw_only=True)
class Report:
    """The figures of a trial.

    `apart` is how many of the calls were made in separate pid namespaces; `excused` is how many calls beyond one per
    step are explained, and by what.
    """

    contestant: str
    seed: int
    workflows: int
    steps: int
    kills: int
    calls: int
    lost: int
    twice: int
    seconds: float
    apart: int
    excused: Mapping[str, int] | None = None
    waits: int = 0
    points: frozenset[str] = frozenset()
    struck: Mapping[str, int]
    violations: tuple[Violation, ...] = ()

    def __str__(self) -> str:
        explained = ""
        if self.excused is not None:
            whys = ("hit", "raised", "given back", "suspended")
            hit, raised, given_back, suspended = (self.excused.get(why, 0) for why in whys)
            explained = (
                f" and {hit} running ones hit, {raised} that failed in passing, {given_back} given back, {suspended} "
                f"suspended at {self.waits} waits"
            )
        return (
            f"{self.contestant:5} seed {self.seed}: {self.workflows} workflows, {self.kills} kills, lost {self.lost}, "
            f"completed twice {self.twice}, {self.calls} calls for {self.steps} steps{explained}; {self.apart} calls "
            f"in a pid namespace of their own, {self.seconds:.1f} s"
        )


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
        steps=sum(len(workflow.hops) for workflow in history.workflows),
        kills=sum(hit.kills for hit in history.hits),
        calls=len(history.runs),
        apart=sum(run.process in storm.apart for run in history.runs),
        lost=sum(violation.kind == "lost" for violation in found),
        twice=sum(violation.kind == "completed twice" for violation in found),
        seconds=time.monotonic() - begun,
        excused=excuses(history),
        waits=sum(len(workflow.waits) for workflow in history.workflows),
        points=frozenset(hit.kind for hit in history.hits if hit.kind.startswith(("at ", "soft.", "hard."))),
        struck=dict(storm.struck),
        violations=found,
    )  # fmt: skip


def try_chain(seed: int, plan: Plan, folder: Path) -> Report:
    """Put a plain Celery chain under the same storm."""
    begun = time.monotonic()
    with redis_server(*APPEND_ONLY) as server, deployment(server.url, folder, store=None) as where:
        contestant = Chain(where)
        storm = Storm(contestant, server, plan, seed, folder)
        _tell(where, storm)
        with closing(storm):
            storm.run(patience=CHAIN_PATIENCE)
        lost = contestant.unfinished(storm.works)
        completions = Counter(contestant.completions())
        runs = runs_in(where.runs_file)
    return Report(
        contestant="chain", seed=seed, workflows=plan.workflows,
        steps=sum(work.steps if work.doomed_at is None else work.doomed_at + 1 for work in storm.works),
        kills=sum(hit.kills for hit in hits_in(storm.hits_file)),
        calls=len(runs),
        apart=sum(run.process in storm.apart for run in runs),
        lost=len(lost),
        twice=sum(times > 1 for times in completions.values()),
        seconds=time.monotonic() - begun,
        struck=dict(storm.struck),
    )  # fmt: skip


def _tell(where: Deployment, storm: Storm) -> None:
    """Tell the workers where to record what they do, and where their crash points are."""
    where.variables = {
        "HITS_FILE": str(storm.hits_file), "FAILPOINTS": str(storm.failpoints), "STUMBLES": str(storm.stumbles),
        "CHAIN_QUEUE": where.prefix,
    }  # fmt: skip


def _leftovers(where: Deployment) -> dict[str, tuple[str, ...]]:
    """Return the contents of the indexes and the owners' sets, once nothing changes any more."""
    deadline = time.monotonic() + LEFTOVER_PATIENCE
    with redis.Redis.from_url(where.url, decode_responses=True) as client:
        while True:
            left = {
                "left_due": tuple(client.zrange(f"{where.prefix}:due", 0, -1)),
                "left_owned": tuple(client.scan_iter(f"{where.prefix}:owner:*", count=1000)),
                "left_parked": tuple(client.zrange(f"{where.prefix}:parked", 0, -1)),
                "left_asleep": tuple(client.zrange(f"{where.prefix}:asleep", 0, -1)),
                "left_asked": tuple(client.zrange(f"{where.prefix}:asked", 0, -1)),
            }
            if not any(left.values()) or time.monotonic() > deadline:
                return left
            time.sleep(0.1)
