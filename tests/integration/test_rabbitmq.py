"""RabbitMQ as the broker: with a store in Redis, and without one."""

from __future__ import annotations

import asyncio
import hashlib
import json
import uuid
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import amqp
import celery
import pytest
from celery import Celery
from hypothesis import given
from hypothesis import strategies as st
from kombu import Connection, Queue

from paigeant_celery import (
    ActivityExecutor,
    ActivitySpec,
    DeadLetters,
    FunctionSpec,
    WorkflowDispatcher,
    WorkflowHandle,
    activity,
    get_transport,
)
from paigeant_celery.activities.registry import registry
from paigeant_celery.broker.port import Delivery
from paigeant_celery.broker.transport import CeleryTransport, transport_of
from paigeant_celery.core.errors import ConfigurationError, NotPublished, StoreRequired, Unreachable
from paigeant_celery.store.port import BoundBroker, DeadLetter
from paigeant_celery.worker.serving import start_checks
from tests.support.damage import cut, damaged, drawn
from tests.support.event_messages import WHOLE, watching
from tests.support.processes import START_WITHIN, Deployment, eventually
from tests.support.promptness import prompt_result
from tests.support.servers import RabbitServer, RedisDatabase, free_port

pytestmark = pytest.mark.xdist_group("rabbitmq")

WITHIN = 20.0  # seconds within which a workflow must end; the steps themselves take milliseconds

# What the tests serve; their queues are removed afterwards, because the broker may not be only ours.
ACTIVITIES = ("count_letters", "digest_of", "draft", "elsewhere", "keep", "pause", "unserved")

KEEPER = """
import asyncio, json
from pathlib import Path
from stage import note_run
from paigeant_celery import WorkflowContext, activity

@activity
async def keep(context: WorkflowContext, file: str, step_ids: list[str]) -> int:
    outputs = {step_id: (await context.output(step_id)).output for step_id in step_ids}
    whole = json.dumps(outputs)
    Path(f"{file}.part").write_text(whole)
    Path(f"{file}.part").rename(file)
    return len(outputs)

@activity
async def pause(until: str) -> str:
    note_run()
    while not Path(until).exists():
        await asyncio.sleep(0.02)
    return "went on"
"""

Deploy = Callable[..., Deployment]


@pytest.fixture
def deploy(tmp_path: Path) -> Iterator[Deploy]:
    """Make deployments on a broker, and remove their queues and exchanges afterwards."""
    with ExitStack() as stack:

        def made(url: str, **settings: Any) -> Deployment:
            new = Deployment(url, tmp_path, paigeant_consume="only", **settings)
            stack.callback(remove_queues, url, new.settings["paigeant_prefix"])
            stack.callback(new.remove)
            for name in ("worker", "killed", "second"):
                (new.configured(name) / "keeper.py").write_text(KEEPER)
            return new

        yield made


def remove_queues(url: str, prefix: object) -> None:
    with Connection(url) as connection:
        for name in ACTIVITIES:
            connection.default_channel.queue_delete(f"{prefix}.{name}")
            connection.default_channel.exchange_delete(f"{prefix}.{name}")


def on_both(deploy: Deploy, amqp_url: str, redis_db: RedisDatabase, **settings: Any) -> Deployment:
    """Yield a deployment with its broker in RabbitMQ and its store in Redis."""
    return deploy(amqp_url, store=redis_db.url, paigeant_prefix=redis_db.prefix, **settings)


def dispatch(made: Deployment, *steps: ActivitySpec | FunctionSpec) -> WorkflowHandle:
    transport = made.transport()
    dispatcher = WorkflowDispatcher()
    return dispatcher.handle(dispatcher.dispatch_workflow_sync(transport, itinerary=steps), transport)


OLD = pytest.mark.skipif(celery.VERSION < (5, 6), reason="Celery 5.5 declares every queue that it makes as classic")


