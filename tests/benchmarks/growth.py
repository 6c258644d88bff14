"""What a hop costs late in a long workflow whose outputs add up: the case `growth`.

Workers have one slot and reach Redis through a counting proxy; one workflow runs at a time, so hops do not overlap. A
hop's bytes are those of both directions from the reply that brings its message to the reply that brings the next one,
events for observers included; what the client sends and reads is not in them.

With 200 steps, an early hop ("hop 10") is the mean of hops 5 to 24, and a late one ("hop 190") of hops 180 to 199; with
fewer steps, the same parts of them. All bytes are those of the 200 hops, and the bytes of the outputs are what the
models said in them. CPU per hop is the worker's, in a workflow of 200 steps and in workflows of 5 steps with outputs of
the same size, in the same round.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import ExitStack

from tests.benchmarks.proxy import CountingProxy
from tests.benchmarks.samples import Samples
from tests.benchmarks.stands import SHORT, Place, Size, Stand, WrongOutput, proxied
from tests.benchmarks.workers import Contestant

__all__ = ["BYTES", "EARLY", "LATE", "LONG_CPU", "OUTPUTS", "SHORT_CPU", "measure", "split"]

EARLY, LATE = "KB of an early hop", "KB of a late hop"
BYTES, OUTPUTS = "KB of all hops", "KB of all outputs"
LONG_CPU, SHORT_CPU = "worker CPU ms/hop, long workflow", "worker CPU ms/hop, 5 steps"
WALL = "s from first to last output"


def measure(samples: Samples, contestants: Sequence[Contestant], place: Place, size: Size) -> None:
    """Run interleaved rounds, in which the contestants take turns to begin."""
    with ExitStack() as stack:
        stands = [proxied(stack, one, place, index, slots=1) for index, one in enumerate(contestants)]
        for round_ in range(size.rounds):
            for stand, proxy in stands[:: -1 if round_ % 2 else 1]:
                _one_round(samples, stand, proxy, size)


def split(parts: Sequence[int]) -> tuple[float, float]:
    """Return the mean of the early hops and that of the late ones."""
    tenth, skipped = max(len(parts) // 10, 1), len(parts) // 40
    return statistics.mean(parts[skipped : skipped + tenth]), statistics.mean(parts[-tenth:])


def _one_round(samples: Samples, stand: Stand, proxy: CountingProxy, size: Size) -> None:
    before = stand.worker.usage().cpu
    stand.run(size.short, steps=SHORT, output=size.output)
    between, messages = stand.worker.usage().cpu, len(proxy.parts())
    (ran,) = stand.run(1, steps=size.steps, output=size.output)
    after, parts = stand.worker.usage().cpu, proxy.parts()[messages:]
    if len(parts) != size.steps:
        raise WrongOutput(f"{stand.name}: {len(parts)} messages for {size.steps} steps")
    early, late = split(parts)
    for measure_, value in (
        (EARLY, early / 1000),
        (LATE, late / 1000),
        (BYTES, sum(parts) / 1000),
        (OUTPUTS, ran.size / 1000),
        (SHORT_CPU, (between - before) / (size.short * SHORT) * 1000),
        (LONG_CPU, (after - between) / size.steps * 1000),
        (WALL, ran.ended[-1] - ran.ended[0]),
    ):
        samples.add(measure_, stand.name, value)
