"""Schedules: the entries for beat, and the task that they send."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from celery import Celery
from celery.exceptions import Retry
from celery.schedules import crontab, schedule
from celery.worker.request import Request
from kombu.message import Message
from kombu.utils.imports import symbol_by_name

from paigeant_celery import InvalidInput, NotPublished, NotRecorded, WorkflowHandle, install
from paigeant_celery.core.document_errors import InvalidDocument
from paigeant_celery.core.errors import WorkflowConflict
from paigeant_celery.store.memory import MemoryStore
from paigeant_celery.worker import schedules
from paigeant_celery.worker.schedules import DispatchTask, schedule_entry

DOCUMENT = {"version": 1, "correlation_id": "report", "itinerary": [{"agent": "writer", "prompt": "s3cret prompt"}]}

ANY = dict.fromkeys(("hour", "day_of_week", "day_of_month", "month_of_year"), "*")


@pytest.fixture
def app() -> Iterator[Celery]:
    with Celery("scheduled", broker="memory://scheduled//", set_as_current=False) as app:
        install(app, store=MemoryStore(lease=10, ttl=100))
        app.finalize()
        yield app


def task_of(app: Celery) -> DispatchTask:
    found = app.tasks["paigeant.dispatch"]
    assert isinstance(found, DispatchTask)
    return found


def sent_by(app: Celery, monkeypatch: pytest.MonkeyPatch, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arguments and options of the message that the task would send."""
    found: list[tuple[Any, Any]] = []
    monkeypatch.setattr(app, "send_task", lambda *_, **options: found.append((options.get("kwargs"), options)))
    monkeypatch.setattr("celery.app.task.Task.apply_async", lambda self, args, given, **o: found.append((given, o)))
    task_of(app).apply_async(kwargs=kwargs)
    return found[0]


@pytest.mark.parametrize(
    ("given", "tree"),
    [
        (5, {"every": 5.0}),
        (timedelta(minutes=2), {"every": 120.0}),
        (schedule(timedelta(seconds=3)), {"every": 3.0}),
        (
            crontab(minute="0", hour="8,20", day_of_week="mon-fri"),
            {"crontab": {**ANY, "minute": "0", "hour": "8,20", "day_of_week": "mon-fri"}},
        ),
        (
            crontab(minute=[0, 30]),
            {"crontab": {**ANY, "minute": [0, 30]}},
        ),
    ],
)
def test_an_entry_is_what_beat_takes_and_its_arguments_are_json(given: Any, tree: dict[str, Any]) -> None:
    """Schedulers keep it in a database."""
    entry = schedule_entry(DOCUMENT, schedule=given, queue="reports", deadline_after=60, options={"expires": 30})

    assert entry == {
        "task": "paigeant.dispatch",
        "schedule": given,
        "kwargs": {"document": DOCUMENT, "schedule": tree, "deadline_after": 60.0},
        "options": {"expires": 30, "queue": "reports"},
    }
    assert json.loads(json.dumps(entry["kwargs"])) == entry["kwargs"]
    assert schedule_entry(DOCUMENT, schedule=5, prefix="shop")["task"] == "shop.dispatch"


@pytest.mark.parametrize(
    ("document", "path"),
    [
        ({**DOCUMENT, "itinerary": []}, "itinerary"),
        ({**DOCUMENT, "itinerary": [{"sleep_for": -1}]}, "itinerary[0].sleep_for"),
        ({**DOCUMENT, "deadline": "2100-01-01T00:00:00Z"}, "deadline"),
        ({**DOCUMENT, "start_at": "2100-01-01T00:00:00Z"}, "start_at"),
        ({**DOCUMENT, "correlation_id": "x" * 120}, "correlation_id"),
    ],
)
def test_a_document_that_cannot_be_scheduled_is_told_when_the_app_is_configured(
    document: dict[str, Any], path: str
) -> None:
    """And not at the first night."""
    with pytest.raises(InvalidInput) as refused:
        schedule_entry(document, schedule=5)

    assert refused.value.path == path


class AtDawn(schedule):  # type: ignore[misc]
    """A schedule of somebody else's, as `solar` is."""


@pytest.mark.parametrize("given", [AtDawn(5), "daily", True, None, -5, 0])
def test_a_schedule_that_names_no_times_is_refused(given: object) -> None:
    """Two beats could not agree on one."""
    with pytest.raises(InvalidInput):
        schedule_entry(DOCUMENT, schedule=given)