@pytest.mark.parametrize("kind", ["classic", pytest.param("quorum", marks=OLD)])
def test_a_workflow_of_three_steps_finishes_with_every_output(
    deploy: Deploy, amqp_url: str, redis_db: RedisDatabase, kind: str
) -> None:
    """Agents on RabbitMQ need nothing more than those on Redis, and replicated queues are what its users have."""
    made = on_both(deploy, amqp_url, redis_db, task_create_missing_queue_type=kind)
    worker = made.ready_worker("press")

    with watching(made.transport().app) as messages:
        handle = dispatch(
            made,
            ActivitySpec("draft", "early"),
            ActivitySpec("draft", "again"),
            FunctionSpec("count_letters", {"letter": "a"}),
        )
        result = handle.result_sync(WITHIN)
        eventually(lambda: messages.of(handle, 2) == WHOLE, within=WITHIN)

    assert result.status == "completed"
    assert result.outputs == {
        "draft": "draft(early|)",
        "draft-2": "draft(again|draft(early|))",
        "count_letters": {"a": 5},
    }
    assert made.runs() == [f"{handle.correlation_id}.{place}" for place in range(3)]
    assert f"[paigeant_celery] mode: durable, store: {redis_db.url}\n" in worker.log()
    assert "Traceback" not in worker.log()


def test_a_message_that_was_lost_is_sent_again(
    deploy: Deploy, amqp_url: str, redis_db: RedisDatabase, in_a_hurry: str
) -> None:
    """The store's promises hold for every broker; here an operator purged the wrong queue."""
    made = on_both(deploy, amqp_url, redis_db)
    handle = dispatch(made, ActivitySpec("draft", "early"))
    publisher = made.transport().publisher
    waiting = [publisher.waiting(f"{redis_db.prefix}.{name}") for name in ("draft", "never-declared")]
    with Connection(amqp_url) as connection:
        assert connection.default_channel.queue_purge(f"{redis_db.prefix}.draft") == 1

    made.ready_worker("press", in_a_hurry)

    assert waiting == [1, 0]
    assert handle.result_sync(WITHIN).output == "draft(early|)"
    assert [event.type for event in handle.events_so_far()].count("resent") == 1


def test_without_a_store_the_outputs_travel_in_the_message(deploy: Deploy, amqp_url: str, tmp_path: Path) -> None:
    """In message-only mode the slip alone carries the workflow; asking about it says what is missing."""
    made = deploy(amqp_url, store=None)
    worker = made.ready_worker("press", "keeper")
    kept = tmp_path / "kept"

    handle = dispatch(
        made,
        ActivitySpec("draft", "early"),
        FunctionSpec("count_letters", {"letter": "a"}),
        FunctionSpec("keep", {"file": str(kept), "step_ids": ["draft", "count_letters"]}),
    )
    eventually(kept.exists, within=WITHIN, what="the last step did not run")

    assert json.loads(kept.read_text()) == {"draft": "draft(early|)", "count_letters": {"a": 2}}
    assert made.runs() == [f"{handle.correlation_id}.{place}" for place in range(2)]
    with pytest.raises(StoreRequired):
        handle.status_sync()
    assert "[paigeant_celery] mode: message only, store: none\n" in worker.log()
    assert "Traceback" not in worker.log()


def test_without_a_store_a_step_of_a_killed_worker_is_delivered_again(
    deploy: Deploy, amqp_url: str, tmp_path: Path
) -> None:
    """RabbitMQ itself provides at-least-once delivery: an unacknowledged message goes to another worker."""
    made = deploy(amqp_url, store=None)
    go_on, kept = tmp_path / "go on", tmp_path / "kept"
    killed = made.ready_worker("press", "keeper", pool="threads")
    handle = dispatch(
        made,
        FunctionSpec("pause", {"until": str(go_on)}),
        FunctionSpec("keep", {"file": str(kept), "step_ids": ["pause"]}),
    )
    first = f"{handle.correlation_id}.0"
    eventually(lambda: made.runs() == [first], within=WITHIN, what="the first run did not begin")

    killed.kill()
    go_on.touch()
    made.start_worker("press", "keeper", pool="threads")
    eventually(kept.exists, within=START_WITHIN, what="the last step did not run")

    assert json.loads(kept.read_text()) == {"pause": "went on"}
    assert made.runs() == [first, first]


