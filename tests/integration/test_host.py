"""A host application before and after paigeant_celery is added: neither changes the other."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import HOSTS, PROGRAMS, START_WITHIN, Deployment, Process, deployment, run_script
from tests.support.servers import RedisServer

DJANGO_PATH = os.pathsep.join(map(str, (PROGRAMS, HOSTS, HOSTS / "django_project")))
WITHIN = 20.0

OBSERVE = """
import json, sys
import shop
from celery import _state, current_app, signals

app = shop.app
app.loader.import_default_modules()
app.finalize()
ATTRIBUTES = (
    "serializer", "rate_limit", "time_limit", "soft_time_limit", "acks_late", "ignore_result", "priority", "typing",
    "compression", "reject_on_worker_lost", "track_started", "send_events", "abstract", "acks_on_failure_or_timeout",
)

def shown(task):
    classes = [c.__qualname__ for c in type(task).__mro__]
    return [classes, {name: repr(getattr(task, name, None)) for name in ATTRIBUTES}]

def sent(name, *args):
    app.tasks[name].apply_async(args, task_id="one", queue="probe")
    with app.connection_for_write() as connection:
        message = connection.default_channel.basic_get("probe", no_ack=True)
        properties = {k: v for k, v in message.properties.items() if k not in ("delivery_tag", "reply_to")}
        headers = {k: v for k, v in message.headers.items() if k != "origin"}
        return [repr(message.body), message.content_type, message.content_encoding, headers, properties]

print(json.dumps({
    "conf": {key: repr(app.conf[key]) for key in sorted(app.conf)},
    "tasks": {name: shown(task) for name, task in app.tasks.items()},
    "shown class": [c.__qualname__ for c in app.Task.__mro__],
    "routes": {n: repr(app.amqp.router.lookup_route(n, (), {}, {})) for n in ("shop.add", "paigeant.draft", "other")},
    "queues": sorted(app.amqp.queues),
    "consumed": sorted(app.amqp.queues.consume_from),
    "current app": [current_app.main, _state.get_current_app() is app, _state.default_app and _state.default_app.main],
    "steps": sorted(step.__name__ for step in app.steps["worker"]),
    "signals": [len(signals.before_task_publish.receivers), len(signals.worker_init.receivers)],
    "own message": sent("shop.add", 2, 3),
    "shared message": sent("shop.shared"),
    "installed": hasattr(app, "paigeant_attachment"),
}))
"""

PINNED = """
import json, sys
import shop
from paigeant_celery import ActivitySpec, StepPolicy, WorkflowDispatcher, get_transport

app = shop.app
app.loader.import_default_modules()
transport = get_transport()
steps = [
    ActivitySpec("review", "Telephone 555 1234.", {"style": "discreet"}, policy=StepPolicy(timeout=10)),
    ActivitySpec("draft", "b"),
]
WorkflowDispatcher().dispatch_workflow_sync(transport, itinerary=steps, correlation_id="one")
with app.connection_for_write() as connection:
    message = connection.default_channel.basic_get("agents", no_ack=True)