def test_the_message_has_the_time_and_flower_sees_no_prompt(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever may look at Flower may not read prompts."""
    kwargs, options = sent_by(app, monkeypatch, document=DOCUMENT, schedule={"crontab": {"minute": 0, "hour": 0}})

    at = datetime.fromisoformat(kwargs["at"])
    assert (at.hour, at.minute, at.second, at.microsecond) == (0, 0, 0, 0)
    assert timedelta() <= datetime.now(UTC) - at < timedelta(days=1, minutes=1)
    assert "s3cret" not in options["kwargsrepr"] + options["argsrepr"]
    again, _ = sent_by(app, monkeypatch, **{**kwargs, "at": "2026-01-01T00:00:00+00:00"})
    assert again["at"] == "2026-01-01T00:00:00+00:00"  # a retry, or a message that is sent again


def request_of(app: Celery, headers: dict[str, Any], kwargs: dict[str, Any], args: tuple[Any, ...] = ()) -> Request:
    """What a worker keeps of a message of anybody, such as a beat that does not load us."""
    body = json.dumps([args, kwargs, {}])
    message = Message(
        body=body, content_type="application/json", content_encoding="utf-8", accept=["application/json"],
        delivery_info={}, properties={}, headers={"id": "t1", "task": "paigeant.dispatch", **headers},
    )  # fmt: skip
    made = symbol_by_name(task_of(app).Request)(message, app=app, task=task_of(app))
    assert isinstance(made, Request)
    return made


@pytest.mark.parametrize("by_place", [False, True])
def test_a_worker_shows_no_document_whoever_sent_it(app: Celery, by_place: bool) -> None:
    """`celery inspect`, events, logs and extended results are open to more people than prompts are."""
    raw = {"document": DOCUMENT, "schedule": {"every": 60.0}, "prompt": "s3cret of a mistake"}
    headers = {"argsrepr": repr([DOCUMENT]), "kwargsrepr": repr(raw)}

    request = request_of(app, headers, {} if by_place else raw, (DOCUMENT,) if by_place else ())

    told = [
        request.info(),
        request.info(safe=True),
        request.argsrepr,
        request.kwargsrepr,
        request,
        request.request_dict,
    ]
    assert "s3cret" not in repr(told)
    assert ("every" in request.kwargsrepr) is not by_place
    assert "s3cret" in str(request.body)  # from which the task gets its arguments


def test_an_extended_result_has_no_document(app: Celery) -> None:
    """A backend of results is read by everybody who waits for one."""
    task, at = task_of(app), "2026-03-29T08:00:00+00:00"
    task.push_request(id="t1", args=[], kwargs={"document": DOCUMENT, "at": at}, called_directly=False)
    try:
        task.run(DOCUMENT, at=at)
        kept = (task.request.args, task.request.kwargs)
    finally:
        task.pop_request()

    assert kept == ([], {"schedule": None, "deadline_after": None, "at": at})


def test_arguments_by_their_place_are_sent_by_their_names(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody writes them so into a scheduler; the message has its time all the same."""
    found: list[tuple[Any, Any]] = []
    monkeypatch.setattr("celery.app.task.Task.apply_async", lambda self, args, given, **o: found.append((args, given)))

    task_of(app).apply_async((DOCUMENT, {"every": 86_400}))
    task_of(app).apply_async((DOCUMENT, None, None, None, "one more"))

    (args, given), (more, _) = found
    assert args == ()
    assert given["schedule"] == {"every": 86_400}
    assert datetime.fromisoformat(given["at"]).hour == 0
    assert more == ("one more",)  # which Celery refuses


def test_a_beat_that_is_a_moment_early_sends_no_copy(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its second message falls into the interval of the first one, and its run would be lost without a word."""
    moments = [datetime(2026, 3, 29, 12, 1, 0, 2000, UTC), datetime(2026, 3, 29, 12, 1, 59, 999_000, UTC)]
    moments += [datetime(2026, 3, 29, 12, 2, 20, tzinfo=UTC), datetime(2026, 3, 29, 12, 2, 59, 998_000, UTC)]

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return moments[len(found)]

    found: list[str] = []
    monkeypatch.setattr(schedules, "datetime", Clock)
    for _ in moments:
        kwargs, _ = sent_by(app, monkeypatch, document=DOCUMENT, schedule={"every": 60.0})
        found.append(kwargs["at"][11:19])

    assert found == ["12:01:00", "12:02:00", "12:02:00", "12:03:00"]


def test_a_beat_remembers_only_its_latest_entries(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that sends a document of its own each time does not grow."""
    monkeypatch.setattr(schedules, "MOST_KNOWN", 3)
    for number in range(5):
        sent_by(app, monkeypatch, document={**DOCUMENT, "variables": {"n": number}}, schedule={"every": 60.0})

    assert len(task_of(app)._sent_for) == 3


def test_the_messages_of_a_repeated_hour_have_times_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """When clocks go back, the runs of the second pass are no copies of those of the first one."""
    passes = [datetime(2026, 10, 25, hour, 5, 2, tzinfo=UTC) for hour in (0, 1)]

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return passes[len(found)]

    found: list[str] = []
    with Celery("berlin", broker="memory://scheduled//", set_as_current=False) as berlin:
        berlin.conf.timezone = "Europe/Berlin"
        install(berlin, store=MemoryStore(lease=10, ttl=100))
        berlin.finalize()
        monkeypatch.setattr(schedules, "datetime", Clock)
        for _ in passes:
            kwargs, _ = sent_by(berlin, monkeypatch, document=DOCUMENT, schedule={"crontab": {"minute": "*/5"}})
            found.append(kwargs["at"])

    assert found == ["2026-10-25T00:05:00+00:00", "2026-10-25T01:05:00+00:00"]


def test_a_crontab_of_its_own_time_zone_means_the_times_of_that(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an admin page of django-celery-beat each crontab has a zone; that of the app says nothing of it."""
    from django_celery_beat.tzcrontab import TzAwareCrontab

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime(2026, 7, 1, 6, 0, 1, tzinfo=UTC)

    in_berlin = TzAwareCrontab(minute=0, hour=8, tz=ZoneInfo("Europe/Berlin"))
    entry = schedule_entry(DOCUMENT, schedule=in_berlin)
    monkeypatch.setattr(schedules, "datetime", Clock)

    kwargs, _ = sent_by(app, monkeypatch, **entry["kwargs"])

    assert entry["kwargs"]["schedule"]["timezone"] == "Europe/Berlin"
    assert json.loads(json.dumps(entry["kwargs"])) == entry["kwargs"]
    assert kwargs["at"] == "2026-07-01T06:00:00+00:00"
    utc = schedule_entry(DOCUMENT, schedule=TzAwareCrontab(minute=0, hour=8))["kwargs"]["schedule"]
    assert utc["timezone"] == "UTC"


@pytest.mark.parametrize("zone", ["Europe/Bärlin", "", "../UTC", "Europe"])
def test_a_time_zone_that_nobody_knows_is_told(app: Celery, monkeypatch: pytest.MonkeyPatch, zone: str) -> None:
    """It may have been written by hand into a scheduler's database."""
    with pytest.raises(InvalidInput, match="no time zone") as refused:
        sent_by(app, monkeypatch, document=DOCUMENT, schedule={"crontab": {"minute": 0}, "timezone": zone})

    assert refused.value.path == "schedule.timezone"


def test_two_messages_of_one_time_begin_one_workflow(app: Celery) -> None:
    """Two beats run, or the broker delivers twice."""
    entry = schedule_entry(DOCUMENT, schedule=crontab(minute=0, hour=8))
    at = "2026-03-29T08:00:00+00:00"

    ids = [task_of(app)(**entry["kwargs"], at=at) for _ in range(2)]
    later = task_of(app)(**entry["kwargs"], at="2026-03-30T08:00:00+00:00")

    assert [*ids, later] == ["report-20260329T080000Z", "report-20260329T080000Z", "report-20260330T080000Z"]
    transport = install(app)
    events = [event.type for event in WorkflowHandle(ids[0], transport).events_so_far()]
    assert events == ["started"]


def test_another_document_under_the_same_id_is_told(app: Celery) -> None:
    """The configuration was changed between two beats: one of them counts, and nobody runs both."""
    entry = schedule_entry(DOCUMENT, schedule=60)
    other = schedule_entry({**DOCUMENT, "variables": {"a": 1}}, schedule=60)
    at = "2026-03-29T08:00:00+00:00"
    task_of(app)(**entry["kwargs"], at=at)

    with pytest.raises(WorkflowConflict):
        task_of(app)(**other["kwargs"], at=at)


def test_the_deadline_is_counted_from_the_time_that_was_due(app: Celery) -> None:
    """So a message that waited has less time, and a second beat the same content."""
    entry = schedule_entry(DOCUMENT, schedule=crontab(), deadline_after=timedelta(hours=1))
    now = datetime.now(UTC).replace(microsecond=0)

    correlation_id = task_of(app)(**entry["kwargs"], at=now.isoformat())

    record = install(app).store.workflow(correlation_id)  # type: ignore[union-attr]
    assert json.loads(record.envelope)["deadline"] == (now + timedelta(hours=1)).isoformat().replace("+00:00", "Z")  # type: ignore[union-attr]
    with pytest.raises(InvalidDocument, match="deadline_passed"):
        task_of(app)(**entry["kwargs"], at="2026-03-29T08:00:00+00:00")


def test_a_beat_at_any_phase_of_an_interval_leaves_time_until_the_deadline(
    app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A beat sends when its interval is over since its own start, which may be hours after the time it means."""
    now = datetime.now(UTC)
    for number, phase in enumerate((0.001, 0.3, 0.6, 0.9)):
        every = now.timestamp() / (20_000 + phase)  # of about a day, of which that much is over
        entry = schedule_entry({**DOCUMENT, "correlation_id": f"r{number}"}, schedule=every, deadline_after=600)
        kwargs, _ = sent_by(app, monkeypatch, **entry["kwargs"])

        correlation_id = task_of(app)(**kwargs)
        again = task_of(app)(**kwargs)  # of another beat

        record = install(app).store.workflow(correlation_id)  # type: ignore[union-attr]
        deadline = datetime.fromisoformat(json.loads(record.envelope)["deadline"])  # type: ignore[union-attr]
        assert again == correlation_id
        assert timedelta(seconds=600) < deadline - now <= timedelta(seconds=600 + every)


def test_without_a_schedule_the_id_is_that_of_the_document_or_of_the_task(app: Celery) -> None:
    """A message that is delivered twice begins nothing twice."""
    nameless = {key: value for key, value in DOCUMENT.items() if key != "correlation_id"}
    task = task_of(app)

    assert task(DOCUMENT) == "report"
    ids = []
    for task_id in ("t1", "t1", "t2"):
        task.push_request(id=task_id)
        ids.append(task.run(nameless))
        task.pop_request()
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize(
    ("error", "ends"), [(NotRecorded("report", "away"), Retry), (NotPublished("report", "away"), None)]
)
def test_while_the_store_is_away_the_task_is_tried_again(
    app: Celery, monkeypatch: pytest.MonkeyPatch, error: Exception, ends: type[Exception] | None
) -> None:
    """A run of the night is not lost with a restart of Redis; what is recorded is sent by a sweep."""

    def fail(*_: object, **__: object) -> str:
        raise error

    sent: list[dict[str, Any]] = []
    at = "2026-03-29T08:00:00+00:00"
    monkeypatch.setattr(schedules, "dispatch_document_sync", fail)
    monkeypatch.setattr("celery.app.task.Task.apply_async", lambda self, args, given, **o: sent.append(given))
    task = task_of(app)
    task.push_request(id="t", kwargs={"document": DOCUMENT, "at": at}, called_directly=False)
    try:
        if ends is None:
            assert task.run(DOCUMENT, at=at) == "report"
            return
        with pytest.raises(ends):
            task.run(DOCUMENT, at=at)
    finally:
        task.pop_request()
    assert [(given["document"], given["at"]) for given in sent] == [(DOCUMENT, at)]


@pytest.mark.parametrize("document", [DOCUMENT, {key: DOCUMENT[key] for key in ("version", "itinerary")}])
def test_a_message_of_a_schedule_without_a_time_is_refused(app: Celery, document: dict[str, Any]) -> None:
    """A beat that does not load us sent it: each run after the first would be lost, or two beats begin two."""
    entry = schedule_entry(document, schedule=60)

    with pytest.raises(InvalidInput, match="have beat load the app") as refused:
        task_of(app)(**entry["kwargs"])

    assert refused.value.path == "at"


@pytest.mark.parametrize("at", ["now", "2026-03-29T08:00:00", 5])
def test_a_time_that_is_none_is_refused(app: Celery, at: Any) -> None:
    """Somebody else wrote the message."""
    with pytest.raises(InvalidInput, match="must be a time with its zone"):
        task_of(app)(DOCUMENT, at=at)


def test_no_activity_takes_the_name_of_the_task() -> None:
    """Its messages would go to the wrong one."""
    from paigeant_celery import activity

    with pytest.raises(InvalidInput, match="the name of a task of our own"):

        @activity
        def dispatch() -> None: ...
