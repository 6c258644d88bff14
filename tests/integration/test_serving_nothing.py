"""Workers of a host that serve nothing of ours: whatever is wrong with our settings, their own tasks run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.processes import START_WITHIN, deployment, run_script
from tests.support.servers import RedisDatabase, RedisServer

WITHIN = 20.0

# Builds a worker for each of the settings that it is given, once to serve nothing and once everything.
BUILT = """
import json, logging, sys, warnings
import celery.exceptions
from celery import Celery
from celery.concurrency.prefork import TaskPool
from paigeant_celery import activity, install

warnings.simplefilter("ignore", celery.exceptions.SecurityWarning)  # a container runs its tests as root

@activity
def draft() -> int:
    return 1

class Kept(logging.Handler):
    def emit(self, record):
        said.append([getattr(record, "action", None), record.getMessage()])

logging.getLogger("paigeant_celery").addHandler(Kept(level=logging.WARNING))
found = []
for name, settings in json.loads(sys.argv[1]).items():
    if name == "twins":
        twins = [activity(name="twin")(lambda: 1)]
        twins.append(activity(name="twin")(lambda: 2))
    for queues in (["orders"], None):
        said = []
        with Celery("host", broker=sys.argv[2]) as app:
            app.conf.update(settings, worker_hijack_root_logger=False)
            install(app)
            try:
                app.Worker(pool="solo", queues=queues)
            except SystemExit as error:
                said = ["stopped", str(error)]
            found.append([name, sorted(app.amqp.queues.consume_from), said])
print(json.dumps(found))
"""


def wrong(there: str, away: str, other: str, newer: str) -> dict[str, tuple[dict[str, object], str]]:
    """Return what may be wrong, by a name: the settings, and what is said about them."""
    return {
        "annotation": ({"task_annotations": {"*": {"acks_late": False}}}, "`task_annotations` sets `acks_late`"),
        "eager": ({"task_always_eager": True}, "`task_always_eager` is set"),
        "protocol": ({"task_protocol": 1}, "`task_protocol` is 1"),
        "unknown": ({"paigeant_leese": 3}, "`paigeant_leese` is not a setting"),
        "invalid": ({"paigeant_lease": -1}, "`paigeant_lease`: "),
        "consume": ({"paigeant_consume": 5}, "`paigeant_consume`: must be "),
        "url": ({"paigeant_store_url": "redsi://h"}, "`paigeant_store_url`: the scheme 'redsi' is not supported"),
        "broker": ({"broker_url": "amqp://h", "paigeant_store_url": "broker"}, "`paigeant_store_url` is 'broker', but"),
        "memory": ({"broker_url": "memory://"}, "the broker is `memory://`"),
        "other broker": ({"paigeant_store_url": there, "paigeant_prefix": other}, "belongs to the broker amqp://"),
        "newer": ({"paigeant_store_url": there, "paigeant_prefix": newer}, "have format 9"),
        "away": ({"paigeant_store_url": away}, "(`paigeant_store_url`)"),
        "password": ({"paigeant_store_url": there.replace("//", "//nobody:pw@")}, "(`paigeant_store_url`)"),
        "twins": ({}, "two activities are named 'twin'"),
    }


def test_a_worker_that_serves_nothing_starts_with_one_warning_of_what_stops_others(redis_db: RedisDatabase) -> None:
    """The host's mail goes out although somebody has mistyped a setting of ours."""
    other, newer = f"{redis_db.prefix}-other", f"{redis_db.prefix}-newer"
    cases = wrong(redis_db.url, "redis://127.0.0.1:1/0", other, newer)
    with redis_db.client() as client:
        client.hset(f"{other}:meta", "broker", "amqp://elsewhere:5672/")
        client.hset(f"{newer}:meta", "format", "9")
    settings = json.dumps({name: {"paigeant_prefix": redis_db.prefix, **given} for name, (given, _) in cases.items()})

    found = json.loads(run_script(BUILT, settings, redis_db.url))

    outages = {"away"}  # which may end: a worker that serves steps waits
    for name, consumed, said in found:
        text = cases[name][1]
        if consumed == ["orders"]:
            assert [action for action, _ in said] == ["started_in_spite"], (name, said)
            assert text in said[0][1]
        elif name in outages:
            assert [action for action, _ in said] == ["store_unreachable"], (name, said)
            assert text in said[0][1]
        else:
            assert said[0] == "stopped", (name, said)
            assert text in said[1]
    assert [name for name, *_ in found] == [name for name in cases for _ in range(2)]


@pytest.mark.parametrize("settings", [{"paigeant_consume": "no"}, {}], ids=["no", "-Q"])
def test_the_hosts_own_tasks_run_whatever_is_wrong_with_our_settings(
    own_redis: Callable[..., RedisServer], tmp_path: Path, settings: dict[str, object]
) -> None:
    """A Redis that is a cache for most of what it holds, and annotations for all tasks, are common in hosts."""
    url = own_redis("--maxmemory-policy", "volatile-lru").url
    annotations = {"*": {"acks_late": True}}
    settings = {"paigeant_store_url": "broker", "result_backend": url, "task_annotations": annotations, **settings}
    environment = {"SHOP_WITH": "imports", "SHOP_BROKER": url, "SHOP_SETTINGS": repr(settings)}
    with deployment(url, tmp_path) as made:
        worker = made.run("-A", "shop", "worker", "-c", "1", "-Q", "orders", "-l", "INFO", name="shop", **environment)
        worker.wait_for_log(" ready.", within=START_WITHIN)

        assert run_script("import shop; print(shop.add.delay(2, 3).get(timeout=20))", **environment) == "5\n"

        log = worker.log()
    assert log.count("this worker serves no activity, so it starts in spite of: configuration, 2 mistakes: ") == 1
    assert "`task_annotations` sets `acks_late`" in log
    assert "has `maxmemory-policy volatile-lru`" in log
    assert "Traceback" not in log