@pytest.mark.xdist_group("impatient")
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_step_that_outlasts_the_consumer_timeout_runs_once(
    impatient_rabbit: RabbitServer, deploy: Deploy, redis_db: RedisDatabase, tmp_path: Path, pool: str
) -> None:
    """RabbitMQ takes back the message and closes the channel during a step of an hour; nobody pays for it twice."""
    made = on_both(deploy, impatient_rabbit.url, redis_db, worker_enable_prefetch_count_reduction=False)
    worker = made.ready_worker("press", "keeper", pool=pool)
    go_on = tmp_path / "go on"
    handle = dispatch(made, FunctionSpec("pause", {"until": str(go_on)}), ActivitySpec("draft", "after"))

    copy = f"{handle.correlation_id}.0] received"
    eventually(lambda: worker.log().count(copy) >= 2, within=WITHIN, what="no copy of the step was delivered")
    go_on.touch()

    assert handle.result_sync(WITHIN).outputs == {"pause": "went on", "draft": "draft(after|went on)"}
    assert made.runs() == [f"{handle.correlation_id}.{place}" for place in range(2)]
    assert [event.type for event in handle.events_so_far()].count("completed") == 2
    assert dispatch(made, ActivitySpec("draft", "next")).result_sync(WITHIN).output == "draft(next|)"
    assert worker.running


@pytest.mark.parametrize("kind", ["classic", pytest.param("quorum", marks=OLD)])
def test_the_step_of_a_killed_worker_runs_once_more_with_a_store(
    deploy: Deploy, amqp_url: str, redis_db: RedisDatabase, tmp_path: Path, kind: str
) -> None:
    """Broker and store both notice that the worker is gone and send one message each; one of them begins the step."""
    confirms = {"confirm_publish": True}
    made = on_both(
        deploy, amqp_url, redis_db, task_create_missing_queue_type=kind, broker_transport_options=confirms
    )  # fmt: skip
    killed = made.ready_worker("press", "keeper", pool="threads", name="killed")
    go_on = tmp_path / "go on"
    handle = dispatch(made, FunctionSpec("pause", {"until": str(go_on)}), ActivitySpec("draft", "after"))
    first = f"{handle.correlation_id}.0"
    eventually(lambda: made.runs() == [first], within=WITHIN, what="the first run did not begin")
    made.ready_worker("press", "keeper", pool="threads", name="second")

    killed.kill()
    eventually(lambda: made.runs() == [first, first], within=WITHIN, what="the second run did not begin")
    go_on.touch()

    assert handle.result_sync(WITHIN).outputs == {"pause": "went on", "draft": "draft(after|went on)"}
    assert made.runs() == [first, first, f"{handle.correlation_id}.1"]
    assert "settings: worker_prefetch_multiplier 1, confirm_publish, broker_heartbeat 120 s, " in killed.log()


def test_executors_serve_from_rabbitmq(deploy: Deploy, amqp_url: str, redis_db: RedisDatabase) -> None:
    """A program may serve its own agents and still share the broker with workers elsewhere."""
    made = on_both(deploy, amqp_url, redis_db)
    transport = made.transport()
    with registry.isolated():
        _held = [activity(name=name)(lambda: "done") for name in ("draft", "pause")]

        async def main() -> object:
            tasks = [asyncio.create_task(ActivityExecutor(transport, held.name).start()) for held in _held]
            dispatcher = WorkflowDispatcher()
            steps = [held.activity() for held in (*_held, _held[0])]
            correlation_id = await dispatcher.dispatch_workflow(transport, itinerary=steps)
            result = await dispatcher.handle(correlation_id, transport).result(WITHIN)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            return result.outputs

        assert asyncio.run(main()) == {"draft": "done", "pause": "done", "draft-2": "done"}


def test_a_broker_that_restarts_loses_no_step_and_repeats_none(
    own_rabbit: RabbitServer, deploy: Deploy, redis_db: RedisDatabase, tmp_path: Path
) -> None:
    """This holds for a message that waits in its queue, and for one whose step is running and that is redelivered."""
    made = on_both(deploy, own_rabbit.url, redis_db)
    go_on = tmp_path / "go on"
    # Not in threads: there Celery 5.7 restores its prefetch count from a step's thread, and may hang doing so.
    worker = made.ready_worker("keeper")
    handle = dispatch(made, FunctionSpec("pause", {"until": str(go_on)}), ActivitySpec("draft", "after"))
    eventually(made.runs, within=WITHIN, what="the step did not begin")
    waiting, queue = dispatch(made, ActivitySpec("draft", "waiting")), f"{redis_db.prefix}.draft"
    with Connection(own_rabbit.url) as connection:
        eventually(lambda: waiting_in(connection, queue) == 1, what="the message did not arrive")

    with own_rabbit.stopped():
        worker.wait_for_log("Connection to broker lost", within=START_WITHIN)
    with Connection(own_rabbit.url) as connection:
        assert waiting_in(connection, queue) == 1
    made.ready_worker("press", name="second")
    copy = f"{handle.correlation_id}.0] received"
    eventually(lambda: worker.log().count(copy) == 2, within=START_WITHIN, what="no copy of the step was delivered")
    assert waiting.result_sync(WITHIN).output == "draft(waiting|)"
    go_on.touch()

    assert handle.result_sync(WITHIN).outputs == {"pause": "went on", "draft": "draft(after|went on)"}
    runs = [f"{handle.correlation_id}.0", f"{waiting.correlation_id}.0", f"{handle.correlation_id}.1"]
    assert made.runs() == runs


