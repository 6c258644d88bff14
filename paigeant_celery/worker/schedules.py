"""Schedules: the task that dispatches a document, and the entries of Celery's beat that send it."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

from celery import Celery, Task
from celery.schedules import crontab, schedule
from celery.utils.time import LocalTimezone

from paigeant_celery.broker.transport import transport_of
from paigeant_celery.client.documents import dispatch_document_sync
from paigeant_celery.core.document_errors import Finding, InvalidDocument
from paigeant_celery.core.documents import Given, SlipDocument, read_document
from paigeant_celery.core.errors import InvalidInput, NotPublished, TransientError
from paigeant_celery.core.jsonable import dumps
from paigeant_celery.core.lint import Known, lint
from paigeant_celery.core.message import sha256
from paigeant_celery.core.names import DISPATCH, Names
from paigeant_celery.core.slots import FIELDS, Crontabs, NextDue, Slots, read_slots, slot_id, stem_of
from paigeant_celery.worker.dispatch_arguments import ARGUMENTS, named, shown
from paigeant_celery.worker.reporting import confidential

__all__ = ["DispatchTask", "register_dispatch", "schedule_entry"]

LONGEST_WAIT = 300  # seconds between two attempts while the store is away
MOST_ATTEMPTS = 100  # that is eight hours
MOST_KNOWN = 1000  # entries whose latest time a beat remembers
UNSTAMPED = (
    "is missing, so nobody knows for which time of the schedule this is; have beat load the app with paigeant_celery, "
    "whose task writes it into the message, or give it yourself"
)

logger = logging.getLogger(__name__)


def schedule_entry(
    document: Given,
    *,
    schedule: Any,
    deadline_after: float | timedelta | None = None,
    queue: str | None = None,
    options: Mapping[str, Any] | None = None,
    prefix: str = "paigeant",
) -> dict[str, Any]:
    """Return an entry for `beat_schedule` that dispatches a document each time that a schedule is due.

    `schedule` is a `crontab`, a `timedelta` or seconds. The id of each workflow is the `correlation_id` of the document
    (or a part of its digest) with the time that was due, so that two beats begin one workflow. `deadline_after` is in
    seconds after that time; after the end of an interval, because beats send at any moment of it. The task is sent to
    `queue`, or to where the app routes it: some worker of the app must consume that queue. `options` are further ones
    of the message, such as `expires`; `prefix` is `paigeant_prefix`.

    Raises `InvalidDocument`, and `InvalidInput` for a schedule of another kind.
    """
    given = read_document(document)
    if findings := [*lint(given, Known()), *_fixed_times(given)]:
        raise InvalidDocument.of(findings)
    slots = _slots_of(schedule)
    stem_of(given.correlation_id, "")
    kwargs: dict[str, Any] = {"document": given.tree(), "schedule": slots.tree()}
    if deadline_after is not None:
        kwargs["deadline_after"] = _seconds(deadline_after)
    sent = {**(options or {}), **({"queue": queue} if queue is not None else {})}
    entry = {"task": Names(prefix).task(DISPATCH), "schedule": schedule, "kwargs": kwargs}
    return {**entry, "options": sent} if sent else entry


class DispatchTask(Task):  # type: ignore[misc]
    """Dispatches the workflow of a document.

    Whoever sends it, such as beat, writes the time into it that its schedule means. A copy of the message, or the
    message of another beat, begins nothing new then.
    """

    abstract = True
    # A string, because every process that dispatches through a host's app makes this task.
    Request = "paigeant_celery.worker.dispatch_request:DispatchRequest"
    acks_late = True
    reject_on_worker_lost = True
    ignore_result = False
    max_retries = MOST_ATTEMPTS

    def __init__(self) -> None:
        self._sent_for: dict[str, datetime] = {}  # by entry, the time that this process has sent it for last

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Send it, with the time that is due; the document is not shown in Flower."""
        given = self._stamped({**named(args or ()), **(kwargs or {})})
        options.update(argsrepr="()", kwargsrepr=repr(shown(given)))
        return super().apply_async((args or ())[len(ARGUMENTS) :], given, **options)

    def run(
        self,
        document: Any,
        schedule: Any = None,
        deadline_after: float | None = None,
        at: str | None = None,
    ) -> str:
        """Dispatch the document and return the correlation id of its workflow.

        With a schedule that id has the time `at`. Otherwise it has the document's own, or that of this task. `at` is
        when the task was sent, and `deadline_after` is counted from then, in seconds; of an interval, from its end.
        """
        sent = named((document, schedule, deadline_after, at))
        self.request.args, self.request.kwargs = [], shown(sent)  # an extended result has them
        with confidential():
            try:
                return self._dispatched(document, schedule, deadline_after, at)
            except NotPublished as error:  # a sweep sends it
                return error.correlation_id
            except TransientError as error:
                wait = min(LONGEST_WAIT, 2**self.request.retries)
                raise self.retry(args=(), kwargs=sent, exc=error, countdown=wait) from error

    def _dispatched(self, document: Any, schedule: Any, deadline_after: float | None, at: str | None) -> str:
        given, moment = read_document(document), _moment(at)
        after = timedelta(seconds=_seconds(deadline_after)) if deadline_after is not None else None
        deadline = moment + after if after is not None else None
        own_id = given.correlation_id or f"dispatched-{sha256(str(self.request.id))[:24]}"
        if schedule is not None:
            slots = read_slots(schedule)
            if at is None:
                raise InvalidInput("invalid_input", "at", UNSTAMPED)
            deadline = slots.deadline(moment, after) if after is not None else None
            own_id = slot_id(stem_of(given.correlation_id, _digest(given)), moment)
        return dispatch_document_sync(given, transport_of(self.app), correlation_id=own_id, deadline=deadline)

    def _stamped(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        if kwargs.get("at") is not None:
            return kwargs
        now = datetime.now(UTC)
        at = self._due(kwargs, now) if kwargs.get("schedule") is not None else now
        return {**kwargs, "at": at.isoformat()}

    def _due(self, kwargs: Mapping[str, Any], now: datetime) -> datetime:
        slots = read_slots(kwargs["schedule"])
        entry = sha256(repr((kwargs["schedule"], kwargs.get("document"))))
        last, before = (
            slots.last_due(now, crontabs_of(self.app), _zone_of(slots, self.app)),
            self._sent_for.pop(entry, None),
        )
        due = slots.not_twice(last, now=now, sent_for=before)
        while len(self._sent_for) >= MOST_KNOWN:
            self._sent_for.pop(next(iter(self._sent_for)))
        self._sent_for[entry] = max(due, before or due)
        return due


def crontabs_of(app: Celery) -> Crontabs:
    """Return what says when a crontab is due next, on a clock that is never set: neither time has a zone."""

    def next_due_of(fields: Mapping[str, Any]) -> NextDue:
        read = crontab(**fields, app=app)

        def next_due(after: datetime) -> datetime:
            wall = after.replace(tzinfo=UTC)
            read.nowfun = lambda: wall  # before 5.7 Celery reads the minutes of an hour only on what is today for it
            start, delta, _ = read.remaining_delta(wall, tz=UTC)
            due: datetime = start + delta
            return due.replace(tzinfo=None)

        return next_due

    return next_due_of


def register_dispatch(app: Celery) -> None:
    """Give an app the task, unless it has one of this name."""
    name = transport_of(app).names.task(DISPATCH)
    if name not in app.tasks:
        app.register_task(type("Dispatch", (DispatchTask,), {"name": name, "__module__": __name__})())


def _slots_of(given: Any) -> Slots:
    if isinstance(given, crontab):
        # django-celery-beat's crontabs have a zone of their own; those of Celery are read in that of the app.
        zone = None if type(given) is crontab else vars(given).get("tz")
        slots = Slots(
            crontab={field: _cron(getattr(given, f"_orig_{field}")) for field in FIELDS},
            timezone=str(zone) if zone is not None else None,
        )
        _zone_of(slots)
        return slots
    every = given.run_every if type(given) is schedule else given
    if isinstance(every, timedelta) or (isinstance(every, int | float) and not isinstance(every, bool)):
        return read_slots({"every": _seconds(every)})
    text = f"a {type(given).__name__} does not say which times it means; give a `crontab`, a `timedelta` or seconds"
    raise InvalidInput("invalid_input", "schedule", text)


def _zone_of(slots: Slots, app: Celery | None = None) -> tzinfo | None:
    """Return the zone in which a crontab is read; None is that of the system."""
    if slots.timezone is not None:
        try:
            return ZoneInfo(slots.timezone)
        except (KeyError, ValueError, OSError) as error:
            text = f"{slots.timezone!r} is no time zone that this machine knows, such as 'Europe/Berlin'"
            raise InvalidInput("invalid_input", "schedule.timezone", text) from error
    zone: tzinfo | None = app.timezone if app is not None else None
    return None if isinstance(zone, LocalTimezone) else zone  # Celery's own does not know a repeated hour


def _cron(field: Any) -> Any:
    return field if isinstance(field, str | int) else sorted(field)


def _fixed_times(document: SlipDocument) -> list[Finding]:
    """Return what is wrong with a document that is dispatched again and again."""
    text = "it is one moment, and the document is dispatched again and again"
    remedies = {"deadline": "leave it out, and pass `deadline_after=`", "start_at": "leave it out"}
    return [
        Finding("invalid_document", name, text, remedy)
        for name, remedy in remedies.items()
        if getattr(document, name) is not None
    ]


def _seconds(given: Any) -> float:
    if isinstance(given, timedelta):
        given = given.total_seconds()
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 < given < 366 * 86400 * 10:
        raise InvalidInput("invalid_input", "deadline_after", "must be a number of seconds greater than 0")
    return float(given)


def _digest(document: SlipDocument) -> str:
    return hashlib.sha256(dumps(document.tree(), canonical=True).encode()).hexdigest()


def _moment(at: str | None) -> datetime:
    try:
        moment = datetime.fromisoformat(at) if at is not None else datetime.now(UTC)
    except (TypeError, ValueError):
        moment = datetime.min
    if moment.tzinfo is None:
        raise InvalidInput("invalid_input", "at", "must be a time with its zone, as `schedule_entry` has it sent")
    return moment
