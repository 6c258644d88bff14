"""What the store costs: request/reply turns between a process and its Redis, counted by a proxy."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis
from celery import Celery

from paigeant_celery import ActivitySpec, FunctionSpec, WorkflowDispatcher
from paigeant_celery.broker.transport import transport_of
from paigeant_celery.core.budget import Usage
from paigeant_celery.hop.lease import RENEWALS_PER_LEASE, Owner
from paigeant_celery.hop.sweeper import EVERY
from paigeant_celery.store.limits import LIMITS
from paigeant_celery.store.port import Claim, Claimed, Closing, Completion, HopRecord, NewWorkflow
from paigeant_celery.store.redis import RedisStore
from paigeant_celery.store.redis_client import script_texts
from tests.benchmarks.proxy import CountingProxy, Turns, running_proxy
from tests.support.processes import START_WITHIN, deployment, eventually
from tests.support.servers import RedisServer

NEVER = 10**6.0  # a lease whose thread renews nothing within a test, which renews by hand
LEASE = 10.0  # seconds
WORKFLOWS, STEPS = 20, 3
SLOTS = 2
WITHIN = 30.0  # seconds

pytestmark = pytest.mark.xdist_group("measured")


@pytest.fixture
def server(own_redis: Callable[..., RedisServer]) -> RedisServer:
    """A server that already has the store's scripts, which are sent only once each."""
    server = own_redis()
    with redis.Redis.from_url(server.url) as client:
        for text in script_texts(LIMITS).values():
            client.script_load(text)
    return server


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[CountingProxy]:
    """A proxy in front of the store's server."""
    with running_proxy(urlsplit(server.url).port or 0) as proxy:
        yield proxy


def through(proxy: CountingProxy) -> str:
    return f"redis://127.0.0.1:{proxy.port}/0"


def calls(turns: Turns) -> Counter[str]:
    """What was asked, scripts by their names; opening connections is left out."""
    names = {f"EVALSHA {hashlib.sha1(text.encode()).hexdigest()}": name for name, text in script_texts(LIMITS).items()}
    found = Counter[str]()
    for (kind, commands), count in turns.items():
        if kind != "connect":
            found[names.get(commands, commands)] += count
    return found


def test_a_hop_costs_two_round_trips_to_the_store(
    server: RedisServer, proxy: CountingProxy, own_redis: Callable[..., RedisServer], tmp_path: Path
) -> None:
    """A claim, a completion and what is recorded, besides the message's own; what keeps a worker alive costs per
    second. Two of the steps are agents with one model call each, whose answers go along in the completion."""
    steps = [
        ActivitySpec("draft", "first"),
        FunctionSpec("count_letters", {"letter": "a"}),
        ActivitySpec("draft", "last", step_id="last"),
    ]
    broker, dispatcher = own_redis().url, WorkflowDispatcher()
    with (
        deployment(broker, tmp_path, store=through(proxy), paigeant_lease=LEASE) as made,
        Celery("dispatching", set_as_current=False) as app,
    ):
        made.configure(app)
        made.variables["TOUCHED"] = "yes"
        beside = transport_of(app, store=server.url)  # what dispatches and reads is not counted
        made.start_worker("holding", "press", slots=SLOTS).wait_for_log(" ready.", within=START_WITHIN)

        before, began = proxy.turns(), time.monotonic()

        sent = [dispatcher.dispatch_workflow_sync(beside, itinerary=steps) for _ in range(WORKFLOWS)]
        for correlation_id in sent:
            assert dispatcher.handle(correlation_id, beside).result_sync(WITHIN).status == "completed"

        hops = WORKFLOWS * STEPS
        eventually(lambda: calls(proxy.turns() - before)["complete"] >= hops)
        found, seconds = calls(proxy.turns() - before), time.monotonic() - began

    for name in ("sweep", "look_over"):
        assert found.pop(name, 0) <= seconds / EVERY[0] + 1
    assert found.pop("touch", 0) <= seconds * RENEWALS_PER_LEASE / LEASE + 2
    assert found.pop("renew", 0) <= SLOTS * (seconds * RENEWALS_PER_LEASE / LEASE + 1)
    assert found == {"claim": hops, "complete": hops}