task = app.tasks["paigeant.review"]
names = (
    "acks_late", "acks_on_failure_or_timeout", "reject_on_worker_lost", "ignore_result", "serializer", "compression",
    "rate_limit", "track_started", "store_errors_even_if_ignored", "priority",
)
task_names = [type(task).__mro__[1].__name__, isinstance(task, shop.ShopTask)]
print(json.dumps({
    "broker": transport.broker,
    "headers": message.headers, "properties": message.properties, "content_type": message.content_type,
    "body": message.decode(), "task": {name: getattr(task, name) for name in names}, "class": task_names,
}))
"""

CONSUMED = """
import ast, json, sys, warnings
import celery.exceptions, shop
warnings.simplefilter("ignore", celery.exceptions.SecurityWarning)  # a container runs its tests as root
shop.app.conf.update(ast.literal_eval(sys.argv[1]))
worker = shop.app.Worker(pool="solo", queues=sys.argv[2] or None, exclude_queues=sys.argv[3] or None)
print(json.dumps(sorted(shop.app.amqp.queues.consume_from)))
"""


def observed(with_us: str, **settings: object) -> dict[str, Any]:
    return json.loads(run_script(OBSERVE, cold=True, SHOP_WITH=with_us, SHOP_SETTINGS=repr(settings)))


@pytest.mark.parametrize("with_us", ["imports", "install"])
def test_adding_us_changes_nothing_of_the_host(with_us: str) -> None:
    """A team adds agents to a deployment that earns money; nothing that ran before may behave differently."""
    before, after = observed(""), observed(with_us)

    ours = {name for name in after["tasks"] if name.startswith("paigeant.")}
    assert {"paigeant.draft", "paigeant.count_letters"} <= ours
    assert before.pop("installed") is False
    assert after.pop("installed") is True
    after["tasks"] = {name: task for name, task in after["tasks"].items() if name not in ours}
    assert "Ending" not in before["steps"]
    after["steps"].remove("Ending")  # ours, which tells only our steps that the worker is ending
    if with_us == "imports":
        assert after["conf"].pop("imports") != before["conf"].pop("imports")
    assert after == before
    assert before["current app"][0] == "shop"


def test_importing_us_without_installing_changes_no_app() -> None:
    """A module that only builds steps may be imported anywhere."""
    script = "import paigeant_celery, sys; from paigeant_celery import ActivitySpec, WorkflowDispatcher\n"

    assert observed("") == json.loads(run_script(script + OBSERVE, cold=True, SHOP_SETTINGS="{}"))


@pytest.mark.parametrize("with_us", ["imports", "install"])
def test_no_default_of_the_host_changes_our_tasks_and_messages(with_us: str) -> None:
    """A time limit of one second or pickled bodies may be right for a host's tasks, but they are wrong for an agent."""
    seen = json.loads(run_script(PINNED, cold=True, SHOP_WITH=with_us))

    assert seen["task"] == {
        "acks_late": True,
        "acks_on_failure_or_timeout": True,
        "reject_on_worker_lost": True,
        "ignore_result": True,
        "serializer": "json",
        "compression": None,
        "rate_limit": "0/s",
        "track_started": False,
        "store_errors_even_if_ignored": False,
        "priority": 0,
    }
    assert seen["class"] == ["HopTask", False]
    headers = seen["headers"]
    envelope = seen["body"][0][0]
    assert seen["content_type"] == "application/json"
    assert json.loads(envelope)["message_id"] == "one.0"
    assert seen["body"][0] == [envelope]
    assert {name: headers[name] for name in ("task", "id", "root_id", "parent_id")} == {
        "task": "paigeant.review",
        "id": "one.0",
        "root_id": "one.0",
        "parent_id": None,
    }
    assert headers["timelimit"] == [2410.0, 1210.0]
    assert headers["ignore_result"] is True
    assert headers["argsrepr"] == "(workflow one, step 1 of 2: review)"
    assert headers["kwargsrepr"] == "{}"
    assert (headers["eta"], headers["expires"], headers["shadow"]) == (None, None, None)
    assert headers["sentry-trace"] == "0123-4567-1"
    assert headers["compression"] == "application/x-gzip"  # the host's is bzip2
    assert (seen["properties"]["priority"], seen["properties"]["delivery_mode"]) == (0, 2)
    assert seen["properties"]["delivery_info"]["routing_key"] == "agents"
    assert "555 1234" not in json.dumps([headers, seen["properties"]])


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"task_always_eager": True}, "`task_always_eager` is set"),
        ({"task_annotations": {"*": {"acks_late": False}}}, "`task_annotations` sets `acks_late`"),
        ({"task_protocol": 1}, "`task_protocol` is 1"),
        ({"accept_content": ["pickle"]}, "`accept_content` does not include 'json'"),
        ({"paigeant_leese": 3}, "`paigeant_leese` is not a setting; did you mean `paigeant_lease`?"),
    ],
)
def test_a_setting_of_the_host_that_would_change_us_is_an_error_that_names_it(
    settings: dict[str, object], named: str
) -> None:
    """No workflow is better than one that waits forever or runs under rules that nobody meant for it."""
    script = (
        "import shop\n"
        "from paigeant_celery import ActivitySpec, WorkflowDispatcher, get_transport\n"
        "from paigeant_celery.core.errors import ConfigurationError\n"
        "shop.app.loader.import_default_modules()\n"
        "try:\n"
        "    steps = [ActivitySpec('draft', 'a')]\n"
        "    WorkflowDispatcher().dispatch_workflow_sync(get_transport(app=shop.app), itinerary=steps)\n"
        "except ConfigurationError as error:\n"
        "    print(error)\n"
        "with shop.app.connection_for_write() as connection:\n"
        "    connection.default_channel.queue_declare('agents')\n"
        "    assert connection.default_channel.basic_get('agents') is None\n"
    )

    said = run_script(script, SHOP_WITH="install", SHOP_SETTINGS=repr(settings))

    assert said.startswith(f"configuration: {named}")
    assert said.count("\n") == 1


