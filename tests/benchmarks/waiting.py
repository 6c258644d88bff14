"""What it costs to wait without a worker: how soon a hop goes on, what suspended hops cost, how long scripts take.

    python tests/benchmarks/waiting.py [--rounds N] [--hops N] [--quick]

One run on one server, with workers of threads:

- latency: from the call of `resolve()` or `approve()` in another process to the moment at which the next model is
  called on the worker, over the time from one model's answer to the next in a workflow of 20 steps that wait for
  nothing. Each round runs such a workflow and then, one after the other, steps that are suspended and answered:
  functions before whose wait no agent ran, one of four calls, or four of one, and an agent that had made four calls
  and waits for the approval of a tool, which then runs and is recorded. Before the model is called, the calls that were
  made are replayed. The ratio is the median of those of the rounds. Beside them stands a hop that makes the same calls
  as that agent, and waits for nothing.
- commands: how many commands a script runs on the server when a hop has as many waits as it may have, or as many hops
  wake as in one pass, by `INFO commandstats`.
- idle: the CPU of a worker that has nothing to do while its store has so many suspended hops, less that of one beside
  it whose store has none, in the same seconds. And what its server uses more.

The exit code is 1 if a step was lost or gave another output than it must. It never depends on times.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import redis

if not __package__:  # when run by its path: the helpers are found, and the installed package goes first
    sys.path.append(str(Path(__file__).parents[2]))

from paigeant_celery import ActivitySpec, FunctionSpec, Inbox, WorkflowDispatcher, WorkflowHandle
from paigeant_celery.core.flow import Failure
from paigeant_celery.store.limits import LIMITS
from paigeant_celery.store.port import (
    Claim,
    Claimed,
    Closing,
    Completion,
    HopRecord,
    NewWait,
    NewWorkflow,
    Standing,
    Sweep,
)
from paigeant_celery.store.redis import RedisStore
from tests.benchmarks.samples import Samples, ratios
from tests.support.processes import START_WITHIN, Deployment, Process, deployment, eventually
from tests.support.servers import NoServer, redis_server

STEPS = 20
SLOTS = 4
TIMEOUT = 60.0  # seconds for one workflow
LIMIT = 1800  # seconds for everything
LATENCY, CALL = "ms to the next call of a model", "ms of the call that answers"
STEADY, BUSY = "a hop that does not wait", "a hop of all these calls, without a wait"
RESOLVED, AFTER_RUN = "resolve(), no call replayed", "resolve(), a run of four replayed"
AFTER_RUNS, APPROVED = "resolve(), four runs of one replayed", "approve(), four replayed"
REACH, IDLE_REACH, COMMANDS_REACH = 1.5, 0.01, 1000
OWNER = "bench"
FAR = 1e6  # seconds
OUTSIDE = {"cmdstat_evalsha", "cmdstat_info", "cmdstat_config|resetstat"}  # what calls scripts, and looks
SETTLING = 3.0  # seconds until a worker that has started is idle


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is done."""

    rounds: int = 20
    answers: int = 5  # of each kind in a round
    hops: int = 10_000  # suspended, beside an idle worker
    windows: int = 6
    window: float = 10.0  # seconds


@dataclass(frozen=True, kw_only=True)
class Script:
    """What one call of a script costs the server."""

    commands: int
    milliseconds: float


QUICK = Size(rounds=1, answers=1, hops=200, windows=1, window=1.0)


class Bench:
    """A worker, and a client in this process."""

    def __init__(self, where: Deployment) -> None:
        self._transport, self._dispatcher = where.transport(), WorkflowDispatcher()
        self._inbox = Inbox(self._transport)

    def steady(self, agent: str) -> float:
        """Return the ms from the last call of a step's model to that of the next, if the steps do not wait."""
        handle = self._sent([ActivitySpec(agent, "go") for _ in range(STEPS)])
        times = [float(str(step.output)) for step in handle.result_sync(TIMEOUT).steps]
        if len(times) != STEPS or times != sorted(times):
            raise WrongOutput(f"steps gave {times}")
        return (times[-1] - times[0]) / (STEPS - 1) * 1000

    def answered(self, step: ActivitySpec | FunctionSpec) -> tuple[float, float]:
        """Return the ms from an answer to the next call of a model, and those of the call that answers."""
        handle = self._sent([step])
        eventually(lambda: handle.status_sync().state == "suspended", within=TIMEOUT)
        (wait,) = handle.pending_sync()
        begun = time.monotonic()
        if isinstance(step, FunctionSpec):
            told = self._inbox.resolve_sync(wait.token, "yes", by="bench")
        else:
            told = self._inbox.approve_sync(wait.token, by="bench")
        ended = time.monotonic()
        called = float(str(handle.result_sync(TIMEOUT).output))
        if told.outcome != "settled" or called < begun:
            raise WrongOutput(f"the answer was {told.outcome}, and the model was called {called - begun} s after it")
        return (called - begun) * 1000, (ended - begun) * 1000

    def _sent(self, itinerary: Sequence[ActivitySpec | FunctionSpec]) -> WorkflowHandle:
        sent = self._dispatcher.dispatch_workflow_sync(self._transport, itinerary=itinerary)
        return self._dispatcher.handle(sent, self._transport)


