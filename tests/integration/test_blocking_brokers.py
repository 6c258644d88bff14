"""A broker that blocks or refuses: nobody waits for it without a bound, and one queue stops no other."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from paigeant_celery import (
    ActivitySpec,
    FunctionSpec,
    NotPublished,
    NotSent,
    Store,
    Unreachable,
    WorkflowDispatcher,
    WorkflowHandle,
)
from paigeant_celery.broker.transport import CeleryTransport, transport_of
from paigeant_celery.core.message import PaigeantMessage, encode, sha256
from paigeant_celery.core.names import FIRST_PLACE, QUEUE_RULE, hop_id
from paigeant_celery.core.slip import RoutingSlip
from paigeant_celery.store.port import BoundBroker, HopRecord, NewWorkflow
from tests.contract.store.given import letter
from tests.support.processes import Deployment, deployment, eventually, run_script
from tests.support.servers import RabbitServer, RedisDatabase, RedisServer

pytestmark = pytest.mark.xdist_group("rabbitmq")

BOUND = 1.0  # seconds that a dispatch may take here
SOON = 0.8  # seconds beyond it that a busy machine may take, and within which what does not wait is answered
WITHIN = 20.0
STEP = ActivitySpec("draft", "early")


def transport(broker: str, store: str | None, **settings: object) -> CeleryTransport:
    app = Celery("blocked", broker=broker, set_as_current=False)
    app.conf.update({"paigeant_store_url": store, "paigeant_publish_timeout": BOUND, **settings})
    return transport_of(app)


def waits(call: Callable[[], object]) -> float:
    """How many seconds a call takes."""
    begun = time.monotonic()
    call()
    return time.monotonic() - begun


@contextmanager
def swallowing() -> Iterator[int]:
    """Give a port that takes connections and what is sent there, and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(1000)
        yield listening.getsockname()[1]


@contextmanager
def paused(server: RedisServer) -> Iterator[None]:
    assert server.pid is not None
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


async def dispatched_at_once(made: CeleryTransport, handle: WorkflowHandle, number: int) -> tuple[float, list[Any]]:
    """Dispatch in one event loop; return how long a status took meanwhile, and what became of the dispatches."""
    sends = [
        asyncio.ensure_future(WorkflowDispatcher().dispatch_workflow(made, itinerary=[STEP])) for _ in range(number)
    ]
    await asyncio.wait(sends, timeout=BOUND / 2)
    begun = time.monotonic()
    await handle.status()
    took = time.monotonic() - begun
    return took, await asyncio.gather(*sends, return_exceptions=True)


def test_a_dispatch_waits_for_rabbitmq_under_its_memory_alarm_as_long_as_the_settings_say(
    own_rabbit: RabbitServer, redis_db: RedisDatabase
) -> None:
    """A web process answers although the broker takes nothing; what is recorded is sent when the alarm is over."""
    made = transport(own_rabbit.url, redis_db.url, paigeant_prefix=redis_db.prefix)
    dispatcher = WorkflowDispatcher()
    handle = dispatcher.handle(dispatcher.dispatch_workflow_sync(made, itinerary=[STEP]), made)
    told = []

    def one() -> None:
        with pytest.raises(NotPublished) as caught:
            WorkflowDispatcher().dispatch_workflow_sync(made, itinerary=[STEP])
        told.append(caught.value)

    with own_rabbit.short_of_memory():
        alone = waits(one)
        threads = threading.active_count()
        status, many = asyncio.run(dispatched_at_once(made, handle, 40))
        more = threading.active_count() - threads
    after = waits(lambda: dispatcher.dispatch_workflow_sync(made, itinerary=[STEP]))

    assert BOUND <= alone < BOUND + SOON
    assert status < SOON
    assert after < SOON
    assert more <= 4
    assert {type(each) for each in many} == {NotPublished}
    assert not told[0].refused
    assert "no answer within 1 s (`paigeant_publish_timeout`)" in str(told[0])
    assert f"again with `correlation_id={told[0].correlation_id!r}`" in str(told[0])
    assert dispatcher.handle(told[0].correlation_id, made).status_sync().state == "queued"