def test_a_message_waits_through_a_restart_of_its_broker_while_nobody_is_connected(
    own_rabbit: RabbitServer, deploy: Deploy, redis_db: RedisDatabase
) -> None:
    """Workers and broker are updated in the same night; what was dispatched before is still there."""
    made = on_both(deploy, own_rabbit.url, redis_db)
    handle = dispatch(made, ActivitySpec("draft", "early"))

    with own_rabbit.stopped():
        pass

    with Connection(own_rabbit.url) as connection:
        assert waiting_in(connection, f"{redis_db.prefix}.draft") == 1
    made.ready_worker("press")
    assert handle.result_sync(WITHIN).output == "draft(early|)"
    assert "resent" not in [event.type for event in handle.events_so_far()]


def test_an_amqp_url_gives_a_transport_without_a_store_unless_one_is_named() -> None:
    """RabbitMQ cannot be asked about a workflow's status; the first question says what to set."""
    url = f"amqp://guest:secret@127.0.0.1:{free_port()}//"
    bare, stored = get_transport(url), get_transport(url, store="redis://127.0.0.1:1/0")

    assert (bare.store, bare.mode) == (None, "message only")
    assert (stored.mode, stored.store and stored.store.address) == ("durable", "redis://127.0.0.1:1/0")
    assert "secret" not in repr(bare) + repr(stored)
    with pytest.raises(StoreRequired) as raised:
        WorkflowDispatcher().handle("anything", bare).status_sync()
    assert "set `paigeant_store_url`" in str(raised.value)
    assert "or pass `store=` to `get_transport`" in str(raised.value)


@pytest.mark.parametrize(
    ("wrong", "value", "refused"),
    [("password", "hunter2", "AccessRefused: "), ("virtual_host", "nowhere", "vhost nowhere not found")],
)
def test_dispatch_says_in_one_line_why_the_broker_refused_it(
    amqp_url: str, wrong: str, value: str, refused: str
) -> None:
    """A wrong password is found at the first dispatch, not by a workflow that never begins."""
    connection = Connection(amqp_url)
    setattr(connection, wrong, value)
    url = connection.as_uri(include_password=True)

    with pytest.raises(Unreachable) as raised:
        WorkflowDispatcher().dispatch_workflow_sync(get_transport(url), itinerary=[ActivitySpec("draft", "a")])

    text = str(raised.value)
    assert text.startswith("cannot reach the broker at amqp://")
    assert refused in text
    assert "\n" not in text
    assert "hunter2" not in text


def test_a_queue_that_is_declared_otherwise_holds_a_workflow_up_until_it_is_fixed(
    deploy: Deploy, amqp_url: str, redis_db: RedisDatabase
) -> None:
    """The step's output was paid for and is recorded; its successor is sent when its queue can be declared."""
    made = on_both(deploy, amqp_url, redis_db)
    worker = made.ready_worker("press", pool="threads")
    name = f"{redis_db.prefix}.elsewhere"
    elsewhere = ActivitySpec("elsewhere", "of no worker")

    with Connection(amqp_url) as connection:
        channel = connection.default_channel
        Queue(name, queue_arguments={"x-queue-type": "quorum"})(channel).queue_declare()
        with pytest.raises(NotPublished, match=f"'x-queue-type' for queue '{name}'") as refused:
            dispatch(made, elsewhere)
        # Its message would come first. While it waits, a sweep adds none of a step that is known from the store alone.
        assert WorkflowDispatcher().handle(refused.value.correlation_id, made.transport()).cancel_sync()
        handle = dispatch(made, ActivitySpec("draft", "early"), elsewhere)
        worker.wait_for_log("is recorded, but could not be sent", within=WITHIN)
        channel.queue_delete(name)
        eventually(lambda: waiting_in(connection, name) == 1, within=WITHIN, what="the next step was not sent")

    status = handle.status_sync()
    assert (status.state, status.executed, status.remaining) == ("queued", ("draft",), ("elsewhere",))
    assert made.runs() == [f"{handle.correlation_id}.0"]