class WrongOutput(Exception):
    """Something is not what it must be."""


AGENTS = {STEADY: "clerk", BUSY: "spender"}
KINDS: Mapping[str, ActivitySpec | FunctionSpec] = {
    RESOLVED: FunctionSpec("petition", {"scouts": 0, "scribes": 0}),
    AFTER_RUN: FunctionSpec("petition", {"scouts": 1, "scribes": 0}),
    AFTER_RUNS: FunctionSpec("petition", {"scouts": 0, "scribes": 4}),
    APPROVED: ActivitySpec("cashier", "pay"),
}


def measure_latency(where: Deployment, size: Size) -> Samples:
    """Run interleaved rounds."""
    samples, bench = Samples(), Bench(where)
    for agent in AGENTS.values():
        bench.steady(agent)
    for step in KINDS.values():
        bench.answered(step)
    for _ in range(size.rounds):
        for name, agent in AGENTS.items():
            samples.add(LATENCY, name, bench.steady(agent))
        found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
        for _ in range(size.answers):
            for kind, step in KINDS.items():
                found[kind].append(bench.answered(step))
        for kind, pairs in found.items():
            samples.add(LATENCY, kind, statistics.median(total for total, _ in pairs))
            samples.add(CALL, kind, statistics.median(call for _, call in pairs))
    return samples


def measure_idle(folder: Path, size: Size) -> Iterator[tuple[float, float]]:
    """Yield, for each window, the cores that suspended hops cost a worker, and those that they cost a server."""
    with ExitStack() as stack:
        sides = []
        for name, hops in (("none", 0), ("many", size.hops)):
            server = stack.enter_context(redis_server())
            where = stack.enter_context(deployment(server.url, folder / name))
            suspend_many(store_of(where), hops)
            worker = where.start_worker("petitions", pool="threads", slots=SLOTS, name=name, cold=True)
            sides.append((worker, stack.enter_context(redis.Redis.from_url(server.url)), where, hops))
        for worker, *_ in sides:
            worker.wait_for_log(" ready.", within=START_WITHIN)
        time.sleep(min(SETTLING, size.window))
        for _ in range(size.windows):
            before = [(cpu_of(worker), server_cpu(client)) for worker, client, *_ in sides]
            time.sleep(size.window)
            used = [
                ((cpu_of(worker) - ours) / size.window, (server_cpu(client) - theirs) / size.window)
                for (worker, client, *_), (ours, theirs) in zip(sides, before, strict=True)
            ]
            yield used[1][0] - used[0][0], used[1][1] - used[0][1]
        for _, _, where, hops in sides:
            if (asleep := store_of(where).open_hops().asleep) != hops:
                raise WrongOutput(f"{asleep} hops are suspended, and not {hops}")


def suspend_many(store: RedisStore, hops: int) -> None:
    """Let so many hops wait for an answer that does not come."""
    for number in range(hops):
        suspended(store, f"many-{number}", waits=1)


def claimed(store: RedisStore, workflow: str, *, again: bool = False) -> Closing:
    """Record a workflow, unless that is done, and claim its hop."""
    hop_id = f"{workflow}.0"
    if not again:
        hop = HopRecord(hop_id=hop_id, queue="q", envelope="{}", digest="d")
        store.start(NewWorkflow(correlation_id=workflow, content="c", hop=hop))
    answer = store.claim(Claim(hop_id=hop_id, owner=OWNER, token=os.urandom(8).hex(), max_attempts=9, digest="d"))
    if not isinstance(answer, Claimed):
        raise WrongOutput(f"{hop_id} was not claimed: {answer}")
    return Closing(hop_id=hop_id, owner=OWNER, fence=answer.fence)


def asked(store: RedisStore, closing: Closing, *, waits: int, parts: int = 1, timeout: float = FAR) -> list[str]:
    """Record so many waits of a hop, and return their tokens."""
    tokens = []
    for number in range(waits):
        new = NewWait(
            wait_id=f"wait-{number}", token=f"{closing.hop_id}~{number}", kind="token", name="word", timeout=timeout,
            parts=tuple(f"call-{part}" for part in range(parts)) if parts > 1 else ("",),
        )  # fmt: skip
        wait = store.wait(closing, new)
        assert wait is not None
        tokens.append(wait.token)
    return tokens


