"""The in-memory transport: dispatcher and executors in one process, next to whatever else it does."""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from celery import Celery
from pydantic_ai.models.test import TestModel

from paigeant_celery import (
    ActivityExecutor,
    FunctionSpec,
    PaigeantAgent,
    WorkflowContext,
    WorkflowDispatcher,
    WorkflowFailed,
    WorkflowHandle,
    WorkflowStatus,
    activity,
    get_transport,
    sleep_for,
    wait_for,
)
from paigeant_celery.activities.registry import registry
from paigeant_celery.broker.transport import CeleryTransport
from paigeant_celery.core.errors import UnknownActivity, Unreachable, WorkerEnded
from tests.support.processes import run_script, script_environment
from tests.support.servers import free_port
from tests.support.starting import run

WITHIN = 20.0  # seconds within which a workflow must end; the steps themselves take milliseconds


@pytest.fixture(autouse=True)
def own_registry() -> Iterator[None]:
    """Give each test an empty registry."""
    with registry.isolated():
        yield


@pytest.fixture
def transport() -> CeleryTransport:
    """The only in-memory transport of this process."""
    return get_transport("inmemory")


@asynccontextmanager
async def serving(*executors: ActivityExecutor) -> AsyncIterator[None]:
    """Run executors side by side during the block and cancel them at its end."""
    tasks = [asyncio.create_task(executor.start()) for executor in executors]
    try:
        yield
    finally:
        await cancel(*tasks)


async def cancel(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    ended = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), WITHIN)
    assert [type(end) for end in ended] == [asyncio.CancelledError] * len(tasks)


async def dispatch(transport: CeleryTransport, *names: str) -> WorkflowHandle:
    dispatcher = WorkflowDispatcher()
    steps = [FunctionSpec(name) for name in names]
    return dispatcher.handle(await dispatcher.dispatch_workflow(transport, itinerary=steps), transport)


async def output_of(transport: CeleryTransport, *names: str) -> object:
    return (await (await dispatch(transport, *names)).result(WITHIN)).output


def embedded_threads() -> list[str]:
    """Return the threads of workers; the process keeps one for its event loop and one for its lease."""
    names = (thread.name for thread in threading.enumerate())
    return sorted(name for name in names if name.startswith(("paigeant-worker", "paigeant-hop")))


async def pass_on(context: WorkflowContext) -> str:
    """Return the previous output followed by the name of this step's activity."""
    before = context.previous_output.output if context.previous_output is not None else ""
    return f"{before}{context.activity} "


def test_executors_side_by_side_run_a_workflow(transport: CeleryTransport) -> None:
    """A first program needs one process and no server, and each agent runs in its own task."""
    names = ("first", "second", "third")
    _held = [activity(name=name)(pass_on) for name in names]

    async def main() -> None:
        async with serving(*(ActivityExecutor(transport, name) for name in names)):
            handles = [await dispatch(transport, *names, "first") for _ in range(5)]
            for handle in handles:
                result = await handle.result(WITHIN)
                assert result.output == "first second third first "
                assert list(result.outputs) == ["first", "second", "third", "first-2"]

    asyncio.run(main())

    assert embedded_threads() == []


def test_a_step_may_not_wait_for_a_workflow_but_the_program_around_it_may(transport: CeleryTransport) -> None:
    """Both are in one process, and only the step keeps a slot that the workflow may need."""

    told = threading.Event()

    @activity(name="second")
    async def waits() -> object:
        return await output_of(transport, "first")

    @activity(name="first")
    def ends_later() -> bool:
        return told.wait(WITHIN)  # what has ended is read at once, which is no waiting

    async def main() -> None:
        async with serving(*(ActivityExecutor(transport, name) for name in ("first", "second"))):
            with pytest.raises(WorkflowFailed, match="WaitInsideStep"):
                await output_of(transport, "second")
            told.set()
            assert await output_of(transport, "first") is True

    asyncio.run(main())
    assert (ends_later.name, waits.name) == ("first", "second")