def test_what_a_run_records_and_shows_costs_a_round_trip_each(server: RedisServer, proxy: CountingProxy) -> None:
    """A journalled call costs one, and a batch of stream events another; the journal is read in one."""
    store = RedisStore(through(proxy), prefix="p", lease=LEASE, ttl=60)
    hop = HopRecord(hop_id="w.0", queue="q", envelope="{}", digest="d")
    store.start(NewWorkflow(correlation_id="w", content="c", hop=hop))
    claimed = store.claim(Claim(hop_id=hop.hop_id, owner="ann", token="t", max_attempts=5, digest="d"))
    assert isinstance(claimed, Claimed)
    closing = Closing(hop_id=hop.hop_id, owner="ann", fence=claimed.fence)
    before = proxy.turns()

    for number in range(10):
        assert store.record(closing, {f"call {number}": "{}"})
    for _ in range(5):
        assert store.publish(closing, [{"event": "text", "data": "word"}] * 200)
    assert len(store.journal(hop.hop_id)) == 10
    assert len(store.events("w", after=None, limit=2000)) == 1002

    eventually(lambda: calls(proxy.turns() - before)["events"] == 1)
    assert calls(proxy.turns() - before) == {"record": 10, "publish": 5, "HGETALL": 1, "events": 1}
    store.close()


def test_limits_cost_no_round_trip(server: RedisServer, proxy: CountingProxy) -> None:
    """What a workflow has used comes with the answers to its claims and records."""
    store, used = RedisStore(through(proxy), prefix="p", lease=LEASE, ttl=60), Usage(counters={"requests": 1})
    hop = HopRecord(hop_id="w.0", queue="q", envelope="{}", digest="d")
    store.start(NewWorkflow(correlation_id="w", content="c", hop=hop))
    before = proxy.turns()

    claimed = store.claim(Claim(hop_id=hop.hop_id, owner="ann", token="t", max_attempts=5, digest="d", used=Usage()))
    assert isinstance(claimed, Claimed)
    closing = Closing(hop_id=hop.hop_id, owner="ann", fence=claimed.fence)
    for number in range(10):
        assert store.record(closing, {f"call {number}": "{}"}, spent={f"call {number}": used})
    assert store.complete(Completion(closing=closing, envelope="{}", next_hop=None, used=used))

    eventually(lambda: calls(proxy.turns() - before)["complete"] == 1)
    assert calls(proxy.turns() - before) == {"claim": 1, "record": 10, "complete": 1}
    store.close()


def test_a_thousand_hops_of_a_process_are_renewed_in_one_round_trip(server: RedisServer, proxy: CountingProxy) -> None:
    """The lease of a worker that runs a thousand agents costs as much as that of one agent."""
    store = RedisStore(through(proxy), prefix="p", lease=LEASE, ttl=60)
    owner, lost = Owner(store, lease=NEVER), list[str]()
    with ExitStack() as stack:
        for number in range(1000):
            hop = HopRecord(hop_id=f"w{number}.0", queue="q", envelope="{}", digest="d")
            store.start(NewWorkflow(correlation_id=f"w{number}", content="c", hop=hop))
            claimed = store.claim(Claim(hop_id=hop.hop_id, owner=owner.id, token="t", max_attempts=5, digest="d"))
            assert isinstance(claimed, Claimed)
            cancel = lambda hop_id=hop.hop_id: lost.append(hop_id)  # noqa: E731
            stack.enter_context(owner.holding(hop.hop_id, fence=claimed.fence, cancel=cancel))
        before = proxy.turns()

        owner.renew()

        eventually(lambda: proxy.turns() != before)
        assert calls(proxy.turns() - before) == {"renew": 1}
    assert lost == []
    store.close()


def test_the_proxy_cuts_its_bytes_when_a_message_is_brought(server: RedisServer, proxy: CountingProxy) -> None:
    """The bytes of a hop are read off it; a message counts in the part that it begins."""
    with redis.Redis.from_url(server.url) as publisher, redis.Redis.from_url(through(proxy)) as worker:
        assert worker.brpop(["q"], timeout=0.01) is None
        for size in (200_000, 10):
            publisher.lpush("q", "x" * size)
            worker.brpop(["q"], timeout=WITHIN)
            worker.set("kept", "y" * 5_000)

    before, first, second = proxy.parts()

    assert before < 1_000
    assert 205_000 < first < 206_000
    assert 5_000 < second < 6_000
