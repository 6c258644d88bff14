"""One trial: a server, workers, work and a storm; what came of it is judged by the checker."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import redis
from processes import Deployment, deployment
from servers import redis_server

from chaos.checker import Violation, calls_allowed, violations
from chaos.contestants import LEASE, MAX_ATTEMPTS, Chain, Slip
from chaos.history import History, hits_in, runs_in
from chaos.storm import Plan, Storm

__all__ = ["Report", "try_chain", "try_slip"]

# Each write is on the disk before its reply is sent.
APPEND_ONLY = ("--appendonly", "yes", "--appendfsync", "always")
PATIENCE = 90.0  # seconds after the last fault; a message is overdue after five, then with doubled waits
QUIET_PATIENCE = 20.0  # seconds in which the control may still deliver again
LEFTOVER_PATIENCE = 5.0  # seconds in which owners write down what they have just ended


@dataclass(frozen=True, kw_only=True)
class Report:
    """The figures of a trial. `hit` is how many running steps were hit."""

    contestant: str
    seed: int
    workflows: int
    steps: int
    kills: int
    hit: int | None
    calls: int
    lost: int
    twice: int
    seconds: float
    points: frozenset[str]
    struck: Mapping[str, int]
    violations: tuple[Violation, ...] = ()

    def __str__(self) -> str:
        allowed = "" if self.hit is None else f" ({self.steps} steps, {self.hit} running ones hit)"
        return (
            f"{self.contestant:5} seed {self.seed}: {self.workflows} workflows, {self.kills} kills, lost {self.lost}, "
            f"completed twice {self.twice}, calls {self.calls}{allowed}, {self.seconds:.1f} s"
        )


def try_slip(seed: int, plan: Plan, folder: Path) -> Report:
    """Put our workflows under the storm of a seed."""
    begun = time.monotonic()
    with redis_server(*APPEND_ONLY) as server:
        settings = {"paigeant_lease": LEASE, "paigeant_max_attempts": MAX_ATTEMPTS}
        with deployment(server.url, folder, **settings) as where:
            contestant = Slip(where, steps=plan.steps)
            storm = Storm(contestant, server, plan, seed, folder)
            _tell(where, storm)
            with closing(storm):
                storm.run(patience=PATIENCE)
            due, owned = _leftovers(where)
            history = History(
                workflows=tuple(contestant.outcome(known) for known in storm.correlation_ids),
                runs=runs_in(where.runs_file),
                hits=hits_in(storm.hits_file),
                left_due=due,
                left_owned=owned,
                ended_workers=tuple(storm.unexpected_ends),
            )
    found = tuple(violations(history))
    steps = plan.workflows * plan.steps
    return Report(
        contestant="slip", seed=seed, workflows=plan.workflows, steps=steps,
        kills=sum(hit.kills and hit.kind != "kill rest" for hit in history.hits),
        hit=calls_allowed(history) - steps,
        calls=len(history.runs),
        lost=sum(violation.kind == "lost" for violation in found),
        twice=sum(violation.kind == "completed twice" for violation in found),
        seconds=time.monotonic() - begun,
        points=frozenset(hit.kind for hit in history.hits if hit.kind.startswith(("at ", "soft.", "hard."))),
        struck=dict(storm.struck),
        violations=found,
    )  # fmt: skip


def try_chain(seed: int, plan: Plan, folder: Path) -> Report:
    """Put a plain Celery chain under the same storm."""
    begun = time.monotonic()
    with redis_server(*APPEND_ONLY) as server, deployment(server.url, folder, store=None) as where:
        contestant = Chain(where, steps=plan.steps)
        storm = Storm(contestant, server, plan, seed, folder)
        _tell(where, storm)
        with closing(storm):
            storm.run(patience=QUIET_PATIENCE)
        lost = contestant.unfinished(storm.correlation_ids)
        completions = Counter(contestant.completions())
    hits = hits_in(storm.hits_file)
    return Report(
        contestant="chain", seed=seed, workflows=plan.workflows, steps=plan.workflows * plan.steps,
        kills=sum(hit.kills and hit.kind != "kill rest" for hit in hits),
        hit=None,
        calls=len(runs_in(where.runs_file)),
        lost=len(lost),
        twice=sum(times > 1 for times in completions.values()),
        seconds=time.monotonic() - begun,
        points=frozenset(),
        struck=dict(storm.struck),
    )  # fmt: skip


def _tell(where: Deployment, storm: Storm) -> None:
    """Tell the workers where they note what they do, and where their crash points are."""
    where.variables = {
        "HITS_FILE": str(storm.hits_file), "FAILPOINTS": str(storm.failpoints), "CHAIN_QUEUE": where.prefix,
    }  # fmt: skip


def _leftovers(where: Deployment) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what stands in the due index and which owners' sets there are, when nothing changes any more."""
    deadline = time.monotonic() + LEFTOVER_PATIENCE
    with redis.Redis.from_url(where.url, decode_responses=True) as client:
        while True:
            due = tuple(client.zrange(f"{where.prefix}:due", 0, -1))
            owned = tuple(client.scan_iter(f"{where.prefix}:owner:*", count=1000))
            if not (due or owned) or time.monotonic() > deadline:
                return due, owned
            time.sleep(0.1)
