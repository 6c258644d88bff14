"""What the benchmarks of a hop have measured, and how it is printed."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

__all__ = ["Samples", "ratios"]

SHOWN = 0.005  # what is less is shown as 0.00, and a table says nothing of ratios to it


@dataclass
class Samples:
    """Samples by measure and contestant; the samples of one round have the same position."""

    found: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def add(self, measure: str, contestant: str, value: float) -> None:
        """Keep a sample."""
        self.found.setdefault(measure, {}).setdefault(contestant, []).append(value)

    def of(self, measure: str, contestant: str) -> list[float]:
        """Return what was measured of a contestant; nothing if the case did not run."""
        return self.found.get(measure, {}).get(contestant, [])

    def lines(self, own: str, others: Sequence[str]) -> Iterator[str]:
        """Yield the lines of a table; the ratios are those of `own` to each of the others."""
        names = [own, *others]
        yield (
            f"{'':<36}"
            + "".join(f"{name:>14}" for name in names)
            + "".join(f"{f'{own}/{other}':>18}{'(lowest - highest)':>20}" for other in others)
        )
        for measure, found in self.found.items():
            medians = "".join(f"{statistics.median(found[name]):>14.2f}" for name in names)
            compared = "".join(_ratio_text(found[own], found[other]) for other in others)
            yield f"{measure:<36}{medians}{compared}".rstrip()


def ratios(own: Sequence[float], other: Sequence[float]) -> list[float]:
    """Return the ratio of each round; a round in which the other is 0 has none."""
    return [mine / theirs for mine, theirs in zip(own, other, strict=True) if theirs]


def _ratio_text(own: Sequence[float], other: Sequence[float]) -> str:
    found = ratios(own, other) if min(map(abs, other)) >= SHOWN else []
    spread = f"{min(found):.2f} - {max(found):.2f}" if len(found) > 1 else ""
    return (f"{statistics.median(found):>18.2f}" if found else f"{'':>18}") + f"{spread:>20}"