@pytest.mark.parametrize(("broker", "recorded"), [("amqp", False), ("redis", True), ("paused", True)])
def test_a_dispatch_waits_no_longer_for_an_address_that_never_answers(
    redis_db: RedisDatabase, own_redis: Callable[..., RedisServer], broker: str, recorded: bool
) -> None:
    """Neither does it without a store, of which the error says that nothing is recorded."""
    server = own_redis() if broker == "paused" else None
    with swallowing() as port:
        url = server.url if server is not None else f"{broker}://127.0.0.1:{port}"
        made = transport(url, redis_db.url if recorded else None, paigeant_prefix=redis_db.prefix)
        if server is not None:
            WorkflowDispatcher().dispatch_workflow_sync(made, itinerary=[STEP])
        with paused(server) if server is not None else nullcontext():
            begun = time.monotonic()
            with pytest.raises(NotPublished if recorded else NotSent) as caught:
                WorkflowDispatcher().dispatch_workflow_sync(made, itinerary=[STEP])
            took = time.monotonic() - begun
            begun = time.monotonic()
            with pytest.raises(Unreachable):
                made.publisher.waiting("q")
            looked = time.monotonic() - begun

    assert took < BOUND + SOON
    assert looked < BOUND + SOON
    assert not caught.value.refused
    assert ("Nothing is recorded" in str(caught.value)) is not recorded


def test_the_first_look_at_a_broker_is_part_of_the_time_that_a_dispatch_waits(redis_db: RedisDatabase) -> None:
    """A process looks whether it is the store's. Whoever set three seconds must not wait for four and a half."""
    with swallowing() as port:
        made = transport(
            f"amqp://127.0.0.1:{port}", redis_db.url, paigeant_prefix=redis_db.prefix, paigeant_publish_timeout=3.0
        )
        assert made.store is not None
        made.store.bind_broker(BoundBroker(address=made.broker_identity, id="of a worker"), instead_of=None)
        begun = time.monotonic()
        with pytest.raises(NotPublished):
            WorkflowDispatcher().dispatch_workflow_sync(made, itinerary=[STEP])
        took = time.monotonic() - begun

    assert took < 3 + SOON


def test_a_broker_that_refuses_is_told_from_one_that_is_away(own_rabbit: RabbitServer, redis_db: RedisDatabase) -> None:
    """To wait for it would be vain; somebody must change something."""
    made = transport(own_rabbit.url, redis_db.url, paigeant_prefix=redis_db.prefix)
    with full(own_rabbit, redis_db.prefix, "draft"):
        WorkflowDispatcher().dispatch_workflow_sync(made, itinerary=[STEP])
        begun = time.monotonic()
        with pytest.raises(NotPublished, match="it is there, but refuses") as caught:
            WorkflowDispatcher().dispatch_workflow_sync(made, itinerary=[STEP])
        took = time.monotonic() - begun

    assert took < SOON
    assert caught.value.refused
    assert "MessageNacked" in str(caught.value)


def test_a_queue_that_was_deleted_is_declared_again(own_rabbit: RabbitServer, redis_db: RedisDatabase) -> None:
    """RabbitMQ drops what has no queue, and our connection remembers that it has declared it."""
    made = transport(own_rabbit.url, None, paigeant_prefix=redis_db.prefix)
    queue = f"{redis_db.prefix}.draft"
    WorkflowDispatcher().dispatch_workflow_sync(made, itinerary=[STEP])

    own_rabbit.control("delete_queue", queue)
    WorkflowDispatcher().dispatch_workflow_sync(made, itinerary=[STEP])

    assert made.publisher.waiting(queue) == 1


