"""The moment that a schedule means, from the moment at which a beat happens to send."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

from paigeant_celery.core.errors import InvalidInput
from paigeant_celery.core.hops import EPOCH

__all__ = ["Crontabs", "NextDue", "Slots", "read_slots", "slot_id", "stem_of"]

FIELDS = ("minute", "hour", "day_of_week", "day_of_month", "month_of_year")
LONGEST_EVERY = 366 * 86400  # seconds
EARLY = 10  # a beat that sends in the last tenth of an interval for which it has sent means the next one
LONGEST_STEM = 100  # characters of an id before its time
# How far back a due time is looked for: a year has the rarest one, but for February 29th.
WINDOWS = tuple(timedelta(minutes=minutes) for minutes in (2, 120, 1_500, 50_000, 530_000, 4_300_000))

NextDue = Callable[[datetime], datetime]  # of a crontab, strictly after a time; both without a zone
Crontabs = Callable[[Mapping[str, Any]], NextDue]


@dataclass(frozen=True, kw_only=True)
class Slots:
    """When a schedule is due: by a crontab, or each time that so many seconds since 1970 have passed.

    `timezone` is the name of the zone in which a crontab is read; without one it is that of the app.
    """

    crontab: Mapping[str, Any] | None = None
    timezone: str | None = None
    every: float | None = None

    def last_due(self, now: datetime, crontabs: Crontabs, zone: tzinfo | None = UTC) -> datetime:
        """Return the time for which a beat sends that sends now.

        Two beats that send for the same time, if one of them late, get the same. A crontab is read in `zone`; None is
        that of the system. In an hour that its clocks repeat it is due in both passes if its minute or its hour begins
        with `*`, as cron has it; what has fixed times is due in the first one.
        """
        if self.every is not None:
            every = timedelta(seconds=self.every)
            return EPOCH + (now - EPOCH) // every * every
        assert self.crontab is not None
        clock = _Clock(now, zone, both_passes=_begins_with_star(self.crontab))
        next_due = crontabs(self.crontab)
        found = [due for last in clock.limits if (due := _last_until(last, clock, next_due)) is not None]
        if found:
            return max(found)
        return now.replace(second=0, microsecond=0).astimezone(UTC)  # it is never due, but somebody sends it

    def not_twice(self, due: datetime, *, now: datetime, sent_for: datetime | None) -> datetime:
        """Return the time for which a sender sends now, when `due` is the last one and it has sent for `sent_for`.

        A beat is a little early at times. What it sends then, just before a time of an interval, is no copy of what it
        sent just after the time before.
        """
        if self.every is None or sent_for != due:
            return due
        every = timedelta(seconds=self.every)
        return due + every if now >= due + every - every / EARLY else due

    def deadline(self, due: datetime, after: timedelta) -> datetime:
        """Return the deadline of the workflow of a time, the same for all who send for it.

        Beats send at any moment of an interval, so it is counted from the end of that.
        """
        return due + after + timedelta(seconds=self.every or 0)

    def tree(self) -> dict[str, Any]:
        """Return it as JSON, which `read_slots` reads."""
        if self.crontab is None:
            return {"every": self.every}
        return {"crontab": dict(self.crontab), **({"timezone": self.timezone} if self.timezone is not None else {})}


def _begins_with_star(crontab: Mapping[str, Any]) -> bool:
    return any(str(crontab.get(field, "*")).startswith("*") for field in ("minute", "hour"))


def _last_until(last: datetime, clock: _Clock, next_due: NextDue) -> datetime | None:
    for window in WINDOWS:
        found: list[datetime] = []
        due = next_due(last - window)
        while due <= last:
            found += clock.passed(due)
            due = next_due(due)
        if found:
            return max(found)
    return None


class _Clock:
    """A clock on a wall, which is set back and forward twice a year, at one moment.

    All is compared in its own time, without a zone. To UTC it is turned last: arithmetic on times with a zone forgets
    in which pass of a repeated hour they are.
    """

    def __init__(self, now: datetime, zone: tzinfo | None, *, both_passes: bool) -> None:
        self._now, self._zone, self._both_passes = now, zone, both_passes
        wall = now.astimezone(zone).replace(tzinfo=None, fold=0)
        first, second = self._instants(wall)
        # In a second pass later times of the first one have passed, too.
        self.limits = (wall, wall + (second - first)) if second > first and second <= now else (wall,)

    def passed(self, wall: datetime) -> list[datetime]:
        """Return the moment at which the clock showed a time last, if that is not still to come."""
        first, second = self._instants(wall)
        if self._both_passes and first < second <= self._now:
            return [second]
        return [first] if first <= self._now else []  # a time that is left out in spring is moved on, as Celery does

    def _instants(self, wall: datetime) -> tuple[datetime, datetime]:
        first, second = (wall.replace(tzinfo=self._zone, fold=fold).astimezone(UTC) for fold in (0, 1))
        return first, second


def read_slots(given: object) -> Slots:
    """Read what a schedule's entry says about its times; raises `InvalidInput`."""
    match given:
        case {"every": bool()}:
            pass
        case {"every": int() | float() as every, **more} if not more and 0 < every <= LONGEST_EVERY:
            return Slots(every=float(every))
        case {"crontab": dict() as crontab, "timezone": str() as timezone, **more} if not more and _is_cron(crontab):
            return Slots(crontab=crontab, timezone=timezone)
        case {"crontab": dict() as crontab, **more} if not more and _is_cron(crontab):
            return Slots(crontab=crontab)
    text = (
        'is `{"every": SECONDS}` or `{"crontab": {"minute": …}}`, maybe with a `timezone` beside `crontab`, as '
        "`schedule_entry` writes it"
    )
    raise InvalidInput("invalid_input", "schedule", text)


def _is_cron(fields: Mapping[str, Any]) -> bool:
    return fields.keys() <= set(FIELDS)


def slot_id(stem: str, at: datetime) -> str:
    """Return the correlation id of the workflow of a time; a part of a second is in it if there is one."""
    fraction = f".{at.microsecond:06d}".rstrip("0").replace(".", "-") if at.microsecond else ""
    return f"{stem}-{at.astimezone(UTC):%Y%m%dT%H%M%S}{fraction}Z"


def stem_of(correlation_id: str | None, digest: str) -> str:
    """Return what the ids of a schedule's workflows begin with: what its document says, or a part of its digest."""
    if correlation_id is None:
        return f"scheduled-{digest[:12]}"
    if len(correlation_id) > LONGEST_STEM:
        text = f"has more than {LONGEST_STEM} characters, and the time is put behind it; shorten it"
        raise InvalidInput("bad_correlation_id", "correlation_id", text)
    return correlation_id
