"""What a hop may cost: the figures that `hop.py` prints with their targets."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tests.benchmarks import growth, in_flight, round_trips, steady
from tests.benchmarks.samples import Samples, ratios
from tests.benchmarks.stands import CHAIN, LEAN, SLIP

__all__ = ["ROWS", "Row", "missed", "target_lines"]

WIDTH = 62


@dataclass(frozen=True, kw_only=True)
class Row:
    """A figure of ours: a measure over that of another contestant or over another measure, or without one."""

    title: str
    case: str
    measure: str
    reach: float
    stretch: float | None = None
    to: str | None = None  # contestant to which the ratio is taken
    over: str | None = None  # measure of the same contestant to which the ratio is taken
    at_least: bool = False  # more is better

    def values(self, samples: Mapping[str, Samples], contestant: str) -> list[float]:
        """Return the figure of each round; nothing if the case did not run."""
        found = samples.get(self.case, Samples())
        own = found.of(self.measure, contestant)
        if self.to is not None:
            return ratios(own, found.of(self.measure, self.to))
        return own if self.over is None else ratios(own, found.of(self.over, contestant))

    def reached(self, value: float, target: float) -> bool:
        """Say if a value is as good as a target."""
        return value >= target if self.at_least else value <= target


ROWS = (
    Row(
        title="worker CPU per hop / chain, threads",
        case="threads",
        measure=steady.CPU,
        to=CHAIN.name,
        reach=1.2,
        stretch=1.0,
    ),
    Row(
        title="worker CPU per hop / chain, prefork",
        case="prefork",
        measure=steady.CPU,
        to=CHAIN.name,
        reach=1.2,
        stretch=1.0,
    ),
    Row(
        title="hops per second / chain, threads (more is better)",
        case="threads",
        measure=steady.RATE,
        to=CHAIN.name,
        reach=0.85,
        stretch=0.95,
        at_least=True,
    ),
    Row(
        title="steady latency per hop / chain, threads",
        case="threads",
        measure=steady.WALL,
        to=CHAIN.name,
        reach=1.25,
        stretch=1.1,
    ),
    Row(
        title="turns of a hop, one model call, events apart / chain",
        case="turns",
        measure=round_trips.TRIPS,
        to=CHAIN.name,
        reach=1.05,
        stretch=0.9,
    ),
    Row(
        title="bytes of a late hop / of an early one, outputs of 2 KB",
        case="growth",
        measure=growth.LATE,
        over=growth.EARLY,
        reach=1.05,
    ),
    Row(
        title="bytes in all / bytes of the outputs, outputs of 2 KB",
        case="growth",
        measure=growth.BYTES,
        over=growth.OUTPUTS,
        reach=15,
        stretch=10,
    ),
    Row(
        title="CPU per hop, long workflow / workflows of 5 steps",
        case="growth",
        measure=growth.LONG_CPU,
        over=growth.SHORT_CPU,
        reach=1.2,
        stretch=1.05,
    ),
    Row(
        title="agents of 1 s on two processes / lean slip, time",
        case="in-flight",
        measure=in_flight.WALL,
        to=LEAN.name,
        reach=1.5,
        stretch=1.2,
    ),
    Row(
        title="CPU of agents that only wait, less an idle worker's, cores",
        case="in-flight",
        measure=in_flight.CORES,
        reach=0.02,
    ),
    Row(
        title="memory per agent in flight, threads / lean slip",
        case="in-flight",
        measure=in_flight.MEMORY,
        to=LEAN.name,
        reach=1.3,
        stretch=1.0,
    ),
)


def target_lines(samples: Mapping[str, Samples], own: Sequence[str]) -> Iterator[str]:
    """Yield a line for each figure, with the medians of ours, and of ours as it was, if it takes part."""
    yield (
        f"{'':<{WIDTH}}{'reach':>8}{'stretch':>9}"
        + "".join(f"{name:>14}" for name in own)
        + f"{'(lowest - highest)':>20}"
    )
    for row in ROWS:
        found = [row.values(samples, name) for name in own]
        if not found[0]:
            continue
        stretch = "" if row.stretch is None else f"{row.stretch:g}"
        medians = "".join(f"{statistics.median(values):>14.2f}" if values else f"{'':>14}" for values in found)
        spread = f"{min(found[0]):.2f} - {max(found[0]):.2f}"
        verdict = _verdict(row, statistics.median(found[0]))
        yield f"{row.title:<{WIDTH}}{row.reach:>8g}{stretch:>9}{medians}{spread:>20}  {verdict}"


def missed(samples: Mapping[str, Samples]) -> list[str]:
    """Return the titles of the figures that miss what must be reached."""
    found = [(row, row.values(samples, SLIP.name)) for row in ROWS]
    return [row.title for row, values in found if values and not row.reached(statistics.median(values), row.reach)]


def _verdict(row: Row, value: float) -> str:
    if not row.reached(value, row.reach):
        return "missed"
    return "stretch" if row.stretch is not None and row.reached(value, row.stretch) else "reached"
