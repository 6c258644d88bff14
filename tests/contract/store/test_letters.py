"""Dead letters in every store: found again, read page by page, counted when they are dropped."""

from __future__ import annotations

from dataclasses import replace

import pytest

from paigeant_celery.core.errors import InvalidInput
from paigeant_celery.store.limits import LIMITS
from tests.contract.store.bench import Bench
from tests.contract.store.given import FAILURE, claim, closing, letter, new


def test_a_buried_letter_is_found_again_as_it_was(bench: Bench) -> None:
    """An operator reads what was refused, and when."""
    assert bench.store.bury(letter())

    found = bench.store.dead_letter("a")
    assert found is not None
    assert found.at is not None
    assert replace(found, at=None, cursor="") == letter()
    assert list(bench.store.dead_letters(after=None, limit=10)) == [found]


def test_a_letter_buried_twice_is_one(bench: Bench) -> None:
    """A message that is delivered and refused again is the same letter."""
    bench.store.bury(letter())
    before = bench.store.dead_letter("a")

    assert not bench.store.bury(replace(letter(), text="other"))

    assert bench.store.dead_letters(after=None, limit=10) == [before]


def test_letters_are_read_page_by_page_newest_first(bench: Bench) -> None:
    """The latest problem is looked at first."""
    for letter_id in "abc":
        bench.store.bury(letter(letter_id))

    first = bench.store.dead_letters(after=None, limit=2)
    second = bench.store.dead_letters(after=first[-1].cursor, limit=2)

    assert [found.letter_id for found in (*first, *second)] == ["c", "b", "a"]
    assert list(bench.store.dead_letters(after=None, limit=0)) == []
    with pytest.raises(InvalidInput):
        bench.store.dead_letters(after="x", limit=1)


def test_a_forgotten_letter_is_gone(bench: Bench) -> None:
    """A letter that was dealt with leaves the list."""
    bench.store.bury(letter())

    assert bench.store.forget_letter("a")

    assert not bench.store.forget_letter("a")
    assert bench.store.dead_letter("a") is None
    assert list(bench.store.dead_letters(after=None, limit=10)) == []


def test_the_oldest_letters_give_way_and_are_counted(bench: Bench) -> None:
    """A flood of bad messages does not fill the store, and nobody believes that the list is whole."""
    bench.limit(replace(LIMITS, max_letters=2))
    for letter_id in "abc":
        bench.store.bury(letter(letter_id))

    assert [found.letter_id for found in bench.store.dead_letters(after=None, limit=10)] == ["c", "b"]
    assert bench.store.letters_dropped() == 1


def test_no_flood_of_bad_messages_hides_a_parked_hop(bench: Bench) -> None:
    """Its letter is the only thing that shows it to a person."""
    bench.limit(replace(LIMITS, max_letters=2))
    bench.store.start(new())
    bench.store.park(closing(bench.store.claim(claim())), FAILURE, letter("parked"))
    for letter_id in "abc":
        bench.store.bury(letter(letter_id))

    def listed(after: str | None = None) -> list[str]:
        return [found.letter_id for found in bench.store.dead_letters(after=after, limit=10)]

    assert listed() == ["c", "b", "parked"]
    assert bench.store.letters_dropped() == 1
    (newest,) = bench.store.dead_letters(after=None, limit=1)
    assert listed(after=newest.cursor) == ["b", "parked"]


def test_expired_letters_before_that_of_a_parked_hop_are_passed_over(bench: Bench) -> None:
    """A page is filled with what is still there."""
    bench.store.start(new())
    bench.store.park(closing(bench.store.claim(claim())), FAILURE, letter("parked"))
    for letter_id in "abc":
        bench.short_lived.bury(letter(letter_id))

    bench.expire()

    assert [found.letter_id for found in bench.store.dead_letters(after=None, limit=1)] == ["parked"]
    assert bench.store.forget_letter("parked")
    assert list(bench.store.dead_letters(after=None, limit=10)) == []


def test_letters_expire_uncounted(bench: Bench) -> None:
    """They are kept as long as ended workflows."""
    bench.short_lived.bury(letter())
    bench.expire()

    assert bench.store.dead_letter("a") is None
    assert list(bench.store.dead_letters(after=None, limit=10)) == []
    assert bench.store.bury(letter())
    assert bench.store.letters_dropped() == 0
