"""The blocks that workflows have in the storm: eight branches each, of the same bodies, joined in several ways."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

__all__ = ["BODIES", "BRANCHES", "FANS", "WINDOW", "Fan", "seconds_of"]

BRANCHES = 8
WINDOW = 3  # of them go on at the same time
TWO_STEPS = 1  # the branch that has a second step
BODIES = {"dig": "dug", "plant": "planted", "water": "watered"}  # of `toil`, with their outputs
QUICK, SLOW = 0.25, 2.0  # of the time that a step on the workflow's own slip takes


@dataclass(frozen=True, kw_only=True)
class Fan:
    """A block: how it is joined, and by their numbers which of its branches do otherwise than work.

    `needed` is how many must succeed, if not all. A branch that is `doomed` always fails, and the first that does fails
    the workflow unless the block `collects`. One that `parks` has a single attempt, and fails in it.
    """

    needed: int | None = None
    collects: bool = False
    doomed: tuple[int, ...] = ()
    slow: tuple[int, ...] = ()
    parks: tuple[int, ...] = ()
    waits: Mapping[int, str] = field(default_factory=dict)  # number -> way of `heed`
    nested: Mapping[int, Fan] = field(default_factory=dict)

    @property
    def misses(self) -> bool:
        """Whether its join must be missed."""
        return bool(self.doomed) and self.needed is None and not self.collects

    @property
    def with_parks(self) -> bool:
        """Whether a branch of it, or of a block in it, parks."""
        return bool(self.parks) or any(fan.with_parks for fan in self.nested.values())

    def bodies(self, hop: str) -> Iterator[tuple[str, str, int]]:
        """Yield the hop, the body and the number of the branch of each step of the branches of a hop."""
        names = tuple(BODIES)
        for number in range(BRANCHES):
            if number in self.nested or number in self.waits:
                continue
            for step in range(1 + (number == TWO_STEPS)):
                yield f"{hop}-{number}.{step}", names[(number + step) % len(names)], number

    def fans(self, hop: str) -> Iterator[tuple[str, Fan]]:
        """Yield it, and the blocks in its branches, with their hops."""
        yield hop, self
        for number, inner in self.nested.items():
            yield from inner.fans(f"{hop}-{number}.0")


FANS: Mapping[str, Fan] = {
    "all": Fan(),
    "some": Fan(needed=5, doomed=(2,), slow=(0, 6)),  # slow ones lose
    "collected": Fan(collects=True, doomed=(1, 7)),
    "missed": Fan(doomed=(4,), slow=(3,)),
    "nested": Fan(nested={3: Fan(needed=4, doomed=(0,))}),
    "lost blocks": Fan(needed=3, nested={0: Fan(slow=tuple(range(BRANCHES))), 5: Fan()}),
    "parked": Fan(parks=(0, 4)),
    "waited": Fan(waits={2: "asked", 5: "slept", 6: "contested"}),
}


def seconds_of(fan: Fan, number: int, seconds: float) -> float:
    """Return how long the steps of a branch take in a workflow whose own take so long."""
    return round(seconds * (SLOW if number in fan.slow else QUICK), 3)