def suspended(store: RedisStore, workflow: str, *, waits: int, parts: int = 1, timeout: float = FAR) -> list[str]:
    """Let a hop wait, and return the tokens of its waits."""
    closing = claimed(store, workflow)
    tokens = asked(store, closing, waits=waits, parts=parts, timeout=timeout)
    store.suspend(closing, Standing(tokens=tokens))
    return tokens


def count_commands(where: Deployment, client: redis.Redis) -> Iterator[tuple[str, Script]]:
    """Yield what a script is asked for at most, and what it then costs the server."""
    store, most, pass_ = store_of(where), LIMITS.max_waits, LIMITS.woken_at_once

    def count(call: Callable[[], object]) -> Script:
        client.config_resetstat()
        call()
        stats: Any = client.info("commandstats")
        calls = sum(found["calls"] for name, found in stats.items() if name not in OUTSIDE)
        return Script(commands=calls, milliseconds=stats["cmdstat_evalsha"]["usec"] / 1000)

    def sweep() -> Sweep:
        return store.sweep(host="bench", queues={"q": False})  # whoever has looked at a queue makes a pass at once

    sweep()  # loads the script
    one = claimed(store, "one")
    yield "WAIT", count(lambda: asked(store, one, waits=1))
    closing = claimed(store, "wide")
    tokens = asked(store, closing, waits=most)
    yield f"SUSPEND at {most} waits", count(lambda: store.suspend(closing, Standing(tokens=tokens)))
    yield "RESOLVE", count(lambda: store.resolve(tokens[0], {"": '{"payload": 1}'}, by="ann", call="1"))
    of_parts = suspended(store, "parts", waits=1, parts=most)
    answers = {f"call-{part}": "1" for part in range(most)}
    yield f"RESOLVE of {most} calls", count(lambda: store.resolve(of_parts[0], answers, by="ann", call="1"))
    yield f"CLAIM with {most} waits", count(lambda: claimed(store, "wide", again=True))
    suspended(store, "cancelled", waits=most)
    yield f"CANCEL at {most} waits", count(lambda: store.cancel("cancelled"))
    done = claimed(store, "done")
    asked(store, done, waits=most)
    last = Completion(closing=done, envelope="{}", next_hop=None, step="s")
    yield f"COMPLETE with {most} open waits", count(lambda: store.complete(last))
    for number in range(pass_):
        suspended(store, f"late-{number}", waits=1, timeout=0.001)
    time.sleep(0.01)
    yield f"SWEEP that wakes {pass_} hops of one wait", count(sweep)
    for number in range(most):
        suspended(store, f"later-{number}", waits=1, timeout=0.001)
        closing = claimed(store, f"retry-{number}")
        store.retry_at(closing, Failure(step_id="s", error_class="E", text=""), delay=0.0)
    time.sleep(0.01)
    yield f"SWEEP that meets {most} such hops and {most} retries", count(sweep)
    while sweep().full:
        pass
    for number in range(10):
        suspended(store, f"worst-{number}", waits=most, timeout=2.0)
    time.sleep(2.1)
    yield f"SWEEP that meets 10 hops of {most} waits", count(sweep)
    while sweep().full:
        pass
    for number in range(pass_):
        suspended(store, f"gone-{number}", waits=1)
        client.delete(*client.keys(f"{where.prefix}:*gone-{number}*"))
    client.zadd(f"{where.prefix}:asleep", {f"gone-{number}.0": 1 for number in range(pass_)})
    yield f"SWEEP that meets {pass_} hops that expired", count(sweep)
    yield "READ of a page of open waits", count(lambda: store.asked(after=None, limit=100))


def store_of(where: Deployment) -> RedisStore:
    """Return the store of a deployment."""
    store = where.transport().store
    assert isinstance(store, RedisStore)
    return store


def cpu_of(worker: Process) -> float:
    """Return the seconds of CPU of a worker and its children."""
    processes = [psutil.Process(worker.pid), *psutil.Process(worker.pid).children(recursive=True)]
    return float(sum(sum(process.cpu_times()[:2]) for process in processes))


def server_cpu(client: redis.Redis) -> float:
    """Return the seconds of CPU that a server has used."""
    found: Any = client.info("cpu")
    return float(found["used_cpu_user"]) + float(found["used_cpu_sys"])


