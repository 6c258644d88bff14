"""What agents cost whose models take their time: the case `in-flight`, ours against a lean slip.

The lean slip is a plain Celery task without store and result backend. It holds prompts and outputs in its argument,
runs its agents on one event loop for the process, and sends the next message itself.

Workers have a thread for each of 500 agents. In each round and for each contestant, with new processes:

1. One worker warms up and is then idle: its CPU over some seconds, and its resident memory.
2. It gets 500 agents that all wait at a gate: its CPU until the last one is there, divided by the agents. Then its CPU
   over the same number of seconds while they only wait, less that of the idle worker, and the growth of its memory,
   divided by the agents. The gate opens, and the outputs are read.
3. A second worker joins it. Both are stopped until 1000 agents of 1 s are sent, and then go on: from there to the last
   answer.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.benchmarks.contestants import prompt_of, waiting_at
from tests.benchmarks.samples import Samples
from tests.benchmarks.stands import Place, Size, Stand, standing, warm_up
from tests.benchmarks.workers import Contestant, Usage, Worker, running_worker

__all__ = ["CORES", "MEMORY", "WALL", "measure"]

WALL = "s for agents of 1 s, two processes"
CORES, IDLE = "cores of waiting agents, less idle", "cores of an idle worker"
BEGIN = "ms of CPU to begin an agent"
MEMORY = "KB per agent in flight"
PROCESSES = 2
START_TIMEOUT = 60.0  # seconds
BEGIN_TIMEOUT = 120.0  # seconds for all agents to begin
MARGIN = 0.5  # seconds from the begin of the last agent to the look: its event is sent a moment later


def measure(samples: Samples, contestants: Sequence[Contestant], place: Place, size: Size) -> None:
    """Run interleaved rounds, in which the contestants take turns to begin."""
    for round_ in range(size.rounds):
        numbered = list(enumerate(contestants))
        for index, contestant in numbered[:: -1 if round_ % 2 else 1]:
            with ExitStack() as stack:
                own = place.database(index)
                stand = standing(
                    stack, contestant, worker_url=own, client_url=own, pool="threads", slots=size.agents,
                    folder=place.folder,
                )  # fmt: skip
                warm_up(stand)
                _only_waiting(samples, stand, size, gate=place.folder / f"gate-{index}-{round_}")
                second = stack.enter_context(
                    running_worker(
                        contestant, broker=own, pool="threads", slots=size.agents, folder=place.folder, number=2
                    )
                )
                _all_at_once(samples, stand, second, size)


def _only_waiting(samples: Samples, stand: Stand, size: Size, gate: Path) -> None:
    idle = stand.worker.usage()
    idle_cores = _cores(stand.worker, size.window)
    before, prompts = stand.worker.usage(), [prompt_of(0, gate=str(gate))]
    sent = [stand.client.send(prompts) for _ in range(size.agents)]
    _wait_for_agents(stand, gate, size.agents)
    begun = stand.worker.usage()
    time.sleep(MARGIN)
    cores, waiting = _cores(stand.worker, size.window), stand.worker.usage()
    gate.touch()
    for one in sent:
        stand.read(one, prompts)
    stand.wait_until_quiet()
    samples.add(BEGIN, stand.name, (begun.cpu - before.cpu) / size.agents * 1000)
    samples.add(CORES, stand.name, cores - idle_cores)
    samples.add(IDLE, stand.name, idle_cores)
    samples.add(MEMORY, stand.name, _growth(idle, waiting) / size.agents / 1000)


def _wait_for_agents(stand: Stand, gate: Path, agents: int) -> None:
    deadline = time.monotonic() + BEGIN_TIMEOUT
    while (here := waiting_at(gate)) < agents:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{stand.name}: only {here} of {agents} agents began within {BEGIN_TIMEOUT:g} s")
        time.sleep(0.05)


def _all_at_once(samples: Samples, stand: Stand, second: Worker, size: Size) -> None:
    prompts = [prompt_of(0, wait=1.0)]
    _wait_for_workers(stand)
    with stand.worker.paused(), second.paused():
        sent = [stand.client.send(prompts) for _ in range(PROCESSES * size.agents)]
    released = time.monotonic()
    samples.add(WALL, stand.name, max(stand.read(one, prompts).ended[0] for one in sent) - released)
    stand.wait_until_quiet()


def _wait_for_workers(stand: Stand) -> None:
    """Wait until both workers wait for messages."""
    deadline = time.monotonic() + START_TIMEOUT
    while _listening(stand) < PROCESSES:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{stand.name}: the second worker did not start")
        time.sleep(0.05)


def _listening(stand: Stand) -> int:
    database = str(stand.database.connection_pool.connection_kwargs["db"])
    clients: Any = stand.database.client_list()
    return sum(one["db"] == database and one["cmd"] == "brpop" and "b" in one["flags"] for one in clients)


def _cores(worker: Worker, seconds: float) -> float:
    before, begun = worker.usage().cpu, time.monotonic()
    time.sleep(seconds)
    return (worker.usage().cpu - before) / (time.monotonic() - begun)


def _growth(before: Usage, after: Usage) -> int:
    return after.resident - before.resident
