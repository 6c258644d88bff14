"""Events with long data, in parts."""

from __future__ import annotations

import random

from paigeant_celery.core.events import PART, Joining, in_parts

EVENT = {"event": "part_end", "run": "r", "step": "1"}


def test_what_is_sent_in_parts_is_read_whole_whatever_its_length_and_letters() -> None:
    """A letter may take four bytes, and an edge may fall into it."""
    dice = random.Random(1)
    joining = Joining()
    for size in (0, 1, PART - 1, PART, PART + 1, 3 * PART, 100_000):
        event = {**EVENT, "data": "".join(dice.choice("aé€🦜") for _ in range(size))}
        parts = list(in_parts(event))

        *incomplete, whole = [joining.whole(part) for part in parts]

        assert whole == event
        assert set(incomplete) <= {None}
        assert all(len((part.get("text") or part["data"]).encode()) <= PART for part in parts)


def test_an_event_without_its_beginning_is_none() -> None:
    """The oldest entries of a stream are dropped, wherever an event begins."""
    event = {**EVENT, "data": "x" * (5 * PART)}
    for cut in range(1, 5):
        joining = Joining()
        rest = list(in_parts(event))[cut:]

        assert [joining.whole(part) for part in [*rest, EVENT, *in_parts(event)]] == [
            *[None] * len(rest), EVENT, *[None] * 4, event,
        ]  # fmt: skip


def test_an_event_that_was_not_sent_to_its_end_is_none() -> None:
    """What another version wrote must not join two events."""
    event = {**EVENT, "data": "x" * (3 * PART)}
    first, second, _ = in_parts(event)
    joining = Joining()

    assert [joining.whole(part) for part in (first, second, EVENT, second, first, *in_parts(event))] == [
        None, None, EVENT, None, None, None, None, event,
    ]  # fmt: skip
