"""Random interleavings of all calls of a store, made on both stores at once. Each answer and each record is compared.

There are two workflows of three hops, three owners, and one clock that both stores read. Any hop may become a block of
up to three branches, and a hop of those another one. Only the machine moves the clock, so that nobody sleeps, and times
are compared like everything else. After each call all records of both stores are read and must be the same, and so must
the index of workflows on Redis and what both stores count. Some rules that both stores could break in the same way are
checked as well.

There are few examples, and they are the same each time. `STORE_EXAMPLES=2000 python -m pytest tests/proof/machine`
looks further, with new examples in each run.
"""

from __future__ import annotations

import json
import os
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from typing import Any, TypeVar, cast

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from paigeant_celery.core.blocks import Block, Plan, plan_of
from paigeant_celery.core.budget import Usage
from paigeant_celery.core.conversations import ConversationKey
from paigeant_celery.core.errors import HopUnknown
from paigeant_celery.core.flow import Failure
from paigeant_celery.core.hops import goes_first
from paigeant_celery.core.names import block_of, blocks_above, next_place
from paigeant_celery.core.queries import WorkflowQuery
from paigeant_celery.core.waits import WHOLE, Wait, make_token
from paigeant_celery.store.branch_port import BranchPage
from paigeant_celery.store.conversations import heard_of
from paigeant_celery.store.limits import LIMITS, StoreLimits
from paigeant_celery.store.memory import MemoryStore
from paigeant_celery.store.memory_letters import FOR_EVER
from paigeant_celery.store.memory_waits import by_since
from paigeant_celery.store.port import (
    Claim,
    ClaimAnswer,
    Claimed,
    Closed,
    Closing,
    Completion,
    DeadLetter,
    Dropped,
    Edit,
    Heard,
    HopRecord,
    NewWait,
    NewWorkflow,
    RenewAnswer,
    Resolution,
    Said,
    Standing,
    Store,
    StoredEvent,
    Suspended,
    Sweep,
)
from paigeant_celery.store.redis import RedisStore
from paigeant_celery.store.redis_client import Client
from paigeant_celery.store.redis_older import step_in
from paigeant_celery.store.redis_waits import waits_in
from paigeant_celery.store.totals import NOTHING, Sums, sums_in
from tests.proof.machine.lists import ACTIVITIES, EDITED, check_counts, check_list, envelope_of, told
from tests.support.listing import AGE, check_listing

T = TypeVar("T")

LEASE, TTL = 100.0, 7200.0  # seconds; a hop can become overdue within a lease
DELAY = 30.0  # seconds to a retry
DEADLINE = timedelta(seconds=20)  # from the start of some workflows
SWEPT_EACH = timedelta(seconds=49)  # often enough that leases are not held as after an outage
UNSWEPT = timedelta(seconds=60)  # long enough that they are
AHEAD = 1e13  # puts hops ahead in the scripts if they are sent whatever waits on their queue
BEGIN = datetime(2100, 1, 1, tzinfo=UTC)  # so late that nothing expires by the server's own clock
QUEUE = "steps"

WORKFLOWS = ("v", "w")
PLACES = 3
DEEP = 2  # blocks stand in blocks
OWNERS = ("here:1", "here:2", "there:3")
LETTERS = ("w.0", "w.1", "x")  # of hops that may be parked, and of a message without a hop
FEW_LETTERS = replace(LIMITS, max_letters=2, max_signals=2, max_calls=3)  # so that the oldest are dropped

SHARED = ConversationKey("customer 7")  # of the first and the last hop of each workflow; the middle one has its own
KEYS = (SHARED, *(ConversationKey("aside: 1", workflow) for workflow in WORKFLOWS))

WAITS = {"ask": (WHOLE,), "two": ("a", "b"), "paid": (WHOLE,)}  # what hops wait for, and its parts
PATIENCE = 40.0  # seconds until some waits are given up

LIMITED = "w"  # the workflow that has limits, so that what it uses is counted
BEFORE, CALL, STEP = (
    Usage(counters={"requests": each, "tool_calls": 1, "input_tokens": 7 * each}, cost=Decimal(each) / 1000)
    for each in (5, 1, 3)
)  # used by steps of an older version, by a recorded call, and by a whole step

FAILURE = Failure(step_id="draft", error_class="ValueError", text="no such topic")

EXAMPLES = int(os.environ.get("STORE_EXAMPLES", "0"))
STEPS = 60  # calls of one example, at most
SETTINGS = settings(
    max_examples=EXAMPLES or 60,
    stateful_step_count=STEPS,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    print_blob=False,
    suppress_health_check=[HealthCheck.too_slow],
)


def hop(hop_id: str) -> HopRecord:
    return HopRecord(hop_id=hop_id, queue=QUEUE, envelope=envelope_of(hop_id), digest=f"d-{hop_id}")


def letter(letter_id: str) -> DeadLetter:
    return DeadLetter(
        letter_id=letter_id, reason="exhausted", text="begun twice", hop_id=letter_id, correlation_id=None,
        activity="draft", queue=QUEUE, size=5, sha256="00", sample="xxxxx", worker="here:1",
    )  # fmt: skip


def parts(hop_id: str) -> tuple[str, int]:
    """Return the workflow of a hop, and its number in its slip or branch."""
    return hop_id.partition(".")[0], int(hop_id.rpartition(".")[2])


def place_of(hop_id: str) -> str:
    return hop_id.partition(".")[2]


def depth_of(hop_id: str) -> int:
    return sum(1 for _ in blocks_above(hop_id))


def conversation_of(hop_id: str) -> ConversationKey:
    workflow, place = parts(hop_id)
    return ConversationKey("aside: 1", workflow) if place == 1 else SHARED


def blobs_of(place: int) -> tuple[str, ...]:
    """Return what a completion writes: its output, and a record of a step before it or a page of those to come."""
    left = (f"executed:{place - 1}", f"at:draft-{place - 1}") if place else ("steps:page",)
    return (f"draft-{place}", *left)


