"""What blocks cost on Redis, when their keys expire, and what becomes of records that others changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast

import pytest

from paigeant_celery.core.errors import TransientError
from paigeant_celery.store.port import Closed, Closing, NewWorkflow, OpenHops, Standing, Store
from tests.contract.store.bench import RedisBench, everything
from tests.contract.store.blocks import (
    asks,
    at,
    begun,
    clean,
    nested_block,
    open_all,
    page,
    park,
    plan,
    run,
    states,
    succeed,
    swept,
    wait_in,
    waiting_block,
    workflow_state,
    write,
)
from tests.contract.store.given import FAILURE, claim, closing, completion, hop, letter, new
from tests.contract.store.test_corruption import who_notices

MOST_COMMANDS = 1000  # of one script; about 10 ms on a slow server, in which it answers nobody
PAGE = 100
RAW = (
    "eval",
    "evalsha",
    "info",
    "config|resetstat",
    "hello",
    "client|setname",
    "client|setinfo",
    "select",
    "script|load",
)


def commands_of(bench: RedisBench, call: Callable[[], object]) -> int:
    """Return how many commands the script of a call runs; the server must be nobody else's."""
    return sum(counted_by(bench, call).values())


def commands_in(counted: Mapping[str, int]) -> int:
    """Return how many there are of commands, without those that only some calls need."""
    return sum(counted.values()) - counted.get("pexpire", 0)


def counted_by(bench: RedisBench, call: Callable[[], object]) -> Mapping[str, int]:
    """Return the commands that the script of a call runs, by name."""
    bench.client.config_resetstat()
    call()
    stats = cast("Mapping[str, Mapping[str, int]]", bench.client.info("commandstats"))
    counted = {name.removeprefix("cmdstat_"): each["calls"] for name, each in stats.items()}
    return {name: count for name, count in counted.items() if name not in RAW}


@pytest.fixture
def alone(own_redis: Callable[..., Any]) -> RedisBench:
    """A server of this test's own, of which the commands can be counted."""
    return RedisBench(own_redis().url, "p")


# What it costs.


def drafts(new: NewWorkflow) -> NewWorkflow:
    return replace(new, hop=replace(new.hop, activity="draft", step_id="draft"))


def linear(store: Store) -> Mapping[str, Callable[[], object]]:
    """A workflow of two steps, and one that is parked: what each call does to a hop on the workflow's own slip."""
    held = {place: Closing(hop_id=f"w.{place}", owner="ann", fence=1) for place in (0, 1, 2)}
    kept, waits, asking, last = (Closing(hop_id=f"{name}.0", owner="ann", fence=1) for name in "vuts")

    def begin(close: Closing) -> None:
        store.start(drafts(new(close.hop_id[0])))
        store.claim(replace(claim(close.hop_id), activity="draft", step="draft"))
        store.wait(close, asks(close.hop_id))

    return {
        "start": lambda: store.start(drafts(new())),
        "claim": lambda: store.claim(replace(claim(), activity="draft", step="draft")),
        "renew": lambda: store.renew("ann", {"w.0": 1}),
        "record": lambda: store.record(held[0], {"call": "1"}),
        "complete": lambda: store.complete(
            completion(held[0], next_hop=replace(hop("w.1"), activity="write", step_id="write"))
        ),
        "claim next": lambda: store.claim(replace(claim("w.1"), activity="draft", step="draft")),
        "retry_at": lambda: store.retry_at(held[1], FAILURE, delay=0),
        "sweep": lambda: store.sweep(host="there", served=["q"]),
        "claim again": lambda: store.claim(replace(claim("w.1", token="t2"), activity="draft", step="draft")),
        "wait": lambda: store.wait(replace(held[1], fence=2), asks("w.1")),
        "suspend": lambda: store.suspend(replace(held[1], fence=2), Standing(tokens=[asks("w.1").token])),
        "resolve": lambda: store.resolve(asks("w.1").token, {"": "1"}, by="ann", call="c"),
        "signal": lambda: store.signal("w", "paid", "1", by="ann", call="c"),
        "claim last": lambda: store.claim(replace(claim("w.1", token="t3"), activity="draft", step="draft")),
        "finish": lambda: store.complete(completion(replace(held[1], fence=3))),
        "start another": lambda: store.start(drafts(new("v"))),
        "claim another": lambda: store.claim(replace(claim("v.0"), activity="draft", step="draft")),
        "park": lambda: store.park(kept, FAILURE, letter()),
        "redrive": lambda: store.redrive("v"),
        "cancel": lambda: store.cancel("v"),
        "begin": lambda: begin(waits),
        "finish with a wait": lambda: store.complete(completion(waits)),
        "begin another": lambda: begin(asking),
        "fail with a wait": lambda: store.fail(asking, FAILURE),
        "begin a third": lambda: begin(last),
        "cancel with a wait": lambda: store.cancel("s"),
    }


