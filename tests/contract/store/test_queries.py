"""Which workflows a store has, how many, and in which order they come."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any, cast

import pytest

from paigeant_celery.core.errors import InvalidInput, StoreCorrupt
from paigeant_celery.core.queries import WorkflowQuery
from paigeant_celery.core.steps import ActivitySpec
from paigeant_celery.core.waits import make_token
from paigeant_celery.store.limits import LIMITS
from paigeant_celery.store.port import Claimed, NewWait, NewWorkflow, Standing
from paigeant_celery.store.query_port import ListedPage, ListedWorkflow
from tests.contract.store.bench import Bench, MemoryBench, RedisBench
from tests.contract.store.given import FAILURE, claim, closing, completion, hop, new


def at(activity: str, hop_id: str) -> Any:
    """Return a hop of an activity; its step has the same name."""
    return replace(hop(hop_id), activity=activity, step_id=activity)


def start(bench: Bench, *names: str, activity: str = "draft") -> None:
    for name in names:
        bench.store.start(NewWorkflow(correlation_id=name, content="c", hop=at(activity, f"{name}.0")))


def ids(page: ListedPage) -> list[str]:
    return [each.correlation_id for each in page.items]


def listed(bench: Bench, **query: Any) -> list[str]:
    states = frozenset(query.pop("states", ()))
    return ids(bench.store.listed(WorkflowQuery(states=states, **query)))


def test_a_page_follows_another_without_a_gap(bench: Bench) -> None:
    """Whoever looks through thousands of workflows sees each of them once."""
    names = [f"w{number}" for number in range(7)]
    start(bench, *names)

    seen, after = [], None
    for _ in range(10):
        page = bench.store.listed(WorkflowQuery(after=after, limit=3))
        seen.append(ids(page))
        if (after := page.next) is None:
            break

    assert sorted(name for page in seen for name in page) == names
    assert [len(each) for each in seen] == [3, 3, 1]
    created = [each.created_at for each in bench.store.listed(WorkflowQuery()).items]
    assert created == sorted(created, reverse=True)


def test_workflows_are_found_by_the_state_of_their_current_step(bench: Bench) -> None:
    """A person looks for what failed, and not through what is well."""
    start(bench, "queued", "running", "retrying", "parked", "failed", "cancelled", "completed")
    claimed = {name: bench.store.claim(claim(f"{name}.0")) for name in ("running", "retrying", "parked", "failed")}
    bench.store.retry_at(closing(claimed["retrying"], "retrying.0"), FAILURE, delay=60)
    bench.store.park(closing(claimed["parked"], "parked.0"), FAILURE)
    bench.store.fail(closing(claimed["failed"], "failed.0"), FAILURE)
    bench.store.cancel("cancelled")
    bench.store.complete(completion(closing(bench.store.claim(claim("completed.0")), "completed.0")))

    assert {state: listed(bench, states=[state]) for state in claimed} == {state: [state] for state in claimed}
    assert listed(bench, states=["queued"]) == ["queued"]
    assert listed(bench, states=["cancelled"]) == ["cancelled"]
    assert set(listed(bench, states=["cancelled", "parked"])) == {"cancelled", "parked"}


def test_workflows_come_by_a_prefix_in_the_order_of_their_ids(bench: Bench) -> None:
    """An id that begins with the customer's number finds all workflows of that customer."""
    start(bench, "order-2", "order-1", "other", "order-10")

    first = bench.store.listed(WorkflowQuery(prefix="order-", limit=2))
    rest = bench.store.listed(WorkflowQuery(prefix="order-", limit=2, after=first.next))

    assert (ids(first), ids(rest), rest.next) == (["order-1", "order-10"], ["order-2"], None)


def test_workflows_are_found_by_their_age(bench: Bench) -> None:
    """What began before the deploy is told from what began after it."""
    start(bench, "w")
    (found,) = bench.store.listed(WorkflowQuery()).items

    assert listed(bench, since=found.created_at) == ["w"]
    assert listed(bench, before=found.created_at) == []
    assert listed(bench, since=found.created_at + timedelta(milliseconds=1)) == []


def test_a_cursor_of_something_else_is_refused(bench: Bench) -> None:
    """A page that silently began at the top would be read again and again."""
    with pytest.raises(InvalidInput):
        bench.store.listed(WorkflowQuery(after="elsewhere"))


def test_an_empty_store_lists_nothing(bench: Bench) -> None:
    """A dashboard is opened before the first workflow."""
    assert bench.store.listed(WorkflowQuery()) == ListedPage(items=())
    assert bench.store.counted() == {}


def test_a_new_workflow_without_an_activity_is_listed(bench: Bench) -> None:
    """An older version recorded it."""
    bench.store.start(new())

    assert listed(bench) == ["w"]


