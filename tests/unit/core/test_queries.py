"""Which questions about workflows can be put."""

from __future__ import annotations

from typing import Any

import pytest

from paigeant_celery.core.errors import InvalidInput
from paigeant_celery.core.queries import BOUNDS, checked_query
from paigeant_celery.store.limits import LIMITS

NOTHING: dict[str, Any] = {
    "state": None, "activity": None, "waits_for": None, "since": None, "before": None, "prefix": None, "after": None,
    "limit": 50,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a\udc80b", "invalid_text"), ("a\0b", "invalid_text"), ("x" * 1025, "invalid_input"), (7, "invalid_input"),
    ],
)  # fmt: skip
def test_what_no_wait_is_called_is_refused_by_name(name: object, reason: str) -> None:
    """A page of Flower with a strange address says what is wrong, and asks the store for nothing."""
    with pytest.raises(InvalidInput, match="waits_for") as refused:
        checked_query(**{**NOTHING, "waits_for": name})

    assert (refused.value.reason, refused.value.path) == (reason, "waits_for")
    str(refused.value).encode()


@pytest.mark.parametrize("name", ["paid", "", "Wer zahlt? 💶", "x" * 1024])
def test_any_other_name_may_be_asked_for(name: str) -> None:
    """Waits of agents are called whatever their authors like."""
    assert checked_query(**{**NOTHING, "waits_for": name}).waits_for == name


def test_the_stores_count_times_in_as_many_buckets_as_are_shown() -> None:
    """The scripts know their number alone, and whoever reads them the ends."""
    assert LIMITS.most_buckets == len(BOUNDS)