MOST_LISTED = 6  # commands that the list of workflows and the histograms of times add to a script

# What each script takes, and what the list adds to that.
COSTS = {
    "start": (24, 2),
    "claim": (29, 4),
    "renew": (14, 0),
    "record": (8, 0),
    "complete": (33, 4),
    "claim next": (29, 4),
    "retry_at": (22, 3),
    "sweep": (34, 4),  # one more for each further workflow of which it queues a hop
    "claim again": (28, 4),
    "wait": (17, 2),
    "suspend": (33, 3),
    "resolve": (33, 5),
    "signal": (21, 0),
    "claim last": (29, 4),
    "finish": (39, 5),
    "start another": (24, 2),
    "claim another": (29, 4),
    "park": (38, 3),
    "redrive": (26, 3),
    "cancel": (34, 4),
    "begin": (24 + 29 + 17, 2 + 4 + 2),  # three scripts
    "finish with a wait": (38, 6),
    "begin another": (24 + 29 + 17, 2 + 4 + 2),
    "fail with a wait": (38, 6),
    "begin a third": (24 + 29 + 17, 2 + 4 + 2),
    "cancel with a wait": (42, 5),
}


def test_a_workflow_of_linear_steps_costs_what_it_did_and_its_listing(alone: RedisBench) -> None:
    """Most workflows have no blocks, and their scripts ask nothing about any. The list adds six commands at most."""
    alone.raw.raise_format()  # as the first worker of a store does
    counted = {name: counted_by(alone, call) for name, call in linear(alone.raw).items()}
    alone.close()

    assert {name: commands_in(each) for name, each in counted.items()} == {
        name: before + more for name, (before, more) in COSTS.items()
    }
    # The first count of a bucket on a day gives the day its end, which depends on how long a hop waited or ran.
    in_all = {name: more + counted[name].get("pexpire", 0) for name, (_, more) in COSTS.items()}
    assert {name: each for name, each in in_all.items() if each > MOST_LISTED and not name.startswith("begin")} == {}


def test_the_first_dispatch_and_the_first_worker_of_a_store_cost_little_more(alone: RedisBench) -> None:
    """They note that nothing of older versions is there, once, and look through no keys for it."""
    begun = linear(alone.raw)
    more = {name: commands_in(counted_by(alone, begun[name])) - COSTS[name][0] for name in ("start", "claim")}
    alone.close()

    assert more["start"] <= MOST_LISTED
    assert more["claim"] <= MOST_LISTED + 3  # the format, the end of what older ones left, and what is listed


def test_no_call_on_a_full_page_of_branches_runs_more_than_a_thousand_commands(alone: RedisBench) -> None:
    """A script stops the whole server for as long as it runs."""
    store, counted = alone.raw, {}
    block = begun(alone)
    counted["hold"] = commands_of(
        alone, lambda: store.hold(block, page(0, PAGE, blobs={f"b{n}": "1" for n in range(PAGE)}))
    )
    counted["open"] = commands_of(alone, lambda: store.open_block(block, plan(PAGE, window=PAGE, collects=True)))
    store.suspend(block, Standing(branches=True))
    for number in range(PAGE):  # each of another owner, which is the dearest
        run(store, at(number), owner=f"host-{number}:1")
    counted["read"] = commands_of(alone, lambda: store.branches("w.0", first=0, limit=PAGE))
    counted["cancel"] = commands_of(alone, lambda: store.cancel("w"))

    assert states(store, size=PAGE) == ["cancelled"] * PAGE
    assert {name: count for name, count in counted.items() if count > MOST_COMMANDS} == {}
    alone.close()