SOUND: dict[str, Any] = {"content_type": "application/json", "content_encoding": "utf-8", "body": b'[["x"], {}, {}]'}
SECRET = "hunter2"  # part of what is refused; must not appear in any log or letter
EXAMPLES = {"prefork": 40, "threads": 400}  # damaged messages

# Messages as a stranger could publish them: the reason why each is refused, its changes to a valid one's properties
# and body, and those to its headers.
FORGED: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "03 a body that is not compressed as it says": ("undecodable", {}, {"compression": "application/x-gzip"}),
    "04 content that is not JSON": ("content_disallowed", {"content_type": "application/x-python-serialize"}, {}),
    "04 unknown content": ("content_disallowed", {"content_type": "application/x-odd"}, {}),
    "05 a compressed body over the limit": (
        "too_large", {"body": zlib.compress(b'[["%s"], {}, {}]' % (b"a few words " * 500_000))},
        {"compression": "application/x-gzip"},
    ),
    "06 an unknown task": ("unknown_task", {}, {"task": "shop.send_mail"}),
    "07 two arguments": ("bad_envelope", {"body": b'[["hunter2", "y"], {}, {}]'}, {}),
    "41 a chain": (
        "bad_envelope", {"body": b'[["x"], {}, {"chain": [{"task": "canary.sing", "args": [], "kwargs": {}}]}]'}, {}
    ),
    "41 a callback": (
        "bad_envelope", {"body": b'[["x"], {}, {"callbacks": [{"task": "canary.sing", "args": [], "kwargs": {}}]}]'}, {}
    ),
}  # fmt: skip


@pytest.mark.parametrize("pool", ["prefork", pytest.param("threads", marks=pytest.mark.proof)])
def test_what_cannot_be_digested_becomes_a_dead_letter_and_the_worker_goes_on(
    deploy: Deploy, amqp_url: str, redis_db: RedisDatabase, pool: str
) -> None:
    """Messages take a different way into a worker than from Redis; none of them ends it either."""
    made = on_both(deploy, amqp_url, redis_db)
    worker = made.ready_worker("press", "canary", pool=pool)
    transport, queue = made.transport(), f"{redis_db.prefix}.draft"
    dispatch(made, ActivitySpec("draft", "warm")).result_sync(WITHIN)

    with Connection(amqp_url) as connection:
        for number, (name, (reason, fields, headers)) in enumerate(FORGED.items()):
            hop_id = f"forged-{number}.0"
            content = {**SOUND, **fields}

            letter = letter_for(transport, connection, queue, {"task": queue, "id": hop_id, **headers}, content)

            assert (name, letter.reason, letter.hop_id) == (name, reason, hop_id)
            arrived = (content["body"], b"x", SECRET.encode())  # the body, or the envelope if one was found
            assert letter.sha256 in [hashlib.sha256(content).hexdigest() for content in arrived]

        reached = set[str]()

        @drawn(EXAMPLES[pool])
        @given(st.data())
        def refused(data: st.DataObject) -> None:
            headers, body = data.draw(damaged_message(connection, transport, queue))
            letter = letter_for(transport, connection, queue, headers, {**SOUND, "body": body})
            assert DeadLetters(transport).drop(letter.letter_id)  # the same damage once more is no new letter
            reached.add(letter.reason)

        refused()

    assert reached >= {"malformed", "undecodable", "bad_envelope"}
    assert worker.running
    assert prompt_result(dispatch(made, ActivitySpec("draft", "good"))).output == "draft(good|)"
    assert not [run for run in made.runs() if run == "sung" or run.startswith("forged")]
    assert SECRET not in worker.log()
    assert "Traceback" not in worker.log()


