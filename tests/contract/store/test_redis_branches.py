"""What only the store on Redis can get wrong about branches: leftovers, long scripts, lost replies and full servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, cast

import pytest

from paigeant_celery.core.errors import TransientError
from paigeant_celery.store.branch_port import OpenedBlock
from paigeant_celery.store.port import Closed, Closing, OpenHops, Standing, Suspended, Sweep
from tests.contract.store.bench import TTL, RedisBench, everything
from tests.contract.store.blocks import (
    asks,
    at,
    begun,
    clean,
    complete,
    counts,
    fail,
    nested_block,
    open_all,
    page,
    park,
    plan,
    read,
    run,
    sent_by,
    state,
    states,
    succeed,
    wait_in,
    waiting_block,
    workflow_state,
    write,
)
from tests.contract.store.given import FAILURE, completion, hop, letter, new, told
from tests.contract.store.test_redis import losing_one_reply

MANY = 250  # branches; more than one script closes
LONGEST = 1050  # commands of one script; about 1000

INDEXES = ("due", "parked", "asleep", "asked", "deadlines", "owners", "letters", "kept", "ending")
OF_OWNERS = ("owner:*", "host:*", "touchable:*", "letter:*")


def many(bench: RedisBench) -> Closing:
    """Open a block of so many branches that no script closes all, with hops in each state, and one a block itself."""
    block, store = begun(bench), bench.raw  # which is not looked into after each call
    open_all(store, block, MANY, queue="shared", window=100, collects=True)
    for number in range(80):
        hop_id = at(number)
        if number < 20:
            close = run(store, hop_id, owner=f"owner-{number % 3}")
            store.record(close, {"call": "1"})
            store.publish(close, [told(number)])
        elif number < 40:
            store.park(run(store, hop_id), FAILURE, replace(letter(), letter_id=f"l{number}"))
        elif number < 60:
            wait_in(store, hop_id, asks(hop_id), asks(hop_id, "paid", kind="signal"))
        elif number < 65:
            store.retry_at(run(store, hop_id), FAILURE, delay=0)
        elif number < 70:
            succeed(store, hop_id)
        elif number < 75:
            fail(store, hop_id)
    inner = run(store, at(75))
    open_all(store, inner, 150, window=100)
    for number in range(30):
        wait_in(store, at(number, of=at(75)), asks(at(number, of=at(75))))
    park(store, at(31, of=at(75)))
    store.suspend(inner, Standing(branches=True))
    return block


ENDS: Mapping[str, Callable[[RedisBench, Closing], object]] = {
    "cancel": lambda bench, block: bench.store.cancel("w"),
    "complete": lambda bench, block: bench.store.complete(completion(block)),
    "fail": lambda bench, block: bench.store.fail(block, FAILURE),
}


@pytest.mark.parametrize("how", ENDS)
def test_nothing_is_left_of_a_large_tree_after_its_sweeps(on_redis: RedisBench, how: str) -> None:
    """Neither an entry of an index nor a key without an end; Redis does not fill with leftovers of ended runs."""
    block = many(on_redis)
    ENDS[how](on_redis, block)

    assert clean(on_redis) == []

    client = on_redis.client
    left = {index: client.zrange(on_redis.key(index), 0, -1) for index in INDEXES}
    assert left == {index: [] for index in INDEXES}
    assert [key for kind in OF_OWNERS for key in client.scan_iter(on_redis.key(kind))] == []
    assert on_redis.store.open_hops() == OpenHops(due=0, running=0, parked=0)
    keys = of_the_workflow(on_redis)
    assert len(keys) > MANY + 150
    assert len({client.pexpiretime(key) for key in keys}) == 1
    assert TTL * 900 < client.pttl(keys[0]) <= TTL * 1000
    hashes = {key: cast("dict[str, str]", client.hgetall(key)) for key in keys if ":hop:" in key}
    assert [key for key, fields in hashes.items() if "envelope" in fields] == []
    assert [key for key, fields in hashes.items() if fields["state"] == "cancelled" and "owner" in fields] == []


def of_the_workflow(bench: RedisBench) -> list[str]:
    """Return the keys of a workflow: all but those that stay."""
    stay = {bench.key(name) for name in ("meta", "sent", "reached", "index", "ended")} | set(
        bench.client.scan_iter(bench.key("times", "*"))
    )
    return sorted(key for key in bench.client.scan_iter(bench.key("*")) if key not in stay)


def test_a_large_tree_that_ends_by_itself_expires_whole(on_redis: RedisBench) -> None:
    """Its keys get their end in pages, but all the same one; nobody sees a part of it later."""
    block = begun(on_redis)
    open_all(on_redis.raw, block, MANY, window=100, queue="shared")
    on_redis.raw.suspend(block, Standing(branches=True))
    for number in range(MANY):
        sent = succeed(on_redis.raw, at(number))
    assert sent == ["w.0"]
    assert complete(on_redis.store, run(on_redis.store, "w.0")) == Closed()

    clean(on_redis)

    keys = of_the_workflow(on_redis)
    assert len(keys) > MANY
    assert len({on_redis.client.pexpiretime(key) for key in keys}) == 1
    assert on_redis.client.pttl(keys[0]) > 0
    assert workflow_state(on_redis.store) == "completed"
    assert len(read(on_redis.store)) == MANY


def test_a_tree_that_follows_another_one_in_the_same_workflow_expires_with_it(on_redis: RedisBench) -> None:
    """What an earlier block left behind gets its end when the workflow ends, not before."""
    block = many(on_redis)
    assert on_redis.store.complete(completion(block, next_hop=hop("w.1"))) == Closed()
    clean(on_redis)
    assert {on_redis.client.pttl(key) for key in of_the_workflow(on_redis)} == {-1}
    second = run(on_redis.store, "w.1")
    open_all(on_redis.store, second, 2)
    assert on_redis.store.complete(completion(second)) == Closed()

    clean(on_redis)

    assert len({on_redis.client.pexpiretime(key) for key in of_the_workflow(on_redis)}) == 1
    assert on_redis.client.pttl(on_redis.key("hop", at(249))) > 0


def test_sweeps_that_clean_beside_other_work_leave_that_alone(on_redis: RedisBench) -> None:
    """Other workflows are sent again meanwhile, and a pass that leaves something is followed at once."""
    many(on_redis)
    on_redis.store.start(new("v"))
    on_redis.store.cancel("w")
    on_redis.overdue("v.0")

    first = on_redis.store.sweep(host="there", queues={"q-v.0": True})

    assert [each.hop_id for each in first.overdue] == ["v.0"]
    assert first.full
    assert clean(on_redis) == []
    assert on_redis.store.open_hops() == OpenHops(due=1, running=0, parked=0)


# Long scripts.


def commands(bench: RedisBench, call: Callable[[], object]) -> int:
    """Return how many commands the scripts of a call run on the server."""
    bench.client.config_resetstat()
    call()
    stats = cast("Mapping[str, Mapping[str, int]]", bench.client.info("commandstats"))
    ours = ("cmdstat_eval", "cmdstat_info", "cmdstat_config", "cmdstat_script", "cmdstat_hello", "cmdstat_client")
    return sum(each["calls"] for name, each in stats.items() if not name.startswith(ours))


@pytest.fixture
def alone(own_redis: Callable[..., Any]) -> Iterator[RedisBench]:
    """A server on which only the test runs commands."""
    bench = RedisBench(own_redis().url, "p")
    yield bench
    bench.close()


def test_no_script_runs_long_however_many_branches_there_are(alone: RedisBench) -> None:
    """While a script runs, no other call of any worker does."""
    store, found = alone.raw, dict[str, int]()

    def count(name: str, call: Callable[[], object]) -> None:
        found[name] = commands(alone, call)

    block = begun(alone)
    items = {f"item:{number}": "x" * 100 for number in range(100)}
    count("hold", lambda: store.hold(block, page(0, 100, blobs=items, queue="shared")))
    for first in range(100, 1000, 100):
        store.hold(block, page(first, 100, queue="shared"))
    count("open_block", lambda: store.open_block(block, plan(1000, window=100, collects=True)))
    count("branches", lambda: store.branches("w.0", first=0, limit=100))
    store.suspend(block, Standing(branches=True))
    for number in range(100):
        hop_id = at(number)
        close = run(store, hop_id, owner=f"owner-{number % 14}")
        if number < 98:
            for each in range(10):
                store.wait(close, asks(hop_id, "paid", kind="signal", wait_id=f"{each}", token=f"{hop_id}~{each}"))
        else:
            count("complete", partial(complete, store, close))
    count("signal", lambda: store.signal("w", "paid", "1", by="ann", call="c1"))
    count("signal below", lambda: store.signal("w", "paid", "1", by="ann", call="c2", below="0-90"))
    count("signal of no wait below", lambda: store.signal("w", "paid", "1", by="ann", call="c3", below="0-150"))
    count("park", lambda: park(store, at(100)))
    count("redrive", lambda: store.redrive("w", place="0-100.0"))
    count("a pass that lapses", lambda: store.sweep(host="h", dead=[f"owner-{number}" for number in range(14)]))
    count("cancel", lambda: store.cancel("w"))
    for number in range(40):
        alone.next_second()
        count(f"pass {number}", lambda: store.sweep(host="h"))

    assert store.open_hops() == OpenHops(due=0, running=0, parked=0)
    assert {name: each for name, each in found.items() if each > LONGEST} == {}


def test_no_script_runs_long_in_a_deep_tree(alone: RedisBench) -> None:
    """Each call asks the blocks above, of which there are at most eight."""
    store, found, hop_id = alone.raw, dict[str, int](), at(0)
    waiting_block(alone, 1)
    for _ in range(7):
        nested_block(alone.raw, hop_id, 1)
        hop_id = at(0, of=hop_id)
    last = run(store, hop_id)
    found["record"] = commands(alone, lambda: store.record(last, {"call": "1"}))
    found["renew"] = commands(alone, lambda: store.renew("ann", {hop_id: last.fence}))
    found["complete"] = commands(alone, lambda: complete(store, last))
    found["claim"] = commands(alone, lambda: run(store, hop_id[:-4]))

    assert {name: each for name, each in found.items() if each > 100} == {}


def test_a_hundred_hops_of_deep_branches_are_renewed_without_asking_each_block_for_each(alone: RedisBench) -> None:
    """Many hops are below the same blocks; their lease costs one round trip and few commands."""
    waiting_block(alone, 1)
    nested_block(alone.raw, at(0), 100, window=100)
    fences = {hop_id: run(alone.raw, hop_id).fence for hop_id in (at(number, of=at(0)) for number in range(100))}

    found = commands(alone, lambda: alone.raw.renew("ann", fences))

    assert found < 100 * 4 + 20  # a lone hop takes 4


# Lost replies.


@pytest.mark.parametrize("call", ["hold", "open_block", "complete", "fail", "park", "suspend"])
def test_a_call_whose_reply_was_lost_counts_once(
    on_redis: RedisBench, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """The client repeats it, and no branch is written, opened or counted twice."""
    store = on_redis.raw
    block = begun(on_redis)
    if call not in ("hold", "open_block"):
        open_all(store, block, 3, window=1, collects=True)
        close = run(store, at(0))
    elif call == "open_block":
        write(store, block, 3)
    lost = losing_one_reply(monkeypatch)

    calls: Mapping[str, Callable[[], object]] = {
        "hold": lambda: store.hold(block, page(0, 3)),
        "open_block": lambda: store.open_block(block, plan(3, window=1)),
        "complete": lambda: complete(store, close),
        "fail": lambda: store.fail(close, FAILURE, end="end"),
        "park": lambda: store.park(close, FAILURE),
        "suspend": lambda: store.suspend(block, Standing(branches=True)),
    }

    answer = calls[call]()

    assert lost
    if call == "hold":
        assert (answer, len(read(store))) == (3, 3)
    elif call == "open_block":
        assert isinstance(answer, OpenedBlock)
        assert states(store) == ["queued", "held", "held"]
    elif call == "suspend":
        assert (answer, state(store, "w.0")) == (Suspended(), "suspended")
    else:
        assert isinstance(answer, Closed)
        assert counts(store)[:2] == (2, 1)
        assert states(store)[1:] == ["queued", "held"]


def test_a_branch_that_was_opened_by_a_call_whose_answer_is_lost_is_sent_by_a_sweep(on_redis: RedisBench) -> None:
    """Whoever closed the one before it may have died before it could send it."""
    waiting_block(on_redis, 2, window=1)
    close = run(on_redis.store, at(0))
    assert sent_by(complete(on_redis.store, close)) == [at(1)]  # and is never sent
    on_redis.overdue(at(1))

    found = on_redis.store.sweep(host="there", queues={f"q-{at(1)}": True})

    assert found == Sweep(overdue=(hop(at(1)),))


# Full stores.


def test_a_full_store_opens_no_branches_and_lets_those_that_run_end(alone: RedisBench) -> None:
    """Nothing is half recorded when memory runs out; the next branches are opened by the ends of others."""
    store = alone.raw
    block = begun(alone)
    open_all(store, block, 4, window=2, collects=True)
    running = [run(store, at(number)) for number in (0, 1)]
    other = begun(alone, "v")
    write(store, other, 2)
    alone.client.config_set("maxmemory", "1")
    before = everything(alone)

    for refused in (
        lambda: store.hold(other, page(2, 2, of="v.0")),
        lambda: store.open_block(other, plan(2)),
        lambda: store.suspend(block, Standing(branches=True)),
        lambda: store.complete(completion(running[0], next_hop=hop(at(0, 1)))),
    ):
        with pytest.raises(TransientError, match="full"):
            refused()
    assert everything(alone) == before

    assert sent_by(complete(store, running[0])) == [at(2)]
    assert sent_by(store.fail(running[1], FAILURE, end="end")) == [at(3)]
    assert store.cancel("w") == "cancelled"
    alone.client.config_set("maxmemory", "0")
    assert states(store, "v.0") == ["held", "held"]
    assert counts(store) == (4, 2, 1, 1, None)