def test_annotations_for_the_hosts_own_tasks_are_no_error() -> None:
    """What does not reach our tasks is the host's business, and so are time limits, which each message overrides."""
    annotations = {"shop.add": {"rate_limit": "10/m"}, "*": {"time_limit": 5}}
    after = json.loads(run_script(PINNED, SHOP_WITH="install", SHOP_SETTINGS=repr({"task_annotations": annotations})))

    assert after["headers"]["timelimit"] == [2410.0, 1210.0]


@pytest.mark.parametrize(
    ("consume", "queues", "served"),
    [
        (None, "", {"shop", "agents", "draft", "count_letters", "digest_of", "_flow"}),
        (None, "orders", {"orders"}),
        (None, "orders,paigeant.draft", {"orders", "draft", "_flow"}),
        (None, "agents", {"agents", "_flow"}),
        (None, "-orders", {"shop", "agents", "draft", "count_letters", "digest_of", "_flow"}),
        (None, "-agents,paigeant.draft", {"shop", "count_letters", "digest_of", "_flow"}),
        ("also", "-paigeant.draft", {"shop", "agents", "count_letters", "digest_of", "_flow"}),
        ("no", "orders,paigeant.draft", {"orders", "draft"}),
        (("draft",), "orders,paigeant.digest_of", {"orders", "agents", "draft", "digest_of", "_flow"}),
        ("also", "", {"shop", "agents", "draft", "count_letters", "digest_of", "_flow"}),
        ("also", "orders", {"orders", "agents", "draft", "count_letters", "digest_of", "_flow"}),
        ("only", "", {"agents", "draft", "count_letters", "digest_of", "_flow"}),
        ("only", "orders", {"agents", "draft", "count_letters", "digest_of", "_flow"}),
        ("no", "", {"shop"}),
        ("no", "agents", {"agents"}),
        (("draft",), "", {"shop", "agents", "draft", "_flow"}),
        (("_flow",), "", {"shop", "_flow"}),
        (None, "orders,paigeant._flow", {"orders", "_flow"}),
        ("also", "-paigeant._flow", {"shop", "agents", "draft", "count_letters", "digest_of"}),
        ("draft,digest_of", "orders", {"orders", "agents", "draft", "digest_of", "_flow"}),
    ],
)
def test_paigeant_consume_says_which_queues_a_worker_serves(consume: object, queues: str, served: set[str]) -> None:
    """Steps that take minutes and tasks that take milliseconds should not wait for each other. "-" stands for `-X`."""
    settings: dict[str, object] = {"imports": ("paigeant_celery.tasks", "press")}
    if consume is not None:
        settings["paigeant_consume"] = consume

    chosen, excluded = ("", queues[1:]) if queues.startswith("-") else (queues, "")

    consumed = json.loads(run_script(CONSUMED, repr(settings), chosen, excluded, SHOP_BROKER="redis://127.0.0.1:1/0"))

    host = {"shop", "orders", "agents"}
    assert consumed == sorted(name if name in host else f"paigeant.{name}" for name in served)