def damaged_message(
    connection: Connection, transport: CeleryTransport, queue: str
) -> st.SearchStrategy[tuple[Any, bytes]]:
    """Draw headers and body of a message of our publisher, whose envelope is none, with one part damaged."""
    hop_id = f"{uuid.uuid4().hex}.0"
    unserved = f"{transport.names.prefix}.unserved"
    transport.publisher.begin(
        Delivery(
            activity="draft", hop_id=hop_id, root_id=hop_id, parent_id=None, queue=unserved, envelope=SECRET,
            summary="damaged", timeout=None,
        )
    ).wait()  # fmt: skip
    sent = eventually(lambda: connection.default_channel.basic_get(unserved, no_ack=True))
    headers, body = sent.headers, sent.body
    around = damaged(headers).filter(lambda headers: isinstance(headers, dict)).map(lambda headers: (headers, body))
    inside = damaged(json.loads(body)).map(lambda body: (headers, json.dumps(body).encode()))
    return st.one_of(around, around, inside, cut(body).map(lambda body: (headers, body)))


def letter_for(
    transport: CeleryTransport, connection: Connection, queue: str, headers: Any, content: dict[str, Any]
) -> DeadLetter:
    """Publish a message to a queue that a worker reads, and return the one letter that comes of it."""
    store = transport.store
    assert store is not None
    before = [letter.letter_id for letter in store.dead_letters(after=None, limit=1)]

    message = amqp.Message(application_headers=headers, **content)
    connection.default_channel.basic_publish(message, exchange="", routing_key=queue)

    def newest() -> Sequence[DeadLetter]:
        found = store.dead_letters(after=None, limit=2)
        return found if [letter.letter_id for letter in found[:1]] != before else []

    letters = eventually(newest, within=WITHIN, what=f"no letter for {headers} {content}"[:3000])
    assert [letter.letter_id for letter in letters[1:]] == before
    assert (letters[0].queue, bool(letters[0].worker), bool(letters[0].at)) == (queue, True, True)
    assert SECRET not in f"{letters[0]}"
    return letters[0]


def waiting_in(connection: Connection, queue: str) -> int | None:
    """Return how many messages wait in a queue, or None if there is no such queue."""
    with connection.channel() as channel:
        try:
            return int(channel.queue_declare(queue, passive=True).message_count)
        except connection.channel_errors:
            return None


def test_a_cluster_is_known_by_its_name_and_virtual_host(amqp_url: str, redis_db: RedisDatabase) -> None:
    """Its machines have addresses of their own, and another cluster may get one of them."""

    def on(url: str) -> CeleryTransport:
        app = Celery("host", broker=url, set_as_current=False)
        app.conf.update(paigeant_store_url=redis_db.url, paigeant_prefix=redis_db.prefix)
        return transport_of(app)

    known, again = on(amqp_url), on(amqp_url.replace("127.0.0.1", "localhost"))
    store = known.store
    assert store is not None
    assert start_checks(known, embedded=True)
    bound = store.bound_broker()
    assert bound is not None
    assert (bound.address, str(bound.id)[-2:]) == (known.broker_identity, " /")

    assert start_checks(again, embedded=True)
    again.check_broker()
    moved = BoundBroker(address=again.broker_identity, id=bound.id)
    assert store.bound_broker() == moved

    renamed = replace(moved, id="rabbit@made-anew /")
    assert store.bind_broker(renamed, instead_of=moved)
    again.check_broker()
    assert start_checks(again, embedded=True)
    assert store.bound_broker() == moved

    for id_ in ("rabbit@another /", f"{str(bound.id)[:-2]} other"):
        other = BoundBroker(address="amqp://elsewhere:5672/", id=id_)
        assert store.bind_broker(other, instead_of=store.bound_broker())
        with pytest.raises(ConfigurationError, match="belongs to the broker amqp://elsewhere:5672/"):
            start_checks(known, embedded=True)
        with pytest.raises(ConfigurationError, match="belongs to the broker amqp://elsewhere:5672/"):
            WorkflowDispatcher().dispatch_workflow_sync(known, itinerary=[ActivitySpec("draft", "early")])
    with redis_db.client() as client:
        assert list(client.scan_iter(f"{redis_db.prefix}:*")) == [f"{redis_db.prefix}:meta"]
