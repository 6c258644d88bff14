"""What the index of workflows on Redis does when records are damaged, or come from versions without one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain, pairwise

import pytest

from paigeant_celery.core.errors import StoreCorrupt
from paigeant_celery.core.queries import WorkflowQuery
from paigeant_celery.core.steps import ActivitySpec
from paigeant_celery.store.limits import LIMITS
from paigeant_celery.store.port import NewWait, NewWorkflow
from paigeant_celery.store.query_port import QueryStore
from paigeant_celery.store.redis import RedisStore
from paigeant_celery.store.redis_client import Client, Reply, Server
from tests.contract.store.bench import LEASE, TTL, Bench, RedisBench
from tests.contract.store.given import FAILURE, claim, closing, hop
from tests.contract.store.test_queries import ids, start

NO_TIMES = ["abc", "", "inf", "nan", "-1e300", "1e15000"]


@pytest.mark.parametrize("text", NO_TIMES)
def test_a_damaged_time_stops_no_sweep(on_redis: RedisBench, text: str) -> None:
    """One record that nobody can read must not keep every other workflow from going on."""
    start(on_redis, "odd", "well")
    on_redis.client.hset(on_redis.key("wf", "odd"), "created_at", text)
    on_redis.client.zadd(on_redis.key("due"), {"well.0": on_redis.now() - 1 - 1e13})  # whatever its queue has

    found = on_redis.raw.sweep(host="there")

    assert [each.hop_id for each in found.overdue] == ["well.0"]


@pytest.mark.parametrize("text", NO_TIMES)
def test_a_damaged_time_keeps_no_hop_from_being_set_aside(on_redis: RedisBench, text: str) -> None:
    """The script has written before it asks the record for the list, and Redis takes nothing back."""
    start(on_redis, "odd")
    claimed = on_redis.raw.claim(claim("odd.0"))
    on_redis.client.hset(on_redis.key("wf", "odd"), "created_at", text)
    on_redis.client.hset(on_redis.key("hop", "odd.0"), "block:written", "0")

    assert on_redis.raw.park(closing(claimed, "odd.0"), FAILURE)
    assert on_redis.client.xrevrange(on_redis.key("events", "odd"))[0][1]["type"] == "parked"


OLDER = LIMITS.format - 1
ENVELOPE = '{"slip": {"itinerary": [%s]}, "more": "%s"}'


def step_of(name: str) -> str:
    return ActivitySpec(agent_name=name, prompt="Write.", step_id=name).model_dump_json()


def start_older(on_redis: RedisBench, *names: str, size: int = 0) -> None:
    """Record workflows as a version without a list does."""
    listed = meta(on_redis, "listed")
    for name in names:
        envelope = ENVELOPE % (step_of("draft"), "x" * size)
        first = replace(hop(f"{name}.0", envelope=envelope), activity="", step_id="")
        on_redis.raw.start(NewWorkflow(correlation_id=name, content="c", hop=first))
    on_redis.client.delete(on_redis.key("index"))
    if listed is None:
        on_redis.client.hdel(on_redis.key("meta"), "listed")


def all_listed(on_redis: RedisBench) -> list[str]:
    return ids(on_redis.raw.listed(WorkflowQuery(prefix="", limit=1000)))


def meta(on_redis: RedisBench, name: str) -> str | None:
    return on_redis.client.hget(on_redis.key("meta"), name)


def test_nothing_of_older_versions_is_missing_from_a_new_store(bench: Bench) -> None:
    """Nobody reads that a list is not complete before anything was ever recorded."""
    assert bench.store.list_older()
    bench.store.raise_format()
    assert bench.store.list_older()


def test_no_keys_are_looked_through_on_a_new_store(on_redis: RedisBench) -> None:
    """The database may have millions of keys of others."""
    on_redis.raw.list_older()
    on_redis.raw.raise_format()

    assert (meta(on_redis, "listed"), meta(on_redis, "listing")) == (str(LIMITS.format), None)


@pytest.mark.parametrize("begin", ["raise_format", "sweep", "claim"])
def test_no_keys_are_looked_through_where_the_first_dispatch_came_before_the_first_worker(
    on_redis: RedisBench, begin: str
) -> None:
    """A web process often starts first, and its pages are complete from the first one on."""
    start(on_redis, "w")
    assert on_redis.raw.list_older()

    if begin == "raise_format":
        on_redis.raw.raise_format()
    elif begin == "sweep":
        on_redis.raw.sweep(host="there")
    else:
        on_redis.raw.claim(claim("w.0"))

    assert (meta(on_redis, "listed"), meta(on_redis, "listing")) == (str(LIMITS.format), None)
    assert on_redis.raw.list_older()


def test_what_an_older_program_dispatched_to_a_new_store_is_listed(on_redis: RedisBench) -> None:
    """It came before the first worker, and before the first program that lists what it dispatches."""
    start_older(on_redis, "old")
    on_redis.raw.start(NewWorkflow(correlation_id="w", content="c", hop=hop("w.0")))
    on_redis.raw.raise_format()

    while not on_redis.raw.list_older():
        pass

    assert all_listed(on_redis) == ["old", "w"]


def test_what_older_workers_record_after_somebody_looked_is_listed_as_well(on_redis: RedisBench) -> None:
    """A new Flower beside workers of an older version sees workflows come and go, and misses none for ever."""
    on_redis.client.hset(on_redis.key("meta"), "format", OLDER)
    start_older(on_redis, "first")
    while all_listed(on_redis) != ["first"]:
        assert not on_redis.raw.list_older()

    start_older(on_redis, "second")

    while all_listed(on_redis) != ["first", "second"]:
        assert not on_redis.raw.list_older()


@pytest.mark.parametrize("how", ["asked", "swept"])
def test_what_an_older_version_recorded_after_a_rollback_is_listed(on_redis: RedisBench, how: str) -> None:
    """Whoever goes back to an older version, and forward again, has all workflows in the list."""
    on_redis.raw.raise_format()
    assert on_redis.raw.list_older()
    on_redis.client.hset(on_redis.key("meta"), "format", OLDER)
    start_older(on_redis, "w")

    on_redis.raw.raise_format()
    while meta(on_redis, "listed") is None:
        if how == "asked":
            on_redis.raw.list_older()
        else:
            on_redis.raw.look_over()

    assert all_listed(on_redis) == ["w"]
    assert meta(on_redis, "listed") == str(LIMITS.format)


def test_what_an_older_program_dispatches_is_listed_when_it_is_overdue(on_redis: RedisBench) -> None:
    """A web process that is upgraded later starts workflows that stand in a long queue, and they are seen."""
    on_redis.raw.raise_format()
    assert on_redis.raw.list_older()
    start_older(on_redis, "w")
    on_redis.overdue("w.0")

    (queue,) = on_redis.raw.sweep(host="there").queues
    assert all_listed(on_redis) == []
    on_redis.raw.sweep(host="there", queues={queue: False})

    assert all_listed(on_redis) == ["w"]


def complete_as_older(on_redis: RedisBench, state: str) -> None:
    """Have a worker without a list complete the first step of `w` and record `write`, the next one."""
    fields = {"workflow": "w", "state": state, "queue": "q", "envelope": ENVELOPE % (step_of("write"), "")}
    on_redis.client.hset(on_redis.key("hop", "w.1"), mapping={**fields, "attempt": "0", "fence": "0", "digest": "d"})
    on_redis.client.hset(on_redis.key("hop", "w.0"), "state", "done")
    on_redis.client.hset(on_redis.key("wf", "w"), "hop", "w.1")


@pytest.mark.parametrize("how", ["read", "looked over", "alone"])
@pytest.mark.parametrize("listed_as", ["queued", "running"])
@pytest.mark.parametrize("state", ["queued", "running", "waiting", "parked"])
def test_a_step_to_which_an_older_worker_has_gone_on_is_listed_as_what_it_is(
    on_redis: RedisBench, how: str, listed_as: str, state: str
) -> None:
    """It claimed the step before it while it could, and knows nothing of the list. No page shows the earlier step."""
    on_redis.raw.raise_format()
    start(on_redis, "w")
    if listed_as == "running":
        on_redis.raw.claim(replace(claim("w.0"), activity="draft", step="draft"))
    complete_as_older(on_redis, state)

    if how == "looked over":
        on_redis.raw.look_over()
    elif how == "alone":
        found = on_redis.raw.standing("w")
        assert found is not None
        assert (found.activity, found.step_id) == ("write", "write")
    else:
        (found,) = on_redis.raw.listed(WorkflowQuery()).items
        assert (found.activity, found.step_id) == ("write", "write")

    assert ids(on_redis.raw.listed(WorkflowQuery(activity="draft"))) == []
    assert ids(on_redis.raw.listed(WorkflowQuery(activity="write"))) == ["w"]
    assert set(on_redis.raw.counted()) == {"write"}


def test_a_workflow_that_is_listed_rightly_is_not_read_again(
    on_redis: RedisBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Envelopes are large, and a page is read with one question."""
    start(on_redis, "w")
    on_redis.raw.retry_at(closing(on_redis.raw.claim(claim("w.0")), "w.0"), FAILURE, delay=60)
    monkeypatch.setattr("paigeant_celery.store.redis_queries.step_in", lambda envelope: pytest.fail("an envelope came"))
    on_redis.client.hset(on_redis.key("hop", "w.0"), "state", "queued")  # as an older version may change it

    assert ids(on_redis.raw.listed(WorkflowQuery(activity="draft", states=frozenset(["retrying"])))) == []
    assert ids(on_redis.raw.listed(WorkflowQuery(activity="draft", states=frozenset(["queued"])))) == ["w"]