def start_host(made: Deployment, app: str, *arguments: str, **environment: str) -> Process:
    return made.run(
        "-A", app, "worker", "-l", "INFO", "-c", "2", "--without-mingle", "--without-gossip", *arguments,
        name=app, cold=True, **environment,
    )  # fmt: skip


@pytest.mark.parametrize("with_us", ["imports", "install"])
def test_a_host_worker_runs_its_own_tasks_and_our_steps(
    own_redis: Callable[..., RedisServer], tmp_path: Path, with_us: str
) -> None:
    """Its limits of one second and one task per hour apply to its own tasks; a step of 1.5 s, and two at once, pass."""
    url = own_redis().url
    annotations = {"*": {"rate_limit": "1/h"}, "paigeant.draft": {"rate_limit": "1/h", "after_return": "is not called"}}
    settings = repr({
        "paigeant_store_url": "broker", "result_backend": url, "paigeant_consume": "also",
        "task_annotations": annotations,
    })  # fmt: skip
    script = """
import json, shop
from paigeant_celery import ActivitySpec, WorkflowDispatcher
own = shop.add.delay(2, 3)
steps = [ActivitySpec("slow", "1.5"), ActivitySpec("draft", "a"), ActivitySpec("draft", "b")]
dispatcher = WorkflowDispatcher()
correlation_id = dispatcher.dispatch_workflow_sync(itinerary=steps)
result = dispatcher.handle(correlation_id).result_sync(20)
own_result = own.get(timeout=20)
kept = [key.decode() for key in shop.app.backend.client.keys("celery-task-meta-*")]
print(json.dumps([own_result, result.output, kept == [f"celery-task-meta-{own.id}"]]))
"""
    with deployment(url, tmp_path) as made:
        environment = {"SHOP_WITH": with_us, "SHOP_SETTINGS": settings, "SHOP_BROKER": url}
        worker = start_host(made, "shop", "-Q", "orders", **environment)
        worker.wait_for_log(" ready.", within=START_WITHIN)

        seen = json.loads(run_script(script, **environment))

        assert seen == [5, "draft(b|draft(a|worked 1.5 s))", True]
        log = worker.log()
        assert "mode: durable" in log
        assert "  . draft (agent) from agents\n" in log
        assert "  recommended: worker_prefetch_multiplier = 1 (4 lets messages wait " in log
        assert "Traceback" not in log


def test_a_django_project_finds_the_agents_of_its_apps(own_redis: Callable[..., RedisServer], tmp_path: Path) -> None:
    """One line of settings is enough; `agents.py` is loaded like `tasks.py`, and the web process finds its app."""
    url = own_redis().url
    host = {"SHOP_WITH": "imports", "SHOP_STORE": "broker", "SHOP_BROKER": url}
    environment = {**host, "PYTHONPATH": DJANGO_PATH}
    view = """
import json, os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "mysite.settings"
import django
django.setup()
import mysite
from paigeant_celery import ActivitySpec, FunctionSpec, WorkflowDispatcher, get_transport

transport = get_transport()
dispatcher = WorkflowDispatcher()
steps = [FunctionSpec("installed_apps"), ActivitySpec("title", "name them")]
correlation_id = dispatcher.dispatch_workflow_sync(transport, itinerary=steps)
result = dispatcher.handle(correlation_id, transport).result_sync(20)
print(json.dumps([result.outputs, transport.settings.lease, "pydantic_ai" in sys.modules]))
"""
    with deployment(url, tmp_path) as made:
        worker = start_host(made, "mysite", **environment)
        worker.wait_for_log(" ready.", within=START_WITHIN)

        outputs, lease, agent_library = json.loads(run_script(view, cold=True, **environment))

        assert outputs == {
            "installed_apps": ["blog", "contenttypes"],
            "title": 'title(name them|["blog","contenttypes"])',
        }
        assert lease == 7.5
        assert agent_library is False
        assert "blog.tasks.count_posts" in worker.log()


