"""How values are written on a page."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from paigeant_celery.flower import words

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "now"),
        (59, "59 s ago"),
        (60, "1 min ago"),
        (3725, "1 h 2 min ago"),
        (90_000, "1 d 1 h ago"),
        (-61, "in 1 min 1 s"),
    ],
)
def test_an_age_has_its_two_largest_parts(seconds: int, said: str) -> None:
    """Days are enough of an old workflow, and seconds matter of a new one."""
    assert words.ago(NOW - timedelta(seconds=seconds), NOW) == said


@pytest.mark.parametrize(("seconds", "said"), [(0.0123, "12 ms"), (1.26, "1.3 s"), (125, "2 min 5 s"), (-1, "0 ms")])
def test_a_duration_is_short(seconds: float, said: str) -> None:
    """Clocks of two machines may differ; nothing took less than no time."""
    assert words.lasted(timedelta(seconds=seconds)) == said


@pytest.mark.parametrize(
    ("cost", "said"),
    [(None, ""), (Decimal("0"), "$0.0000"), (Decimal("1.23456"), "$1.2346"), (Decimal("0.0000012"), "$0.0000012")],
)
def test_a_cost_that_is_not_nothing_does_not_look_like_nothing(cost: Decimal | None, said: str) -> None:
    """A cheap model is not free, and an unknown price is not zero."""
    assert words.cost_of(cost) == said


def test_tokens_are_unknown_where_no_model_was_asked() -> None:
    """A function has none, which is not zero of a model's."""
    assert words.tokens_of({}) is None
    assert words.tokens_of({"requests": 2, "input_tokens": 5, "output_tokens": 7}) == 12
