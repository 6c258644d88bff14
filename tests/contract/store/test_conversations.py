"""Conversations in every store: only a completion adds to one, and a hop sees what there was at its first claim."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from paigeant_celery.core.conversations import ConversationKey
from paigeant_celery.store.conversations import AT_ONCE, PIECE
from paigeant_celery.store.port import Claim, Claimed, Closed, Closing, Heard, Said, Standing, Suspended
from tests.contract.store.bench import Bench, RedisBench
from tests.contract.store.blocks import at, open_all
from tests.contract.store.given import FAILURE, claim, closing, completion, ending, hop, new

OWN, SHARED = ConversationKey("support: a:1", "w"), ConversationKey("customer Zoë \U0001f600")
BOTH = pytest.mark.parametrize("key", [OWN, SHARED], ids=["of a workflow", "of any workflow"])


def continuing(key: ConversationKey, hop_id: str = "w.0", *, token: str = "t1", owner: str = "ann") -> Claim:
    return replace(claim(hop_id, token=token, owner=owner), conversation=key)


def heard(bench: Bench, asked: Claim) -> Heard:
    claimed = bench.store.claim(asked)
    assert isinstance(claimed, Claimed)
    assert claimed.heard is not None
    return claimed.heard


def say(
    bench: Bench, key: ConversationKey, text: str, *, workflow: str = "w", place: int = 0, last: bool = False
) -> Closing:
    """Run a hop that says something, and record the next one."""
    hop_id = f"{workflow}.{place}"
    close = closing(bench.store.claim(continuing(key, hop_id, owner="cleo")), hop_id, owner="cleo")
    following = None if last else hop(f"{workflow}.{place + 1}")
    assert bench.store.complete(completion(close, next_hop=following, said=Said(conversation=key, text=text)))
    return close


@BOTH
def test_what_steps_say_stands_in_the_order_in_which_they_completed(bench: Bench, key: ConversationKey) -> None:
    """The next step goes on from there."""
    bench.store.start(new())
    assert bench.store.conversation(key) is None

    say(bench, key, "one \U0001f600\n")
    say(bench, key, "two\n", place=1)

    assert bench.store.conversation(key) == "one \U0001f600\ntwo\n"
    third = heard(bench, continuing(key, "w.2"))
    assert (third.pieces, third.size) == (2, len("one \U0001f600\ntwo\n".encode()))
    assert bench.store.conversation(key, third) == "one \U0001f600\ntwo\n"


def test_a_conversation_is_known_by_its_name_in_its_workflow_or_by_its_id(bench: Bench) -> None:
    """Two workflows that both say `support` must never read each other; one id is one history."""
    for workflow in ("w", "x"):
        bench.store.start(new(workflow))
    named = {workflow: ConversationKey("support", workflow) for workflow in ("w", "x")}
    say(bench, named["w"], "own\n")
    say(bench, named["x"], "other\n", workflow="x")
    say(bench, ConversationKey("support"), "shared 1\n", place=1)
    say(bench, ConversationKey("support"), "shared 2\n", workflow="x", place=1)

    assert bench.store.conversation(named["w"]) == "own\n"
    assert bench.store.conversation(named["x"]) == "other\n"
    assert bench.store.conversation(ConversationKey("support")) == "shared 1\nshared 2\n"
    assert bench.store.blob("w", "support") is None


@pytest.mark.parametrize("end", ["release", "retry_at", "park", "lapse"])
def test_each_attempt_of_a_hop_hears_what_the_first_one_heard(bench: Bench, end: str) -> None:
    """A replay must ask its model what it asked before, whatever others have said since then."""
    for workflow in ("w", "x"):
        bench.store.start(new(workflow))
    say(bench, SHARED, "before\n", workflow="x")
    claimed = bench.brief.claim(continuing(SHARED))
    first = closing(claimed)

    say(bench, SHARED, "meanwhile\n", workflow="x", place=1)
    if end == "release":
        bench.store.release(first)
    elif end == "retry_at":
        bench.store.retry_at(first, FAILURE, delay=0)
        bench.store.sweep(host="there")
    elif end == "park":
        bench.store.park(first, FAILURE)
        bench.store.redrive("w")
    else:
        bench.lapse_swept()
        bench.store.sweep(host="there")
    again = heard(bench, continuing(SHARED, token="t2", owner="bob"))

    assert isinstance(claimed, Claimed)
    assert again == claimed.heard
    assert bench.store.conversation(SHARED, again) == "before\n"


def test_a_discarded_journal_begins_with_the_history_of_now(bench: Bench) -> None:
    """The step is then another one, whose calls are all made again."""
    for workflow in ("w", "x"):
        bench.store.start(new(workflow))
    assert heard(bench, continuing(SHARED)) == Heard()
    first = closing(bench.store.claim(continuing(SHARED)))
    say(bench, SHARED, "meanwhile\n", workflow="x")

    bench.store.park(first, FAILURE)
    bench.store.redrive("w", discard_journal=True)

    assert bench.store.conversation(SHARED, heard(bench, continuing(SHARED, token="t2"))) == "meanwhile\n"


@BOTH
def test_a_repeated_completion_adds_nothing(bench: Bench, key: ConversationKey) -> None:
    """The client repeats a call whose reply was lost."""
    bench.store.start(new())
    close = say(bench, key, "one\n")

    said = Said(conversation=key, text="one\n")
    assert bench.store.complete(completion(close, next_hop=hop("w.1"), said=said))
    assert bench.store.conversation(key) == "one\n"


@pytest.mark.parametrize("end", ["fail", "retry_at", "park", "cancel", "release"])
def test_only_a_hop_that_completes_says_anything(bench: Bench, end: str) -> None:
    """A history never holds a half of what a step said."""
    bench.store.start(new())
    close = closing(bench.store.claim(continuing(SHARED)))
    ending(bench, close)[end]()
    if end == "release":  # untaken, it is still its owner's, but it is not its fence that another claim has
        bench.store.claim(continuing(SHARED, token="t2", owner="bob"))

    assert not bench.store.complete(completion(close, said=Said(conversation=SHARED, text="late\n")))
    assert bench.store.conversation(SHARED) is None


def test_who_was_overtaken_says_nothing(bench: Bench) -> None:
    """Both runs had the same prompt; only one answer counts."""
    bench.store.start(new())
    first = closing(bench.brief.claim(continuing(SHARED)))
    bench.lapse_swept()
    bench.store.sweep(host="there")
    second = closing(bench.store.claim(continuing(SHARED, token="t2", owner="bob")), owner="bob")

    assert not bench.store.complete(completion(first, said=Said(conversation=SHARED, text="lost\n")))
    assert bench.store.complete(completion(second, said=Said(conversation=SHARED, text="won\n")))
    assert bench.store.conversation(SHARED) == "won\n"


@BOTH
def test_a_history_expires_some_time_after_its_last_step(bench: Bench, key: ConversationKey) -> None:
    """Nothing is kept for ever."""
    bench.short_lived.start(new())
    close = closing(bench.short_lived.claim(continuing(key)))
    assert bench.short_lived.complete(completion(close, said=Said(conversation=key, text="one\n")))
    assert bench.store.conversation(key) == "one\n"

    bench.expire()

    assert bench.store.conversation(key) is None


def test_a_history_that_began_anew_is_not_the_one_that_a_hop_heard(bench: Bench) -> None:
    """A retry must not go on with what others have said under the same id after the first history was gone."""
    for workflow in ("w", "x"):
        bench.store.start(new(workflow))
    bench.short_lived.start(new("brief"))
    close = closing(bench.short_lived.claim(continuing(SHARED, "brief.0")), "brief.0")
    bench.short_lived.complete(completion(close, said=Said(conversation=SHARED, text="one\n")))
    first = bench.short_lived.claim(continuing(SHARED))
    assert isinstance(first, Claimed)
    bench.expire()
    say(bench, SHARED, "another\n", workflow="x")

    assert first.heard is not None
    assert first.heard.size == 4
    assert bench.store.conversation(SHARED, first.heard) is None
    assert bench.store.conversation(SHARED) == "another\n"


@BOTH
def test_a_history_does_not_expire_while_a_hop_that_heard_it_waits(bench: Bench, key: ConversationKey) -> None:
    """A step may wait for an approval for longer than an idle conversation is kept."""
    bench.store.start(new())
    close = closing(bench.short_lived.claim(continuing(key)))
    assert bench.short_lived.complete(completion(close, next_hop=hop("w.1"), said=Said(conversation=key, text="one\n")))
    claimed = bench.short_lived.claim(continuing(key, "w.1"))
    assert isinstance(claimed, Claimed)
    standing = Standing(wake_at=claimed.now + timedelta(days=3))
    assert bench.short_lived.suspend(closing(claimed, "w.1"), standing) == Suspended()

    bench.expire()

    assert bench.store.conversation(key, claimed.heard) == "one\n"


def test_each_look_at_a_suspended_hop_keeps_the_history_that_it_heard(on_redis: RedisBench) -> None:
    """It may sleep for weeks."""
    on_redis.store.start(new())
    say(on_redis, SHARED, "one\n")
    claimed = on_redis.store.claim(continuing(SHARED, "w.1"))
    assert isinstance(claimed, Claimed)
    standing = Standing(wake_at=claimed.now + timedelta(days=30))
    assert on_redis.store.suspend(closing(claimed, "w.1"), standing) == Suspended()
    kept = on_redis.key("conversation", SHARED.name)
    on_redis.client.pexpire(kept, 1000)

    on_redis.pass_time(86400)
    on_redis.store.sweep(host="here")

    assert on_redis.client.pttl(kept) > 86_400_000


@BOTH
def test_a_large_history_is_read_as_it_was_written(bench: Bench, key: ConversationKey) -> None:
    """Images and long answers fit; no round trip carries all of it."""
    bench.store.start(new())
    long = "é\U0001f600" * PIECE + "\n"
    say(bench, key, "short\n")
    say(bench, key, long, place=1)
    say(bench, key, "end\n", place=2)

    assert len(long.encode()) > AT_ONCE
    now = heard(bench, continuing(key, "w.3"))
    assert (now.pieces, now.size) == (5, len(long.encode()) + 10)
    assert bench.store.conversation(key, now) == f"short\n{long}end\n"


def test_a_step_without_a_conversation_hears_of_none(bench: Bench) -> None:
    """It costs nothing."""
    bench.store.start(new())
    claimed = bench.store.claim(claim())

    assert isinstance(claimed, Claimed)
    assert claimed.heard is None


def test_a_history_of_a_workflow_ends_with_it_whatever_version_ends_it(on_redis: RedisBench) -> None:
    """An older program, which knows nothing of conversations, may cancel the workflow."""
    on_redis.store.start(new())
    say(on_redis, OWN, "one\n")
    say(on_redis, SHARED, "one\n", place=1)
    kept = on_redis.key("conversation", SHARED.name)
    before = on_redis.client.pttl(kept)

    on_redis.store.cancel("w")

    keys = set(on_redis.client.scan_iter(on_redis.key("*"))) - {
        on_redis.key(name) for name in ("meta", "sent", "reached", "index", "ended")
    }
    assert kept in keys
    assert 0 < on_redis.client.pttl(kept) <= before
    assert all(on_redis.client.pttl(key) > 0 for key in keys)


@pytest.mark.parametrize("key", [OWN, SHARED])
def test_something_else_in_the_place_of_a_history_is_named(on_redis: RedisBench, key: ConversationKey) -> None:
    """The hop is not half claimed or half closed then."""
    on_redis.store.start(new())
    close = closing(on_redis.store.claim(continuing(key)))
    name = on_redis.key("blob", "w") if key.workflow else on_redis.key("conversation", key.name)
    on_redis.client.set(name, "something else")

    with pytest.raises(Exception, match="store_corrupt"):
        on_redis.store.claim(continuing(key, token="t2"))
    with pytest.raises(Exception, match="store_corrupt"):
        on_redis.store.complete(completion(close, said=Said(conversation=key, text="one\n")))
    on_redis.client.delete(name)
    assert on_redis.store.complete(completion(close, said=Said(conversation=key, text="one\n")))


@BOTH
def test_branches_say_their_part_in_the_order_in_which_they_end(bench: Bench, key: ConversationKey) -> None:
    """Each hears what there was when it began, and what follows the block hears all of it."""
    bench.store.start(new())
    block = closing(bench.store.claim(claim()))
    open_all(bench.store, block, 3)
    assert bench.store.suspend(block, Standing(branches=True)) == Suspended()
    asked = [continuing(key, at(number), token=f"b{number}") for number in range(3)]
    closes = [closing(bench.store.claim(asked[number]), at(number)) for number in (0, 1)]

    for number in (1, 0):
        said = Said(conversation=key, text=f"from {number}\n")
        assert bench.store.complete(completion(closes[number], said=said, end="{}")) == Closed()

    assert bench.store.conversation(key) == "from 1\nfrom 0\n"
    assert bench.store.complete(completion(closes[0], said=Said(conversation=key, text="again\n"))) == Closed()
    last = heard(bench, asked[2])
    assert (last.pieces, bench.store.conversation(key, last)) == (2, "from 1\nfrom 0\n")


@BOTH
def test_a_branch_that_is_cut_off_adds_nothing_to_a_conversation(bench: Bench, key: ConversationKey) -> None:
    """What lost is not part of what was said."""
    bench.store.start(new())
    block = closing(bench.store.claim(claim()))
    open_all(bench.store, block, 2)
    close = closing(bench.store.claim(continuing(key, at(0))), at(0))
    assert bench.store.complete(completion(block, next_hop=hop("w.1"))) == Closed()

    assert bench.store.complete(completion(close, said=Said(conversation=key, text="late\n"), end="{}")) is None

    assert bench.store.conversation(key) is None