def test_a_deleted_queue_of_dead_letters_takes_the_next_one(own_rabbit: RabbitServer, redis_db: RedisDatabase) -> None:
    """Who empties it by deleting it must see what comes after that."""
    letters = transport(own_rabbit.url, None, paigeant_prefix=redis_db.prefix).letter_queue
    letters.bury(letter("a"), None)

    own_rabbit.control("delete_queue", f"{redis_db.prefix}-dead-letters")
    letters.bury(letter("b"), None)

    assert [kept.letter_id for kept, _ in letters.look()] == ["b"]


@contextmanager
def full(rabbit: RabbitServer, prefix: str, activity: str) -> Iterator[None]:
    """Have a queue refuse what comes after its first message."""
    limits = '{"max-length": 1, "overflow": "reject-publish"}'
    rabbit.control("set_policy", prefix, f"^{prefix}[.]{activity}$", limits, "--apply-to", "queues")
    try:
        yield
    finally:
        rabbit.control("clear_policy", prefix)


@pytest.fixture
def made(own_rabbit: RabbitServer, redis_db: RedisDatabase, tmp_path: Path) -> Iterator[Deployment]:
    with deployment(
        own_rabbit.url, tmp_path, store=redis_db.url, paigeant_prefix=redis_db.prefix, paigeant_consume="only"
    ) as new:  # fmt: skip
        yield new


def test_a_queue_that_refuses_messages_keeps_no_slot_from_other_workflows(
    made: Deployment, own_rabbit: RabbitServer, redis_db: RedisDatabase
) -> None:
    """The step's output is recorded, and a sweep sends the next hop; the only slot is free meanwhile."""
    made.ready_worker("press", pool="threads", slots=1)
    ours = made.transport()

    def handle(*steps: ActivitySpec | FunctionSpec) -> WorkflowHandle:
        dispatcher = WorkflowDispatcher()
        return dispatcher.handle(dispatcher.dispatch_workflow_sync(ours, itinerary=steps), ours)

    with full(own_rabbit, redis_db.prefix, "elsewhere"):
        handle(ActivitySpec("elsewhere", "fills the queue"))
        stuck = [handle(STEP, ActivitySpec("elsewhere", "of no worker")) for _ in range(4)]
        begun = time.monotonic()
        results = [handle(STEP, FunctionSpec("count_letters", {"letter": "a"})).result_sync(WITHIN) for _ in range(4)]
        took = time.monotonic() - begun

    assert {result.status for result in results} == {"completed"}
    assert took < 8
    states = [each.status_sync() for each in stuck]
    assert [(each.executed, each.remaining) for each in states] == [(("draft",), ("elsewhere",))] * 4


def old_record(store: Store, workflow: str, queue: str) -> None:
    """Record a workflow as a version did that counted characters."""
    now = datetime.now(UTC)
    step = FunctionSpec("count_letters", {"letter": "a"}, step_id="count_letters")
    message = PaigeantMessage(
        message_id=hop_id(workflow, FIRST_PLACE), correlation_id=workflow, created_at=now, sent_at=now,
        slip=RoutingSlip(itinerary=(step,)),
    )  # fmt: skip
    envelope = encode(message)
    hop = HopRecord(hop_id=message.message_id, queue=queue, envelope=envelope, digest=sha256(envelope))
    store.start(NewWorkflow(correlation_id=workflow, content="c", hop=hop))