def test_whose_lease_is_over_is_read_with_one_command_for_each_owner(alone: RedisBench) -> None:
    """A status of a thousand branches that run costs the server no more than it must."""
    store, counted = alone.raw, []
    for workflow, owners in (("a", 0), ("b", 3), ("c", PAGE)):
        block = begun(alone, workflow)
        store.hold(block, page(0, PAGE, of=f"{workflow}.0"))
        store.open_block(block, plan(PAGE, window=PAGE, collects=True))
        store.suspend(block, Standing(branches=True))
        for number in range(PAGE if owners else 0):
            run(store, at(number, of=f"{workflow}.0"), owner=f"host-{number % owners}:1")
        counted.append(commands_of(alone, lambda of=f"{workflow}.0": store.branches(of, first=0, limit=PAGE)))

    assert [each - counted[0] for each in counted] == [0, 3, PAGE]
    alone.close()


@pytest.mark.parametrize("how", ["complete", "fail", "cancel"])
def test_no_end_of_a_large_workflow_runs_more_than_a_thousand_commands(alone: RedisBench, how: str) -> None:
    """Nor does any sweep that cleans up behind it."""
    store = alone.raw
    block = begun(alone)
    open_all(store, block, 350, window=PAGE, collects=True)
    for number in range(50):
        run(store, at(number), owner=f"host-{number}:1")
    for number in range(50, 70):
        wait_in(alone.raw, at(number), asks(at(number), "paid", kind="signal"))
    for number in range(70, 90):
        store.park(run(store, at(number)), FAILURE, replace(letter(), letter_id=f"l{number}"))
    open_all(store, run(store, at(95)), 250, window=PAGE)
    ends: Mapping[str, Callable[[], object]] = {
        "complete": lambda: store.complete(completion(block)),
        "fail": lambda: store.fail(block, FAILURE),
        "cancel": lambda: store.cancel("w"),
    }

    most = commands_of(alone, ends[how])
    sweeps = 0
    while alone.client.exists(alone.key("ending")):
        most, sweeps = max(most, commands_of(alone, lambda: store.sweep(host="there"))), sweeps + 1

    assert most <= MOST_COMMANDS
    assert sweeps > 3
    assert store.open_hops() == OpenHops(due=0, running=0, parked=0)
    assert expiries(alone) == {"one moment"}
    alone.close()


def test_the_end_of_a_branch_eight_blocks_deep_is_cheap(alone: RedisBench) -> None:
    """It asks each of the blocks above whether it has ended."""
    waiting_block(alone, 2, window=1)
    hop_id = at(0)
    for _ in range(7):
        nested_block(alone.raw, hop_id, 2, window=1)
        hop_id = at(0, of=hop_id)
    close = run(alone.raw, hop_id)

    assert commands_of(alone, lambda: alone.raw.complete(completion(close, end="{}"))) < PAGE
    alone.close()


# When it is gone.


def expiries(bench: RedisBench) -> set[str]:
    """Say when the keys of workflows and hops expire: at `one moment` or several, or never."""
    kinds = ("wf", "hops", "events", "stream", "blob", "hop", "journal")
    keys = [key for kind in kinds for key in bench.client.scan_iter(bench.key(kind, "*"), count=1000)]
    moments = {cast("int", bench.client.pexpiretime(key)) for key in keys}
    assert keys
    return {"never" for each in moments if each < 0} | ({"one moment"} if len(moments) == 1 else {"several"})


@pytest.mark.parametrize("size", [3, 150, 250])
def test_all_keys_of_a_workflow_with_branches_expire_in_the_same_millisecond(on_redis: RedisBench, size: int) -> None:
    """None of them is ever seen without the others; those of a large one are given their end by sweeps."""
    store = on_redis.store
    block = begun(on_redis)
    open_all(store, block, size, window=3, collects=True)
    store.record(run(store, at(0)), {"call": "1"})
    store.cancel("w")

    clean(on_redis)

    assert expiries(on_redis) == {"one moment"}
    assert not on_redis.client.exists(on_redis.key("ending"))


