"""The moment that a schedule means is one, whenever and by whichever beat it is sent."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from celery import Celery
from hypothesis import given
from hypothesis import strategies as st

from paigeant_celery.core.errors import InvalidInput
from paigeant_celery.core.names import is_correlation_id
from paigeant_celery.core.slots import EARLY, LONGEST_STEM, Slots, read_slots, slot_id, stem_of
from paigeant_celery.worker.schedules import crontabs_of

NOON = datetime(2026, 3, 29, 12, 0, 7, 123456, tzinfo=UTC)
APP = Celery("slots", set_as_current=False)
MOMENTS = st.datetimes(datetime(2024, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC))


def last_due(slots: Slots, sent: datetime, zone: str | None = "UTC") -> datetime:
    found = slots.last_due(sent, crontabs_of(APP), ZoneInfo(zone) if zone is not None else None)
    assert found.tzinfo is UTC
    return found


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

    assert last_due(slots, NOON) == due.replace(tzinfo=UTC)
    assert last_due(slots, due.replace(tzinfo=UTC)) == due.replace(tzinfo=UTC)


def test_a_crontab_is_read_in_the_time_zone_of_the_app() -> None:
    """Eight in the morning in Berlin; the id has the time in UTC."""
    slots = read_slots({"crontab": {"minute": 0, "hour": 8}})

    found = [last_due(slots, NOON.replace(day=day), "Europe/Berlin") for day in (27, 30)]

    assert found == [datetime(2026, 3, 27, 7, 0, tzinfo=UTC), datetime(2026, 3, 30, 6, 0, tzinfo=UTC)]


# When clocks are set.
SET_BACK = {
    "Europe/Berlin": datetime(2026, 10, 25, 1, 0, tzinfo=UTC),
    "America/New_York": datetime(2026, 11, 1, 6, 0, tzinfo=UTC),
    "Australia/Lord_Howe": datetime(2026, 4, 4, 15, 0, tzinfo=UTC),  # by half an hour
}
SET_FORWARD = {
    "Europe/Berlin": datetime(2026, 3, 29, 1, 0, tzinfo=UTC),
    "America/New_York": datetime(2026, 3, 8, 7, 0, tzinfo=UTC),
    "Australia/Lord_Howe": datetime(2026, 10, 3, 15, 30, tzinfo=UTC),
}


def minutes_around(moment: datetime) -> Iterator[datetime]:
    """Yield each minute from two hours before a moment until two hours after it."""
    yield from (moment + timedelta(minutes=minute) for minute in range(-120, 120))


@pytest.mark.parametrize(("zone", "changes"), [*SET_BACK.items(), *SET_FORWARD.items()])
@pytest.mark.parametrize("late", [timedelta(), timedelta(seconds=40)])
def test_each_run_has_an_id_of_its_own_when_clocks_change(zone: str, changes: datetime, late: timedelta) -> None:
    """An hour of runs is not lost at night, as copies of those of the hour before."""
    slots = read_slots({"crontab": {"minute": "*/5"}})

    found = [last_due(slots, sent + late, zone) for sent in minutes_around(changes)]

    assert found == [sent - timedelta(minutes=sent.minute % 5) for sent in minutes_around(changes)]


@pytest.mark.parametrize(("zone", "changes"), [*list(SET_BACK.items())[:2], *list(SET_FORWARD.items())[:2]])
@pytest.mark.parametrize("minute", ["0", "30", [55]])
def test_an_hourly_run_has_an_id_each_hour_when_clocks_change(zone: str, changes: datetime, minute: Any) -> None:
    """Also who sends late, in the second pass, means the last time of the first one."""
    slots = read_slots({"crontab": {"minute": minute}})
    at = int(minute[0]) if isinstance(minute, list) else int(minute)

    found = [last_due(slots, sent, zone) for sent in minutes_around(changes)]

    whole = [sent - timedelta(minutes=(sent.minute - at) % 60) for sent in minutes_around(changes)]
    assert found == whole


@pytest.mark.parametrize("zone", SET_BACK)
@pytest.mark.parametrize(
    "crontab", [{"minute": 30, "hour": 1}, {"minute": "45", "hour": "1"}, {"minute": [50], "hour": [1, 8]}]
)
def test_a_nightly_run_keeps_one_id_in_a_repeated_hour(zone: str, crontab: dict[str, Any]) -> None:
    """Whoever sends it in the second pass means the run of the first one, which is not paid for twice."""
    if zone == "Europe/Berlin":
        crontab = {**crontab, "hour": 2}
    slots = read_slots({"crontab": crontab})
    changes = SET_BACK[zone]

    found = [last_due(slots, sent, zone) for sent in minutes_around(changes)]

    in_first_pass = changes - timedelta(minutes=60 - int(str(crontab["minute"]).strip("[]")))
    assert set(found) - {found[0]} == {in_first_pass}
    assert found == sorted(found)


@pytest.mark.parametrize("zone", SET_FORWARD)
def test_a_nightly_time_that_is_left_out_in_spring_is_moved_on(zone: str) -> None:
    """Celery sends it then, and the night before is not meant."""
    slots = read_slots({"crontab": {"minute": 10, "hour": 2}})
    moved = SET_FORWARD[zone] + timedelta(minutes=10)

    found = [last_due(slots, sent, zone) for sent in minutes_around(SET_FORWARD[zone])]

    assert [due == moved for due in found] == [sent >= moved for sent in minutes_around(SET_FORWARD[zone])]


def test_the_clock_of_the_system_is_read_as_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """`enable_utc = False` without a `timezone` means the local time of beat's machine."""
    slots = read_slots({"crontab": {"minute": "*/5"}})
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        found = [last_due(slots, sent, None) for sent in minutes_around(SET_BACK["Europe/Berlin"])]
    finally:
        monkeypatch.undo()
        time.tzset()

    assert len(dict.fromkeys(found)) == 48


