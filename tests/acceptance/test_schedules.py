"""Documents that beats send: two of them begin one workflow for each time, whatever keeps their schedules."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest
import redis
from celery.schedules import crontab

from paigeant_celery import WorkflowHandle, schedule_entry
from tests.support.processes import START_WITHIN, Deployment, Process, deployment, eventually, run_script

EVERY = 2  # seconds
DOCUMENT = {
    "version": 1,
    "correlation_id": "report",
    "itinerary": [{"agent": "topic", "prompt": "purring cats"}],
}
SCHEDULERS = {
    "celery": "celery.beat:PersistentScheduler",
    "redbeat": "redbeat.RedBeatScheduler",
    "django": "django_celery_beat.schedulers:DatabaseScheduler",
}
MIGRATE = """
import django
from django.core.management import call_command

django.setup()
call_command("migrate", verbosity=0)
"""


def start_beat(made: Deployment, scheduler: str, name: str) -> Process:
    """Start a beat that keeps its schedule in a place of its own, if the scheduler can have two."""
    folder = made.configured(name)
    environment: dict[str, str] = {}
    if scheduler == "django":
        environment = {"DJANGO_SETTINGS_MODULE": "beat_site", "BEAT_DATABASE": str(folder / "beat.sqlite3")}
        run_script(MIGRATE, cwd=folder, **environment)
    return made.run(
        "-A", "paigeant_celery", "beat", "-S", SCHEDULERS[scheduler], "--max-interval", "1", "-l", "INFO",
        "--pidfile", str(folder / "beat.pid"), folder=folder, name=name, cold=True, **environment,
    )  # fmt: skip


def sent(beat: Process) -> int:
    return beat.log().count("Sending due task")


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_two_beats_begin_one_workflow_for_each_time(redis_url: str, tmp_path: Path, scheduler: str) -> None:
    """A standby that runs beside the first one pays for nothing twice."""
    with deployment(redis_url, tmp_path) as made:
        made.settings |= {
            "task_default_queue": f"{made.prefix}-host",
            "redbeat_redis_url": redis_url,
            "redbeat_key_prefix": f"{made.prefix}:beat:",
            "redbeat_lock_key": None,
            "beat_schedule": {"report": schedule_entry(DOCUMENT, schedule=EVERY, prefix=made.prefix)},
        }
        worker = made.start_worker("desk", pool="threads", slots=4)
        beats = [start_beat(made, scheduler, f"beat-{number}") for number in (1, 2)]
        worker.wait_for_log(" ready.", within=START_WITHIN)

        def dispatched() -> Counter[str]:
            return Counter(re.findall(r"dispatch\[[^]]+\] succeeded in [^:]+: '(report-[^']+)'", worker.log()))

        def enough() -> bool:
            assert all(beat.running for beat in beats), "".join(beat.log() for beat in beats)
            # With redbeat two beats share their times in Redis, and mostly one of them sends.
            both = scheduler == "redbeat" or max(dispatched().values(), default=0) > 1
            return len(dispatched()) >= 4 and all(sent(beat) for beat in beats) and both

        eventually(enough, within=2 * START_WITHIN, what="four workflows of two beats")
        for beat in beats:
            assert beat.terminate() == 0, beat.log()

        def quiet() -> bool:
            waiting = client.llen(f"{made.prefix}-host")
            return not waiting and worker.log().count("dispatch[") == 2 * sum(dispatched().values())

        with redis.Redis.from_url(redis_url) as client:
            eventually(quiet, what="all that was sent is dispatched")
        ids = sorted(dispatched())
        handles = [WorkflowHandle(correlation_id, made.transport()) for correlation_id in ids]
        for handle in handles:
            handle.result_sync(timeout=20)

        assert all(re.fullmatch(r"report-[0-9]{8}T[0-9]{6}Z", each) for each in ids)
        assert all(int(each[-3:-1]) % EVERY == 0 for each in ids)
        assert Counter(made.runs()) == Counter(f"{each}.0" for each in ids)
        assert [sum(event.type == "started" for event in handle.events_so_far()) for handle in handles] == [1] * len(
            ids
        )
        assert "purring" not in worker.log() + "".join(beat.log() for beat in beats)


def test_a_beat_that_takes_over_begins_nothing_that_was_begun(redis_url: str, tmp_path: Path) -> None:
    """The first one was killed just after it had sent; the second one sends what it believes to be due."""
    with deployment(redis_url, tmp_path) as made:
        made.settings |= {"task_default_queue": f"{made.prefix}-host"}
        worker = made.ready_worker("desk", pool="threads", slots=4)
        script = (
            "import sys, json\n"
            "from paigeant_celery.celery import app\n"
            "entry = json.loads(sys.argv[1])\n"
            "print(app.tasks[entry['task']].apply_async(kwargs=entry['kwargs']).id)\n"
        )
        # A time once a year: whoever sends it, today or tomorrow, means the same one.
        yearly = crontab(minute=0, hour=0, day_of_month=1, month_of_year=1)
        entry = schedule_entry(DOCUMENT, schedule=yearly, prefix=made.prefix)
        given = json.dumps({"task": entry["task"], "kwargs": entry["kwargs"]})
        for number in (1, 2):
            folder = made.configured(f"sender-{number}")
            run_script(script, given, cwd=folder, PAIGEANT_REDIS_URL=redis_url)

        def succeeded() -> list[str]:
            return re.findall(r"dispatch\[[^]]+\] succeeded in [^:]+: '(report-[^']+)'", worker.log())

        eventually(lambda: len(succeeded()) == 2, within=START_WITHIN, what="both are dispatched")
        (correlation_id,) = set(succeeded())
        WorkflowHandle(correlation_id, made.transport()).result_sync(timeout=20)

        assert re.fullmatch(r"report-20[0-9]{2}0101T000000Z", correlation_id)
        assert made.runs() == [f"{correlation_id}.0"]