def test_two_agents_share_a_budget(transport: CeleryTransport) -> None:
    """The limits and their use travel with the slip, from one executor to the next."""
    agents = [PaigeantAgent(TestModel(), name=name) for name in ("drafting", "checking")]
    for agent in agents:
        agent.tool_plain(note)

    async def main() -> tuple[WorkflowFailed, WorkflowStatus]:
        dispatcher = WorkflowDispatcher()
        async with serving(*(ActivityExecutor(transport, agent.name) for agent in agents)):
            steps = [agent.activity("work") for agent in agents]
            correlation_id = await dispatcher.dispatch_workflow(
                transport, itinerary=steps, usage_limits={"request_limit": 3}
            )
            handle = dispatcher.handle(correlation_id, transport)
            with pytest.raises(WorkflowFailed) as caught:
                await handle.result(WITHIN)
            return caught.value, await handle.status()

    failed, status = asyncio.run(main())

    assert (failed.step_id, failed.error_class) == ("checking", "UsageLimitExceeded")
    assert "a request_limit of 3, of which earlier steps used 2" in failed.text
    assert (status.state, status.attempt, status.executed) == ("failed", 1, ("drafting",))
    assert (status.usage["requests"], status.usage["tool_calls"]) == (2, 1)


def note() -> str:
    return "noted"


def test_an_executor_that_stops_leaves_the_others_serving(transport: CeleryTransport) -> None:
    """They share one worker; what none of them serves any longer waits for the next executor."""
    _held = [activity(name=name)(pass_on) for name in ("first", "second")]
    first, second = (ActivityExecutor(transport, name) for name in ("first", "second"))

    async def main() -> None:
        async with serving(first):
            async with serving(ActivityExecutor(transport, "first"), second):
                assert await output_of(transport, "first", "second") == "first second "
            waiting = await dispatch(transport, "second", "first")
            assert await output_of(transport, "first") == "first "
            status = await waiting.status()
            assert (status.state, status.executed) == ("queued", ())
            async with serving(second):
                assert (await waiting.result(WITHIN)).output == "second first "

    asyncio.run(main())


def test_workflows_wait_wherever_an_executor_serves_anything(transport: CeleryTransport) -> None:
    """No program has to know that steps which wait are run by somebody, and who stops takes nothing from the others."""
    _held = [activity(name=name)(pass_on) for name in ("first", "second")]

    async def main() -> None:
        dispatcher = WorkflowDispatcher()
        steps = [sleep_for(0.05), wait_for("go"), FunctionSpec("first"), sleep_for(1.05), FunctionSpec("first")]
        sent = await dispatcher.dispatch_workflow(transport, itinerary=steps)
        handle = dispatcher.handle(sent, transport)
        with pytest.raises(TimeoutError, match="this one has no `ActivityExecutor`; start one"):
            await handle.result(0)
        async with serving(ActivityExecutor(transport, "first")):
            async with serving(ActivityExecutor(transport, "second")):
                while not transport.store.workflow(sent).suspended:  # type: ignore[union-attr]  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            await handle.signal("go", "gone ")
            result = await handle.result(WITHIN)
            assert result.output == "gone first first "
            assert list(result.outputs) == ["wait-go", "first", "first-2"]

    asyncio.run(asyncio.wait_for(main(), WITHIN))


def test_an_executor_with_a_lifespan_ends_by_itself_and_another_goes_on(transport: CeleryTransport) -> None:
    """A script that serves for a while does not need a task to cancel."""
    _held = activity(name="first")(pass_on)

    async def main() -> None:
        handle = await dispatch(transport, "first", "first", "first")
        end, lifespan = time.monotonic() + WITHIN, 0.05
        while (await handle.status()).state != "completed":
            assert time.monotonic() < end
            assert await ActivityExecutor(transport, "first").start(lifespan=lifespan) is None
            assert embedded_threads() == []
            lifespan *= 2  # a busy machine runs no step within the first one
        assert (await handle.result(0)).output == "first first first "

    asyncio.run(main())