@given(every=st.floats(0.5, 90_000), sent=MOMENTS, late=st.floats(0, 0.999))
def test_an_interval_has_the_same_time_for_all_who_send_in_it(every: float, sent: datetime, late: float) -> None:
    """Two beats that began at different moments begin one workflow for each interval."""
    slots = read_slots({"every": every})
    due = last_due(slots, sent)

    assert due <= sent < due + timedelta(seconds=every)
    again = last_due(slots, due + timedelta(seconds=every) * late)
    assert abs(again - due) <= timedelta(microseconds=1) or again == due


@given(every=st.floats(1, 90_000), sent=MOMENTS)
def test_who_sends_an_interval_later_means_another_time(every: float, sent: datetime) -> None:
    """No run of a single beat is lost."""
    slots = read_slots({"every": every})

    later = last_due(slots, sent + timedelta(seconds=every))

    assert later > last_due(slots, sent)


@given(
    every=st.floats(0.5, 90_000),
    begun=MOMENTS,
    phase=st.sampled_from([0.0, 0.00001, 0.5, 0.99999]) | st.floats(0, 1, exclude_max=True),
    off=st.lists(st.floats(-0.05, 0.05), min_size=2, max_size=20),
)
def test_no_run_of_a_single_beat_is_taken_for_a_copy(
    every: float, begun: datetime, phase: float, off: list[float]
) -> None:
    """It sends a little early or late: just after the begin of one interval, then just before the begin of the next."""
    slots, step = read_slots({"every": every}), timedelta(seconds=every)
    start = last_due(slots, begun) + step * phase
    found: list[datetime] = []
    for number, part in enumerate(off, start=1):
        sent = start + step * (number + part)
        found.append(slots.not_twice(last_due(slots, sent), now=sent, sent_for=found[-1] if found else None))
        assert (
            found[-1] - step / EARLY - timedelta(microseconds=9) <= sent < found[-1] + step + timedelta(microseconds=9)
        )

    assert all(later > earlier for earlier, later in pairwise(found))


@pytest.mark.parametrize("slots", [Slots(every=60.0), Slots(crontab={"minute": "*"})])
def test_what_is_sent_again_is_a_copy(slots: Slots) -> None:
    """Somebody sends an entry by hand a few seconds after beat, or a crontab is sent again late in its minute."""
    due = datetime(2026, 3, 29, 12, 1, tzinfo=UTC)

    again = slots.not_twice(due, now=due + timedelta(seconds=30), sent_for=due)
    late = slots.not_twice(due, now=due + timedelta(seconds=59), sent_for=due)
    other = slots.not_twice(due, now=due + timedelta(seconds=59), sent_for=due - timedelta(minutes=1))

    assert again == other == due
    assert late == (due if slots.crontab else due + timedelta(minutes=1))


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
              {"every": 5, "crontab": {}}, {"crontab": "* * * * *"}, {"solar": "dawn"},
              {"every": 5, "timezone": "UTC"}, {"crontab": {}, "timezone": 5}, {"crontab": {}, "timezone": None}],
)  # fmt: skip
def test_what_says_no_times_is_refused(given: object) -> None:
    """It may have been written by hand into a scheduler's database."""
    with pytest.raises(InvalidInput, match="as `schedule_entry` writes it"):
        read_slots(given)


@pytest.mark.parametrize(
    "slots",
    [
        Slots(every=5.0),
        Slots(crontab={"minute": "0", "hour": [1, 2]}),
        Slots(crontab={"minute": "0"}, timezone="Europe/Berlin"),
    ],
)
def test_times_are_written_and_read(slots: Slots) -> None:
    """They stand in the message as JSON."""
    assert read_slots(slots.tree()) == slots