def milliseconds(at: datetime) -> int:
    return round((at - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(milliseconds=1))


def moment_of(at: datetime | None) -> int | None:
    return milliseconds(at) if at is not None else None


# What is read from the records. Times are in milliseconds.


@dataclass(frozen=True, kw_only=True)
class Row:
    """The record of a hop. `claim` is None if the claim cannot be repeated any more."""

    workflow: str
    state: str
    queue: str
    digest: str
    envelope: str | None
    owner: str | None
    fence: int
    attempt: int
    claim: tuple[str, int, bool] | None  # its token, when it was granted, and whether it may only close
    failure: Failure | None
    letter: str | None
    given_back: int
    sent: int
    first: int
    waits: int
    heard: Heard | None
    journal: Mapping[str, str]
    counted: Sums
    stands_at: tuple[Wait, ...]
    on_branches: bool  # it is suspended, and waits for them alone
    block: Block | None
    branches: Mapping[int, tuple[str, str | None, int, str]]  # the hop of each, how it ended, as which one, with what
    suspended: tuple[tuple[str, int] | None, bool, int | None, bool]  # by whom, if it slept, until when, and quietly


@dataclass(frozen=True, kw_only=True)
class Course:
    """The record of a workflow and its events."""

    state: str
    content: str
    hop: str
    stands_at: tuple[str, str]  # as it is listed: activity and id of the current step, or of the last one
    created_at: int
    updated_at: int
    failure: Failure | None
    envelope: str | None
    deadline: int | None
    ends_at: int | None
    used: Sums | None
    hops: frozenset[str]
    blobs: Mapping[str, str]
    events: Sequence[tuple[int, Mapping[str, str]]]
    stream: Sequence[tuple[int, Mapping[str, str], int]]  # the last one is the number of events before it
    signals: tuple[int, Sequence[str], Mapping[str, Sequence[tuple[str, str, int, str]]]]  # count, ids, those kept


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Everything that is recorded."""

    workflows: Mapping[str, Course]
    hops: Mapping[str, Row]
    due: Mapping[str, int]
    ahead: frozenset[str]  # due hops that are sent whatever waits on their queue
    parked: Mapping[str, int]
    asleep: Mapping[str, int]
    asked: Mapping[str, int]  # open waits, and since when
    deadlines: Mapping[str, int]  # when they are looked at
    owned: Mapping[str, frozenset[str]]
    leases: Mapping[str, int]
    sent: Mapping[str, int]
    reached: Mapping[str, int]
    swept_at: int | None
    held_until: int | None
    cut: bool
    letters: Sequence[tuple[Mapping[str, str], int, int | None]]  # oldest first, with `at` and when it expires
    letters_dropped: int
    histories: Mapping[ConversationKey, tuple[str, Heard, int | None]]  # the text, and when it expires by itself

    def difference(self, other: Reading) -> str:
        """Say how two readings differ."""
        return "; ".join(
            f"{each.name}: {getattr(self, each.name)!r} and {getattr(other, each.name)!r}"
            for each in fields(self)
            if getattr(self, each.name) != getattr(other, each.name)
        )


def letter_fields(found: DeadLetter) -> dict[str, str]:
    shown = {name: value for name, value in vars(found).items() if name not in ("at", "cursor")}
    return {name: str(value) for name, value in shown.items() if value is not None}


class MemoryRig:
    """The store in memory, with a view of its inside."""

    def __init__(self) -> None:
        self.now = BEGIN
        self.store = MemoryStore(lease=LEASE, ttl=TTL, now=lambda: self.now, limits=FEW_LETTERS)

    def emptied(self) -> MemoryRig:
        empty = MemoryRig()
        empty.set_clock(self.now)
        return empty

    def set_clock(self, now: datetime) -> None:
        self.now = now
        self.store.letters_dropped()  # any call deletes what has expired

    def reading(self) -> Reading:
        raw, records = self.store, self.store._records
        ends = {name: milliseconds(at) for at, name in records.ended}
        letters = sorted(raw._letters.letters.values(), key=lambda kept: int(kept[1].cursor))
        return Reading(
            workflows={name: self._course(name, ends.get(name)) for name in records.workflows},
            hops={hop_id: self._row(hop_id) for hop_id in records.hops},
            due={hop_id: milliseconds(at) for hop_id, at in records.due.items()},
            ahead=frozenset(hop_id for hop_id in records.due if goes_first(records.hops[hop_id].hop)),
            parked={hop_id: milliseconds(at) for hop_id, at in records.parked.items()},
            asleep={hop_id: milliseconds(at) for hop_id, at in records.asleep.items()},
            asked={each.wait.token: milliseconds(each.wait.since) for each in raw.asked(after=None, limit=999)},
            deadlines={name: milliseconds(at) for name, at in records.deadlines.items()},
            owned={owner: frozenset(held) for owner, held in records.owned.items()},
            leases={owner: milliseconds(end) for owner, end in records.leases.items()},
            sent={queue: line.sent for queue, line in records.lines.items() if line.sent},
            reached={queue: line.reached for queue, line in records.lines.items() if line.reached},
            swept_at=moment_of(raw._sweeping.swept_at),
            held_until=moment_of(raw._sweeping.held_until),
            cut=raw._sweeping.cut,
            letters=[
                (
                    letter_fields(kept),
                    milliseconds(cast("datetime", kept.at)),
                    None if end == FOR_EVER else milliseconds(end),
                )
                for end, kept in letters
            ],
            letters_dropped=raw._letters.dropped,
            histories={
                key: (kept.text, kept.heard, moment_of(kept.until))
                for key, kept in records.histories._histories.items()
            },
        )

    def _course(self, name: str, ends_at: int | None) -> Course:
        found = self.store._records.workflows[name]
        ids = [event.id for event in found.events.happened]
        return Course(
            state=found.state,
            content=found.content,
            hop=found.hop_id,
            stands_at=(found.activity, found.step_id),
            created_at=milliseconds(found.created_at),
            updated_at=milliseconds(found.updated_at),
            failure=found.failure,
            envelope=found.envelope,
            deadline=moment_of(found.deadline),
            ends_at=ends_at,
            used=found.used,
            hops=frozenset(found.hop_ids),
            blobs=dict(found.blobs),
            events=[(milliseconds(event.at), dict(event.fields)) for event in found.events.happened],
            stream=[
                (milliseconds(each.at), dict(each.fields), ids.index(cast("tuple[int, int]", each.behind)) + 1)
                for each in found.events.streamed
            ],
            signals=(
                found.signals.count,
                list(found.signals.calls),
                {
                    name: [(each.text, each.by, milliseconds(each.at), each.call) for each in kept]
                    for name, kept in found.signals._kept.items()
                    if kept
                },
            ),
        )

    def _row(self, hop_id: str) -> Row:
        kept = self.store._records.hops[hop_id]
        found = kept.hop
        claim = (
            (found.token, milliseconds(found.claimed_at), found.exhausted) if found.token and found.claimed_at else None
        )
        return Row(
            workflow=kept.workflow.correlation_id,
            state=found.state,
            queue=kept.queue,
            digest=found.digest,
            envelope=kept.envelope,
            owner=found.owner,
            fence=found.fence,
            attempt=found.attempt,
            claim=claim,
            failure=found.failure,
            letter=kept.letter,
            given_back=found.given_back,
            sent=found.sent,
            first=found.first,
            waits=found.waits,
            heard=kept.heard,
            journal=dict(kept.journal),
            counted=kept.counted,
            stands_at=by_since(kept.waits.values()),
            on_branches=found.state == "suspended" and found.on_branches,
            block=kept.block,
            branches={number: (each.hop_id, each.how, each.order, each.end) for number, each in kept.branches.items()},
            suspended=(found.suspended_by, found.slept, moment_of(found.wake_at), kept.quiet),
        )


# What a script cannot foresee is fixed: the time, and the order of the members of a set.
ALTERATIONS = (
    ("redis.call('TIME')", "redis.call('HMGET', ARGV[1] .. '-clock', 'seconds', 'microseconds')"),
    ("'*', ...)", "int(now) .. '-*', ...)"),
    ("redis.call('SMEMBERS', owner_key(owner))", "redis.call('SORT', owner_key(owner), 'ALPHA')"),
)

READ_ALL = """
local rows = {}
for _, key in ipairs(redis.call('KEYS', ARGV[1] .. ':*')) do
  local type, value = redis.call('TYPE', key).ok
  if type == 'hash' then value = redis.call('HGETALL', key) end
  if type == 'set' then value = redis.call('SMEMBERS', key) end
  if type == 'zset' then value = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES') end
  if type == 'stream' then value = redis.call('XRANGE', key, '-', '+') end
  rows[#rows + 1] = { key, value, redis.call('PEXPIRETIME', key) }
end
return rows
"""

# The server expires keys by its own clock, not by the one that the scripts are shown.
SET_CLOCK = """
redis.call('HSET', ARGV[1] .. '-clock', 'seconds', math.floor(ARGV[2] / 1000), 'microseconds', ARGV[2] % 1000 * 1000)
for _, key in ipairs(redis.call('KEYS', ARGV[1] .. ':*')) do
  local ends = redis.call('PEXPIRETIME', key)
  if ends >= 0 and ends <= tonumber(ARGV[2]) then redis.call('DEL', key) end
end
"""


def pairs(flat: Sequence[T]) -> dict[T, T]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


class RedisRig:
    """The store on Redis, with a view of its records."""

    def __init__(self, opened: Client, url: str, prefix: str) -> None:
        self.prefix = prefix
        self.store = RedisStore(url, prefix=prefix, lease=LEASE, ttl=TTL)
        self.store._server._client.value = opened
        self._read, self._set = (opened.redis.register_script(text) for text in (READ_ALL, SET_CLOCK))
        self.set_clock(BEGIN)

    def emptied(self) -> RedisRig:
        client = cast("Client", self.store._server.client).redis
        for key in list(client.scan_iter(f"{self.prefix}:*")):
            client.delete(key)
        return self

    def set_clock(self, now: datetime) -> None:
        self._set(args=[self.prefix, milliseconds(now)])

    def forget_list(self) -> None:
        """Have nothing listed of all workflows, as after a version that lists none; branches still list their waits."""
        client = cast("Client", self.store._server.client).redis
        for name in self.reading().workflows:
            current = cast("str", client.hget(f"{self.prefix}:wf:{name}", "hop"))
            client.hdel(f"{self.prefix}:hop:{current}", ":age")
        listed = cast("list[str]", client.zrange(f"{self.prefix}:index", 0, -1))
        below = [text for text in listed if text.startswith("n") and depth_of(hop_of_wait(text))]
        client.delete(f"{self.prefix}:index", f"{self.prefix}:ended")
        if below:
            client.zadd(f"{self.prefix}:index", dict.fromkeys(below, 0))
        client.hdel(f"{self.prefix}:meta", "listed", "listing")

    def reading(self) -> Reading:
        rows = cast("list[tuple[str, list[Any], int]]", self._read(args=[self.prefix]))
        found = {key[len(self.prefix) + 1 :]: value for key, value, _ in rows}
        ends = {key[len(self.prefix) + 1 :]: end if end >= 0 else None for key, _, end in rows}
        ids = {kind: sorted(key[len(kind) + 1 :] for key in found if key.startswith(f"{kind}:")) for kind in KINDS}
        known = {*SINGLE, *(f"{kind}:{each}" for kind in KINDS for each in ids[kind])}
        assert found.keys() <= known, f"record: unknown keys {found.keys() - known}"
        scores = {index: pairs(found.get(index, [])) for index in SORTED}
        assert not scores["ending"], f"cut off: {scores['ending']} are not closed below"
        meta = pairs(found.get("meta", []))
        owned = {owner: frozenset(found[f"owner:{owner}"]) for owner in ids["owner"]}
        hosts = {owner for host in ids["host"] for owner in found[f"host:{host}"]}
        assert hosts == owned.keys(), f"one place: hosts list {hosts}, but {set(owned)} run hops"
        hops = {hop_id: self._row(hop_id, found) for hop_id in ids["hop"]}
        for name in ids["wf"]:
            self._check_live(name, found, hops)
        records = ({each: pairs(found[f"{kind}:{each}"]) for each in ids[kind]} for kind in ("wf", "hop"))
        check_listing(scores["index"], scores["ended"], *records)
        stands_at = dict(map(standing_in, (text for text in scores["index"] if text.startswith("i"))))
        return Reading(
            workflows={name: self._course(name, found, ends, stands_at) for name in ids["wf"]},
            hops=hops,
            due={hop_id: round(at + AHEAD if at < 0 else at) for hop_id, at in numbers(scores["due"]).items()},
            ahead=frozenset(hop_id for hop_id, at in numbers(scores["due"]).items() if at < 0),
            parked={hop_id: round(at) for hop_id, at in numbers(scores["parked"]).items()},
            asleep={hop_id: round(at) for hop_id, at in numbers(scores["asleep"]).items()},
            asked={token: round(since) for token, since in numbers(scores["asked"]).items()},
            deadlines={name: round(at) for name, at in numbers(scores["deadlines"]).items()},
            owned=owned,
            leases={owner: round(end) for owner, end in numbers(scores["owners"]).items()},
            sent={queue: int(each) for queue, each in pairs(found.get("sent", [])).items()},
            reached={queue: int(each) for queue, each in pairs(found.get("reached", [])).items()},
            swept_at=int(meta["swept_at"]) if "swept_at" in meta else None,
            held_until=int(meta["held_until"]) if "held_until" in meta else None,
            cut=meta.get("cut") == "1",
            letters=self._letters(ids["letter"], found, ends, scores),
            letters_dropped=int(meta.get("letters_dropped", 0)),
            histories=dict(self._histories(ids, found, ends)),
        )

    def _check_live(self, name: str, found: Mapping[str, Any], hops: Mapping[str, Row]) -> None:
        """Check what is counted of the hops in branches that go on, and which of their waits a signal would find."""
        record = pairs(found[f"wf:{name}"])
        if record["state"] in ENDED:
            return
        of_it = {hop_id: row for hop_id, row in hops.items() if row.workflow == name and depth_of(hop_id)}
        live = {hop_id for hop_id, row in of_it.items() if is_live(row)}
        assert int(record.get("live", 0)) == len(live), f"live: {name} counts {record.get('live')} of {live}"
        for hop_id, row in of_it.items():
            if row.block is not None and row.state not in CLOSED:
                below = {each for each in live if hop_id in blocks_above(each)}
                counted = pairs(found[f"hop:{hop_id}"]).get("block:live", 0)
                assert int(counted) == len(below), f"live: {hop_id} counts {counted} of {below}"
        asked = {
            wait.token
            for row in of_it.values()
            if row.state not in CLOSED
            for wait in row.stands_at
            if (wait.kind, wait.state) == ("signal", "open")
        }
        blobs = pairs(found.get(f"blob:{name}", []))
        listed = [token for each, text in blobs.items() if each.startswith("signals:asked:") for token in text.split()]
        assert Counter(listed) == Counter(asked), f"asked: a signal would look at {listed}, but {asked} are open"

    def _histories(
        self, ids: Mapping[str, Sequence[str]], found: Mapping[str, Any], ends: Mapping[str, int | None]
    ) -> Iterator[tuple[ConversationKey, tuple[str, Heard, int | None]]]:
        logs = {ConversationKey(name): (f"conversation:{name}", "") for name in ids["conversation"]}
        logs |= {ConversationKey("aside: 1", name): (f"blob:{name}", ":aside: 1:") for name in ids["blob"]}
        for key, (name, start) in logs.items():
            record = pairs(found[name])
            if f"{start}log" in record:
                pieces = int(record[f"{start}pieces"])
                heard = Heard(pieces=pieces, size=int(record[f"{start}size"]), log=record[f"{start}log"])
                text = "".join(record[f"{start}{number}"] for number in range(1, pieces + 1))
                yield key, (text, heard, ends[name] if key.workflow is None else None)

    def _course(
        self,
        name: str,
        found: Mapping[str, Any],
        ends: Mapping[str, int | None],
        stands_at: Mapping[str, tuple[str, str]],
    ) -> Course:
        record, hops = pairs(found[f"wf:{name}"]), frozenset(found[f"hops:{name}"])
        events, stream = found[f"events:{name}"], found.get(f"stream:{name}", [])
        of_it = [f"{kind}:{name}" for kind in ("wf", "hops", "events", "stream", "blob")]
        of_it += [f"{kind}:{hop_id}" for kind in ("hop", "journal") for hop_id in hops]
        (ends_at,) = {ends[key] for key in of_it if key in ends}
        event_ids = [id_ for id_, _ in events]
        blobs = pairs(found.get(f"blob:{name}", []))
        return Course(
            state=record["state"],
            content=record["content"],
            hop=record["hop"],
            stands_at=stands_at[name],
            created_at=int(record["created_at"]),
            updated_at=int(record["updated_at"]),
            failure=failure_of(record),
            envelope=record.get("envelope"),
            deadline=int(record["deadline"]) if "deadline" in record else None,
            ends_at=ends_at,
            used=sums_in(record["used"]) if "used" in record else None,
            hops=hops,
            blobs={name: text for name, text in blobs.items() if not name.startswith((":", "signals:"))},
            signals=signals_in(blobs),
            events=[(int(id_.partition("-")[0]), pairs(flat)) for id_, flat in events],
            stream=[
                (int(id_.partition("-")[0]), pairs(flat[2:]), event_ids.index(flat[1]) + 1) for id_, flat in stream
            ],
        )

    def _row(self, hop_id: str, found: Mapping[str, Any]) -> Row:
        record = pairs(found[f"hop:{hop_id}"])
        claim = (record.get("token", ""), int(record.get("claimed_at", 0)), record.get("exhausted") == "1")
        return Row(
            workflow=record["workflow"],
            state=record["state"],
            queue=record["queue"],
            digest=record["digest"],
            envelope=record.get("envelope"),
            owner=record.get("owner"),
            fence=int(record["fence"]),
            attempt=int(record["attempt"]),
            claim=claim if "token" in record and record["state"] in ("queued", "running") else None,
            failure=failure_of(record),
            letter=record.get("letter"),
            given_back=int(record.get("given_back", 0)),
            sent=int(record.get("sent", 0)),  # a held hop has none
            first=int(record.get("first", 0)),
            waits=int(record.get("waits", 0)),
            heard=heard_of(record.get("heard", "")),
            journal=pairs(found.get(f"journal:{hop_id}", [])),
            counted=sums_in(record["counted"]) if "counted" in record else NOTHING,
            stands_at=waits_in([part for pair in record.items() if pair[0].startswith(":") for part in pair]),
            on_branches=record["state"] == "suspended" and record.get("on_branches") == "1",
            block=block_in(record),
            branches=branches_in(record),
            suspended=suspended_in(record),
        )

    def _letters(
        self, ids: Sequence[str], found: Mapping[str, Any], ends: Mapping[str, int | None], scores: Mapping[str, Any]
    ) -> list[tuple[Mapping[str, str], int, int | None]]:
        kept = {letter_id: pairs(found[f"letter:{letter_id}"]) for letter_id in ids}
        for letter_id, record in kept.items():
            index = "kept" if ends[f"letter:{letter_id}"] is None else "letters"
            assert scores[index].get(letter_id) == record["cursor"], f"one place: the letter {letter_id} is not listed"
        assert scores["kept"].keys() <= kept.keys(), f"one place: {scores['kept']} are kept, but there are {set(kept)}"
        ordered = sorted(kept.items(), key=lambda item: int(item[1]["cursor"]))
        return [
            (
                {name: value for name, value in record.items() if name not in ("at", "cursor")},
                int(record["at"]),
                ends[f"letter:{letter_id}"],
            )
            for letter_id, record in ordered
        ]


def hop_of_wait(text: str) -> str:
    """Return the hop of a text of the index that is about a wait."""
    return text.partition("\0")[2][AGE:].partition("~")[0]


def standing_in(text: str) -> tuple[str, tuple[str, str]]:
    """Return the workflow of a text of the index, and at which activity and step it stands."""
    workflow, _, listed = text[1:].partition(" ")
    _, activity, step_id = listed.split(":", 2)
    return workflow, (activity, step_id)


def block_in(record: Mapping[str, str]) -> Block | None:
    of = {name.removeprefix("block:"): value for name, value in record.items() if name.startswith("block:")}
    if "written" not in of:
        return None
    counts = ("written", "opened", "under_way", "succeeded", "failed", "ended")
    return Block(
        **{each: int(of.get(each, 0)) for each in counts},
        plan=plan_in(of) if "count" in of else None,
        joined=cast("Any", of.get("joined")),
        until=datetime.fromtimestamp(int(of["until"]) / 1000, UTC) if of.get("until") else None,
    )


def plan_in(of: Mapping[str, str]) -> Plan:
    return Plan(
        count=int(of["count"]),
        needed=int(of["needed"]),
        counted=cast("Any", of["counted"]),
        spare=int(of["spare"]) if of["spare"] else None,
        at_once=int(of["at_once"]),
        timeout=float(of["timeout"]) if of.get("timeout") else None,
    )


def branches_in(record: Mapping[str, str]) -> dict[int, tuple[str, str | None, int, str]]:
    return {
        (number := int(name.removeprefix("branch:"))): (
            hop_id,
            record.get(f"how:{number}"),
            int(record.get(f"order:{number}", 0)),
            record.get(f"end:{number}", ""),
        )
        for name, hop_id in record.items()
        if name.startswith("branch:")
    }


def suspended_in(record: Mapping[str, str]) -> tuple[tuple[str, int] | None, bool, int | None, bool]:
    fence, _, owner = record.get("suspended_by", "").partition(" ")
    wake_at = record.get("wake_at")
    return (
        (owner, int(fence)) if fence else None,
        record.get("slept") == "1",
        int(wake_at) if wake_at else None,
        record.get("quiet") == "1",
    )


def signals_in(blobs: Mapping[str, str]) -> tuple[int, list[str], dict[str, list[tuple[str, str, int, str]]]]:
    of = {name.removeprefix("signals:"): text for name, text in blobs.items() if name.startswith("signals:")}
    ids = {int(number): each.removeprefix("id:") for each, number in of.items() if each.startswith("id:")}
    kept: dict[str, list[tuple[str, str, int, str]]] = {}
    for name in WAITS:
        for number in range(int(of.get(f"taken:{name}", 0)) + 1, int(of.get(f"kept:{name}", 0)) + 1):
            text, by, at, call = (of[f"{each}:{number}:{name}"] for each in ("text", "by", "at", "call"))
            kept.setdefault(name, []).append((text, by, int(at), call))
    return int(of.get("count", 0)), [ids[number] for number in sorted(ids)], kept


SORTED = (
    "due",
    "parked",
    "asleep",
    "asked",
    "deadlines",
    "owners",
    "letters",
    "kept",
    "ending",
    "index",
    "ended",
    "served",
)
KINDS = ("wf", "hops", "hop", "events", "stream", "blob", "conversation", "journal", "owner", "host", "letter", "times")
SINGLE = (*SORTED, "sent", "reached", "meta")


def numbers(scores: Mapping[str, str]) -> dict[str, float]:
    return {member: float(score) for member, score in scores.items()}


def failure_of(record: Mapping[str, str]) -> Failure | None:
    return Failure(**json.loads(record["failure"])) if "failure" in record else None


def without_cursors(answer: object) -> object:
    """Return an answer without what may differ between stores: cursors, and the order of some lists."""
    match answer:
        case DeadLetter() | StoredEvent():
            return replace(answer, cursor="")
        case Sweep():
            return replace(answer, owners=tuple(sorted(answer.owners)), queues=tuple(sorted(answer.queues)))
        case list():
            return [without_cursors(each) for each in answer]
    return answer


NOTHING_CHANGES = ("unknown", "answered", "repeated", "ended")
REFUSALS = (False, "exists", "conflict", "known", "expired", "ended", "unknown", "not_parked")


UNKNOWN = cast("Any", "unknown")  # stands for the answer that the store has no record of the hop


def answered(call: Callable[[Store], T], store: Store) -> T:
    try:
        return call(store)
    except HopUnknown:
        return cast("T", UNKNOWN)


def is_refusal(answer: object) -> bool:
    if isinstance(answer, Resolution):
        return answer.outcome in NOTHING_CHANGES
    return answer is None or isinstance(answer, Dropped) or (isinstance(answer, (bool, str)) and answer in REFUSALS)


class Pair:
    """Both stores, called and read as one."""

    def __init__(self, on_redis: RedisRig) -> None:
        self.rigs = MemoryRig(), on_redis
        self.now = BEGIN
        self.last = self.read()

    def ask(self, call: Callable[[Store], T]) -> T:
        """Make a call on both stores. They must answer and record the same, and nothing changes if they refuse."""
        answer, other = (answered(call, rig.store) for rig in self.rigs)
        assert without_cursors(other) == without_cursors(answer), f"answer: {other!r} on Redis, {answer!r} in memory"
        before, self.last = self.last, self.read()
        if is_refusal(answer):
            assert self.last == before, f"unchanged: {answer!r} changed {before.difference(self.last)}"
        return answer

    def lose(self) -> None:
        """Take all records away from both stores, but leave them the time."""
        self.rigs = self.rigs[0].emptied(), self.rigs[1].emptied()
        self.last = self.read()

    def look(self, *calls: Callable[[Store], object]) -> None:
        """Make calls that only read."""
        for call in calls:
            answer, other = (without_cursors(call(rig.store)) for rig in self.rigs)
            assert other == answer, f"answer: {other!r} on Redis, {answer!r} in memory"

    def read(self) -> Reading:
        expected, found = (rig.reading() for rig in self.rigs)
        assert found == expected, f"record: in memory and on Redis, {expected.difference(found)}"
        return found

    def pass_time(self, time: timedelta) -> None:
        self.now += time
        for rig in self.rigs:
            rig.set_clock(self.now)
        self.last = self.read()


# What must hold for the records of either store.

WHERE = {"queued": "due", "waiting": "due", "parked": "parked", "running": "owner", "suspended": "asleep"}
ENDED = ("completed", "failed", "cancelled")
CLOSED = ("done", "failed", "cancelled")


def is_live(row: Row) -> bool:
    """Say whether a hop goes on by itself."""
    return row.state in ("queued", "running", "waiting") or (row.state == "suspended" and not row.on_branches)


def check_blocks(found: Reading) -> None:
    """Check that branches are opened in their order and some at a time, counted once, and joined once."""
    for hop_id, row in found.hops.items():
        above = [found.hops[each] for each in blocks_above(hop_id)]
        is_below_ended = any(each.state in CLOSED for each in above) or (
            bool(above) and found.workflows[row.workflow].state in ENDED
        )
        assert not is_below_ended or row.state in CLOSED, f"cut off: {hop_id} is {row.state}"
        if (block := row.block) is None:
            assert not row.branches, f"block: {hop_id} has {row.branches}"
            continue
        ends = {number: (how, order) for number, (_, how, order, _) in row.branches.items() if how is not None}
        assert set(row.branches) == set(range(block.written)), f"block: {hop_id} has {set(row.branches)} of {block}"
        orders = sorted(order for _, order in ends.values())
        assert orders == list(range(1, len(ends) + 1)), f"counted once: {hop_id} has {ends}"
        hows = Counter(how for how, _ in ends.values())
        assert (hows["succeeded"], hows["failed"]) == (block.succeeded, block.failed), f"counted once: {ends}, {block}"
        told = [each["type"] for _, each in found.workflows[row.workflow].events if each["hop"] == hop_id]
        assert told.count("joined") == (block.joined is not None), f"joined once: {hop_id}, {told}, {block}"
        assert told.count("branches_opened") == (block.plan is not None), f"opened once: {hop_id}, {told}, {block}"
        if row.state in CLOSED or is_below_ended:
            continue
        stands = {number: found.hops[at].state for number, (at, _, _, _) in row.branches.items()}
        held = {number for number, state in stands.items() if state == "held"}
        assert held == set(range(block.opened, block.written)), f"opened once: {hop_id} holds {held}, {block}"
        live = [number for number, state in stands.items() if state not in ("held", "parked", *CLOSED)]
        assert block.under_way == len(live), f"opened once: {hop_id} has {live} under way, {block}"
        if block.plan is not None and block.joined is None:
            room = block.plan.at_once - block.under_way
            assert room <= 0 or not held, f"opened once: {hop_id} holds {held}, {block}"
            assert not row.on_branches or row.state == "suspended", f"joined once: {hop_id} is {row.state}, {block}"
        assert block.joined is None or not row.on_branches, f"joined once: {hop_id} waits for what is joined"


def check_reading(found: Reading, *, most: int) -> None:
    """Check the rules that both stores could break in the same way. `most` limits the attempts of each hop."""
    check_blocks(found)
    for hop_id, row in found.hops.items():
        places = ["due"] * (hop_id in found.due) + ["parked"] * (hop_id in found.parked)
        places += ["asleep"] * (hop_id in found.asleep)
        owners = [owner for owner, held in found.owned.items() if hop_id in held]
        expected = [WHERE[row.state]] if row.state in WHERE else []
        assert places + ["owner"] * len(owners) == expected, f"one place: {hop_id} is {row.state}, in {places} {owners}"
        assert owners in ([], [row.owner]), f"one place: {hop_id} is owned by {row.owner} but listed under {owners}"
        left_by, _, _, _ = row.suspended
        assert left_by != (row.owner, row.fence), f"left alone: {hop_id} is of {row.owner}, who suspended it"
        assert row.attempt <= most, f"capped: {hop_id} was begun too often"
    assert found.leases.keys() == found.owned.keys(), "one place: an owner has a lease if it has hops"
    going_on = {name for name, course in found.workflows.items() if course.state == "running" and course.deadline}
    assert found.deadlines.keys() == going_on, f"deadlines: {going_on} go on, but {set(found.deadlines)} are looked at"
    for name, course in found.workflows.items():
        current = found.hops[course.hop].state
        is_open = any(is_live(found.hops[hop_id]) for hop_id in course.hops)
        assert is_open == (course.state == "running"), f"handed on: {name} is {course.state}, its hop {current}"
        is_over = current in CLOSED
        assert is_over == (course.state in ENDED), f"handed on: {name} is {course.state}, its hop {current}"
        done = sorted(fields["hop"] for _, fields in course.events if fields["type"] == "completed")
        recorded = sorted(hop_id for hop_id in course.hops if found.hops[hop_id].state == "done")
        assert done == recorded, f"once: {name} completed {done}, but {recorded} are done"
        open_ = [found.hops[hop_id].counted for hop_id in course.hops if found.hops[hop_id].state != "done"]
        assert any(map(any, open_)) <= (name == LIMITED), f"counted: {name} has no limits"
        assert (course.used is None) >= (name != LIMITED), f"counted: {name} has no limits"
        counted = [sum(each) for each in zip(NOTHING, *open_, strict=True)]
        assert all(map(int.__le__, counted, course.used or NOTHING)), f"counted: {counted} is not in {course.used}"


def check_move(before: Reading, found: Reading) -> None:
    """Check that nothing goes back, except that ended workflows are forgotten."""
    for name, course in before.workflows.items():
        now = found.workflows.get(name)
        if now is None or now.created_at != course.created_at:
            assert course.state in ENDED or not found.hops, f"forward: {name} is forgotten"
            continue
        assert course.state not in ENDED or now.state == course.state, f"forward: {name} was {course.state}"
        assert parts(now.hop)[1] - parts(course.hop)[1] in (0, 1), f"forward: {name} went to {now.hop}"
        was, sums, goes_on = course.used or NOTHING, now.used or NOTHING, now.hop == course.hop
        is_done = not goes_on or now.state == "completed"
        assert is_done or all(map(int.__le__, was, sums)), f"counted: {was} became {sums}, but no step is done"
        for hop_id in course.hops:
            old, row = before.hops[hop_id], found.hops[hop_id]
            assert row.fence >= old.fence, f"forward: the fence of {hop_id} fell"
            assert row.state == old.state or old.state not in CLOSED, f"forward: {hop_id} was {old.state}"
            check_joined(hop_id, old, row)


def check_joined(hop_id: str, was: Row, now: Row) -> None:
    """Check that a block keeps what it has opened, its plan and its join, and each branch its end."""
    if (old := was.block) is None:
        return
    new = now.block
    assert new is not None, f"forward: {hop_id} was a block"
    assert old.plan in (None, new.plan), f"forward: the plan of {hop_id} was {old.plan}"
    assert old.joined is None or (old.joined, old.ended) == (new.joined, new.ended), f"joined once: {hop_id}, {old}"
    assert (old.written, old.opened) <= (new.written, new.opened), f"forward: {hop_id} had {old}"
    for number, (_, how, order, end) in was.branches.items():
        assert how is None or now.branches[number][1:] == (how, order, end), f"counted once: {number} of {hop_id}"


def check_histories(before: Reading, found: Reading) -> None:
    """Check that a history only grows, by what each completed hop said, and that a hop always hears the same."""
    for key, (text, heard, _) in found.histories.items():
        was, said, _ = before.histories.get(key, ("", Heard(log=heard.log), None))
        assert said.log != heard.log or text.startswith(was), f"appended: {key} was {was!r} and is {text!r}"
        lines = Counter(text.splitlines())
        assert not lines or max(lines.values()) == 1, f"heard once: {key} has {text!r}"
        for hop_id, row in found.hops.items():
            if conversation_of(hop_id) == key and row.state != "done" and row.workflow in found.workflows:
                own = f"{hop_id} {found.workflows[row.workflow].created_at}\n"
                assert own not in text, f"heard when done: {own!r} is in {text!r}, but {hop_id} is {row.state}"
    for hop_id, row in before.hops.items():
        now, course = found.hops.get(hop_id), found.workflows.get(row.workflow)
        if now is None or course is None or course.created_at != before.workflows[row.workflow].created_at:
            continue
        kept = row.heard is None or now.heard in (row.heard, None)
        assert kept, f"heard again: {hop_id} heard {row.heard} and then {now.heard}"


def a(call: str, **arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[str, dict[str, Any]]]:
    return st.tuples(st.just(call), st.fixed_dictionaries(arguments))


WORKFLOW, OWNER = st.sampled_from(WORKFLOWS), st.sampled_from(OWNERS)
BACK = st.sampled_from([0, 0, 0, 1, 1, 2, 3])  # how many of the latest claims are skipped
HOST = st.sampled_from(["here", "there"])
LETTER = st.sampled_from(LETTERS)
SELDOM = st.sampled_from([*[False] * 7, True])  # because little happens after the end of a workflow
LITTLE = st.integers(0, 4)
BRANCH_GOES_ON = ("ends", "ends", "ends", "goes on", "fails", "parks", "waits")
AFTER_AN_ANSWER = ("leaves", "another answers", "time passes")
WHICH = st.integers(0, 5)  # of the hops in branches, those that are queued first
SIZE, WINDOW = st.integers(1, 3), st.sampled_from([1, 2])
JOIN = st.sampled_from(["all", "all", "collected", 1, 2])
SOUGHT: tuple[dict[str, Any], ...] = (  # what lists are asked for
    {}, {"prefix": ""}, {"age": "older"}, {"age": "newest"}, {"prefix": "w"},
    {"states": {"queued"}}, {"states": {"running", "suspended"}}, {"states": {"parked", "retrying"}},
    {"states": {"completed", "failed", "cancelled"}}, {"states": {"queued", "running", "suspended"}, "prefix": ""},
    {"activity": ACTIVITIES[0]}, {"activity": ACTIVITIES[1]}, {"activity": EDITED, "states": {"parked", "queued"}},
    {"waits_for": "ask"}, {"waits_for": "paid", "prefix": ""}, {"waits_for": "two", "states": {"running", "queued"}},
)  # fmt: skip
MOST_CALLS = 20  # until all that an older version recorded is listed; there is one key for each record
NAME, BY = st.sampled_from(sorted(WAITS)), st.sampled_from(["c1", "c2", "c3", "c4", "c5"])

# One rule draws from all calls. If there were several rules, Hypothesis would leave some out in each example, and
# without claims nothing happens.
CALLS = st.one_of(
    a(
        "start",
        workflow=WORKFLOW,
        content=st.sampled_from(["same", "other"]),
        adopted=st.booleans(),
        late=st.booleans(),
        ends=st.booleans(),
        begun=st.integers(0, 1),
    ),
    *[a("take", workflow=WORKFLOW, owner=OWNER)] * 3,
    a("take_a_copy", back=BACK, owner=OWNER),
    a("take_what_is_odd", workflow=WORKFLOW, step=st.integers(-1, 1), digest=st.sampled_from(["of another", None])),
    *[a("claim_again", back=BACK)] * 2,
    *[a("complete", back=BACK, more=st.booleans(), longer=st.booleans(), meant=SELDOM)] * 3,
    *[a("record", back=BACK)] * 2,
    a("publish", back=BACK, size=LITTLE),
    a("retry_at", back=BACK),
    a("give_back", back=BACK),
    a("park", back=BACK, lettered=st.booleans()),
    a("release", back=BACK),
    a("fail", back=BACK, meant=SELDOM),
    a("cancel", workflow=WORKFLOW, meant=SELDOM),
    *(a("redrive", workflow=WORKFLOW, fresh=SELDOM) for _ in range(3)),  # one that is repeated would count once
    *[a("renew", back=BACK, named=st.integers(0, 3))] * 2,
    *[a("wait", back=BACK, name=NAME, timed=st.booleans(), afresh=SELDOM)] * 2,
    *[a("falls_asleep", workflow=WORKFLOW, owner=OWNER, name=NAME, timed=st.booleans())] * 3,
    *[a("is_answered", workflow=WORKFLOW, owner=OWNER, name=NAME, then=st.sampled_from(AFTER_AN_ANSWER))] * 3,
    *[a("suspend", back=BACK, wakes=st.sampled_from([None, None, -1, 30]), quiet=SELDOM)] * 2,
    *(a("resolve", workflow=WORKFLOW, name=NAME, both=st.booleans(), by=BY) for _ in range(3)),
    a("signal", workflow=WORKFLOW, name=NAME, by=BY),
    *(
        a(
            "becomes_a_block",
            which=st.one_of(WORKFLOW, WHICH),
            owner=OWNER,
            size=SIZE,
            window=WINDOW,
            join=JOIN,
            then=st.sampled_from(["sleeps", "sleeps", "sleeps", "stays", "crashes", "times out"]),
        )
        for _ in range(4)
    ),
    *(a("branch_goes_on", which=WHICH, owner=OWNER, how=st.sampled_from(BRANCH_GOES_ON)) for _ in range(5)),
    *[a("take_branch", which=WHICH, owner=OWNER)] * 2,
    a("hold", back=BACK, first=st.integers(0, 2), size=SIZE),
    a("open_block", back=BACK, window=WINDOW, join=JOIN),
    a("sleep_on_branches", back=BACK),
    *[a("redrive_branch", which=WHICH, fresh=SELDOM)] * 2,
    *[a("branch_falls_asleep", which=WHICH, owner=OWNER, name=NAME, timed=st.booleans())] * 2,
    a("resolve_branch", which=WHICH, name=NAME, both=st.booleans(), by=BY),
    a("signal_branch", which=WHICH, name=NAME, by=BY, up=st.integers(0, 1)),
    a("branch_becomes_due", which=WHICH),
    *[a("patience_ends", workflow=WORKFLOW, then=st.sampled_from(["sweep", "time out", "resolve", "signal"]))] * 2,
    a(
        "sweep",
        dies=st.sampled_from([None, 0, 1]),
        empty=st.sampled_from([None, True, False]),
        host=HOST,
        after=st.sampled_from([0.5, 1.0, 1.0]),
    ),
    *[a("lease_ends", which=st.integers(0, 1), then=st.sampled_from(["wait", "sweep", "claim", "come back"]))] * 3,
    *[a("becomes_due", workflow=WORKFLOW, swept=st.booleans())] * 2,
    a("outage", back=st.integers(0, 3)),
    *[a("deadline_passes", workflow=WORKFLOW, claimed=st.booleans())] * 2,
    a("lose", meant=SELDOM, then=st.sampled_from(["nothing", "adopt"])),
    a("end_passes", meant=SELDOM),
    a("bury", letter_id=LETTER),
    a("forget_letter", letter_id=LETTER),
    a("look", workflow=WORKFLOW, place=LITTLE, limit=LITTLE),
    a("edit", workflow=WORKFLOW, restarts=st.booleans(), stale=SELDOM),
    *[a("is_edited", workflow=WORKFLOW, owner=OWNER, restarts=st.booleans(), goes_on=st.booleans())] * 2,
    *[a("look_at_lists", filters=st.sampled_from(SOUGHT), limit=st.integers(1, 3))] * 2,
    a("list_is_lost", meant=SELDOM),
)


@dataclass
class Call:
    """A claim, and its fence if it was granted."""

    claim: Claim
    fence: int = 0


@dataclass
class Machine:
    """Any calls in any order, on both stores."""

    pair: Pair
    seen: Counter[str] = field(default_factory=Counter)
    most: int = 1  # attempts of each hop
    asked: list[Call] = field(default_factory=list)
    granted: list[Call] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=count)
    is_emptied: bool = False  # the stores were, in this very step

    @property
    def last(self) -> Reading:
        return self.pair.last

    def check(self, before: Reading) -> None:
        self.seen["steps"] += 1
        check_reading(self.last, most=self.most)
        self.pair.look(lambda store: store.counted())
        check_counts(self.pair.rigs[0].store.counted(), self.last)
        if not self.is_emptied:
            check_move(before, self.last)
        self.is_emptied = False
        self.see_branches(before.hops)
        check_histories(before, self.last)

    # Calls of clients and workers.

    def begin(self, *, both: bool, owner: str, most: int) -> None:
        self.most = most
        for workflow in WORKFLOWS[0 if both else 1 :]:
            self.start(workflow, ends=workflow == "v")
        self.claim("w.0", owner)

    def start(
        self, workflow: str, content: str = "same", adopted: bool = False, late: bool = False, ends: bool = False,
        begun: int = 0,
    ) -> None:  # fmt: skip
        if workflow not in self.last.workflows and content != "same":
            return
        deadline = self.pair.now + DEADLINE if ends else None
        first = told(hop(f"{workflow}.0"))
        new = NewWorkflow(correlation_id=workflow, content=content, hop=first, deadline=deadline)
        if not adopted:
            self.pair.ask(lambda store: store.start(new))
            return
        max_age = timedelta(hours=1)
        sent_at = self.pair.now - max_age * (2 if late else 0.5)
        answer = self.pair.ask(lambda store: store.adopt(new, sent_at=sent_at, max_age=max_age, begun=begun))
        self.seen[answer] += 1

    def take(self, workflow: str, owner: str) -> None:
        self.claim(self.hop_at(workflow), owner)

    def take_a_copy(self, back: int, owner: str) -> None:
        self.claim(self.asked[-1 - min(back, len(self.asked) - 1)].claim.hop_id, owner)

    def take_what_is_odd(self, workflow: str, step: int, digest: str | None) -> None:
        self.claim(self.hop_at(workflow, step), OWNERS[0], digest=digest)

    def claim_again(self, back: int) -> None:
        """The reply was lost, and the client repeats the call, immediately or much later."""
        self.ask(self.asked[-1 - min(back, len(self.asked) - 1)])

    def complete(self, back: int, more: bool = False, longer: bool = False, meant: bool = True) -> None:
        """Close a hop as done. A `longer` branch has a second hop; a block that is not joined seldom ends so."""
        closing = self.closing(back)
        if not meant and self.is_of(closing) and self.is_open_block(closing.hop_id):
            return
        workflow, place = parts(closing.hop_id)
        follows = place + 1 < PLACES if block_of(closing.hop_id) is None else longer and place == 0
        next_hop = told(hop(f"{workflow}.{next_place(place_of(closing.hop_id))}")) if follows else None
        completion = Completion(
            closing=closing,
            envelope=next_hop.envelope if next_hop else self.envelope_at(closing.hop_id),
            next_hop=next_hop,
            step=f"draft-{place}" if more else "",
            blobs=dict.fromkeys(blobs_of(place), f'"of fence {closing.fence}"') if more else {},
            notes=[{"about": "edit", "step": str(place)}] if more else [],
            records={"last answer": f"of fence {closing.fence}"} if more else {},
            said=self.said(closing.hop_id),
            used=STEP if workflow == LIMITED else None,
            end=f"of fence {closing.fence}" if next_hop is None else "",
        )
        self.closes(closing, "done", lambda store: store.complete(completion))

    def fail(self, back: int, meant: bool) -> None:
        closing = self.closing(back)
        if meant or not self.is_of(closing) or depth_of(closing.hop_id):
            self.closes(closing, "failed", lambda store: store.fail(closing, FAILURE, end="failed"))

    def retry_at(self, back: int) -> None:
        closing = self.closing(back)
        self.closes(closing, "waiting", lambda store: store.retry_at(closing, FAILURE, delay=DELAY))

    def give_back(self, back: int) -> None:
        closing = self.closing(back)
        self.closes(closing, "waiting", lambda store: store.give_back(closing, FAILURE))

    def park(self, back: int, lettered: bool = False) -> None:
        closing = self.closing(back)
        kept = letter(closing.hop_id) if lettered else None
        self.closes(closing, "parked", lambda store: store.park(closing, FAILURE, kept))

    def release(self, back: int) -> None:
        closing = self.closing(back)
        self.closes(closing, "queued", lambda store: store.release(closing))

    def renew(self, back: int, named: int) -> None:
        self.renew_for(self.closing(back).owner, named)

    def renew_for(self, owner: str, named: int) -> RenewAnswer:
        mine = {call.claim.hop_id: call.fence for call in self.granted[-8:] if call.claim.owner == owner}
        hops = dict(list(mine.items())[-named:] if named else [])
        before = self.last
        answer = self.pair.ask(lambda store: store.renew(owner, hops))
        self.seen["revived"] += len(self.last.owned.get(owner, frozenset()) - before.owned.get(owner, frozenset()))
        return answer

    def cancel(self, workflow: str, meant: bool) -> None:
        course = self.last.workflows.get(workflow)
        if meant or course is None or course.state in ENDED:
            self.pair.ask(lambda store: store.cancel(workflow))

    def record(self, back: int) -> None:
        closing, number = self.closing(back), next(self.numbers)
        row = self.last.hops.get(closing.hop_id)
        records = {f"call {number}": f"by {closing.owner} {closing.fence}", "last": str(number)}
        spent = dict.fromkeys(records, CALL) if parts(closing.hop_id)[0] == LIMITED else None
        answer = self.pair.ask(lambda store: store.record(closing, records, spent=spent))
        if answer is False or answer == UNKNOWN:
            self.seen["not recorded"] += 1
        else:
            assert row is not None
            self.seen["counted"] += answer is not True
            self.seen["recorded" if row.state == "running" else "recorded late"] += 1

    def publish(self, back: int, size: int) -> None:
        closing, number = self.closing(back), next(self.numbers)
        events = [{"event": "text", "data": f"{number} {each}"} for each in range(size)]
        self.seen["published"] += self.pair.ask(lambda store: store.publish(closing, events)) is True

    def redrive(self, workflow: str, *, fresh: bool = False) -> None:
        answer = self.pair.ask(lambda store: store.redrive(workflow, discard_journal=fresh))
        self.seen[answer] += 1

    def edit(self, workflow: str, restarts: bool, stale: bool) -> None:
        """Replace the envelope of the current hop, and let a copy of its old message come."""
        hop_id = self.hop_at(workflow)
        row = self.last.hops.get(hop_id)
        before = row.digest if row is not None else f"d-{hop_id}"
        new = told(replace(hop(hop_id), envelope=envelope_of(hop_id, edited=True), digest=f"e-{next(self.numbers)}"))
        edit = Edit(hop=new, instead_of="stale" if stale else before, restarts=restarts, by="ann")
        answer = self.pair.ask(lambda store: store.edit(edit))
        self.seen[f"edit {answer}"] += 1
        if answer == "edited":
            self.claim(hop_id, OWNERS[0], digest=before)

    def is_edited(self, workflow: str, owner: str, restarts: bool, goes_on: bool) -> None:
        """Somebody begins the hop and sets it aside; a person edits it, and lets it go on."""
        if self.last.workflows.get(workflow) is None:
            return
        self.take(workflow, owner)
        self.park(0, lettered=True)
        self.edit(workflow, restarts, stale=False)
        if goes_on:
            self.redrive(workflow)

    def sweep(self, dies: int | None, empty: bool | None, host: str, after: float = 1.0) -> None:
        self.pair.pass_time(timedelta(seconds=after))
        dead = [self.owner_that_runs(dies)] if dies is not None else []
        self.sweep_once(dead=dead, empty=empty, host=host)

    def bury(self, letter_id: str) -> None:
        dropped = self.last.letters_dropped
        self.seen["buried"] += self.pair.ask(lambda store: store.bury(letter(letter_id)))
        self.seen["letter dropped"] += self.last.letters_dropped - dropped

    def forget_letter(self, letter_id: str) -> None:
        self.seen["letter forgotten"] += self.pair.ask(lambda store: store.forget_letter(letter_id))

    # Waits.

    def wait(self, back: int, name: str, timed: bool = False, afresh: bool = False) -> None:
        """Ask, or ask again; or ask anew because the answer was of no use."""
        closing, recorded = self.closing(back), self.wait_named(self.closing(back).hop_id, name)
        new = NewWait(
            wait_id=name,
            token=make_token(closing.hop_id, f"{next(self.numbers)}"),
            kind="signal" if name == "paid" else "token",
            name=name,
            timeout=PATIENCE if timed else None,
            parts=WAITS[name],
            about="[]",
            instead_of=recorded.token if afresh and recorded is not None else None,
        )
        answer = self.pair.ask(lambda store: store.wait(closing, new))
        if isinstance(answer, Wait):
            self.seen["asked" if answer.token == new.token else "asked again"] += 1
            self.seen["took a signal"] += answer.token == new.token and answer.state == "settled"

    def suspend(self, back: int, wakes: int | None = None, quiet: bool = False) -> None:
        """Stand at all waits that are open, or the last one if none is."""
        closing = self.closing(back)
        row = self.last.hops.get(closing.hop_id)
        waits = row.stands_at if row is not None else ()
        standing = Standing(
            tokens=[wait.token for wait in waits if wait.state == "open"] or [wait.token for wait in waits[-1:]],
            wake_at=None if wakes is None else self.pair.now + timedelta(seconds=wakes),
            names=[wait.name for wait in waits],
            quiet=quiet,
        )
        answer = self.pair.ask(lambda store: store.suspend(closing, standing))
        if answer is not None and answer is not UNKNOWN:
            self.seen["suspended" if answer.hop is None else "not suspended"] += 1

    def falls_asleep(self, workflow: str, owner: str, name: str, timed: bool) -> None:
        """Somebody begins the hop, asks and leaves."""
        if self.last.workflows.get(workflow) is None:
            return
        self.take(workflow, owner)
        self.wait(0, name, timed)
        self.suspend(0)

    def is_answered(self, workflow: str, owner: str, name: str, then: str) -> None:
        """Somebody begins the hop and is answered while it runs, perhaps before it asks."""
        if self.last.workflows.get(workflow) is None:
            return
        self.take(workflow, owner)
        if name == "paid":
            self.signal(workflow, name, "c1")
        self.wait(0, name, timed=True)
        self.resolve(workflow, name, both=then != "another answers")
        if then == "leaves":
            self.suspend(0)
        elif then == "another answers":
            self.resolve(workflow, name, both=False, by="c2")
        else:
            self.pair.pass_time(timedelta(seconds=PATIENCE))
            for wait in self.waits_of(self.hop_at(workflow)):
                self.time_out(wait.token)

    def resolve(self, workflow: str, name: str, both: bool = True, by: str = "c1") -> None:
        """Answer the wait of this name; if there is none, any other one."""
        self.resolve_of(self.hop_at(workflow), name, both, by)

    def resolve_of(self, hop_id: str, name: str, both: bool, by: str) -> None:
        wait = self.wait_named(hop_id, name) or next(iter(self.waits_of(hop_id)), None)
        name = wait.name if wait is not None else name
        token = wait.token if wait is not None else make_token(hop_id, "other")
        given = dict.fromkeys(WAITS[name][: 2 if both else 1], f'"{by}"')
        self.answered(self.pair.ask(lambda store: store.resolve(token, given, by=by, call=by)))

    def signal(self, workflow: str, name: str, by: str) -> None:
        self.answered(self.pair.ask(lambda store: store.signal(workflow, name, f'"{by}"', by=by, call=by)))

    def answered(self, answer: Resolution) -> None:
        self.seen[f"answer {answer.outcome}"] += 1
        self.seen["woken"] += answer.hop is not None

    def patience_ends(self, workflow: str, then: str) -> None:
        """The time for an answer is over, or for whatever a hop sleeps."""
        hop_id = self.hop_at(workflow)
        untils = [wait.until for wait in self.waits_of(hop_id) if wait.until is not None and wait.state == "open"]
        looks = self.last.asleep.get(hop_id)
        if not untils and (looks is None or looks > milliseconds(self.pair.now + timedelta(hours=1))):
            return
        self.pass_until(min([*map(milliseconds, untils), *([looks] if looks is not None else [])]))
        for wait in self.waits_of(hop_id):
            if then == "time out":
                self.time_out(wait.token)
            elif then == "resolve":
                self.resolve(workflow, wait.name)
            elif then == "signal":
                self.signal(workflow, wait.name, "c1")
        self.sweep_once()

    def time_out(self, token: str) -> None:
        self.pair.ask(lambda store: store.time_out(token) or ())

    def waits_of(self, hop_id: str) -> tuple[Wait, ...]:
        row = self.last.hops.get(hop_id)
        return row.stands_at if row is not None else ()

    def wait_named(self, hop_id: str, name: str) -> Wait | None:
        return next((wait for wait in self.waits_of(hop_id) if wait.name == name), None)

    # Blocks and branches.

    def becomes_a_block(self, which: str | int, owner: str, size: int, window: int, join: str | int, then: str) -> None:
        """Somebody begins a hop, lets it open branches, and leaves; or crashes before that, and others go on."""
        hop_id = self.hop_at(which) if isinstance(which, str) else self.branch_at(which)
        if hop_id is None or depth_of(hop_id) >= DEEP or self.block_at(hop_id) is not None:
            return
        self.claim(hop_id, owner)
        self.hold(0, first=0, size=min(size, 2))
        self.hold(0, first=0, size=1)  # comes again
        if size > 2:
            self.hold(0, first=2, size=size - 2)
        if then == "crashes":
            return
        self.open_block(0, window=window, join=join, timeout=PATIENCE if then == "times out" else None)
        if then != "stays":
            self.sleep_on_branches(0)

    def hold(self, back: int, first: int, size: int) -> None:
        """Record branches, once, however often and in whatever order that is asked for."""
        closing = self.closing(back)
        if depth_of(closing.hop_id) >= DEEP:
            return
        numbers = range(first, first + size)
        page = BranchPage(
            first=first,
            hops=[hop(f"{closing.hop_id}-{number}.0") for number in numbers],
            blobs={f"item:{closing.hop_id}-{number}": f"of fence {closing.fence}" for number in numbers},
        )
        before = self.written(closing.hop_id)
        answer = self.pair.ask(lambda store: store.hold(closing, page))
        if isinstance(answer, int):
            self.seen["held" if answer > before else "held before"] += 1

    def open_block(self, back: int, window: int, join: str | int, timeout: float | None = None) -> None:
        closing = self.closing(back)
        written = self.written(closing.hop_id)
        if not written:
            return
        plan = plan_of(
            written,
            join="all" if isinstance(join, str) else min(join, written),
            collects=join == "collected",
            at_once=window,
            timeout=timeout,
        )
        answer = self.pair.ask(lambda store: store.open_block(closing, plan))
        if answer is not None and answer is not UNKNOWN:
            self.seen["opened" if answer.hops else "opened before"] += 1

    def sleep_on_branches(self, back: int) -> None:
        """Wait for branches, also those that nobody has opened yet."""
        closing = self.closing(back)
        block = self.block_at(closing.hop_id)
        standing = Standing(branches=True, wake_at=block.until if block is not None else None)
        answer: Suspended | None = self.pair.ask(lambda store: store.suspend(closing, standing))
        if answer is not None and answer is not UNKNOWN:
            self.seen["waits for branches" if answer.hop is None else "joined while it ran"] += 1

    def take_branch(self, which: int, owner: str) -> None:
        if (hop_id := self.branch_at(which)) is not None:
            self.claim(hop_id, owner)

    def branch_goes_on(self, which: int, owner: str, how: str) -> None:
        """Somebody begins the hop of a branch and closes it."""
        if (hop_id := self.branch_at(which)) is None or self.is_open_block(hop_id):
            return
        self.claim(hop_id, owner)
        if how in ("ends", "goes on"):
            self.complete(0, longer=how == "goes on")
        elif how == "fails":
            self.fail(0, meant=False)
        elif how == "parks":
            self.park(0, lettered=True)
        else:
            self.retry_at(0)

    def see_branches(self, before: Mapping[str, Row]) -> None:
        for hop_id, row in self.last.hops.items():
            was = before.get(hop_id)
            if was is None or row.block is None or was.block is None:
                continue
            if row.block.joined != was.block.joined:
                self.seen[f"joined: {row.block.joined}"] += 1
                self.seen["joined below"] += depth_of(hop_id) > 0
                self.seen["joined one that runs"] += was.state == "running"
            self.seen["opened the next"] += row.block.opened > was.block.opened > 0
            later = row.block.succeeded + row.block.failed > was.block.succeeded + was.block.failed
            self.seen["came after the join"] += was.block.joined is not None and later
            self.seen["woken by the join"] += (was.state, row.state) == ("suspended", "queued")

    def redrive_branch(self, which: int, fresh: bool) -> None:
        """Also one that is not parked."""
        parked = sorted(hop_id for hop_id in self.last.parked if depth_of(hop_id))
        hop_id = parked[which % len(parked)] if parked else self.branch_at(which)
        if hop_id is None:
            return
        workflow, place = parts(hop_id)[0], place_of(hop_id)
        answer = self.pair.ask(lambda store: store.redrive(workflow, place=place, discard_journal=fresh))
        self.seen[f"branch {answer}"] += 1

    def branch_falls_asleep(self, which: int, owner: str, name: str, timed: bool) -> None:
        if (hop_id := self.branch_at(which)) is None or self.is_open_block(hop_id):
            return
        self.claim(hop_id, owner)
        self.wait(0, name, timed)
        self.suspend(0)

    def resolve_branch(self, which: int, name: str, both: bool, by: str) -> None:
        asleep = sorted(hop_id for hop_id, row in self.last.hops.items() if depth_of(hop_id) and row.stands_at)
        if asleep:
            self.resolve_of(asleep[which % len(asleep)], name, both, by)

    def signal_branch(self, which: int, name: str, by: str, up: int) -> None:
        """Signal a branch, or one above it."""
        if (hop_id := self.branch_at(which)) is None:
            return
        above = [hop_id, *(each for each in blocks_above(hop_id) if depth_of(each))]
        below = place_of(above[min(up, len(above) - 1)]).rpartition(".")[0]
        workflow = parts(hop_id)[0]
        answer = self.pair.ask(lambda store: store.signal(workflow, name, f'"{by}"', by=by, call=by, below=below))
        self.seen[f"branch was signalled: {answer.outcome}"] += 1

    def branch_becomes_due(self, which: int) -> None:
        hop_id = self.branch_at(which)
        if hop_id is not None and hop_id in self.last.due:
            self.pass_until(self.last.due[hop_id])
            self.sweep_once()

    def branch_at(self, which: int) -> str | None:
        """Return a hop in a branch: those that are queued first, then others that go on, then the rest."""
        order = {"queued": 0, "running": 1, "waiting": 1, "suspended": 1, "parked": 2, "held": 2}
        below = [(order.get(row.state, 3), hop_id) for hop_id, row in self.last.hops.items() if depth_of(hop_id)]
        return sorted(below)[which % len(below)][1] if below else None

    def block_at(self, hop_id: str) -> Block | None:
        row = self.last.hops.get(hop_id)
        return row.block if row is not None else None

    def written(self, hop_id: str) -> int:
        block = self.block_at(hop_id)
        return block.written if block is not None else 0

    def is_open_block(self, hop_id: str) -> bool:
        block = self.block_at(hop_id)
        return block is not None and block.joined is None

    # Time passes.

    def lease_ends(self, which: int, then: str) -> None:
        """An owner lets its lease expire. All others renew theirs, and somebody sweeps."""
        owner = self.owner_that_runs(which)
        if owner not in self.last.owned:
            return
        lapsed = min(self.last.owned[owner])
        self.pass_until(self.last.leases[owner], but=owner)
        if then in ("sweep", "come back"):
            self.sweep_once()
        if then == "come back":
            self.renew_for(owner, 3)
        elif then == "claim":
            self.claim(lapsed, OWNERS[which])

    def becomes_due(self, workflow: str, swept: bool) -> None:
        hop_id = self.hop_at(workflow)
        if hop_id in self.last.due:
            self.pass_until(self.last.due[hop_id])
            if swept:
                self.sweep_once()

    def outage(self, back: int) -> None:
        """Nobody sweeps for so long that owners get time to come back, or that time is over."""
        held = (self.last.held_until or 0) - milliseconds(self.pair.now)
        if held > 0 and back:
            self.pass_until(cast("int", self.last.held_until))
        elif not back:
            self.pair.pass_time(UNSWEPT)
            self.seen["unswept"] += 1

    def deadline_passes(self, workflow: str, claimed: bool) -> None:
        """Somebody sweeps after it, and claims what is late without beginning it."""
        if workflow not in self.last.deadlines:
            return
        self.pass_until(self.last.deadlines[workflow])
        for hop_id in self.sweep_once():
            self.seen["late"] += 1
            if claimed:
                self.claim(hop_id, OWNERS[0], most=0)
                self.fail(back=0, meant=True)

    def lose(self, meant: bool, then: str = "nothing") -> None:
        """The server comes back empty, and workflows are adopted from their messages, now or later."""
        if not meant:
            return
        self.pair.lose()
        self.seen["lost everything"] += 1
        self.is_emptied = True
        if then == "adopt":
            for workflow in WORKFLOWS:
                self.start(workflow, adopted=True, ends=True)

    def end_passes(self, meant: bool) -> None:
        """Ended workflows expire."""
        if meant and any(course.state in ENDED for course in self.last.workflows.values()):
            self.pair.pass_time(timedelta(seconds=TTL, milliseconds=1))  # by then the list has let go of them
            self.seen["forgotten"] += 1

    def pass_until(self, moment: int, *, but: str | None = None) -> None:
        while (left := timedelta(milliseconds=moment - milliseconds(self.pair.now))) > timedelta(0):
            self.sweep_once()
            self.pair.pass_time(min(left, SWEPT_EACH))
            for owner, held in self.last.owned.items():
                if owner != but:
                    fences = {hop_id: self.last.hops[hop_id].fence for hop_id in held}
                    self.renew_all(owner, fences)

    def renew_all(self, owner: str, fences: Mapping[str, int]) -> None:
        self.pair.ask(lambda store: store.renew(owner, fences))

    # What is read.

    def look(self, workflow: str, place: int, limit: int) -> None:
        """Read everything about a workflow; events and letters also from somewhere in the middle."""
        of_it = [*(hop_id for hop_id, row in self.last.hops.items() if row.workflow == workflow), f"{workflow}.9"]
        cursors = {}
        for rig in self.pair.rigs:
            events = [None, *(event.cursor for event in rig.store.events(workflow, after=None, limit=1000))]
            letters = [None, *(kept.cursor for kept in rig.store.dead_letters(after=None, limit=1000))]
            cursors[id(rig.store)] = events[min(place, len(events) - 1)], letters[min(place, len(letters) - 1)]
        self.pair.look(
            lambda store: store.workflow(workflow),
            lambda store: store.blob(workflow, f"draft-{place}"),
            lambda store: store.blobs(workflow, blobs_of(place)),
            lambda store: store.events(workflow, after=None, limit=1000),
            lambda store: store.events(workflow, after=cursors[id(store)][0], limit=limit),
            lambda store: store.dead_letters(after=None, limit=1000),
            lambda store: store.dead_letters(after=cursors[id(store)][1], limit=limit),
            lambda store: [replace(each, cursor="") for each in store.asked(after=None, limit=limit + 1)],
            *[lambda store, hop_id=hop_id: store.waits(hop_id) for hop_id in of_it],
            *[lambda store, hop_id=hop_id: store.journal(hop_id) for hop_id in of_it],
            *[lambda store, hop_id=hop_id: store.hop(hop_id) for hop_id in of_it],
            *[lambda store, hop_id=hop_id: store.block(hop_id) for hop_id in of_it],
            *[lambda store, hop_id=hop_id: store.branches(hop_id, first=place % 2, limit=limit) for hop_id in of_it],
            *[lambda store, letter_id=letter_id: store.dead_letter(letter_id) for letter_id in LETTERS],
            lambda store: store.letters_dropped(),
            *[lambda store, key=key: store.conversation(key) for key in KEYS],
            *[
                lambda store, hop_id=hop_id, row=row: store.conversation(conversation_of(hop_id), row.heard)
                for hop_id, row in self.last.hops.items()
            ],
        )

    def look_at_lists(self, filters: Mapping[str, Any], limit: int) -> None:
        """Turn the pages of a list. Nothing is wrong in it, so that nothing is put right."""
        recorded = [course.created_at for course in self.last.workflows.values()]
        newest = datetime.fromtimestamp(max(recorded, default=0) / 1000, UTC)
        by_age = {"newest": {"since": newest}, "older": {"before": newest}}.get(filters.get("age", ""), {})
        others = {name: value for name, value in filters.items() if name not in ("age", "states")}
        query = WorkflowQuery(states=frozenset(filters.get("states", ())), limit=limit, **others, **by_age)
        items, other = (check_list(rig.store, query, self.last) for rig in self.pair.rigs)
        assert other == items, f"answer: {other!r} on Redis, {items!r} in memory"
        self.seen["listed"] += len(items) > 0
        self.seen["listed nothing"] += not items
        before, now = self.last, self.pair.read()
        assert now == before, f"unchanged: a list changed {before.difference(now)}"

    def list_is_lost(self, meant: bool) -> None:
        """A version without a list did all this; the next calls list it bit by bit, and a sweep does as well."""
        if not meant:
            return
        self.pair.rigs[1].forget_list()
        for rig in self.pair.rigs:
            assert any(rig.store.list_older() for _ in range(MOST_CALLS)), "listing: some are never listed"
        before, now = self.last, self.pair.read()
        assert now == before, f"unchanged: listing changed {before.difference(now)}"
        self.seen["listed again"] += len(now.workflows) > 0

    # Parts of calls.

    def said(self, hop_id: str) -> Said:
        """Return what a hop says: the hop, and when its workflow was recorded, which may happen again."""
        course = self.last.workflows.get(parts(hop_id)[0])
        created_at = course.created_at if course is not None else 0
        return Said(conversation=conversation_of(hop_id), text=f"{hop_id} {created_at}\n")

    def owner_that_runs(self, which: int) -> str:
        """Return an owner that has hops, if there is one."""
        return sorted(OWNERS, key=lambda owner: owner not in self.last.owned)[which]

    def hop_at(self, workflow: str, step: int = 0) -> str:
        """Return the workflow's current hop, or one next to it."""
        course = self.last.workflows.get(workflow)
        place = parts(course.hop)[1] if course is not None else 0
        return f"{workflow}.{min(max(place + step, 0), PLACES - 1)}"

    def claim(self, hop_id: str, owner: str, *, digest: str | None = "right", most: int | None = None) -> None:
        if digest == "right":
            row = self.last.hops.get(hop_id)
            digest = row.digest if row is not None else f"d-{hop_id}"
        activity, step_id = step_in(self.envelope_at(hop_id))
        token = f"t{next(self.numbers)}"
        most = self.most if most is None else most
        call = Call(
            Claim(
                hop_id=hop_id,
                owner=owner,
                token=token,
                max_attempts=most,
                digest=digest,
                step=step_id,
                activity=activity,
                conversation=conversation_of(hop_id),
                used=BEFORE if parts(hop_id)[0] == LIMITED else None,
            )
        )
        self.asked.append(call)
        self.ask(call)

    def ask(self, call: Call) -> None:
        row = self.last.hops.get(call.claim.hop_id)
        answer: ClaimAnswer = self.pair.ask(lambda store: store.claim(call.claim))
        if isinstance(answer, Dropped):
            self.seen[f"dropped {answer.reason}"] += 1
            return
        assert isinstance(answer, Claimed)
        assert row is not None
        call.fence = answer.fence
        self.granted.append(call)
        if answer.fence == row.fence:
            self.seen["answered again"] += 1
        else:
            self.seen["heard" if answer.heard != Heard() else "heard nothing"] += 1
            self.seen["exhausted" if answer.exhausted else "taken over" if row.state == "running" else "claimed"] += 1

    def sweep_once(self, *, dead: Sequence[str] = (), empty: bool | None = None, host: str = "here") -> Sequence[str]:
        queues = None if empty is None else {QUEUE: empty}
        before = self.last
        found = self.pair.ask(lambda store: store.sweep(host=host, dead=dead, queues=queues))
        self.pair.look(lambda store: store.look_over())
        again = [each.hop_id for each in found.overdue]
        assert found.overdue == tuple(map(self.recorded_in(before), again)), f"answer: {found.overdue}"
        self.seen["lapsed"] += sum(before.hops[hop_id].state == "running" for hop_id in again)
        self.seen["resent"] += len(again)
        self.seen["asked for queues"] += len(found.queues)
        self.seen["slept enough"] += sum(before.hops[hop_id].state == "suspended" for hop_id in again)
        late = [each.hop_id for each in found.late]
        assert found.late == tuple(map(self.recorded_in(before), late)), f"answer: {found.late}"
        return late

    def recorded_in(self, found: Reading) -> Callable[[str], HopRecord]:
        """Return how a reading has hops."""
        return lambda hop_id: replace(
            hop(hop_id), envelope=found.hops[hop_id].envelope, digest=found.hops[hop_id].digest
        )

    def envelope_at(self, hop_id: str) -> str:
        """Return the envelope of a hop, or what it would have."""
        row = self.last.hops.get(hop_id)
        return row.envelope if row is not None and row.envelope is not None else envelope_of(hop_id)

    def closing(self, back: int) -> Closing:
        """Close with one of the last granted claims. If there is none, a stranger guesses."""
        if back >= len(self.granted):
            return Closing(hop_id="w.0", owner=OWNERS[0], fence=1)
        call = self.granted[-1 - back]
        return Closing(hop_id=call.claim.hop_id, owner=call.claim.owner, fence=call.fence)

    def is_of(self, closing: Closing) -> bool:
        row = self.last.hops.get(closing.hop_id)
        return row is not None and (row.owner, row.fence) == (closing.owner, closing.fence)

    def closes(self, closing: Closing, state: str, close: Callable[[Store], bool | Closed | None]) -> None:
        is_of, row, before = self.is_of(closing), self.last.hops.get(closing.hop_id), self.last
        answer = self.pair.ask(close)
        if isinstance(answer, Closed):
            sent = [each.hop_id for each in answer.hops]
            assert answer.hops == tuple(map(self.recorded_in(before), sent)), f"answer: {answer.hops}"
        assert (answer is UNKNOWN) == (row is None), f"told apart: {closing} was answered {answer}, of {row}"
        if row is None:
            self.seen["unknown"] += 1
        elif not is_of:
            self.seen["overtaken"] += 1
        elif row.state == "running":
            self.seen[f"closed as {state}"] += 1
        else:
            self.seen["closed late" if row.state == "queued" else "closed before"] += 1


# What each run meets, whatever its examples are. A test makes the calls that only most runs meet.
COMMON = {
    "claimed", "dropped unknown", "dropped finished", "dropped running", "dropped waiting", "dropped parked",
    "overtaken", "closed before", "closed as done", "closed as waiting", "closed as parked", "closed as queued",
    "lapsed", "resent", "recorded", "counted", "not recorded", "redriven", "not_parked", "asked for queues",
    "buried", "heard", "heard nothing",
    "asked", "suspended", "answer settled", "answer unknown", "answer kept", "woken", "dropped suspended",
    "held", "held before", "opened", "opened the next", "waits for branches", "woken by the join", "joined: met",
    "dropped held", "listed", "edit edited", "edit goes_on", "dropped superseded",
}  # fmt: skip
RARE = {
    "published", "letter forgotten", "lost everything", "unknown", "listed again", "listed nothing",
    "taken over", "exhausted", "answered again", "revived", "closed late", "closed as failed", "dropped altered",
    "dropped cancelled", "recorded late", "adopted", "known", "expired", "forgotten", "letter dropped",
    "unswept", "late", "took a signal", "answer ended", "answer too_many", "asked again", "not suspended",
    "answer recorded", "answer answered", "answer repeated", "answer late", "slept enough",
    "opened before", "joined: missed", "joined below", "joined one that runs", "joined while it ran",
    "came after the join", "branch redriven", "branch not_parked", "branch was signalled: settled",
    "branch was signalled: unknown",
}  # fmt: skip


def run(make: Callable[[], Pair], how: settings = SETTINGS) -> Counter[str]:
    """Run the examples on fresh stores, and return how often each case was met."""
    seen: Counter[str] = Counter()

    class RandomCalls(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            seen["examples"] += 1
            self.machine = Machine(make(), seen)

        @initialize(both=st.sampled_from([True, True, True, False]), owner=OWNER, most=st.sampled_from([1, 2, 2]))
        def work_is_there(self, both: bool, owner: str, most: int) -> None:
            self.machine.begin(both=both, owner=owner, most=most)

        @rule(call=CALLS)
        def step(self, call: tuple[str, dict[str, Any]]) -> None:
            name, arguments = call
            before = self.machine.last
            getattr(self.machine, name)(**arguments)
            self.machine.check(before)

    run_state_machine_as_test(RandomCalls, settings=how)
    return seen


Pairs = Callable[..., Callable[[], Pair]]


@pytest.fixture
def new_pairs(redis_db: Any) -> Iterator[Pairs]:
    """Make pairs of stores, with the scripts as they are or with some of their text replaced."""
    opened = []

    def pairs(*replaced: tuple[str, str]) -> Callable[[], Pair]:
        client = altered(redis_db.url, *ALTERATIONS, *replaced)
        opened.append(client)
        return lambda: Pair(RedisRig(client, redis_db.url, f"{redis_db.prefix}-{uuid.uuid4().hex[:8]}"))

    yield pairs
    for client in opened:
        client.redis.close()


def altered(url: str, *replaced: tuple[str, str], limits: StoreLimits = FEW_LETTERS) -> Client:
    """Open a client of a store with altered scripts."""
    opened = RedisStore(url, prefix="unused", lease=LEASE, ttl=TTL, limits=limits)._server.connected()
    texts = {name: str(script.script) for name, script in opened.scripts.items()}
    for old, new in replaced:
        assert any(old in text for text in texts.values()), f"no script has {old!r}"
        texts = {name: text.replace(old, new) for name, text in texts.items()}
    return replace(opened, scripts={name: opened.redis.register_script(text) for name, text in texts.items()})


def met(seen: Counter[str]) -> set[str]:
    return {what for what, times in seen.items() if times}


def test_both_stores_answer_and_record_the_same_whatever_calls_come(new_pairs: Pairs) -> None:
    """Tests and workers in threads use a deployment's protocol: each hop is in one place and completes once."""
    seen = run(new_pairs())

    print(dict(seen))
    assert met(seen) >= COMMON


def started(pair: Pair, *, most: int) -> Machine:
    """Return a machine with a workflow whose first hop runs."""
    machine = Machine(pair)
    machine.begin(both=False, owner=OWNERS[0], most=most)
    return machine


def test_both_stores_agree_on_edits_between_other_calls(new_pairs: Pairs) -> None:
    """A hop is edited while it is parked, while it sleeps, and in between; copies of its old messages come."""
    machine = started(new_pairs()(), most=2)

    def edits(restarts: bool) -> None:
        before = machine.last
        for stale in (True, False):
            machine.edit("w", restarts=restarts, stale=stale)
            machine.check(before)
            before = machine.last

    machine.record(back=0)
    edits(restarts=False)  # it runs
    machine.park(back=0, lettered=True)
    edits(restarts=False)
    machine.redrive("w")
    edits(restarts=True)  # it is queued
    machine.claim("w.0", OWNERS[0])
    machine.record(back=0)
    machine.park(back=0, lettered=True)
    edits(restarts=True)
    edits(restarts=False)
    machine.redrive("w")
    machine.sweep(dies=None, empty=True, host="here")
    machine.falls_asleep("w", owner=OWNERS[1], name="paid", timed=False)
    edits(restarts=True)
    edits(restarts=False)
    machine.resolve("w", name="paid", both=True, by="ann")
    edits(restarts=False)
    machine.claim("w.0", OWNERS[0])
    machine.cancel("w", meant=True)
    edits(restarts=False)
    machine.edit("v", restarts=False, stale=False)

    assert {name for name in machine.seen if name.startswith("edit ")} == {
        *("edit edited", "edit goes_on", "edit changed", "edit begun", "edit ended", "edit unknown"),
    }
    assert machine.seen["dropped superseded"] == machine.seen["edit edited"] == 4


def test_both_stores_agree_on_what_random_calls_seldom_meet(new_pairs: Pairs) -> None:
    """For example: an owner comes back or is replaced, or a claim meets a cancelled workflow."""
    machine = started(new_pairs()(), most=2)

    machine.claim_again(back=0)
    machine.publish(back=0, size=2)
    machine.look_at_lists({"activity": "print"}, limit=1)
    machine.lease_ends(which=0, then="come back")
    machine.lease_ends(which=0, then="sweep")
    machine.record(back=0)
    machine.retry_at(back=0)
    machine.becomes_due("w", swept=True)
    machine.take_what_is_odd("w", step=0, digest="of another")
    machine.claim("w.0", OWNERS[0])
    machine.lease_ends(which=0, then="claim")
    machine.park(back=0, lettered=True)
    machine.look("w", place=1, limit=2)
    machine.redrive("w")
    machine.claim("w.0", OWNERS[0])
    machine.lease_ends(which=0, then="claim")
    machine.fail(back=0, meant=True)
    machine.start("v", adopted=True, late=True)
    machine.start("v", adopted=True)
    machine.start("v", adopted=True)
    machine.claim("v.0", OWNERS[2])
    machine.retry_at(back=0)
    machine.outage(back=0)
    machine.cancel("v", meant=True)
    machine.claim("v.0", OWNERS[2])
    for letter_id in LETTERS:
        machine.bury(letter_id)
    machine.forget_letter("x")
    machine.list_is_lost(meant=True)
    machine.look("v", place=0, limit=4)
    machine.check(machine.last)
    machine.end_passes(meant=True)
    machine.start("v", ends=True)
    machine.claim("v.0", OWNERS[2])
    machine.deadline_passes("v", claimed=True)
    machine.release(back=0)
    machine.deadline_passes("v", claimed=True)
    assert machine.last.workflows["v"].state == "failed"
    machine.end_passes(meant=True)
    machine.start("v")
    machine.claim("v.0", OWNERS[2])
    for name, by in (("paid", "c1"), ("paid", "c2"), ("ask", "c3")):
        machine.signal("v", name, by)
    machine.wait(back=0, name="paid")
    machine.signal("v", "paid", "c1")
    machine.wait(back=0, name="paid")
    machine.wait(back=0, name="paid", afresh=True)
    answer_twice(machine, "v")
    machine.wait(back=0, name="ask", timed=True)
    machine.suspend(back=0)
    machine.patience_ends("v", then="sweep")
    machine.resolve("v", "ask")
    machine.resolve("v", "two", both=False, by="c1")
    machine.claim("v.0", OWNERS[2])
    machine.suspend(back=0, wakes=-1)
    machine.cancel("v", meant=True)
    machine.signal("v", "paid", "c4")
    machine.end_passes(meant=True)
    branches_go_on(machine)
    machine.start("v")
    machine.claim("v.0", OWNERS[2])
    machine.lose(meant=True)
    machine.complete(back=0)

    assert met(machine.seen) >= RARE
    assert (machine.last.workflows, machine.last.hops) == ({}, {})


def branches_go_on(machine: Machine) -> None:
    """Let blocks of either kind be joined in each way, one of them in a branch."""

    def step(call: Callable[..., None], *arguments: Any, **named: Any) -> None:
        before = machine.last
        call(*arguments, **named)
        machine.check(before)

    step(machine.start, "v")
    step(machine.becomes_a_block, "v", OWNERS[0], size=3, window=1, join="collected", then="stays")
    step(machine.open_block, back=0, window=2, join=1)
    step(machine.sleep_on_branches, back=0)
    step(machine.claim, "v.0-0.0", OWNERS[1])
    step(machine.signal_branch, 0, "paid", "c1", up=0)
    step(machine.wait, back=0, name="paid")
    step(machine.suspend, back=0)
    assert machine.branch_at(0) == "v.0-0.0"
    step(machine.signal_branch, 0, "paid", "c1", up=0)
    step(machine.claim, "v.0-0.0", OWNERS[1])
    step(machine.park, back=0, lettered=True)
    step(machine.redrive_branch, 0, fresh=True)
    step(machine.redrive_branch, 0, fresh=True)
    step(machine.becomes_a_block, 0, OWNERS[1], size=2, window=2, join=1, then="sleeps")
    step(machine.look, "v", place=1, limit=3)
    step(machine.claim, "v.0-0.0-0.0", OWNERS[0])
    step(machine.claim, "v.0-0.0-1.0", OWNERS[1])
    step(machine.complete, back=1, longer=False)
    step(machine.fail, back=0, meant=False)
    step(machine.claim, "v.0-0.0", OWNERS[1])
    step(machine.sleep_on_branches, back=0)
    step(machine.claim, "v.0-0.0", OWNERS[1])
    step(machine.complete, back=0, longer=True)
    for hop_id in ("v.0-0.1", "v.0-1.0", "v.0-2.0"):
        step(machine.claim, hop_id, OWNERS[1])
        step(machine.complete, back=0)
    step(machine.claim, "v.0", OWNERS[1])
    step(machine.complete, back=0)
    step(machine.becomes_a_block, "v", OWNERS[2], size=2, window=2, join="all", then="stays")
    step(machine.claim, "v.1-1.0", OWNERS[0])
    step(machine.fail, back=0, meant=False)
    step(machine.sleep_on_branches, back=1)
    step(machine.claim, "v.1", OWNERS[2])
    step(machine.fail, back=0, meant=True)
    step(machine.look, "v", place=0, limit=4)
    step(machine.end_passes, meant=True)


def with_row(found: Reading, hop_id: str = "w.0", **changes: Any) -> Reading:
    return replace(found, hops={**found.hops, hop_id: replace(found.hops[hop_id], **changes)})


def with_block(found: Reading, **changes: Any) -> Reading:
    return with_row(found, block=replace(cast("Block", found.hops["w.0"].block), **changes))


def with_branch(found: Reading, number: int, *branch: Any) -> Reading:
    return with_row(found, branches={**found.hops["w.0"].branches, number: branch})


def with_course(found: Reading, **changes: Any) -> Reading:
    return replace(found, workflows={**found.workflows, "w": replace(found.workflows["w"], **changes)})


def with_history(found: Reading, text: str) -> Reading:
    return replace(found, histories={SHARED: (text, Heard(pieces=1, size=len(text), log="x"), None)})


# Readings that no store may give after a workflow's first hop began to run.
UNSOUND: Mapping[str, Callable[[Reading], Reading]] = {
    "one place: w.0": lambda found: replace(found, due={"w.0": 0}),
    "one place: w.0 is owned by": lambda found: with_row(found, owner=OWNERS[1]),
    "one place: an owner": lambda found: replace(found, leases={}),
    "capped": lambda found: with_row(found, attempt=2),
    "deadlines": lambda found: replace(found, deadlines={"w": 0}),
    "handed on": lambda found: with_course(found, state="failed"),
    "once": lambda found: with_course(found, events=[(0, {"type": "completed", "hop": "w.0"})]),
    "forward: w is forgotten": lambda found: replace(found, workflows={}),
    "forward: w went": lambda found: with_course(with_row(found, fence=1), hop="w.2"),
    "forward: the fence": lambda found: with_row(found, fence=0),
    "heard when done": lambda found: with_history(found, f"w.0 {found.workflows['w'].created_at}\n"),
    "heard once": lambda found: with_history(found, "x\nx\n"),
    "heard again": lambda found: with_row(found, heard=Heard(pieces=1)),
}


# Readings that no store may give after the first of three branches ended, of which two run at a time.
UNSOUND_BRANCHES: Mapping[str, Callable[[Reading], Reading]] = {
    "cut off": lambda found: with_row(found, state="failed"),
    "block: w.0 has": lambda found: with_block(found, written=4),
    "block: w.0-1.0": lambda found: with_row(found, "w.0-1.0", branches={0: ("x.0", None, 0, "")}),
    "counted once: w.0 has": lambda found: with_branch(found, 1, "w.0-1.0", "failed", 1, ""),
    "counted once: {": lambda found: with_branch(found, 1, "w.0-1.0", "failed", 2, ""),
    "joined once: w.0, ": lambda found: with_block(found, joined="met"),
    "opened once: w.0, ": lambda found: with_block(found, plan=None),
    "opened once: w.0 holds": lambda found: with_row(found, "w.0-2.0", state="held"),
    "opened once: w.0 has": lambda found: with_block(found, under_way=3),
    "handed on": lambda found: with_course(found, state="parked"),
    "forward: w.0 was a block": lambda found: with_row(found, block=None),
    "forward: the plan": lambda found: with_block(found, plan=plan_of(3, join=1, collects=True, at_once=2)),
    "forward: w.0 had": lambda found: with_block(found, opened=2),
    "forward: w.0-0.0": lambda found: with_row(found, "w.0-0.0", state="queued"),
    "counted once: 0 of": lambda found: with_branch(found, 0, "w.0-0.0", "failed", 1, ""),
}


@pytest.mark.parametrize("noticed", UNSOUND_BRANCHES)
def test_each_check_of_branches_notices_what_it_is_for(new_pairs: Pairs, noticed: str) -> None:
    """A check that passes whatever the stores record would prove nothing."""
    machine = started(new_pairs()(), most=1)
    block_of_three(machine, join="all")
    machine.claim("w.0-0.0", OWNERS[0])
    machine.complete(back=0)
    sound = machine.last
    check_reading(sound, most=1)
    check_move(sound, sound)

    unsound = UNSOUND_BRANCHES[noticed](sound)
    moves = noticed.startswith("forward") or noticed.endswith(" of")
    with pytest.raises(AssertionError, match=f"^{noticed}"):
        check_move(sound, unsound) if moves else check_reading(unsound, most=1)


def block_of_three(machine: Machine, *, join: str | int, window: int = 2) -> None:
    """Let the hop that was claimed last become a block of three branches, and wait for them."""
    machine.hold(0, first=0, size=3)
    machine.open_block(0, window=window, join=join)
    machine.sleep_on_branches(0)


@pytest.mark.parametrize("noticed", UNSOUND)
def test_each_check_of_the_records_notices_what_it_is_for(new_pairs: Pairs, noticed: str) -> None:
    """A check that passes whatever the stores record would prove nothing."""
    sound = started(new_pairs()(), most=1).last
    check_reading(sound, most=1)
    check_move(sound, sound)
    check_histories(sound, sound)

    unsound = UNSOUND[noticed](sound)
    kinds: dict[str, Callable[[], object]] = {
        "forward": lambda: check_move(sound, unsound),
        "heard": lambda: check_histories(sound, unsound),
    }
    with pytest.raises(AssertionError, match=f"^{noticed}"):
        kinds.get(noticed.partition(":")[0].partition(" ")[0], lambda: check_reading(unsound, most=1))()


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """A script without a rule: its old and its new text, the fewest calls that show the difference, and the check."""

    old: str
    new: str = ""
    calls: Callable[[Machine], object]
    noticed: str
    also: tuple[tuple[str, str], ...] = ()  # what else must change for the rule to be missing

    @property
    def replaced(self) -> tuple[tuple[str, str], ...]:
        """Return its old and new texts."""
        return (self.old, self.new), *self.also


def complete_too_late(machine: Machine) -> None:
    machine.lease_ends(which=0, then="sweep")
    machine.claim("w.0", OWNERS[1])
    machine.complete(back=1)


def record_too_late(machine: Machine) -> None:
    machine.record(back=0)
    machine.lease_ends(which=0, then="sweep")
    machine.claim("w.0", OWNERS[1])
    machine.record(back=1)


def record_twice(machine: Machine) -> None:
    machine.record(back=0)
    machine.record(back=0)


def record_and_complete(machine: Machine) -> None:
    machine.record(back=0)
    machine.complete(back=0)


def record_and_begin_anew(machine: Machine) -> None:
    machine.record(back=0)
    machine.park(back=0)
    machine.redrive("w", fresh=True)


def record_and_lapse(machine: Machine) -> None:
    machine.record(back=0)
    machine.lease_ends(which=0, then="sweep")
    machine.claim("w.0", OWNERS[1])


def lose_and_complete(machine: Machine) -> None:
    machine.lose(meant=True)
    machine.complete(back=0)


def lose_and_adopt(machine: Machine) -> None:
    machine.lose(meant=True)
    machine.start("w", adopted=True)


def let_the_deadline_pass(machine: Machine) -> None:
    machine.start("v", ends=True)
    machine.deadline_passes("v", claimed=False)


def complete_both_and_retry(machine: Machine) -> None:
    machine.start("v")
    machine.claim("v.0", OWNERS[1])
    machine.complete(back=0)
    machine.lease_ends(which=0, then="claim")


def complete_the_second_hop(machine: Machine) -> None:
    machine.complete(back=0)
    machine.claim("w.1", OWNERS[1])
    machine.complete(back=0, more=True)


def complete_twice(machine: Machine) -> None:
    machine.complete(back=0)
    machine.complete(back=0)


def park_and_redrive(machine: Machine) -> None:
    machine.start("v", ends=True)
    machine.claim("v.0", OWNERS[1])
    machine.park(back=0)
    machine.redrive("v")


def suspended(machine: Machine, name: str, *, timed: bool = False) -> None:
    machine.wait(back=0, name=name, timed=timed)
    machine.suspend(back=0)


def answer_and_suspend(machine: Machine) -> None:
    machine.wait(back=0, name="ask")
    machine.resolve("w", "ask")
    machine.suspend(back=0)


def answer_twice(machine: Machine, workflow: str = "w") -> None:
    machine.wait(back=0, name="two")
    machine.resolve(workflow, "two", both=False, by="c1")
    machine.resolve(workflow, "two", both=False, by="c2")


def suspend_and_answer(machine: Machine) -> None:
    suspended(machine, "ask")
    machine.resolve("w", "ask")


def answer_and_time_out(machine: Machine) -> None:
    machine.wait(back=0, name="two", timed=True)
    machine.wait(back=0, name="ask", timed=True)
    machine.resolve("w", "ask")
    machine.patience_ends("w", then="time out")


def sleep_too_long(machine: Machine) -> None:
    suspended(machine, "ask", timed=True)
    machine.patience_ends("w", then="sweep")


def keep_and_take(machine: Machine) -> None:
    machine.signal("w", "paid", "c1")
    machine.wait(back=0, name="paid")


def hold_twice(machine: Machine) -> None:
    machine.hold(0, first=0, size=2)
    machine.hold(0, first=0, size=2)


def open_twice(machine: Machine) -> None:
    machine.hold(0, first=0, size=2)
    machine.open_block(0, window=1, join="all")
    machine.open_block(0, window=1, join="all")


def end_branches(machine: Machine, *hows: str, join: str | int = "all", window: int = 2) -> None:
    """Let a block wait for three branches, of which these end in their order."""
    block_of_three(machine, join=join, window=window)
    for number, how in enumerate(hows):
        machine.claim(f"w.0-{number}.0", OWNERS[1])
        if how == "parks":
            machine.park(back=0)
        elif how == "fails":
            machine.fail(back=0, meant=False)
        else:
            machine.complete(back=0)


def end_and_arrive(machine: Machine) -> None:
    """The join is met by one of two branches that run; then comes the other one."""
    block_of_three(machine, join=1)
    for number in (0, 1):
        machine.claim(f"w.0-{number}.0", OWNERS[1 + number])
    machine.complete(back=1)
    machine.complete(back=0)


def end_before_the_block_sleeps(machine: Machine) -> None:
    machine.hold(0, first=0, size=1)
    machine.open_block(0, window=1, join="all")
    machine.claim("w.0-0.0", OWNERS[1])
    machine.complete(back=0)
    machine.sleep_on_branches(back=1)


def end_a_block_below_which_one_runs(machine: Machine, *, meant: bool = True) -> None:
    """A block ends that has what it needs, and then comes a branch that lost."""
    end_branches(machine, "ends", join=1)
    machine.claim("w.0-1.0", OWNERS[1])
    machine.claim("w.0", OWNERS[2])
    machine.complete(back=0)
    machine.record(back=1)
    machine.complete(back=1)


def cancel_a_block_below_which_one_runs(machine: Machine) -> None:
    block_of_three(machine, join="all")
    machine.claim("w.0-0.0", OWNERS[1])
    machine.cancel("w", meant=True)
    machine.record(back=0)
    machine.complete(back=0)


def park_and_redrive_branches(machine: Machine) -> None:
    end_branches(machine, "parks", window=1)
    machine.redrive_branch(0, fresh=False)
    machine.claim("w.0-0.0", OWNERS[1])
    machine.complete(back=0)


def go_on_in_a_branch(machine: Machine) -> None:
    block_of_three(machine, join="all")
    machine.claim("w.0-0.0", OWNERS[1])
    machine.complete(back=0, longer=True)


MUTANTS = {
    "a page of branches is written twice": Mutant(
        old="if tonumber(first) ~= written or",
        new="if",
        calls=hold_twice,
        noticed="answer",
        also=(("if #keys > 0 and redis.call('EXISTS', unpack(keys)) > 0 then", "if false then"),),
    ),
    "a block is opened twice": Mutant(
        old="if redis.call('HEXISTS', hop_key(hop), 'block:count') == 1 then return { block_values(hop), {} } end",
        calls=open_twice,
        noticed="record",
    ),
    "a block is joined twice": Mutant(
        old="if not block.joined then\n",
        new="if true then\n",
        calls=end_and_arrive,
        noticed="record",
    ),
    "a join is lost": Mutant(
        old="plan.wakes = true",
        calls=lambda machine: end_branches(machine, "ends", join=1),
        noticed="answer",
    ),
    "a join between the last look and the suspension is lost": Mutant(
        old="or (on_branches == '1' and record['block:joined'])",
        calls=end_before_the_block_sleeps,
        noticed="answer",
    ),
    "a join that cannot be met any more is not missed": Mutant(
        old="then return 'missed' end",
        new="then return nil end",
        calls=lambda machine: end_branches(machine, "fails"),
        noticed="answer",
    ),
    "a held branch is never opened": Mutant(
        old="      open_next(block, plan)\n",
        calls=lambda machine: end_branches(machine, "ends"),
        noticed="answer",
    ),
    "more branches go on than may": Mutant(
        old="if block.opened >= block.count or block.under_way >= block.at_once then return end",
        new="if block.opened >= block.count then return end",
        calls=park_and_redrive_branches,
        noticed="answer",
    ),
    "a parked branch keeps its place": Mutant(
        old="block.under_way = block.under_way - 1",
        new="if how then block.under_way = block.under_way - 1 end",
        calls=lambda machine: end_branches(machine, "parks", window=1),
        noticed="answer",
    ),
    "a redriven branch is not counted": Mutant(
        old="redis.call('HINCRBY', hop_key(above), 'block:under_way', 1)",
        calls=park_and_redrive_branches,
        noticed="record",
    ),
    "a branch stands at its first hop for ever": Mutant(
        old="redis.call('HSET', hop_key(above), 'branch:' .. number, next_hop)",
        calls=go_on_in_a_branch,
        noticed="record",
    ),
    "a loser still writes": Mutant(
        old="end_block(workflow, hop, below)\nnote_time(activity, 'r', claimed_at, #gone_waits > 0)\nfor _, note",
        new="note_time(activity, 'r', claimed_at, #gone_waits > 0)\nfor _, note",
        calls=end_a_block_below_which_one_runs,
        noticed="record",
        also=(("if is_cut or wrong then return nil, wrong or 0 end", ""),),
    ),
    "a branch of a workflow that has ended goes on": Mutant(
        old="end_block(workflow, hop, below)\nadd_event(workflow, 'type', 'workflow_cancelled'",
        new="add_event(workflow, 'type', 'workflow_cancelled'",
        calls=cancel_a_block_below_which_one_runs,
        noticed="record",
    ),
    "a workflow whose branches are all parked seems to go on": Mutant(
        old="count_live(workflow, hop, -1)\n  if plan.sends",
        new="if plan.sends",
        calls=lambda machine: end_branches(machine, "parks", "parks", "parks"),
        noticed="live",
    ),
    "an owner is left when its hop is suspended": Mutant(
        old="redis.call('HDEL', hop_key(hop), 'owner', 'token', 'claimed_at', 'exhausted', 'given_back')\ntake_from(",
        new="redis.call('HDEL', hop_key(hop), 'token', 'claimed_at', 'exhausted', 'given_back')\ntake_from(",
        calls=lambda machine: suspended(machine, "ask"),
        noticed="record",
    ),
    "an answer between the last look and the suspension is lost": Mutant(
        old="over = over or states[i] ~= 'open' or has_passed(untils[i])",
        new="over = over or has_passed(untils[i])",
        calls=answer_and_suspend,
        noticed="answer",
    ),
    "an answer is taken twice": Mutant(
        old="if is_answered then return { 'answered', before, {} } end",
        calls=answer_twice,
        noticed="answer",
    ),
    "an answer wakes nobody": Mutant(
        old="local woken = is_settled and wake(workflow, hop) or {}",
        new="local woken = {}",
        calls=suspend_and_answer,
        noticed="answer",
    ),
    "a timeout without a comparison": Mutant(
        old="if state == 'open' and has_passed(passes_at) then",
        new="if has_passed(passes_at) then",
        calls=answer_and_time_out,
        noticed="answer",
    ),
    "no look at hops that sleep": Mutant(
        old="    look_at_sleeper(hop)\n",
        calls=sleep_too_long,
        noticed="answer",
    ),
    "an early signal is forgotten": Mutant(
        old="local early = kind == 'signal' and take_signal(workflow, name)",
        new="local early = nil",
        calls=keep_and_take,
        noticed="answer",
    ),
    "no fence": Mutant(
        old="if record[3] ~= owner or record[4] ~= fence then",
        new="if not record[1] then",
        calls=complete_too_late,
        noticed="answer",
    ),
    "no fence on the journal": Mutant(
        old="if not workflow then return answer end\nlocal used, counted\nif spent",
        new="workflow = redis.call('HGET', hop_key(hop), 'workflow')\nlocal used, counted\nif spent",
        calls=record_too_late,
        noticed="answer",
    ),
    "a completion without its records": Mutant(
        old="for i = first_record, first_blob - 1, 2 do",
        new="for i = first_record, first_record - 1, 2 do",
        calls=lambda machine: machine.complete(back=0, more=True),
        noticed="record",
    ),
    "a completion without what leaves the slip": Mutant(
        old="for i = first_blob, #ARGV, 2 do",
        new="for i = first_blob, math.min(#ARGV, first_blob + 1), 2 do",
        calls=complete_the_second_hop,
        noticed="record",
    ),
    "no dedupe at claim": Mutant(
        old="if lease_ends and (tonumber(lease_ends) > now or held(lease)) then return { 'running' } end",
        calls=lambda machine: machine.claim("w.0", OWNERS[1]),
        noticed="answer",
    ),
    "no sweeper": Mutant(
        old="for i = 6, first_served - 1 do lapse(ARGV[i], 'owner_gone') end",
        new="do return { {}, {}, {}, {}, {}, 0, {}, 0 } end",
        calls=lambda machine: machine.lease_ends(which=0, then="sweep"),
        noticed="answer",
    ),
    "completion in two scripts": Mutant(
        old="if next_hop ~= '' then queue_hop(workflow, next_hop, queue, envelope, digest, next_activity) end",
        calls=lambda machine: machine.complete(back=0),
        noticed="listing",
    ),
    "no cap of attempts": Mutant(
        old="if tonumber(attempt) >= tonumber(max_attempts) then",
        new="if false then",
        calls=lambda machine: machine.lease_ends(which=0, then="claim"),
        noticed="answer",
    ),
    "a lost record is taken for another owner's": Mutant(
        old="if is_unknown(hop) then return nil, -1 end",
        new="if is_unknown(hop) then return nil, 0 end",
        calls=lose_and_complete,
        noticed="answer",
    ),
    "an adopted hop has the fence of the lost one": Mutant(
        old="if sent_at then redis.call('HSET', hop_key(hop), 'attempt', begun, 'fence', int(now)) end",
        new="if sent_at then redis.call('HSET', hop_key(hop), 'attempt', begun) end",
        calls=lose_and_adopt,
        noticed="record",
    ),
    "no look at deadlines": Mutant(
        old="if record.state ~= 'queued' then return end\n  for _, value",
        new="do return end\n  for _, value",
        calls=let_the_deadline_pass,
        noticed="answer",
    ),
    "no deadline after a redrive": Mutant(
        old="await_deadline(workflow, redis.call('HGET', wf_key(workflow), 'deadline'))",
        calls=park_and_redrive,
        noticed="record",
    ),
    "each attempt hears what there is": Mutant(
        old="heard = record.heard\n",
        new="heard = nil\n",
        calls=complete_both_and_retry,
        noticed="answer",
    ),
    "a history that is not kept for longer": Mutant(
        old="if where == 'anywhere' then redis.call('PEXPIREAT', log, int(now + ttl)) end\nend\nif not above",
        new="end\nif not above",
        calls=lambda machine: machine.complete(back=0),
        noticed="record",
    ),
    "a call counts each time it is recorded": Mutant(
        old="if redis.call('HEXISTS', journal_key(hop), ARGV[i]) == 0 then",
        new="if true then",
        calls=record_twice,
        noticed="answer",
    ),
    "a step counts beside its calls": Mutant(
        old="sums_text(used, sums_in(exact), counted)",
        new="sums_text(used, sums_in(exact))",
        calls=record_and_complete,
        noticed="record",
    ),
    "a step that is done counts for nothing": Mutant(
        old="if used then redis.call('HSET', wf_key(workflow), 'used', sums_text(used, sums_in(exact), counted)) end",
        calls=lambda machine: machine.complete(back=0),
        noticed="record",
    ),
    "what was counted outlives its journal": Mutant(
        old="'heard', 'counted')",
        new="'heard')",
        calls=record_and_begin_anew,
        noticed="record",
    ),
    "counting begins anew with each claim": Mutant(
        old="if not used then redis.call('HSET', wf_key(record.workflow), 'used', before) end",
        new="redis.call('HSET', wf_key(record.workflow), 'used', before)",
        calls=record_and_lapse,
        noticed="record",
    ),
    "claim not idempotent": Mutant(
        old="if repeated then",
        new="if false then",
        calls=lambda machine: machine.claim_again(back=0),
        noticed="answer",
    ),
}
CHECKS = (
    "answer", "listing", "list", "counts", "told apart", "deadlines", "unchanged", "record", "one place", "handed on",
    "forward", "capped", "once", "counted", "heard again", "heard once", "heard when done", "appended", "left alone",
    "cut off", "block", "counted once", "joined once", "opened once", "live", "asked",
)  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_each_rule_of_the_scripts_has_calls_that_need_it(new_pairs: Pairs, name: str) -> None:
    """A line that protects a workflow cannot disappear from a script unnoticed."""
    mutant = MUTANTS[name]
    sound, mutated = (started(make(), most=1) for make in (new_pairs(), new_pairs(*mutant.replaced)))

    mutant.calls(sound)
    with pytest.raises(AssertionError, match=f"^{mutant.noticed}:"):
        mutant.calls(mutated)


# Only long sequences meet these: 12 to 24 s of random calls. The test above has calls for them as for all others.
LONG_SOUGHT = {
    "an adopted hop has the fence of the lost one", "each attempt hears what there is", "no deadline after a redrive",
    "a page of branches is written twice", "a block is opened twice", "a join is lost",
}  # fmt: skip
# These take several calls about one block, or about the one workflow that has limits, and nothing else in between.
# 600 examples hardly ever have them.
HARDLY_MET = {
    "a join between the last look and the suspension is lost", "a join that cannot be met any more is not missed",
    "a block is joined twice", "a held branch is never opened", "a parked branch keeps its place",
    "a redriven branch is not counted", "a branch stands at its first hop for ever", "a loser still writes",
    "a branch of a workflow that has ended goes on", "a workflow whose branches are all parked seems to go on",
    "more branches go on than may",
    "a call counts each time it is recorded", "a step counts beside its calls",
    "a step that is done counts for nothing",
    "what was counted outlives its journal", "counting begins anew with each claim",
}  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.proof] if name in LONG_SOUGHT else [])
        for name in MUTANTS
        if name not in HARDLY_MET
    ],
)
def test_random_calls_find_each_rule_that_is_missing(new_pairs: Pairs, name: str) -> None:
    """The examples go deep enough to find mistakes that nobody thought of."""
    mutant = MUTANTS[name]
    how = settings(SETTINGS, phases=[Phase.generate], report_multiple_bugs=False, derandomize=True, max_examples=600)

    with pytest.raises(AssertionError, match=f"^({'|'.join(CHECKS)}):") as caught:
        run(new_pairs(*mutant.replaced), how)

    print(f"{name}: {caught.value}"[:300])
