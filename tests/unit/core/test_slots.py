"""The moment that a schedule means is one, whenever and by whichever beat it is sent."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery import Celery
from celery.schedules import crontab
from hypothesis import given
from hypothesis import strategies as st

from paigeant_celery.core.errors import InvalidInput
from paigeant_celery.core.names import is_correlation_id
from paigeant_celery.core.slots import LONGEST_STEM, Slots, read_slots, slot_id, stem_of

NOON = datetime(2026, 3, 29, 12, 0, 7, 123456, tzinfo=UTC)
MOMENTS = st.datetimes(datetime(2024, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC))


def next_due_in(timezone: str = "UTC") -> Any:
    app = Celery("slots", set_as_current=False)
    app.conf.timezone = timezone

    def next_due(fields: Mapping[str, Any], after: datetime) -> datetime:
        start, delta, _ = crontab(**fields, app=app).remaining_delta(after)
        due: datetime = start + delta
        return due

    return next_due


@pytest.mark.parametrize(
    ("fields", "due"),
    [
        ({"minute": "*"}, datetime(2026, 3, 29, 12, 0)),
        ({"minute": "*/5"}, datetime(2026, 3, 29, 12, 0)),
        ({"minute": 30}, datetime(2026, 3, 29, 11, 30)),
        ({"minute": 0, "hour": 8}, datetime(2026, 3, 29, 8, 0)),
        ({"minute": 0, "hour": 22}, datetime(2026, 3, 28, 22, 0)),
        ({"minute": [0, 15], "hour": "9-10", "day_of_week": "mon"}, datetime(2026, 3, 23, 10, 15)),
        ({"minute": 0, "hour": 0, "day_of_month": 31, "month_of_year": 1}, datetime(2026, 1, 31, 0, 0)),
        ({"minute": 0, "hour": 0, "day_of_month": 29, "month_of_year": 2}, datetime(2024, 2, 29, 0, 0)),
    ],
)
def test_the_last_time_of_a_crontab_is_found_from_whenever_it_is_sent(fields: dict[str, Any], due: datetime) -> None:
    """A standby that takes over a minute later means the same time, also years back."""
    slots = read_slots({"crontab": fields})

    assert slots.last_due(NOON, next_due_in()) == due.replace(tzinfo=UTC)
    assert slots.last_due(due.replace(tzinfo=UTC), next_due_in()) == due.replace(tzinfo=UTC)


def test_a_crontab_is_read_in_the_time_zone_of_the_app() -> None:
    """Eight in the morning in Berlin; the id has the time in UTC."""
    slots = read_slots({"crontab": {"minute": 0, "hour": 8}})

    found = [slots.last_due(NOON.replace(day=day), next_due_in("Europe/Berlin")) for day in (27, 30)]

    assert found == [datetime(2026, 3, 27, 7, 0, tzinfo=UTC), datetime(2026, 3, 30, 6, 0, tzinfo=UTC)]


@given(every=st.floats(0.5, 90_000), sent=MOMENTS, late=st.floats(0, 0.999))
def test_an_interval_has_the_same_time_for_all_who_send_in_it(every: float, sent: datetime, late: float) -> None:
    """Two beats that began at different moments begin one workflow for each interval."""
    slots = read_slots({"every": every})
    due = slots.last_due(sent, next_due_in())

    assert due <= sent < due + timedelta(seconds=every)
    again = slots.last_due(due + timedelta(seconds=every) * late, next_due_in())
    assert abs(again - due) <= timedelta(microseconds=1) or again == due


@given(every=st.floats(1, 90_000), sent=MOMENTS)
def test_who_sends_an_interval_later_means_another_time(every: float, sent: datetime) -> None:
    """No run of a single beat is lost."""
    slots = read_slots({"every": every})

    later = slots.last_due(sent + timedelta(seconds=every), next_due_in())

    assert later > slots.last_due(sent, next_due_in())


def test_an_id_has_the_time_and_is_one() -> None:
    """Whoever looks for the run of eight o'clock finds it by its name."""
    assert slot_id("report", datetime(2026, 3, 29, 8, 0, tzinfo=UTC)) == "report-20260329T080000Z"
    assert slot_id("report", datetime(2026, 3, 29, 8, 0, 0, 500_000, tzinfo=UTC)) == "report-20260329T080000-5Z"
    assert is_correlation_id(slot_id(stem_of("x" * LONGEST_STEM, ""), NOON))
    assert stem_of(None, "0123456789abcdef") == "scheduled-0123456789ab"


def test_a_stem_that_leaves_no_room_for_the_time_is_refused() -> None:
    """It is told when the schedule is written, and not at night."""
    with pytest.raises(InvalidInput, match="shorten it"):
        stem_of("x" * (LONGEST_STEM + 1), "")


@pytest.mark.parametrize(
    "given", [None, 5, {}, {"every": 0}, {"every": True}, {"every": "5"}, {"crontab": {"second": 5}},
              {"every": 5, "crontab": {}}, {"crontab": "* * * * *"}, {"solar": "dawn"}],
)  # fmt: skip
def test_what_says_no_times_is_refused(given: object) -> None:
    """It may have been written by hand into a scheduler's database."""
    with pytest.raises(InvalidInput, match="as `schedule_entry` writes it"):
        read_slots(given)


@pytest.mark.parametrize("slots", [Slots(every=5.0), Slots(crontab={"minute": "0", "hour": [1, 2]})])
def test_times_are_written_and_read(slots: Slots) -> None:
    """They stand in the message as JSON."""
    assert read_slots(slots.tree()) == slots
