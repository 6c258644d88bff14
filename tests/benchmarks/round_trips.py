"""What the request/reply turns of a hop are for: the case `turns`.

Workers reach Redis through a counting proxy. A turn is a burst of requests followed by a reply, so a pipeline is one
turn; the blocking pop that brings a message is also one. Not counted: pops that bring nothing, handshakes, and what
Celery publishes for observers (task events, heartbeats), which have their own line.
"""

from __future__ import annotations

import hashlib
import runpy
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

from tests.benchmarks.proxy import Turns
from tests.benchmarks.samples import Samples
from tests.benchmarks.stands import LONG, Place, Size, proxied
from tests.benchmarks.steady import SLOTS
from tests.benchmarks.workers import Contestant

__all__ = ["TRIPS", "measure", "turn_lines"]

TRIPS, EVENTS = "round trips/hop", "  events for observers/hop"

# What the turns of a hop are for.
PURPOSES = {
    "BRPOP": "receive the message",
    "MULTI+ZADD+HSET+EXEC": "note it as unacknowledged",
    "EVALSHA claim": "claim the hop",
    "EVALSHA complete": "record output and next hop",
    "EVALSHA record": "record an answer",
    "EVALSHA renew": "renew the lease",
    "EVALSHA touch": "say that the worker is alive",
    "EVALSHA sweep": "look for overdue hops",
    "GET": "look for an earlier result",
    "MULTI+SETEX+PUBLISH+EXEC": "store the result",
    "LPUSH": "publish the next message",
    "MULTI+ZREM+HDEL+EXEC": "acknowledge",
}


def measure(samples: Samples, contestants: Sequence[Contestant], place: Place, size: Size) -> dict[str, Turns]:
    """Count the turns of long workflows, and return them by contestant."""
    turns = dict[str, Turns]()
    with ExitStack() as stack:
        stands = [proxied(stack, one, place, index, slots=SLOTS) for index, one in enumerate(contestants)]
        for stand, proxy in stands:
            before = proxy.turns()
            stand.run(size.counted, steps=LONG)
            found, hops = proxy.turns() - before, size.counted * LONG
            turns[stand.name] = found
            samples.add(TRIPS, stand.name, _count(found, "hop") / hops)
            samples.add(EVENTS, stand.name, _count(found, "event") / hops)
    return turns


def turn_lines(turns: Mapping[str, Turns], contestants: Sequence[Contestant], counted: int) -> Iterator[str]:
    """Yield a line for each kind of turn, with its number in a hop of each contestant."""
    scripts, hops = _script_names(contestants), counted * LONG
    counters = {contestant.name: Counter[str]() for contestant in contestants}
    for name, found in turns.items():
        for (kind, commands), count in found.items():
            if kind == "hop":
                counters[name][scripts.get(commands, commands)] += count
    for commands in sorted(set().union(*counters.values()), key=lambda one: [*PURPOSES, one].index(one)):
        numbers = "".join(f"{counter[commands] / hops:>14.2f}" for counter in counters.values())
        yield f"  {PURPOSES.get(commands, 'other'):<34}{numbers}    {commands[:60]}"


def _count(turns: Turns, kind: str) -> int:
    return sum(count for (of, _), count in turns.items() if of == kind)


def _script_names(contestants: Sequence[Contestant]) -> dict[str, str]:
    """Return the names of our scripts by the digest under which the proxy sees their calls."""
    found = {}
    for contestant in contestants:
        package = contestant.code / "paigeant_celery" if contestant.code else resources.files("paigeant_celery")
        folder = package.joinpath("store/scripts")
        names = _limits(package)
        parts = ["common", "listing"] if folder.joinpath("listing.lua").is_file() else ["common"]
        text = "".join(folder.joinpath(f"{part}.lua").read_text("utf-8") for part in parts)
        for path in folder.iterdir():
            written = _written(names, text + path.read_text("utf-8"))
            found[f"EVALSHA {hashlib.sha1(written.encode()).hexdigest()}"] = f"EVALSHA {path.name.removesuffix('.lua')}"
    return found


def _limits(package: Traversable) -> dict[str, Any]:
    """Return what a version of the package has in its table of limits; nothing before it had one."""
    table = package.joinpath("store/limits.py")
    return runpy.run_path(str(table)) if table.is_file() else {}


def _written(names: dict[str, Any], text: str) -> str:
    """Return a script as that version sends it, with the limits in front of it or in the place of their names."""
    if "with_limits" in names:
        return str(names["with_limits"](text, names["LIMITS"]))
    return (names["as_lua"](names["LIMITS"]) if names else "") + text
