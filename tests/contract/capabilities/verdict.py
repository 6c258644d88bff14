"""What is wrong with a row: where its trials differ from a plain run, from each other, and from what the row says."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tests.contract.capabilities.row import Row
from tests.contract.capabilities.trials import Death, Seen, Trial, dying, in_a_hop, late, plain

__all__ = ["deaths_of", "faults_of", "faults_of_kills"]

MADE_BY_PYDANTIC_AI = r"\Apyd_ai_.*"  # the ids of tool calls to which the model gave none
MEASURED = ("duration",)
OF_A_RUN = ("run_id", "conversation_id", *MEASURED)
NO_FILES = ("content_file_digests", [])  # says what a history without it says


def faults_of(row: Row) -> list[str]:
    """Try a row plain, in a hop, with a late failure and with a death at every point; return what is wrong."""
    free, hop = plain(row), in_a_hop(row)
    faults = [*_of_the_hop(row, free, hop)]
    faults += [f"late: {fault}" for fault in _of_a_replay(row, hop, late(row), ())]
    for death in deaths_of(hop):
        faults += [
            f"{' '.join(map(str, death))}: {fault}" for fault in _of_a_replay(row, hop, dying(row, death), death)
        ]
    return faults


def faults_of_kills(row: Row, hop: Trial, killed: Mapping[Death, Trial]) -> list[str]:
    """Return what is wrong with a row that was tried with a real worker: undisturbed, and with processes killed."""
    faults = [*_of_the_hop(row, plain(row), hop)]
    for death, again in killed.items():
        faults += [f"{' '.join(map(str, death))}: {fault}" for fault in _of_a_replay(row, hop, again, death)]
    return faults


def deaths_of(hop: Trial) -> Iterator[Death]:
    """Yield every point at which the process of a hop can die."""
    for number in range(1, hop.made + 1):
        yield ("before", number)
        yield ("after", number)


def _of_the_hop(row: Row, free: Trial, hop: Trial) -> Iterator[str]:
    """Compare a run in a hop with a plain one."""
    if bool(row.ends) != (free.seen.error is not None) or not str(free.seen.error or "").startswith(row.ends):
        yield f"a plain run ends with {free.seen.error}"
    if row.refused:
        if not str(hop.seen.error).startswith(row.refused):
            yield f"it should be refused with {row.refused!r}, but gives {hop.seen.error or hop.seen.output}"
        return
    yield from _differences(_comparable(row, free.seen), _comparable(row, hop.seen), ("a plain run", "a hop"))
    if free.world.done() != hop.world.done():
        yield f"a plain run did {dict(free.world.done())}, a hop {dict(hop.world.done())}"


def _of_a_replay(row: Row, hop: Trial, again: Trial, death: Death | tuple[()]) -> Iterator[str]:
    """Compare two attempts with a run in a hop that nothing hit."""
    if again.first is not None:
        yield from _differences(again.first, again.seen, ("the first attempt", "its replay"))
    whole, replay = (_without_ids(row, trial.seen, MEASURED) for trial in (hop, again))
    yield from _differences(whole, replay, ("a whole run", "a replay"))
    inside, outside = Counter[str](), set[str]()
    lost = Counter[str]()
    for effect in again.world.effects:
        if effect.unit is None:
            if effect.attempt == again.world.attempt:
                outside.add(effect.what)
        else:
            inside[effect.what] += 1
            if effect.attempt < again.world.attempt and not effect.unit.recorded:
                lost[effect.what] += 1
    once = Counter(effect.what for effect in hop.world.effects if effect.unit is not None)
    for what in sorted({*inside, *once}):
        if inside[what] - lost[what] > once[what]:
            yield f"{what!r} was done {inside[what]} times, of which {lost[what]} were not recorded, not {once[what]}"
        if inside[what] < once[what]:
            yield f"{what!r} was done {inside[what]} times, not {once[what]}"
    unexpected = outside - set(row.again)
    if unexpected:
        yield f"runs again: {sorted(unexpected)}"
    if not death and not row.refused:
        if again.made:
            yield f"a replay of all records made {again.made} calls"
        if missing := set(row.again) - outside:
            yield f"does not run again: {sorted(missing)}"
    for what in set(again.world.done()) - set(hop.world.done()):
        yield f"{what!r} is done only if the process dies"


def _comparable(row: Row, seen: Seen) -> Seen:
    """Return what is the same in each run of the same code."""
    return replace(_without_ids(row, seen, OF_A_RUN), ids=None)


def _without_ids(row: Row, seen: Seen, left_out: Sequence[str] = ()) -> Seen:
    """Return what is seen with a number for each id that is made up."""
    made_up = re.compile(f"{MADE_BY_PYDANTIC_AI}|{row.made_up}" if row.made_up else MADE_BY_PYDANTIC_AI)
    names: dict[str, str] = {}

    def named(found: re.Match[str]) -> str:
        return names.setdefault(found[0], f"id {len(names)}")

    def anonymous(tree: Any) -> Any:
        if isinstance(tree, Mapping):
            kept = {name: value for name, value in tree.items() if name not in left_out and (name, value) != NO_FILES}
            return {name: anonymous(value) for name, value in kept.items()}
        if isinstance(tree, list):
            return [anonymous(item) for item in tree]
        return made_up.sub(named, tree) if isinstance(tree, str) else tree

    return replace(seen, output=anonymous(seen.output), messages=anonymous(seen.messages))


def _differences(one: Seen, other: Seen, names: tuple[str, str]) -> Iterator[str]:
    for part in ("error", "output", "messages", "usage", "ids"):
        first, second = getattr(one, part), getattr(other, part)
        if first != second:
            path, here, there = _first_difference(first, second, part)
            yield f"{path} of {names[0]} is {here}, of {names[1]} {there}"
            return  # the rest follows from it


def _first_difference(one: Any, other: Any, path: str) -> tuple[str, str, str]:
    if isinstance(one, list) and isinstance(other, list):
        for place, (here, there) in enumerate(zip(one, other, strict=False)):
            if here != there:
                return _first_difference(here, there, f"{path}/{place}")
        if len(one) != len(other):
            return (
                f"{path}: length",
                f"{len(one)} ({_short(one[len(other) :])})",
                f"{len(other)} ({_short(other[len(one) :])})",
            )
    if isinstance(one, dict) and isinstance(other, dict):
        for name in sorted({*one, *other}):
            if one.get(name) != other.get(name):
                return _first_difference(one.get(name), other.get(name), f"{path}/{name}")
    return path, _short(one), _short(other)


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) < 300 else f"{text[:300]}…"