def test_older_ones_are_listed_bit_by_bit_by_whoever_comes(on_redis: RedisBench) -> None:
    """No request waits until all keys of a large database were looked through, and none begins it again."""
    on_redis.client.hset(on_redis.key("meta"), "format", OLDER)
    names = [f"w{number:05}" for number in range(3000)]
    with on_redis.client.pipeline(transaction=False) as commands:
        for name in names:
            fields = {"state": "running", "hop": f"{name}.0", "created_at": "1", "updated_at": "1", "content": "c"}
            commands.hset(on_redis.key("wf", name), mapping=fields)
            commands.hset(on_redis.key("hop", f"{name}.0"), mapping={"workflow": name, "state": "parked"})
        commands.execute()
    on_redis.raw.raise_format()

    sizes = [0]
    while meta(on_redis, "listed") is None:
        if len(sizes) % 2:
            on_redis.raw.list_older()
        else:
            on_redis.raw.look_over()
        sizes.append(on_redis.client.zcount(on_redis.key("index"), 0, 0) // 3)

    assert sizes[-1] == len(names)
    assert max(after - before for before, after in pairwise(sizes)) < 1000
    on_redis.client.unlink(*(on_redis.key("wf", name) for name in names))
    on_redis.client.unlink(*(on_redis.key("hop", f"{name}.0") for name in names))


def test_a_place_in_the_keys_of_another_run_of_the_server_means_nothing(on_redis: RedisBench) -> None:
    """After a restart of the server its keys come in another order, and some would be passed over."""
    on_redis.raw.raise_format()
    on_redis.client.hdel(on_redis.key("meta"), "listed")
    start_older(on_redis, "w")
    on_redis.client.hset(on_redis.key("meta"), "listing", f"{LIMITS.format}:another:4096")

    while not on_redis.raw.list_older():
        pass

    assert all_listed(on_redis) == ["w"]


def test_large_envelopes_of_older_versions_come_in_several_answers(on_redis: RedisBench) -> None:
    """A round trip has a second for its answer."""
    small = RedisStore(
        on_redis.url, prefix=on_redis.prefix, lease=LEASE, ttl=TTL, limits=replace(LIMITS, most_bytes=10_000)
    )
    names = [f"w{number}" for number in range(10)]
    start_older(on_redis, *names, size=6000)

    try:
        while not small.list_older():
            pass
    finally:
        small.close()

    assert on_redis.raw.counted() == {"draft": {"queued": 10}}


def test_what_older_workflows_wait_for_is_found_and_leaves_the_list_again(on_redis: RedisBench) -> None:
    """Who answers the approvals of before an upgrade sees them all."""
    start_waiting(on_redis, "w")
    on_redis.client.delete(on_redis.key("index"))
    on_redis.client.hdel(on_redis.key("hop", "w.0"), ":age")
    on_redis.client.hdel(on_redis.key("meta"), "listed")

    while not on_redis.raw.list_older():
        pass

    assert ids(on_redis.raw.listed(WorkflowQuery(waits_for="approval"))) == ["w"]
    on_redis.raw.cancel("w")
    assert not on_redis.client.zrangebylex(on_redis.key("index"), "[n", "(o")


DAMAGED: dict[str, dict[str, str | bytes]] = {
    "wf": {"created_at": "x", "updated_at": "1e99", "failure": "{", "state": "odd", "hop": "", "-updated_at": ""},
    "hop": {"attempt": "many", "queue": b"\xff", "claimed_at": "9" * 30, "owner": b"\xfe"},
}


@pytest.mark.parametrize(("kind", "field"), [(kind, field) for kind, each in DAMAGED.items() for field in each])
@pytest.mark.parametrize("query", [WorkflowQuery(), WorkflowQuery(prefix="w")], ids=["newest", "by id"])
def test_one_record_that_cannot_be_read_spoils_no_page(
    on_redis: RedisBench, kind: str, field: str, query: WorkflowQuery
) -> None:
    """The others are shown, and the one that needs somebody is named."""
    start(on_redis, "w1", "w2", "w3")
    for name in ("w1", "w2", "w3"):
        claimed = on_redis.raw.claim(claim(f"{name}.0"))
        if field == "failure":
            on_redis.raw.fail(closing(claimed, f"{name}.0"), FAILURE)
    key = on_redis.key(kind, "w2" if kind == "wf" else "w2.0")
    if field.startswith("-"):
        on_redis.client.hdel(key, field[1:])
    else:
        on_redis.client.hset(key, field, DAMAGED[kind][field])

    found = on_redis.raw.listed(query)

    assert set(ids(found)) == {"w1", "w3"}
    assert found.unreadable == ("w2",)
    assert on_redis.raw.listed(query) == found
    with pytest.raises(StoreCorrupt, match="w2"):
        on_redis.raw.standing("w2")


def test_a_record_of_another_type_is_named(on_redis: RedisBench) -> None:
    """Whoever wrote there is found by its key."""
    start(on_redis, "w1", "w2")
    on_redis.client.delete(on_redis.key("wf", "w2"))
    on_redis.client.set(on_redis.key("wf", "w2"), "something else")

    found = on_redis.raw.listed(WorkflowQuery())

    assert (ids(found), found.unreadable) == (["w1"], ("w2",))


def start_waiting(bench: Bench, *names: str) -> None:
    start(bench, *names)
    for name in names:
        close = closing(bench.store.claim(claim(f"{name}.0")), f"{name}.0")
        bench.store.wait(close, NewWait(wait_id="id", token=f"{name}.0~secret", kind="token", name="approval"))


def pages(store: QueryStore, query: WorkflowQuery) -> list[list[str]]:
    found = []
    while True:
        page = store.listed(query)
        found.append(ids(page))
        if page.next is None:
            return found
        query = replace(query, after=page.next)


def test_those_with_a_prefix_that_wait_come_in_the_order_of_their_ids(bench: Bench) -> None:
    """The orders of one customer that wait for an approval are read page by page, and none twice."""
    start_waiting(bench, "b-2", "a-1", "a-3", "a-2", "a-5", "a-4")
    start(bench, "a-0")

    found = pages(bench.store, WorkflowQuery(waits_for="approval", prefix="a-", limit=2))

    assert found == [["a-1", "a-2"], ["a-3", "a-4"], ["a-5"]]
    states = frozenset(["suspended"])
    assert pages(bench.store, WorkflowQuery(waits_for="approval", prefix="a-", states=states)) == [[]]


@contextmanager
def many_that_wait(on_redis: RedisBench, count: int) -> Iterator[list[str]]:
    """Write workflows that wait for an approval straight into the store, with what the list has of them."""
    names, age = [f"a-{number:05}" for number in range(count)], 2**53 - 2
    with on_redis.client.pipeline(transaction=False) as commands:
        for name in names:
            token = f"{name}.0~secret"
            fields = {"state": "running", "hop": f"{name}.0", "created_at": "1", "updated_at": "1", "content": "c"}
            waits = {":open": token, f":state:{token}": "open", f":name:{token}": "approval", ":age": str(age)}
            of_hop = {"workflow": name, "state": "suspended", "queue": "q", **waits}
            commands.hset(on_redis.key("wf", name), mapping=fields)
            commands.hset(on_redis.key("hop", f"{name}.0"), mapping=of_hop)
            texts = (
                f"i{name} s{age}:draft:draft",
                f"ss{age}{name}",
                f"adraft:s{age}{name}",
                f"napproval\0{age}{token}",
            )
            commands.zadd(on_redis.key("index"), dict.fromkeys(texts, 0))
        commands.execute()
    yield names
    on_redis.client.unlink(*(on_redis.key("wf", name) for name in names))
    on_redis.client.unlink(*(on_redis.key("hop", f"{name}.0") for name in names))


@pytest.mark.parametrize("count", [900, 2500])
def test_a_page_of_many_that_wait_asks_the_store_a_few_times(
    on_redis: RedisBench, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Thousands that wait for the same approval cost each page no more than a few dozen do."""
    run, calls = Server.ask, []

    def counted(server: Server, question: Callable[[Client], Reply], *, about: str) -> Reply:
        calls.append(about)
        return run(server, question, about=about)

    with many_that_wait(on_redis, count) as names:
        monkeypatch.setattr(Server, "ask", counted)
        first = on_redis.raw.listed(WorkflowQuery(waits_for="approval", prefix="a-", limit=50))
        asked = len(calls)
        rest = on_redis.raw.listed(WorkflowQuery(waits_for="approval", prefix="a-", limit=1000, after=first.next))

    assert (ids(first), asked) == (names[:50], 2)
    assert ids(rest) == names[50:1050]


def test_a_page_is_short_where_few_of_many_fit(on_redis: RedisBench) -> None:
    """No request looks through everything; its `next` says that there is more."""
    query = WorkflowQuery(waits_for="approval", states=frozenset(["parked"]))

    with many_that_wait(on_redis, 4000) as names:
        assert on_redis.raw.listed(query).next is not None
        found = pages(on_redis.raw, query)
        on_redis.client.hset(on_redis.key("wf", names[-1]), "state", "parked")
        last = pages(on_redis.raw, query)

    assert (set(map(tuple, found)), len(found)) == ({()}, 3)
    assert list(chain(*last)) == [names[-1]]