def test_workflows_are_found_by_the_activity_at_which_they_stand(bench: Bench) -> None:
    """The counts follow each step; what has ended counts for its last one."""
    start(bench, "w", "v", "u")
    run = closing(bench.store.claim(claim()))
    bench.store.complete(completion(run, next_hop=at("review", "w.1")))
    bench.store.complete(completion(closing(bench.store.claim(claim("v.0")), "v.0")))

    assert listed(bench, activity="review") == ["w"]
    assert set(listed(bench, activity="draft")) == {"u", "v"}
    assert listed(bench, activity="draft", states=["completed"]) == ["v"]
    assert bench.store.counted() == {"draft": {"queued": 1, "completed": 1}, "review": {"queued": 1}}


def test_workflows_are_found_by_what_they_wait_for(bench: Bench) -> None:
    """A person answers what waits for an approval, and not what waits for a payment."""
    start(bench, "w", "v", "u")
    for name, wait in (("w", "approval"), ("v", "paid")):
        close = closing(bench.store.claim(claim(f"{name}.0")), f"{name}.0")
        token = make_token(f"{name}.0", "secret")
        bench.store.wait(close, NewWait(wait_id="id", token=token, kind="signal", name=wait))
        bench.store.suspend(close, Standing(tokens=[token]))

    assert listed(bench, waits_for="approval") == ["w"]
    assert listed(bench, waits_for="approval", states=["running"]) == []
    assert listed(bench, waits_for="approval", prefix="w") == ["w"]
    assert [each.waits_for for each in bench.store.listed(WorkflowQuery(waits_for="paid")).items] == [("paid",)]
    bench.store.signal("w", "approval", "1", by="ann", call="c")
    bench.store.cancel("v")
    assert listed(bench, waits_for="approval") == listed(bench, waits_for="paid") == []


def test_pages_of_waiting_workflows_follow_each_other(bench: Bench) -> None:
    """Thousands may wait for the same."""
    names = [f"w{number}" for number in range(5)]
    start(bench, *names)
    for name in names:
        close = closing(bench.store.claim(claim(f"{name}.0")), f"{name}.0")
        bench.store.wait(close, NewWait(wait_id="id", token=f"{name}.0~secret", kind="token", name="approval"))

    first = bench.store.listed(WorkflowQuery(waits_for="approval", limit=3))
    rest = bench.store.listed(WorkflowQuery(waits_for="approval", limit=3, after=first.next))

    assert sorted(ids(first) + ids(rest)) == names
    assert rest.next is None


def test_a_list_says_who_runs_a_step_and_what_stands_before_another(bench: Bench) -> None:
    """Whoever wonders why nothing happens sees the process, the line, and the last error."""
    for name in ("a", "b", "c"):
        first = replace(at("draft", f"{name}.0"), queue="q")
        bench.store.start(NewWorkflow(correlation_id=name, content="c", hop=first))
    claimed = bench.store.claim(claim("a.0", owner="host:7:1:nonce:box"))
    assert isinstance(claimed, Claimed)
    found = {each.correlation_id: each for each in bench.store.listed(WorkflowQuery()).items}

    assert (found["a"].owner, found["a"].running_since) == ("host:7:1:nonce:box", claimed.now)
    assert [found[name].ahead for name in "abc"] == [None, 0, 1]
    bench.store.retry_at(closing(claimed, "a.0", owner="host:7:1:nonce:box"), FAILURE, delay=0)
    waiting = bench.store.standing("a")
    assert waiting is not None
    assert (waiting.state, waiting.failure, waiting.owner) == ("retrying", FAILURE, None)
    bench.store.sweep(host="there")
    again = bench.store.standing("a")
    assert again is not None
    assert (again.state, again.failure, again.last_failure) == ("queued", None, FAILURE)


@pytest.mark.parametrize("how", ["listed", "by id", "alone"])
def test_a_list_says_that_the_lease_of_a_running_step_is_over(bench: Bench, how: str) -> None:
    """A dead worker does not look like one that runs the step, also while nobody is there to take it over."""
    start(bench, "w")
    bench.store.claim(claim("w.0"))

    def read() -> ListedWorkflow | None:
        query = WorkflowQuery(prefix="w" if how == "by id" else None)
        return bench.store.standing("w") if how == "alone" else bench.store.listed(query).items[0]

    living = read()
    bench.leave("ann", -1)
    lost = read()

    assert living is not None
    assert lost is not None
    assert (living.state, living.lapsed_at) == ("running", None)
    assert lost.lapsed_at is not None
    assert lost == replace(living, lapsed_at=lost.lapsed_at)
    assert lost.lapsed_at <= bench.store.serving().now
    bench.lapse_swept()
    bench.store.sweep(host="there")
    queued = read()
    assert queued is not None
    assert (queued.state, queued.lapsed_at) == ("queued", None)