def test_a_queue_that_no_broker_can_have_stops_the_recovery_of_nothing_else(
    made: Deployment, redis_db: RedisDatabase, in_a_hurry: str
) -> None:
    """Its workflow is parked with a letter, and another one's lost message is sent again at once."""
    ours = made.transport()
    assert ours.store is not None
    old_record(ours.store, "bad", "é" * 130)
    dispatcher = WorkflowDispatcher()
    handle = dispatcher.handle(dispatcher.dispatch_workflow_sync(ours, itinerary=[STEP], correlation_id="good"), ours)
    worker = made.ready_worker("press", in_a_hurry, pool="threads", slots=1)

    assert handle.result_sync(WITHIN).status == "completed"
    bad = dispatcher.handle("bad", ours)
    eventually(lambda: bad.status_sync().state == "parked", within=WITHIN, what="the workflow is not parked")
    (letter,) = ours.store.dead_letters(after=None, limit=10)

    assert (letter.reason, letter.correlation_id) == ("invalid_queue", "bad")
    assert "260 bytes" in letter.text
    assert QUEUE_RULE in letter.text
    assert "sweep failed" not in worker.log()


FORKING = """
import multiprocessing, os, sys, threading
from celery import Celery
from paigeant_celery import ActivitySpec, WorkflowDispatcher
from paigeant_celery.broker.transport import transport_of

broker, store, prefix = sys.argv[1:]
app = Celery("preloaded", broker=broker, set_as_current=False)
app.conf.update(paigeant_store_url=store, paigeant_prefix=prefix)
transport = transport_of(app)

def dispatch(times):
    for _ in range(times):
        WorkflowDispatcher().dispatch_workflow_sync(transport, itinerary=[ActivitySpec("draft", "x")])

dispatch(3)
first = []
for _ in range(3):  # while the parent's connection is idle
    first.append(os.fork())
    if first[-1] == 0:
        try:
            dispatch(5)
            os._exit(0)
        finally:
            os._exit(3)
dispatch(5)
assert [os.waitpid(pid, 0)[1] for pid in first] == [0] * 3

ending = threading.Event()
counts = [0, 0]
def go_on(index):
    while not ending.is_set():
        dispatch(1)
        counts[index] += 1
threads = [threading.Thread(target=go_on, args=(index,)) for index in range(2)]
for thread in threads: thread.start()

def bare():
    pid = os.fork()
    if pid == 0:
        try:
            dispatch(2)
            child = os.fork()
            if child == 0:
                dispatch(2)
                sys.exit(0)  # with all destructors
            os._exit(1 if os.waitpid(child, 0)[1] else 0)
        except Exception as error:
            print(repr(error), flush=True)
            os._exit(2)
    return pid

pids = [bare() for _ in range(6)]
silent = os.fork()
if silent == 0:
    sys.exit(0)  # it uses nothing of what it got
context = multiprocessing.get_context("fork")
others = [context.Process(target=dispatch, args=(3,)) for _ in range(4)]
for other in others: other.start()
codes = [os.waitpid(pid, 0)[1] for pid in [*pids, silent]]
for other in others: other.join()
ending.set()
for thread in threads: thread.join()
dispatch(2)
assert codes == [0] * 7, codes
assert [other.exitcode for other in others] == [0] * 4
print(3 + 4 * 5 + 6 * 4 + 4 * 3 + 2 + sum(counts))
"""


@pytest.mark.parametrize("broker", ["rabbitmq", pytest.param("redis", marks=pytest.mark.proof)])
def test_processes_that_are_forked_from_one_that_dispatches_have_connections_of_their_own(
    own_rabbit: RabbitServer, redis_db: RedisDatabase, broker: str
) -> None:
    """A preloaded web server: parent, children and their children dispatch at once, and each message arrives once."""
    url = own_rabbit.url if broker == "rabbitmq" else redis_db.url
    store = redis_db.client()
    log = run_script(FORKING, url, redis_db.url, redis_db.prefix, within=60)

    number = int(log.split()[-1])
    made = transport(url, redis_db.url, paigeant_prefix=redis_db.prefix)
    with store:
        assert store.zcard(f"{redis_db.prefix}:due") == number
    eventually(
        lambda: made.publisher.waiting(f"{redis_db.prefix}.draft") == number,
        within=5, what=f"not all of {number} messages are there",
    )  # fmt: skip