def test_a_large_workflow_that_has_ended_can_be_read_while_its_end_is_set(on_redis: RedisBench) -> None:
    """Whoever waits for the result sees it at once, and sees no part of it without the others."""
    store = on_redis.store
    block = begun(on_redis)
    open_all(store, block, 450, window=1)
    store.complete(completion(block))

    sizes = []
    while on_redis.client.exists(on_redis.key("ending")):
        assert workflow_state(store) == "completed"
        assert on_redis.client.pttl(on_redis.key("wf", "w")) == -1
        assert on_redis.client.pttl(on_redis.key("hop", "w.0")) == -1
        sizes.append(len(swept(on_redis).overdue))
        on_redis.next_second()

    assert set(sizes) == {0}
    assert on_redis.client.pttl(on_redis.key("wf", "w")) > 0
    assert workflow_state(store) == "completed"


@pytest.mark.parametrize("how", ["hold", "open", "complete"])
def test_nothing_is_recorded_in_a_workflow_that_has_ended(on_redis: RedisBench, how: str) -> None:
    """Its keys have their end, and a new one would stay for ever."""
    store = on_redis.store
    waiting_block(on_redis, 1)
    inner = run(store, at(0))
    store.hold(inner, page(0, 1, of=at(0)))
    store.cancel("w")
    before = set(on_redis.client.scan_iter(on_redis.key("*")))

    calls: Mapping[str, Callable[[], object]] = {
        "hold": lambda: store.hold(inner, page(1, 1, of=at(0))),
        "open": lambda: store.open_block(inner, plan(1)),
        "complete": lambda: store.complete(completion(inner, next_hop=hop(at(0, 1)))),
    }

    assert calls[how]() is None
    assert set(on_redis.client.scan_iter(on_redis.key("*"))) == before


# What others wrote, or did not know.


def ended_by_an_older_version(bench: RedisBench) -> None:
    """Do what CANCEL of a version without blocks does: it knows only the workflow's own hop."""
    client = bench.client
    client.zrem(bench.key("asleep"), "w.0")
    client.hdel(bench.key("hop", "w.0"), "envelope", "owner", "token", "failure")
    client.hset(bench.key("hop", "w.0"), "state", "cancelled")
    client.hset(bench.key("wf", "w"), mapping={"state": "cancelled", "envelope": ""})


def test_sweeps_close_what_they_meet_in_a_workflow_that_an_older_version_has_ended(on_redis: RedisBench) -> None:
    """It knew nothing of branches: their leases, times and messages come to an end one by one."""
    store = on_redis.raw
    waiting_block(on_redis, 4)
    held = closing(on_redis.brief.claim(claim(at(0))), at(0))
    wait_in(on_redis.raw, at(1), asks(at(1)))
    store.retry_at(run(store, at(2), owner="bob"), FAILURE, delay=0)
    ended_by_an_older_version(on_redis)

    assert not store.complete(completion(held))
    on_redis.pass_time(25 * 3600)
    on_redis.overdue(at(3))
    store.sweep(host="there", dead=["ann"], queues={f"q-{at(3)}": True})
    found = store.sweep(host="there", queues={f"q-{at(3)}": True})

    assert (found.overdue, found.corrupted) == ((), ())
    assert states(store) == ["cancelled"] * 4
    assert store.open_hops() == OpenHops(due=0, running=0, parked=0)
    assert store.asked(after=None, limit=9) == []