DJANGO_SEEN = """
import json, os
os.environ["DJANGO_SETTINGS_MODULE"] = "mysite.settings"
import django
django.setup()
from mysite.celery import app
{then}
app.loader.import_default_modules()
app.finalize()
print(json.dumps(sorted(name for name in app.tasks if not name.startswith("celery."))))
"""


@pytest.mark.parametrize("late", [False, True])
def test_install_in_a_django_project_finds_agents_too(late: bool) -> None:
    """It does not matter whether `install` is called before or after Celery has loaded the project's tasks."""
    then = "from paigeant_celery import install; install(app)"
    if late:
        then = f"app.loader.import_default_modules()\n{then}"

    before = json.loads(run_script(DJANGO_SEEN.format(then=""), PYTHONPATH=DJANGO_PATH))
    after = json.loads(run_script(DJANGO_SEEN.format(then=then), PYTHONPATH=DJANGO_PATH))

    assert before == ["blog.tasks.count_posts"]
    ours = ["paigeant._flow", "paigeant.dispatch", "paigeant.installed_apps", "paigeant.title"]
    assert after == ["blog.tasks.count_posts", *ours]


BAD_SETTINGS = {
    "broker_url": "memory://localhost//",
    "paigeant_store_url": "mysql://root:hunter2@127.0.0.1/db",
    "paigeant_leese": 3,
    "paigeant_max_steps": 0,
    "task_always_eager": True,
    "task_annotations": {"*": {"acks_late": False, "rate_limit": "1/h"}},
}


def test_a_worker_with_wrong_settings_stops_with_one_line_that_names_them_all(tmp_path: Path) -> None:
    """Mistakes that are reported one at a time cost one deployment each."""
    for name in ("first", "second"):
        (tmp_path / f"{name}.py").write_text(
            "from paigeant_celery import activity\n@activity(name='twin')\ndef made() -> int:\n    return 1\n"
        )
    with deployment("memory://localhost//", tmp_path, **BAD_SETTINGS) as made:
        (tmp_path / "worker").mkdir()
        for name in ("first", "second"):
            (tmp_path / f"{name}.py").rename(tmp_path / "worker" / f"{name}.py")
        worker = made.start_worker("first", "second", pool="solo")

        assert worker.ended(within=START_WITHIN) == 1

        log = worker.log()
        lines = [line for line in log.splitlines() if line.startswith("paigeant_celery: ")]
        assert len(lines) == 1
        for mistake in (
            "configuration, 7 mistakes: ",
            "`paigeant_leese` is not a setting; did you mean `paigeant_lease`?",
            "`paigeant_max_steps`: ",
            "`paigeant_store_url`: the scheme 'mysql' is not supported",
            "`task_always_eager` is set",
            "`task_annotations` sets `acks_late`",
            "the broker is `memory://`, which no other process can reach; set `PAIGEANT_REDIS_URL`",
            "two activities are named 'twin': one made at ",
        ):
            assert mistake in lines[0]
        assert "hunter2" not in log
        assert "Traceback" not in log


@pytest.mark.parametrize(
    ("settings", "mistake"),
    [
        ({"paigeant_consume": ("draft", "drafft")}, "`paigeant_consume` names 'drafft', which is not loaded"),
        ({"imports": ("paigeant_celery.tasks",), "paigeant_consume": "only"}, "`paigeant_consume` is 'only', but no"),
        ({"paigeant_lease": 0}, "`paigeant_lease`: Input should be greater than or equal to 0.2"),
    ],
)
def test_a_host_worker_stops_at_a_mistake_too(settings: dict[str, object], mistake: str) -> None:
    """The host's own deployment shows it, not a workflow that nobody serves."""
    settings = {"imports": ("paigeant_celery.tasks", "press"), **settings}
    script = f"import sys\ntry:\n    exec({CONSUMED!r})\nexcept SystemExit as error:\n    print(error)\n"

    said = run_script(script, repr(settings), "", "", SHOP_BROKER="redis://127.0.0.1:1/0")

    assert said.startswith(f"paigeant_celery: configuration: {mistake}")