def main() -> int:
    """Measure, and print the tables; 1 if something was lost or wrong, 2 without a server."""
    size = _size()
    for ending in (signal.SIGALRM, signal.SIGTERM):
        signal.signal(ending, _give_up)
    signal.alarm(LIMIT)
    packages = ("paigeant_celery", "celery", "kombu", "redis", "pydantic-ai-slim")
    print(f"Python {platform.python_version()}, " + ", ".join(f"{package} {version(package)}" for package in packages))
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            with redis_server() as server, deployment(server.url, folder / "latency") as where:
                where.start_worker("petitions", pool="threads", slots=SLOTS, cold=True).wait_for_log(
                    " ready.", within=START_WITHIN
                )
                print("\n".join(latency_lines(measure_latency(where, size))), flush=True)
            with (
                redis_server() as server,
                deployment(server.url, folder / "commands") as where,
                redis.Redis.from_url(server.url) as client,
            ):
                print("\n".join(command_lines(dict(count_commands(where, client)))), flush=True)
            print("\n".join(idle_lines(list(measure_idle(folder, size)), size)), flush=True)
    except NoServer as error:
        print(error, file=sys.stderr)
        return 2
    except WrongOutput as error:
        print(f"wrong: {error}", file=sys.stderr)
        return 1
    return 0


def latency_lines(samples: Samples) -> Iterator[str]:
    """Yield the table of latencies, with the ratios to a hop that does not wait."""
    steady = samples.of(LATENCY, STEADY)
    yield f"\n{'':<42}{'ms':>8}{'of it the call':>16}{'/ steady':>10}{'(lowest - highest)':>20}{'reach':>8}"
    for name in AGENTS:
        yield f"{name:<42}{statistics.median(samples.of(LATENCY, name)):>8.2f}"
    for kind in KINDS:
        found, call = samples.of(LATENCY, kind), statistics.median(samples.of(CALL, kind))
        of_steady = ratios(found, steady)
        ratio, spread = statistics.median(of_steady), f"{min(of_steady):.2f} - {max(of_steady):.2f}"
        yield (
            f"{kind:<42}{statistics.median(found):>8.2f}{call:>16.2f}{ratio:>10.2f}{spread:>20}{REACH:>8g}  "
            f"{_verdict(ratio, REACH)}"
        )


def command_lines(scripts: Mapping[str, Script]) -> Iterator[str]:
    """Yield the table of commands."""
    yield f"\n{'':<50}{'ms':>8}{'commands':>10}{'reach':>8}"
    for name, found in scripts.items():
        verdict = _verdict(found.commands, COMMANDS_REACH)
        yield f"{name:<50}{found.milliseconds:>8.2f}{found.commands:>10}{COMMANDS_REACH:>8}  {verdict}"


def idle_lines(windows: Sequence[tuple[float, float]], size: Size) -> Iterator[str]:
    """Yield what suspended hops cost."""
    worker = statistics.median(ours for ours, _ in windows)
    yield f"\n{f'{size.hops} suspended hops, cores':<44}{'median':>10}{'(lowest - highest)':>22}{'reach':>8}"
    for name, values in (
        ("of an idle worker", [ours for ours, _ in windows]),
        ("of its server", [it for _, it in windows]),
    ):
        spread = f"{min(values):.4f} - {max(values):.4f}"
        reach = f"{IDLE_REACH:>8g}  {_verdict(worker, IDLE_REACH)}" if name == "of an idle worker" else ""
        yield f"{name:<44}{statistics.median(values):>10.4f}{spread:>22}{reach}"


def _verdict(value: float, reach: float) -> str:
    return "reached" if value <= reach else "missed"


def _size() -> Size:
    parser = argparse.ArgumentParser(description="What it costs to wait without a worker.")
    parser.add_argument("--rounds", type=int, help="of latencies (default 20, quick 1)")
    parser.add_argument("--hops", type=int, help="that are suspended (default 10000, quick 200)")
    parser.add_argument("--quick", action="store_true", help="very little of all, for a look")
    arguments = parser.parse_args()
    size = QUICK if arguments.quick else Size()
    return Size(
        rounds=arguments.rounds or size.rounds, answers=size.answers, hops=arguments.hops or size.hops,
        windows=size.windows, window=size.window,
    )  # fmt: skip


def _give_up(number: int, _frame: object) -> None:
    """End on a signal as on any error, so that workers and servers also end."""
    for ending in (signal.SIGALRM, signal.SIGTERM):
        signal.signal(ending, signal.SIG_IGN)
    sys.exit(f"ended by {signal.Signals(number).name}")


if __name__ == "__main__":
    sys.exit(main())