OF_BLOCKS = {
    "due": ["open", "suspend", "claim", "complete", "fail", "park", "redrive", "branches", "finish"],
    "sent": ["open", "suspend", "complete", "fail", "park"],
    "deadlines": ["open", "suspend", "complete", "fail", "park", "redrive", "finish"],
    "asleep": ["suspend", "complete", "fail", "park", "finish"],
    "asked": ["redrive", "finish"],
    "parked": ["park", "redrive", "finish"],
    "ending": ["finish"],
    "kept": ["park", "redrive", "finish"],
    "hops:w": ["hold", "complete", "fail", "finish"],
    "blob:w": ["hold", "complete", "fail", "redrive", "finish"],
    "wf:w": ["open", "suspend", "claim", "complete", "fail", "park", "redrive", "finish"],
    "events:w": ["open", "suspend", "claim", "complete", "fail", "park", "redrive", "finish"],
    "hop:w.0": ["hold", "open", "suspend", "claim", "complete", "fail", "park", "redrive", "branches", "finish"],
}


@pytest.mark.parametrize("key", OF_BLOCKS)
def test_a_key_of_another_type_is_reported_by_what_concerns_branches(on_redis: RedisBench, key: str) -> None:
    """No branch is recorded, opened or counted by halves."""
    store, block = on_redis.raw, begun(on_redis)
    held = {number: Closing(hop_id=at(number), owner="ann", fence=1) for number in range(4)}
    calls: Mapping[str, Callable[[], object]] = {
        "hold": lambda: store.hold(block, page(0, 9)),
        "open": lambda: store.open_block(block, plan(9, window=4, collects=True)),
        "suspend": lambda: store.suspend(block, Standing(branches=True)),
        "claim": lambda: store.claim(claim(at(0))),
        "claim others": lambda: [store.claim(claim(at(number))) for number in (1, 2, 3)],
        "complete": lambda: store.complete(completion(held[0])),
        "fail": lambda: store.fail(held[1], FAILURE),
        "park": lambda: store.park(held[2], FAILURE),
        "redrive": lambda: store.redrive("w", place="0-2.0"),
        "branches": lambda: store.branches("w.0", first=0, limit=9),
        "finish": lambda: store.cancel("w"),
    }

    assert who_notices(on_redis, key, calls, but=("claim others",)) == OF_BLOCKS[key]


def test_a_full_store_records_and_opens_no_branches_and_lets_them_end(own_redis: Callable[..., Any]) -> None:
    """Nothing is half recorded when memory runs out, and finishing what runs frees it."""
    bench = RedisBench(own_redis("--maxmemory-policy", "noeviction").url, "p")
    store = bench.store
    waiting_block(bench, 4, window=3, collects=True)
    done, failed, inner = (run(store, at(number)) for number in range(3))
    write(store, inner, 2)
    bench.client.config_set("maxmemory", "1")
    before = everything(bench)

    for refused in (
        lambda: store.hold(inner, page(2, 1, of=at(2))),
        lambda: store.open_block(inner, plan(2)),
        lambda: store.complete(completion(done, next_hop=hop(at(0, 1)))),
    ):
        with pytest.raises(TransientError, match="full"):
            refused()
    assert everything(bench) == before

    assert store.complete(completion(done, end="{}")) == Closed(hops=(hop(at(3)),))
    assert store.fail(failed, FAILURE, end="{}") == Closed()
    assert store.cancel("w") == "cancelled"
    assert states(store) == ["done", "failed", "cancelled", "cancelled"]
    bench.close()


def test_a_workflow_counts_its_live_branches_at_every_depth(on_redis: RedisBench) -> None:
    """The count decides whether it is parked: whoever reads it on the server can check it."""

    def live() -> tuple[str | None, str | None]:
        return (
            cast("str | None", on_redis.client.hget(on_redis.key("wf", "w"), "live")),
            cast("str | None", on_redis.client.hget(on_redis.key("hop", at(0)), "block:live")),
        )

    store = on_redis.store
    waiting_block(on_redis, 2)
    assert live() == ("2", None)
    inner = nested_block(on_redis.raw, at(0), 3, join=1)
    assert live() == ("4", "3")
    park(store, at(0, of=at(0)), at(1))
    assert live() == ("2", "2")
    assert succeed(store, at(1, of=at(0))) == [inner.hop_id]
    assert live() == ("2", "1")
    assert succeed(store, at(0)) == []
    assert live()[0] == "0"
    assert workflow_state(store) == "parked"
