"""Edits, over every store: a hop that nobody runs gets another envelope, and copies of the old one harm nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from paigeant_celery.core.errors import OutdatedVersion, StoreCorrupt
from paigeant_celery.core.hops import MOST_SUPERSEDED
from paigeant_celery.store.limits import LIMITS
from paigeant_celery.store.port import Claimed, Dropped, Edit, EditAnswer, HopRecord, NewWait, Standing, Store
from paigeant_celery.store.redis import RedisStore
from tests.contract.store.bench import LEASE, TTL, Bench, RedisBench
from tests.contract.store.blocks import at, waiting_block
from tests.contract.store.given import FAILURE, claim, closing, completion, hop, letter, new, types

TOKEN = "w.0~s3cret"


def edited(number: int = 1, hop_id: str = "w.0", *, queue: str | None = None) -> HopRecord:
    return replace(hop(hop_id, envelope=f"edited {number}", queue=queue), digest=f"e-{number}")


def edit(number: int = 1, *, instead_of: str = "d-w.0", hop_id: str = "w.0", **more: object) -> Edit:
    queue = more.pop("queue", None)
    new = edited(number, hop_id, queue=queue)  # type: ignore[arg-type]
    return Edit(hop=new, instead_of=instead_of, **more)  # type: ignore[arg-type]


def park(bench: Bench) -> None:
    bench.store.start(new())
    held = closing(bench.store.claim(claim()))
    bench.store.record(held, {"call": "paid for"})
    bench.store.park(held, FAILURE, letter())


def suspend(bench: Bench) -> None:
    bench.store.start(new())
    held = closing(bench.store.claim(claim()))
    bench.store.wait(held, NewWait(wait_id="1", token=TOKEN, kind="token", name="go", timeout=None))
    bench.store.suspend(held, Standing())


STANDS: dict[str, Callable[[Bench], None]] = {"parked": park, "suspended": suspend}
GOES_ON: dict[str, Callable[[Store], object]] = {
    "parked": lambda store: store.redrive("w"),
    "suspended": lambda store: store.resolve(TOKEN, {"": '{"payload": 1}'}, by="ann", call="c"),
}


def sent(bench: Bench, where: str) -> list[HopRecord]:
    """Let the hop go on, and return what is sent for it."""
    answer = GOES_ON[where](bench.store)
    found = getattr(answer, "hop", None)
    return [found] if found is not None else list(bench.store.sweep(host="there").overdue)


@pytest.mark.parametrize("where", STANDS)
def test_an_edited_hop_goes_on_with_its_new_envelope(bench: Bench, where: str) -> None:
    """Whoever redrives or answers it sends what was edited, and a worker may run that."""
    STANDS[where](bench)

    assert bench.store.edit(edit(by="ann")) == "edited"

    record = bench.store.workflow("w")
    assert record is not None
    assert (record.envelope, record.queue) == ("edited 1", "q-w.0")
    assert [(again.envelope, again.digest) for again in sent(bench, where)] == [("edited 1", "e-1")]
    assert isinstance(bench.store.claim(claim(token="t2", digest="e-1")), Claimed)
    events = bench.store.events("w", after=None, limit=99)
    assert [event.fields.get("by") for event in events if event.fields["type"] == "edited"] == ["ann"]


@pytest.mark.parametrize(("restarts", "where"), [(True, "parked"), (False, "parked"), (False, "suspended")])
def test_a_list_says_at_which_step_an_edited_workflow_stands(bench: Bench, where: str, restarts: bool) -> None:
    """Also if whoever edited it does not know of what kind its step is."""
    STANDS[where](bench)
    named = edit()
    assert bench.store.edit(replace(named, hop=replace(named.hop, activity="draft", step_id="first"))) == "edited"

    assert bench.store.edit(edit(2, instead_of="e-1", restarts=restarts)) == "edited"

    found = bench.store.standing("w")
    assert found is not None
    assert (found.activity, found.step_id) == ("draft", "first")


@pytest.mark.parametrize("where", STANDS)
def test_copies_of_an_older_message_are_superseded_and_not_altered(bench: Bench, where: str) -> None:
    """A broker that delivers one again causes no dead letter and runs no old prompt; a forged one is still seen."""
    STANDS[where](bench)
    for number, before in ((1, "d-w.0"), (2, "e-1")):
        assert bench.store.edit(edit(number, instead_of=before)) == "edited"

    def answers() -> list[object]:
        return [bench.store.claim(claim(token="t9", digest=digest)) for digest in ("d-w.0", "e-1", "forged")]

    expected = [Dropped(reason="superseded"), Dropped(reason="superseded"), Dropped(reason="altered")]
    assert answers() == expected
    assert bench.store.claim(claim(token="t9", digest="e-2")) == Dropped(reason=where)  # type: ignore[arg-type]
    sent(bench, where)
    assert answers() == expected
    held = closing(bench.store.claim(claim(token="t2", digest="e-2")))
    bench.store.complete(completion(held))
    assert answers() == expected
    assert bench.store.claim(claim(token="t9", digest="e-2")) == Dropped(reason="finished")


def test_whoever_edits_back_supersedes_what_came_between(bench: Bench) -> None:
    """The first message is that of the hop again."""
    park(bench)
    bench.store.edit(edit(1))

    back = Edit(hop=hop(), instead_of="e-1")
    assert bench.store.edit(back) == "edited"

    bench.store.redrive("w")
    assert bench.store.claim(claim(token="t2", digest="e-1")) == Dropped(reason="superseded")
    assert isinstance(bench.store.claim(claim(token="t3")), Claimed)


def test_only_the_latest_envelopes_are_remembered(bench: Bench) -> None:
    """Hundreds of edits do not let a record grow."""
    park(bench)
    before = "d-w.0"
    for number in range(MOST_SUPERSEDED + 2):
        assert bench.store.edit(edit(number, instead_of=before)) == "edited"
        before = f"e-{number}"

    answers = [bench.store.claim(claim(token="t9", digest=digest)) for digest in ("d-w.0", "e-0", "e-1", "e-20")]

    assert [answer.reason for answer in answers if isinstance(answer, Dropped)] == [
        *("altered", "altered", "superseded", "superseded"),
    ]


def test_the_store_and_the_protocol_keep_as_many() -> None:
    """The scripts and the store in memory forget the same ones."""
    assert LIMITS.most_superseded == MOST_SUPERSEDED


@pytest.mark.parametrize("where", STANDS)
def test_a_stale_edit_is_told_and_changes_nothing(bench: Bench, where: str) -> None:
    """Two people edit the same revision: the second one looks again."""
    STANDS[where](bench)

    assert [bench.store.edit(edit(number)) for number in (1, 2)] == ["edited", "changed"]

    record = bench.store.workflow("w")
    assert record is not None
    assert record.envelope == "edited 1"
    assert types(bench.store).count("edited") == 1


@pytest.mark.parametrize("state", ["queued", "running", "waiting", "redriven", "answered"])
def test_a_hop_that_goes_on_is_not_edited(bench: Bench, state: str) -> None:
    """A worker may have the message already."""
    if state in ("redriven", "answered"):
        where = {"redriven": "parked", "answered": "suspended"}[state]
        STANDS[where](bench)
        GOES_ON[where](bench.store)
    else:
        bench.store.start(new())
    if state in ("running", "waiting"):
        held = closing(bench.store.claim(claim()))
        if state == "waiting":
            bench.store.retry_at(held, FAILURE, delay=60)

    assert bench.store.edit(edit()) == "goes_on"

    record = bench.store.workflow("w")
    assert record is not None
    assert record.envelope == "envelope w.0"


def test_an_edit_beside_the_end_is_told(bench: Bench) -> None:
    """A cancelled workflow stays as it ended."""
    park(bench)
    bench.store.cancel("w")

    assert bench.store.edit(edit()) == "ended"
    assert bench.store.edit(edit(hop_id="v.0")) == "unknown"

    record = bench.store.workflow("w")
    assert record is not None
    assert (record.state, record.envelope) == ("cancelled", "envelope w.0")


def test_a_step_that_is_another_one_begins_anew(bench: Bench) -> None:
    """What was recorded for the old prompt says nothing about the new one, which may go to another queue."""
    park(bench)

    assert bench.store.edit(edit(restarts=True, queue="other", blobs={"steps:x": "{}"})) == "edited"

    assert bench.store.journal("w.0") == {}
    assert bench.store.blob("w", "steps:x") == "{}"
    bench.store.redrive("w")
    (again,) = bench.store.sweep(host="there").overdue
    assert (again.queue, again.envelope) == ("other", "edited 1")
    assert isinstance(bench.store.claim(claim(token="t2", digest="e-1")), Claimed)


def test_a_step_that_stays_keeps_what_it_recorded(bench: Bench) -> None:
    """Only what comes after it was edited: its paid calls are not made again."""
    park(bench)

    bench.store.edit(edit())

    assert bench.store.journal("w.0") == {"call": "paid for"}


def test_a_step_that_waits_is_not_made_another_one(bench: Bench) -> None:
    """Somebody has been asked for its answer."""
    suspend(bench)

    assert bench.store.edit(edit(restarts=True)) == "begun"
    assert bench.store.edit(edit()) == "edited"


def test_a_block_with_branches_stays_and_what_follows_it_may_be_edited(bench: Bench) -> None:
    """The branches that run belong to it."""
    waiting_block(bench, 2)

    assert bench.store.edit(edit(restarts=True)) == "begun"
    assert bench.store.edit(edit()) == "edited"
    assert isinstance(bench.store.claim(claim(at(0), token="b")), Claimed)


def test_a_parked_branch_is_edited_until_its_workflow_ends(bench: Bench) -> None:
    """The mark of the end is above it."""
    waiting_block(bench, 2)
    held = closing(bench.store.claim(claim(at(0))), at(0))
    bench.store.park(held, FAILURE)

    first = edit(1, hop_id=at(0), instead_of=f"d-{at(0)}", restarts=True)
    assert bench.store.edit(first) == "edited"
    bench.store.cancel("w")
    assert bench.store.edit(edit(2, hop_id=at(0), instead_of="e-1")) == "ended"


@pytest.mark.parametrize("where", STANDS)
def test_of_an_edit_and_what_lets_the_hop_go_on_each_counts_whole(bench: Bench, where: str) -> None:
    """Whatever comes first, the message that is sent and the digest that is recorded are one."""
    STANDS[where](bench)
    answers: list[EditAnswer] = []
    begin = threading.Barrier(2)

    def change() -> None:
        begin.wait()
        answers.append(bench.raw.edit(edit()))

    thread = threading.Thread(target=change)
    thread.start()
    begin.wait()
    answer = GOES_ON[where](bench.raw)
    thread.join()

    found = getattr(answer, "hop", None)
    again = [found] if found is not None else bench.store.sweep(host="there").overdue
    envelope = {"edited": "edited 1", "goes_on": "envelope w.0"}[answers[0]]
    assert [each.envelope for each in again] == [envelope]
    assert isinstance(bench.store.claim(claim(token="t2", digest=again[0].digest)), Claimed)


def test_of_many_edits_of_one_revision_one_counts(bench: Bench) -> None:
    """Each of the others is told that it came too late."""
    park(bench)
    answers: list[EditAnswer] = []
    threads = [threading.Thread(target=lambda n=n: answers.append(bench.raw.edit(edit(n)))) for n in range(8)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(answers) == ["changed"] * 7 + ["edited"]


def test_a_repeated_call_is_answered_as_the_first(on_redis: RedisBench) -> None:
    """The reply was lost, and the client asks again: nobody is told that somebody else was faster."""
    park(on_redis)
    asked: list[tuple[str, tuple[object, ...]]] = []
    run = on_redis.raw._server.run  # type: ignore[attr-defined]

    def twice(script: str, *arguments: object, about: str) -> object:
        asked.append((script, arguments))
        run(script, *arguments, about=about)
        return run(script, *arguments, about=about)

    on_redis.raw._server.run = twice  # type: ignore[attr-defined]

    assert on_redis.raw.edit(edit()) == "edited"
    assert types(on_redis.store).count("edited") == 1
    assert [script for script, _ in asked] == ["edit", "events"]


def test_an_older_program_edits_nothing_once_a_newer_worker_has_begun(on_redis: RedisBench) -> None:
    """It could not know what a newer version writes into an envelope."""
    park(on_redis)
    limits = replace(LIMITS, format=LIMITS.format + 1)
    newer = RedisStore(on_redis.url, prefix=on_redis.prefix, lease=LEASE, ttl=TTL, limits=limits)
    newer.raise_format()
    newer.close()

    with pytest.raises(OutdatedVersion):
        on_redis.store.edit(edit())


@pytest.mark.parametrize("key", ["hop:w.0", "wf:w", "events:w", "blob:w", "journal:w.0", "asked"])
def test_a_key_of_another_type_is_told_and_nothing_is_half_done(on_redis: RedisBench, key: str) -> None:
    """Redis does not roll back a script."""
    park(on_redis)
    on_redis.client.delete(on_redis.key(*key.split(":")))
    on_redis.client.setbit(on_redis.key(*key.split(":")), 1, 1)

    with pytest.raises(StoreCorrupt):
        on_redis.raw.edit(edit(blobs={"a": "b"}))

    assert on_redis.client.type(on_redis.key(*key.split(":"))) in ("string", b"string")
    if key != "hop:w.0":
        assert on_redis.client.hget(on_redis.key("hop", "w.0"), "digest") in ("d-w.0", b"d-w.0")