def test_a_cancelled_executor_finishes_the_step_that_it_runs(transport: CeleryTransport) -> None:
    """A stop loses no output that was paid for; the steps after it wait for the next executor."""
    started, go_on = threading.Event(), threading.Event()

    @activity
    def paid_for() -> str:
        started.set()
        assert go_on.wait(WITHIN)
        return "kept "

    _held = activity(name="first")(pass_on)

    async def main() -> None:
        handle = await dispatch(transport, "paid_for", "first")
        task = asyncio.create_task(ActivityExecutor(transport, "paid_for").start())
        assert await asyncio.to_thread(started.wait, WITHIN)
        asyncio.get_running_loop().call_later(0.1, go_on.set)
        await cancel(task)

        status = await handle.status()
        assert (status.state, status.executed) == ("queued", ("paid_for",))
        assert embedded_threads() == []
        async with serving(ActivityExecutor(transport, "first")):
            assert (await handle.result(WITHIN)).output == "kept first "

    asyncio.run(main())


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_an_executor_that_is_cancelled_while_it_starts_leaves_no_thread(transport: CeleryTransport, turns: int) -> None:
    """A worker that nobody serves from would take hops forever."""
    _held = activity(name="first")(pass_on)

    async def main() -> None:
        task = asyncio.create_task(ActivityExecutor(transport, "first").start())
        for _ in range(turns):
            await asyncio.sleep(0)
        await cancel(task)

    asyncio.run(main())

    assert embedded_threads() == []


def test_a_program_that_ends_while_its_executors_start_or_serve_leaves_no_thread(transport: CeleryTransport) -> None:
    """`asyncio.run` cancels what a short script forgot, and the next run in the process starts fresh."""
    _held = [activity(name=name)(pass_on) for name in ("first", "second")]

    async def main() -> str:
        tasks = [asyncio.create_task(ActivityExecutor(transport, "first").start())]
        output = await output_of(transport, "first")
        tasks.append(asyncio.create_task(ActivityExecutor(transport, "second").start()))
        await asyncio.sleep(0)
        return output

    for _ in range(2):
        assert asyncio.run(main()) == "first "
        assert embedded_threads() == []


def test_an_executor_whose_worker_ends_says_so_and_can_be_started_again(transport: CeleryTransport) -> None:
    """Somebody shuts down all workers; a program must not wait forever for a dead one."""
    mine = activity(name="mine")(pass_on)

    async def main() -> tuple[str, object]:
        executor = asyncio.create_task(ActivityExecutor(transport, mine.name).start())
        await output_of(transport, mine.name)
        transport.app.control.shutdown()
        with pytest.raises(WorkerEnded) as raised:
            await asyncio.wait_for(executor, WITHIN)
        async with serving(ActivityExecutor(transport, mine.name)):
            return str(raised.value), await output_of(transport, mine.name)

    said, output = asyncio.run(main())

    assert said == "the worker on memory://localhost// ended; the log says why. Start the executor again"
    assert isinstance(output, str)
    assert embedded_threads() == []


@pytest.mark.parametrize("consume", ["also", "no"])
def test_a_malformed_message_ends_no_executor(
    transport: CeleryTransport, monkeypatch: pytest.MonkeyPatch, consume: str
) -> None:
    """Writing to a broker must not stop a program that serves an activity, nor one that serves another later."""
    monkeypatch.setattr(transport, "settings", transport.settings.model_copy(update={"consume": consume}))
    early = activity(name="early")(pass_on)
    made = []

    async def main() -> object:
        async with serving(ActivityExecutor(transport, early.name)):
            await output_of(transport, early.name)
            made.append(mine := activity(name="mine")(pass_on))
            stopped = asyncio.create_task(ActivityExecutor(transport, mine.name).start())
            await output_of(transport, mine.name)
            with transport.app.connection_for_write() as connection:
                headers = {"task": transport.names.task(mine.name), "id": "1", "lang": "py"}
                queue = transport.publisher.queue_for(mine.name, None)
                connection.Producer(serializer="json").publish({"no": "list"}, routing_key=queue, headers=headers)
            try:
                return await output_of(transport, mine.name)
            finally:
                stopped.cancel()
                await asyncio.wait([stopped])

    assert isinstance(asyncio.run(main()), str)
    assert transport.store is not None
    assert [letter.reason for letter in transport.store.dead_letters(after=None, limit=10)] == ["malformed"]