def test_a_sweep_notes_which_queues_its_caller_serves(bench: Bench) -> None:
    """A queue that no worker reads is told from one whose workers are busy."""
    assert bench.store.serving().swept_at is None

    bench.store.sweep(host="there", served=["q", "r"])

    serving = bench.store.serving()
    assert serving.swept_at is not None
    assert set(serving.queues) == {"q", "r"}
    assert all(abs((serving.now - at).total_seconds()) < 60 for at in serving.queues.values())


def test_times_are_counted_by_activity(bench: Bench) -> None:
    """A queue that grows long shows before anybody complains."""
    start(bench, "w", "v")
    for name in ("w", "v"):
        claimed = bench.store.claim(replace(claim(f"{name}.0"), activity="draft", step="draft"))
        bench.store.complete(completion(closing(claimed, f"{name}.0")))

    ((activity, times),) = bench.store.times().items()

    assert activity == "draft"
    assert (sum(times.queued.values()), sum(times.run.values())) == (2, 2)


def test_the_store_in_memory_forgets_times_and_queues_of_long_ago() -> None:
    """A program that runs for months holds those of the last days, as Redis does."""
    bench = MemoryBench()
    start(bench, "w")
    bench.store.claim(replace(claim("w.0"), activity="draft", step="draft"))
    bench.store.sweep(host="there", served=["old"])

    def left() -> tuple[int, set[str]]:
        bench.store.look_over()
        return len(bench.raw._records.times), set(bench.store.serving().queues)

    bench.now += timedelta(days=LIMITS.days_kept)
    assert left() == (1, {"old"})
    bench.now += timedelta(days=LIMITS.days_served - LIMITS.days_kept)
    bench.store.sweep(host="there", served=["new"])
    assert left() == (0, {"new"})


def test_an_expired_workflow_is_listed_no_longer(bench: Bench) -> None:
    """Nobody clicks on what is gone, and the index does not grow for ever."""
    start(bench, "w", "v")
    bench.short_lived.cancel("w")

    bench.expire()

    assert listed(bench) == ["v"]
    assert bench.store.counted() == {"draft": {"queued": 1}}


def index(on_redis: RedisBench) -> list[str]:
    return cast("list[str]", on_redis.client.zrange(on_redis.key("index"), 0, -1))


def test_what_expired_leaves_the_index_with_a_sweep(on_redis: RedisBench) -> None:
    """Also if nobody ever reads the list."""
    start(on_redis, "w")
    on_redis.short_lived.cancel("w")
    on_redis.expire()

    on_redis.store.look_over()

    assert index(on_redis) == []
    assert not on_redis.client.exists(on_redis.key("ended"))


def test_workflows_of_older_versions_are_added_once(on_redis: RedisBench) -> None:
    """After a deploy the list has what was recorded before it."""
    step = ActivitySpec(agent_name="draft", prompt="Write.", step_id="draft").model_dump_json()
    envelope = f'{{"slip": {{"itinerary": [{step}]}}}}'
    on_redis.raw.start(NewWorkflow(correlation_id="old", content="c", hop=hop("old.0", envelope=envelope)))
    on_redis.client.delete(on_redis.key("index"), on_redis.key("meta"))

    while not on_redis.raw.list_older():
        pass

    assert ids(on_redis.raw.listed(WorkflowQuery(activity="draft"))) == ["old"]
    on_redis.client.delete(on_redis.key("index"))
    assert on_redis.raw.list_older()
    assert ids(on_redis.raw.listed(WorkflowQuery())) == []  # not again: it looks through the whole database


@pytest.mark.parametrize("how", ["read", "swept"])
def test_what_an_older_version_ended_is_put_right(on_redis: RedisBench, how: str) -> None:
    """A program of an older version that cancels a workflow knows nothing of the list."""
    start(on_redis, "w")
    on_redis.client.hset(on_redis.key("wf", "w"), "state", "cancelled")
    on_redis.client.pexpire(on_redis.key("wf", "w"), 3_600_000)

    if how == "read":
        assert ids(on_redis.raw.listed(WorkflowQuery(states=frozenset(["queued"])))) == []
    else:
        on_redis.raw.look_over()

    assert ids(on_redis.raw.listed(WorkflowQuery(states=frozenset(["cancelled"])))) == ["w"]
    assert on_redis.client.zcard(on_redis.key("ended")) == 1


def test_what_is_no_list_harms_no_hop(on_redis: RedisBench) -> None:
    """A key of another type in the place of the index is told to whoever reads it; workflows go on."""
    on_redis.client.set(on_redis.key("index"), "something else")

    on_redis.raw.start(new())
    claimed = on_redis.raw.claim(claim())
    assert on_redis.raw.complete(completion(closing(claimed)))

    with pytest.raises(StoreCorrupt):
        on_redis.raw.counted()
