"""What steps that answer at once cost, one workflow at a time and many at once: the cases `threads` and `prefork`."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import ExitStack

from tests.benchmarks.contestants import prompt_of
from tests.benchmarks.samples import Samples
from tests.benchmarks.stands import LONG, SHORT, Place, Size, Stand, standing, warm_up
from tests.benchmarks.workers import Contestant

__all__ = ["CPU", "RATE", "SLOTS", "WALL", "measure"]

SLOTS = 4
WALL, CPU, LOADED = "wall ms/hop", "worker CPU ms/hop", "worker CPU ms/hop, at load"
SERVER, RATE = "server CPU ms/hop, at load", "hops/s, at load"
MEMORY = "peak memory MB"


def measure(samples: Samples, contestants: Sequence[Contestant], place: Place, size: Size, *, pool: str) -> None:
    """Run interleaved rounds, in which the contestants take turns to begin."""
    with ExitStack() as stack:
        stands = []
        for index, contestant in enumerate(contestants):
            own = place.database(index)
            stand = standing(
                stack, contestant, worker_url=own, client_url=own, pool=pool, slots=SLOTS, folder=place.folder
            )
            stands.append(stand)
            warm_up(stand)
        for round_ in range(size.rounds):
            in_turn = stands[:: -1 if round_ % 2 else 1]
            for stand in in_turn:
                _one_by_one(samples, stand, size.slips)
            for stand in in_turn:
                _at_once(samples, stand, size.load)
        for stand in stands:
            samples.add(MEMORY, stand.name, stand.worker.usage().peak / 1e6)


def _one_by_one(samples: Samples, stand: Stand, workflows: int) -> None:
    before = stand.worker.usage().cpu
    walls = [(ran.ended[-1] - ran.ended[0]) / (LONG - 1) for ran in stand.run(workflows, steps=LONG)]
    samples.add(WALL, stand.name, statistics.median(walls) * 1000)
    samples.add(CPU, stand.name, (stand.worker.usage().cpu - before) / (workflows * LONG) * 1000)


def _at_once(samples: Samples, stand: Stand, workflows: int) -> None:
    prompts, hops = [prompt_of(index) for index in range(SHORT)], workflows * SHORT
    before, server_before = stand.worker.usage().cpu, stand.server_cpu()
    with stand.worker.paused():
        sent = [stand.client.send(prompts) for _ in range(workflows)]
    stamps = [stamp for one in sent for stamp in stand.read(one, prompts).ended]
    stand.wait_until_quiet()
    samples.add(LOADED, stand.name, (stand.worker.usage().cpu - before) / hops * 1000)
    samples.add(SERVER, stand.name, (stand.server_cpu() - server_before) / hops * 1000)
    samples.add(RATE, stand.name, (hops - 1) / (max(stamps) - min(stamps)))