def test_one_executor_that_cannot_start_ends_those_of_its_group(transport: CeleryTransport) -> None:
    """A misspelt name shows at once; the program does not hang."""
    _held = activity(name="first")(pass_on)

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            for name in ("first", "frist"):
                group.create_task(ActivityExecutor(transport, name).start())

    with pytest.raises(ExceptionGroup) as raised:
        asyncio.run(main())

    assert [type(error) for error in raised.value.exceptions] == [UnknownActivity]
    assert "did you mean 'first'?" in str(raised.value.exceptions[0])
    assert embedded_threads() == []


@pytest.fixture
def host() -> Iterator[Celery]:
    """An application next to the in-memory transport, which no other test sees."""
    with Celery("host", broker="memory://localhost//", set_as_current=False) as app:
        yield app


def test_an_executor_takes_nothing_from_the_queues_of_its_app(host: Celery) -> None:
    """A web process that serves an agent must not run, or discard, the tasks for which its host has workers."""
    host.conf.update(task_default_queue="only-for-workers", broker_transport_options={"polling_interval": 0.01})
    transport = get_transport(app=host, store="memory://")
    host.send_task("host.mail")
    _held = [activity(name=name)(pass_on) for name in ("first", "second")]

    async def main() -> set[str]:
        async with serving(ActivityExecutor(transport, "first"), ActivityExecutor(transport, "second")):
            assert await output_of(transport, "first", "second", "first") == "first second first "
            return set(host.amqp.queues.consume_from)

    assert asyncio.run(main()) == {"paigeant.first", "paigeant.second", "paigeant._flow"}
    with host.connection_for_read() as connection:
        assert connection.default_channel.basic_get("only-for-workers", no_ack=True) is not None


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_an_executor_says_which_broker_it_cannot_reach(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    """It waits for a broker that is starting, but no longer."""
    monkeypatch.setattr("paigeant_celery.worker.embedded.START_PATIENCE", 0.3)
    address = f"127.0.0.1:{free_port()}/0"
    transport = get_transport(f"{scheme}://me:secret@{address}", store="memory://")
    _held = activity(name="first")(pass_on)

    with pytest.raises(Unreachable) as raised:
        asyncio.run(ActivityExecutor(transport, "first").start(lifespan=0))

    assert str(raised.value).startswith(f"cannot reach the broker at {scheme}://me:**@{address} (OperationalError)")
    assert embedded_threads() == []


def test_a_hop_does_not_wait_for_the_polling_of_kombu(transport: CeleryTransport) -> None:
    """Kombu looks into its memory once a second, so every step would take that long."""
    with transport.app.connection_for_read() as connection:
        assert connection.transport.polling_interval == 0.01


AGENTS = """
print("imported", __name__)
from paigeant_celery import activity

@activity
def {name}() -> str:
    return __name__
"""


@pytest.fixture
def no_new_modules() -> Iterator[None]:
    """Forget the modules that the test imports."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.usefixtures("no_new_modules")
def test_a_module_is_given_by_its_dotted_name_or_its_file_and_imported_once(
    transport: CeleryTransport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The names are those of the worker's `-I`; a file is enough if there is no package."""
    for folder in ("desk", "press"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "agents_of_both.py").write_text(AGENTS.format(name=f"of_{folder}"))
    monkeypatch.syspath_prepend(str(tmp_path))
    desk = tmp_path / "desk" / "agents_of_both.py"
    press = tmp_path / "desk" / ".." / "press" / "agents_of_both.py"
    given = [
        ("of_desk", "desk.agents_of_both"),
        ("of_desk", str(desk)),
        ("of_press", str(press)),
        ("of_press", str(press)),
    ]

    async def main() -> None:
        async with serving(*(ActivityExecutor(transport, name, module) for name, module in given)):
            gc.collect()
            assert await output_of(transport, "of_desk") == "desk.agents_of_both"
            assert await output_of(transport, "of_press") == "agents_of_both"

    asyncio.run(main())

    assert capfd.readouterr().out == "imported desk.agents_of_both\nimported agents_of_both\n"


@pytest.mark.usefixtures("no_new_modules")
def test_files_of_one_name_do_not_replace_each_other(transport: CeleryTransport, tmp_path: Path) -> None:
    """A folder per agent with an `agents.py` in it is the simplest layout there is."""
    files = {}
    for folder in ("desk", "press"):
        (tmp_path / folder).mkdir()
        files[folder] = tmp_path / folder / "agents_of_both.py"
        files[folder].write_text(AGENTS.format(name=f"of_{folder}"))

    async def main() -> None:
        async with serving(*(ActivityExecutor(transport, f"of_{name}", str(file)) for name, file in files.items())):
            gc.collect()
            assert await output_of(transport, "of_desk") == "agents_of_both"
            assert await output_of(transport, "of_press") == str(files["press"].resolve())

    asyncio.run(main())


@pytest.mark.usefixtures("no_new_modules")
@pytest.mark.parametrize("given", ["file", "dotted name"])
def test_an_error_of_the_module_is_raised_each_time(
    transport: CeleryTransport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    """The second try must not say that the agent is missing from a module that failed to load."""
    (tmp_path / "broken_agents.py").write_text("import no_such_library\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    module = "broken_agents" if given == "dotted name" else str(tmp_path / "broken_agents.py")

    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match="no_such_library"):
            asyncio.run(ActivityExecutor(transport, "anything", module).start(lifespan=0))


SCRIPT = """
import asyncio, sys
from paigeant_celery import ActivityExecutor, FunctionSpec, WorkflowDispatcher, activity, get_transport

print("imported", __name__)

@activity
def where() -> str:
    return __name__

async def main():
    transport = get_transport()
    dispatcher = WorkflowDispatcher()
    dispatcher.add(FunctionSpec("where"))
    correlation_id = await dispatcher.dispatch_workflow(transport)
    executor = asyncio.create_task(ActivityExecutor(transport, "where", sys.argv[1]).start())
    print((await dispatcher.handle(correlation_id, transport).result(20)).output)
    executor.cancel()

if __name__ == "__main__":
    asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("run_as", "module", "cold"),
    [
        (["script.py"], "script", True),
        (["script.py"], "script.py", False),
        (["script.py"], "__main__", False),
        (["shop/script.py"], "./shop/../shop/script.py", False),
        (["-m", "script"], "script", False),
        (["-m", "shop.script"], "shop.script", True),
        (["-m", "shop.script"], "shop/script.py", False),
        (["-m", "shop"], "shop", True),
        (["-m", "shop"], "shop.__main__", False),
    ],
    ids=str,
)
def test_the_script_that_runs_is_not_imported_a_second_time(
    tmp_path: Path, run_as: list[str], module: str, cold: bool
) -> None:
    """Every first try has agents and `main` in one file; a second import would start everything again."""
    (tmp_path / "shop").mkdir()
    for file in ("script.py", "shop/__init__.py", "shop/script.py", "shop/__main__.py"):
        (tmp_path / file).write_text(SCRIPT if "init" not in file else "")

    done = run(
        [sys.executable, "-W", "error", *run_as, module], cwd=tmp_path, environment=script_environment(), within=60,
        cold=cold,
    )  # fmt: skip

    assert (done.stdout, done.stderr) == ("imported __main__\n__main__\n", "")


HOST_TASKS = """
import asyncio, json, threading
from celery import Celery
from celery.contrib.testing.worker import start_worker
from paigeant_celery import ActivityExecutor, FunctionSpec, WorkflowDispatcher, activity, get_transport

host = Celery("host", broker="memory://localhost//", backend="cache+memory://")
host.conf.broker_transport_options = {"polling_interval": 0.01}

@host.task
def add(x, y):
    return x + y

@activity
def add_in_host(x: int, y: int) -> int:
    return add.delay(x, y).get(timeout=20)

async def main():
    transport = get_transport("inmemory")
    dispatcher = WorkflowDispatcher()
    steps = [FunctionSpec("add_in_host", {"x": 4, "y": 5})]
    executor = asyncio.create_task(ActivityExecutor(transport, "add_in_host").start())
    correlation_id = await dispatcher.dispatch_workflow(transport, itinerary=steps)
    inside = (await dispatcher.handle(correlation_id, transport).result(20)).output
    beside = add.delay(2, 3).get(timeout=20)
    executor.cancel()
    await asyncio.wait([executor])
    return [inside, beside]

with start_worker(host, pool="solo", perform_ping_check=False):
    during = asyncio.run(main())
    print(json.dumps([*during, add.delay(6, 7).get(timeout=20), host.current_task is None]))
"""


def test_the_hosts_own_results_can_be_waited_for_beside_and_in_a_step() -> None:
    """Celery refuses to wait for a result in a process whose pool says that it would block."""
    assert json.loads(run_script(HOST_TASKS)) == [9, 5, 13, True]


CHOSEN = """
import json, logging, sys
from celery import Celery
from paigeant_celery import get_transport, install

lines = []
handler = logging.Handler()
handler.addFilter(lambda record: record.action == "transport_chosen")
handler.emit = lambda record: lines.append(record.getMessage())
logging.getLogger("paigeant_celery").addHandler(handler)
logging.getLogger("paigeant_celery").setLevel(logging.INFO)

host = Celery("host", broker="redis://:secret@host-broker/1")
other = Celery("other", broker="redis://other-broker/1", set_as_current=False)
{prepared}
transport = get_transport({arguments})
print(json.dumps([lines, transport.app is host]))
"""
IMPORTING = "host.conf.imports = ('paigeant_celery.tasks',)"
INSTALLED = "install(host)"
WITH_STORE = "host.conf.paigeant_store_url = 'redis://host-store/1'; install(host)"
TRANSPORT, REDIS = "PAIGEANT_TRANSPORT", "PAIGEANT_REDIS_URL"
BOTH = {TRANSPORT: "redis://from-transport/1", REDIS: "redis://from-redis/1"}


@pytest.mark.parametrize(
    ("arguments", "prepared", "environment", "said"),
    [
        ("", "", {}, "memory://localhost//, chosen by the default, in-process"),
        ("", INSTALLED, {}, "redis://:**@host-broker/1, chosen by the Celery app 'host', message only"),
        ("", IMPORTING, {}, "redis://:**@host-broker/1, chosen by the Celery app 'host', message only"),
        ("", WITH_STORE, {}, "redis://:**@host-broker/1, chosen by the Celery app 'host', durable"),
        ("", WITH_STORE, {REDIS: BOTH[REDIS]}, "redis://from-redis/1, chosen by `PAIGEANT_REDIS_URL`, durable"),
        ("", "", BOTH, "redis://from-transport/1, chosen by `PAIGEANT_TRANSPORT`, durable"),
        ("", "", {**BOTH, TRANSPORT: "redis"}, "redis://from-redis/1, chosen by `PAIGEANT_TRANSPORT`, durable"),
        ("", "", {**BOTH, TRANSPORT: "inmemory"}, "memory://localhost//, chosen by `PAIGEANT_TRANSPORT`, in-process"),
        ("'redis'", INSTALLED, {}, "redis://localhost:6379/0, chosen by the argument, durable"),
        ("'redis'", INSTALLED, BOTH, "redis://from-redis/1, chosen by the argument, durable"),
        ("'inmemory'", INSTALLED, BOTH, "memory://localhost//, chosen by the argument, in-process"),
        ("app=other", INSTALLED, BOTH, "redis://other-broker/1, chosen by `app=`, message only"),
        ("'amqp://host//'", WITH_STORE, {}, "amqp://host//, chosen by the argument, message only"),
    ],
)
def test_the_transport_is_chosen_in_a_fixed_order_and_one_line_says_how(
    arguments: str, prepared: str, environment: dict[str, str], said: str
) -> None:
    """The line tells those who wonder where a workflow went the broker, what chose it and what is promised."""
    lines, is_host = json.loads(run_script(CHOSEN.format(arguments=arguments, prepared=prepared), **environment))

    assert lines == [f"transport {said}"]
    assert is_host is ("app 'host'" in said)
