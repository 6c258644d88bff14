"""The durable store: records in one Redis database. Each operation is one script that uses the server's clock."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal, cast, get_args

from paigeant_celery.core.blocks import Block, Plan
from paigeant_celery.core.budget import Usage
from paigeant_celery.core.conversations import ConversationKey
from paigeant_celery.core.errors import HopUnknown, InvalidInput
from paigeant_celery.core.flow import Failure, WorkflowState
from paigeant_celery.core.hops import EPOCH
from paigeant_celery.core.names import hop_id as make_hop_id
from paigeant_celery.core.queries import CurrentState, WorkflowQuery
from paigeant_celery.core.waits import Wait, hop_of_token
from paigeant_celery.store.branch_port import BranchPage, BranchReading, HopReading, OpenedBlock
from paigeant_celery.store.branches import too_many_hops
from paigeant_celery.store.conversations import AT_ONCE, heard_of, said_arguments, trips, where_of
from paigeant_celery.store.edit_port import Edit, EditAnswer
from paigeant_celery.store.endpoint import Endpoint, read_url
from paigeant_celery.store.limits import LIMITS, StoreLimits
from paigeant_celery.store.port import (
    AskedWait,
    BoundBroker,
    Claim,
    ClaimAnswer,
    Claimed,
    Closed,
    Closing,
    Completion,
    DeadLetter,
    Dropped,
    DropReason,
    Heard,
    HopRecord,
    NewWait,
    NewWorkflow,
    OpenHops,
    RenewAnswer,
    Resolution,
    Standing,
    Started,
    StoredEvent,
    Suspended,
    Sweep,
    Totals,
    WorkflowRecord,
)
from paigeant_celery.store.query_port import HopTimes, ListedPage, ListedWorkflow, Serving
from paigeant_celery.store.redis_branches import block_of_values, branches_in, page_arguments, plan_arguments
from paigeant_celery.store.redis_check import check_server
from paigeant_celery.store.redis_client import Client, Reply, Server
from paigeant_celery.store.redis_older import list_older, look_over
from paigeant_celery.store.redis_queries import (
    read_counts,
    read_listed,
    read_one,
    read_served,
    read_times,
)
from paigeant_celery.store.redis_records import (
    about_failure,
    before_in,
    entry_of,
    failure_of,
    flat_of,
    hop_arguments,
    hops_of,
    letter_fields,
    letter_of,
    moment_of,
    origin_arguments,
    origin_in,
    spent_arguments,
    totals_in,
    used_argument,
    workflow_arguments,
)
from paigeant_celery.store.redis_waits import (
    asked_page,
    only_hop,
    only_wait,
    resolution_of,
    standing_arguments,
    wait_arguments,
    waits_in,
)
from paigeant_celery.store.timeline import id_of, place_of, read_on
from paigeant_celery.store.touching import touch
from paigeant_celery.store.waits import after_cursor, too_many_waits

__all__ = ["RedisStore"]

ADOPTS_NOTHING = ("", "", "")  # in the place of what START must know of a message to adopt its workflow
NO_RECORD, OVERTAKEN = -1, 0  # answers of scripts that write for a hop
TOO_MANY = "too_many"

_LETTER_CURSOR = re.compile(r"[0-9]{1,15}")


class RedisStore:
    """A store in one Redis (or Valkey) database, for any number of processes.

    Raises `Unreachable` if the server is away or full, and `StoreCorrupt` if something else wrote under the prefix. A
    claim, a sweep and a redrive raise `OutdatedVersion` if a newer worker has begun. If the reply to a call is lost,
    the call is repeated once; the repetition changes nothing.
    """

    def __init__(
        self, where: Endpoint | str, *, prefix: str, lease: float, ttl: float, limits: StoreLimits = LIMITS
    ) -> None:
        endpoint = where if isinstance(where, Endpoint) else read_url(where)
        self._server = Server(endpoint, prefix=prefix, limits=limits)
        self._prefix = prefix
        self._lease, self._ttl = round(lease * 1000), round(ttl * 1000)

    def __repr__(self) -> str:
        return f"RedisStore({self.address!r}, prefix={self._prefix!r})"

    @property
    def endpoint(self) -> Endpoint:
        """Where the records are and how they are reached, for a process that opens them as well."""
        return self._server.endpoint

    @property
    def address(self) -> str:
        """The address of the records, without the password."""
        return self._server.address

    @property
    def shared(self) -> bool:
        """Whether other processes see the same records. They do."""
        return True

    def start(self, new: NewWorkflow) -> Started:
        """Record a workflow and its first hop."""
        arguments = (*workflow_arguments(new), *ADOPTS_NOTHING, *origin_arguments(new))
        reply = self._server.run("start", *arguments, about=f"wf:{new.correlation_id}")
        return cast("Started", reply)

    def adopt(
        self, new: NewWorkflow, *, sent_at: datetime, max_age: timedelta, begun: int = 0
    ) -> Literal["adopted", "known", "expired"]:
        """Record a workflow that is known only from the message of its current hop."""
        about_message = (round((sent_at - EPOCH).total_seconds() * 1000), round(max_age.total_seconds() * 1000), begun)
        arguments = (*workflow_arguments(new), *about_message, *origin_arguments(new))
        reply = self._server.run("start", *arguments, about=f"wf:{new.correlation_id}")
        answers: Mapping[str, Literal["adopted", "expired"]] = {"started": "adopted", "expired": "expired"}
        return answers.get(reply, "known")

    def claim(self, claim: Claim) -> ClaimAnswer:
        """Give a queued hop, or one whose owner's lease has expired, to an owner."""
        about = f"hop:{claim.hop_id}"
        reply = self._server.run(
            "claim", claim.hop_id, claim.owner, claim.token, claim.max_attempts, claim.digest or "", self._lease,
            claim.activity, claim.step, round(claim.timeout * 1000), *where_of(claim.conversation), self._ttl,
            used_argument(claim.used), claim.trace, *claim.wanted, about=about,
        )  # fmt: skip
        if reply[0] != "claimed":
            return Dropped(reason=cast("DropReason", reply[0]))
        with self._server.readable(about):
            _, fence, attempt, claimed_at, exhausted, created_at, heard, brought, waits, totals, before = reply
            return Claimed(
                fence=int(fence),
                attempt=int(attempt),
                now=moment_of(claimed_at),
                exhausted=exhausted == "1",
                created_at=moment_of(created_at),
                heard=heard_of(heard),
                brought=dict(zip(brought[::2], brought[1::2], strict=True)),
                waits=waits_in(waits),
                totals=totals_in(totals),
                before=before_in(before),
            )

    def renew(self, owner: str, hops: Mapping[str, int], *, touchable: float | None = 0.0) -> RenewAnswer:
        """Extend the owner's lease. Hops that lapsed and were not taken are the owner's again."""
        pairs = (part for hop_id, fence in hops.items() for part in (hop_id, fence))
        about, longest = f"owner:{owner}", "" if touchable is None else round(touchable * 1000)
        reply = self._server.run("renew", owner, self._lease, longest, *pairs, about=about)
        with self._server.readable(about):
            lost, stray, cancelled, unknown, settled = reply
            return RenewAnswer(
                lost=frozenset(lost),
                unknown=frozenset(unknown),
                cancelled=frozenset(cancelled),
                stray={hop_id: int(fence) for hop_id, fence in zip(stray[::2], stray[1::2], strict=True)},
                settled={hop_id: int(count) for hop_id, count in zip(settled[::2], settled[1::2], strict=True)},
            )

    def touch(self, *, host: str, owners: Collection[str]) -> Sequence[str]:
        """Extend the leases of living owners, and return all owners on a host."""
        return touch(self._server, host=host, owners=owners, lease=self._lease)

    def release(self, closing: Closing) -> bool:
        """Requeue a hop that its owner does not run."""
        return self._write("release", closing)

    def complete(self, completion: Completion) -> Closed | None:
        """Record a hop's completion and the next hop, or the end of the workflow or of its branch."""
        closing = completion.closing
        # Without a next hop, its id, queue and digest are empty, and the envelope is the final one.
        following = completion.next_hop or HopRecord(hop_id="", queue="", envelope=completion.envelope, digest="")
        notes = [flat_of({"type": "note", "hop": closing.hop_id, **note}) for note in completion.notes]
        return self._closed(
            "complete", closing, self._ttl, json.dumps(notes), completion.step, *hop_arguments(following),
            following.activity, following.step_id, completion.end, used_argument(completion.used),
            *said_arguments(completion.said), len(completion.records), *flat_of(completion.records),
            *flat_of(completion.blobs),
        )  # fmt: skip

    def fail(self, closing: Closing, failure: Failure, *, end: str = "") -> Closed | None:
        """Record that the hop failed and, with it, the workflow, or its branch."""
        return self._closed("fail", closing, self._ttl, *about_failure(failure), end)

    def retry_at(self, closing: Closing, failure: Failure, *, delay: float) -> bool:
        """Record that an attempt failed; the hop waits for `delay` seconds."""
        return self._write("retry_at", closing, round(delay * 1000), *about_failure(failure))

    def give_back(self, closing: Closing, failure: Failure) -> bool:
        """Leave a hop that the owner cannot read to newer workers."""
        return self._write("give_back", closing, *about_failure(failure))

    def park(self, closing: Closing, failure: Failure, letter: DeadLetter | None = None) -> Closed | None:
        """Set the hop aside, and keep its dead letter."""
        kept = () if letter is None else (letter.letter_id, *letter_fields(letter))
        return self._closed("park", closing, *about_failure(failure), *kept)

    def cancel(self, correlation_id: str) -> Literal["cancelled", "ended", "unknown"]:
        """End a workflow wherever it stands."""
        reply = self._server.run("cancel", correlation_id, self._ttl, about=f"wf:{correlation_id}")
        return cast("Literal['cancelled', 'ended', 'unknown']", reply)

    def redrive(
        self, correlation_id: str, *, place: str | None = None, discard_journal: bool = False
    ) -> Literal["redriven", "not_parked", "unknown"]:
        """Queue a parked hop again, with all its attempts."""
        token = uuid.uuid4().hex  # the client repeats a call if its reply is lost
        hop_id = "" if place is None else make_hop_id(correlation_id, place)
        about = f"wf:{correlation_id}"
        reply = self._server.run("redrive", correlation_id, token, int(discard_journal), hop_id, about=about)
        return cast("Literal['redriven', 'not_parked', 'unknown']", reply)

    def edit(self, edit: Edit) -> EditAnswer:
        """Replace the envelope of a hop that nobody runs."""
        token, new = uuid.uuid4().hex, edit.hop  # the client repeats a call if its reply is lost
        reply = self._server.run(
            "edit", new.hop_id, edit.instead_of, new.queue, new.envelope, new.digest, int(edit.restarts), edit.by,
            token, new.activity, new.step_id, *flat_of(edit.blobs), about=f"hop:{new.hop_id}",
        )  # fmt: skip
        return cast("EditAnswer", reply)

    def wait(self, closing: Closing, new: NewWait) -> Wait | None:
        """Record a wait of a hop that the owner runs, or return the recorded one."""
        reply = self._run_for("wait", closing, *wait_arguments(new))
        if reply == TOO_MANY:
            raise too_many_waits(self._server.limits.max_waits)
        with self._server.readable(f"hop:{closing.hop_id}"):
            return only_wait(reply) if reply != OVERTAKEN else None

    def suspend(self, closing: Closing, standing: Standing) -> Suspended | None:
        """Let a hop wait for what it stands at, or queue it."""
        reply = self._run_for("suspend", closing, *standing_arguments(standing))
        return Suspended(hop=only_hop(reply)) if reply != OVERTAKEN else None

    def resolve(self, token: str, answers: Mapping[str, str], *, by: str, call: str) -> Resolution:
        """Answer parts of a wait, and queue its hop if that settles it."""
        about = f"hop:{hop_of_token(token)}"
        reply = self._server.run("resolve", token, by, call, *flat_of(answers), about=about)
        with self._server.readable(about):
            return resolution_of(reply)

    def time_out(self, token: str) -> Wait | None:
        """Give a wait up if its time is over."""
        about = f"hop:{hop_of_token(token)}"
        reply = self._server.run("time_out", token, about=about)
        with self._server.readable(about):
            return only_wait(reply)

    def signal(
        self, correlation_id: str, name: str, text: str, *, by: str, call: str, below: str | None = None
    ) -> Resolution:
        """Settle the oldest open wait for a signal of this name, or keep the signal."""
        about = f"wf:{correlation_id}"
        begins = "" if below is None else f"{correlation_id}.{below}."
        reply = self._server.run("signal", correlation_id, name, text, by, call, begins, about=about)
        with self._server.readable(about):
            return resolution_of(reply)

    def waits(self, hop_id: str) -> Sequence[Wait]:
        """Return the waits of a hop, by since."""
        about = f"hop:{hop_id}"
        reply = self._server.run("waits_of", hop_id, about=about)
        with self._server.readable(about):
            return waits_in(reply)

    def asked(self, *, after: str | None, limit: int) -> Sequence[AskedWait]:
        """Return open waits of all workflows, oldest first."""
        place: tuple[int, str] | None = after_cursor(after)
        found: list[AskedWait] = []
        while place is not None and len(found) < limit:
            reply = self._server.run("asked", *place, about="asked")
            with self._server.readable("asked"):
                page, place = asked_page(reply)
            found += page
        return found[: max(limit, 0)]

    def block(self, hop_id: str) -> Block | None:
        """Return what a hop has opened as a block."""
        found = self._branches_of(hop_id)
        return None if found is None else found[0].block or Block()

    def hold(self, closing: Closing, page: BranchPage) -> int | None:
        """Record the first hops of branches, which nobody may claim yet."""
        reply = self._run_for("hold", closing, *page_arguments(page))
        if reply == TOO_MANY:
            raise too_many_hops(self._server.limits.max_hops)
        return int(reply[0]) if reply != OVERTAKEN else None

    def open_block(self, closing: Closing, plan: Plan) -> OpenedBlock | None:
        """Make the first branches of a block live, once."""
        reply = self._run_for("open_block", closing, *plan_arguments(plan))
        if reply == OVERTAKEN:
            return None
        with self._server.readable(f"hop:{closing.hop_id}"):
            return OpenedBlock(block=block_of_values(reply[0]), hops=hops_of(reply[1]))

    def branches(self, hop_id: str, *, first: int, limit: int) -> Sequence[BranchReading]:
        """Return branches of a block in their order, from a number on."""
        found = self._branches_of(hop_id, first=first, limit=limit)
        return list(found[1]) if found is not None else []

    def hop(self, hop_id: str) -> HopReading | None:
        """Return where any hop stands, or None."""
        found = self._branches_of(hop_id)
        return found[0] if found is not None else None

    def record(
        self, closing: Closing, records: Mapping[str, str], *, spent: Mapping[str, Usage] | None = None
    ) -> Totals | bool:
        """Add records to the journal of a hop that the owner runs, and count their calls."""
        about = f"journal:{closing.hop_id}"
        reply = self._run_for("record", closing, *spent_arguments(spent), *flat_of(records), about=about)
        if isinstance(reply, int):
            return bool(reply)
        with self._server.readable(f"wf:{closing.hop_id}"):
            return totals_in(reply) or True

    def publish(self, closing: Closing, events: Sequence[Mapping[str, str]]) -> bool:
        """Add what the agent in a hop does to the events of its workflow."""
        token = uuid.uuid4().hex  # the client repeats a call if its reply is lost
        parts: list[str | int] = []
        for event in events:
            flat = flat_of({**event, "type": "agent", "hop": closing.hop_id})
            parts += [len(flat), *flat]
        return self._write("publish", closing, token, *parts)

    def journal(self, hop_id: str) -> Mapping[str, str]:
        """Return the records of a hop's journal by their keys."""
        about = f"journal:{hop_id}"
        return cast(
            "Mapping[str, str]", self._server.ask(lambda c: c.redis.hgetall(f"{self._prefix}:{about}"), about=about)
        )

    def conversation(self, key: ConversationKey, heard: Heard | None = None) -> str | None:
        """Return the history of a conversation as a hop heard it, or all of it."""
        where, name = where_of(key)
        hash_, start = (f"blob:{key.workflow}", f":{name}:") if where == "workflow" else (f"conversation:{name}", "")

        def read(*fields: str | int) -> list[str | None]:
            asked = [f"{start}{field}" for field in fields]
            return cast(
                "list[str | None]",
                self._server.ask(lambda c: c.redis.hmget(f"{self._prefix}:{hash_}", asked), about=hash_),
            )

        pieces, size, log = read("pieces", "size", "log")
        if pieces is None or size is None or log is None:
            return None
        with self._server.readable(hash_):
            kept = Heard(pieces=int(pieces), size=int(size), log=log)
        wanted = heard or kept
        if wanted.log != kept.log or wanted.pieces > kept.pieces:
            return None
        sizes = [0] * wanted.pieces if wanted.size <= AT_ONCE else self._sizes(hash_, start, wanted.pieces)
        parts = [part for trip in trips(sizes) for part in read(*trip)]
        return None if None in parts else "".join(cast("list[str]", parts))

    def sweep(
        self,
        *,
        host: str,
        dead: Collection[str] = (),
        queues: Mapping[str, bool] | None = None,
        served: Collection[str] = (),
    ) -> Sweep:
        """Return hops whose message must be sent again."""
        looked_at = flat_of({queue: "1" if empty else "0" for queue, empty in (queues or {}).items()})
        named: tuple[str | int, ...] = (len(dead), len(served), *dead, *served, *looked_at)
        owners, unknown, again, corrupted, late, full, woken, made_pass = self._server.run_leniently(
            "sweep", host, self._lease, *named, about="due"
        )
        return Sweep(
            overdue=hops_of(again),
            late=hops_of(late),
            owners=tuple(owners),
            queues=tuple(unknown),
            corrupted=tuple(corrupted),
            full=full == 1,
            woken=frozenset(woken),
            made_pass=made_pass == 1,
        )

    def look_over(self) -> None:
        """Put some of the list of workflows right, and remove from it what has expired."""
        look_over(self._server)

    def workflow(self, correlation_id: str) -> WorkflowRecord | None:
        """Return what is known about a workflow, or None."""
        about = f"wf:{correlation_id}"
        reply = self._server.run("read", correlation_id, about=about)
        if reply is None:
            return None
        with self._server.readable(about):
            (
                state, content, hop_id, created_at, updated_at, failure, envelope, queue, hop_state, attempt, retry,
                wake_at, waits, origin,
            ) = reply  # fmt: skip
            if None in (content, envelope, queue, hop_state) or state not in get_args(WorkflowState):
                raise ValueError("it lacks fields, or its state is unknown to this version")
            return WorkflowRecord(
                correlation_id=correlation_id,
                state=cast("WorkflowState", state),
                content=content,
                envelope=envelope,
                hop_id=hop_id,
                queue=queue,
                running=hop_state == "running",
                attempt=int(attempt),
                failure=failure_of(failure) if failure is not None else None,
                created_at=moment_of(created_at),
                updated_at=moment_of(updated_at),
                retry_at=moment_of(retry) if retry is not None else None,
                suspended=hop_state == "suspended",
                wake_at=moment_of(wake_at) if wake_at else None,
                waits=waits_in(waits),
                origin=origin_in(origin),
            )

    def blob(self, correlation_id: str, name: str) -> str | None:
        """Return the JSON text of a large output, or a file of a prompt by its name; or None."""
        key = f"{self._prefix}:blob:{correlation_id}"
        return cast("str | None", self._server.ask(lambda c: c.redis.hget(key, name), about=f"blob:{correlation_id}"))

    def blobs(self, correlation_id: str, names: Sequence[str]) -> Mapping[str, str]:
        """Return those of the named blobs that are there."""
        if not names:
            return {}
        about = f"blob:{correlation_id}"
        found = self._server.ask(lambda c: c.redis.hmget(f"{self._prefix}:{about}", list(names)), about=about)
        return {name: text for name, text in zip(names, found, strict=True) if text is not None}

    def events(self, correlation_id: str, *, after: str | None, limit: int) -> Sequence[StoredEvent]:
        """Return the events after the cursor `after`, oldest first."""
        place, about = place_of(after), f"events:{correlation_id}"
        if limit < 1:
            return []
        ids = ("-".join(map(str, each)) for each in place)
        reply = self._server.run("events", correlation_id, *ids, limit, about=about)
        with self._server.readable(about):
            events, streamed = reply
            happened = [entry_of(id_, flat) for id_, flat in events]
            shown = [entry_of(id_, flat[2:], behind=id_of(flat[1])) for id_, flat in streamed]
            return read_on(place, happened, shown, limit=limit)

    def bury(self, letter: DeadLetter) -> bool:
        """Keep a dead letter. If there are too many, the oldest is dropped."""
        about = f"letter:{letter.letter_id}"
        return bool(self._server.run("bury", letter.letter_id, self._ttl, *letter_fields(letter), about=about))

    def dead_letters(self, *, after: str | None, limit: int) -> Sequence[DeadLetter]:
        """Return dead letters, newest first."""
        if after is not None and _LETTER_CURSOR.fullmatch(after) is None:
            raise InvalidInput("bad_cursor", "after", "is not the cursor of a dead letter of this store")
        if limit < 1:
            return []
        with self._server.readable("letters"):
            return [letter_of(flat) for flat in self._server.run("letters", after or "", limit, about="letters")]

    def dead_letter(self, letter_id: str) -> DeadLetter | None:
        """Return a dead letter, or None."""
        about = f"letter:{letter_id}"
        fields = self._server.ask(lambda c: c.redis.hgetall(f"{self._prefix}:{about}"), about=about)
        with self._server.readable(about):
            return letter_of(flat_of(fields)) if fields else None

    def forget_letter(self, letter_id: str) -> bool:
        """Delete a dead letter; False if there is none."""

        def forget(client: Client) -> Reply:
            with client.redis.pipeline(transaction=True) as commands:
                commands.zrem(f"{self._prefix}:letters", letter_id)
                commands.zrem(f"{self._prefix}:kept", letter_id)
                commands.delete(f"{self._prefix}:letter:{letter_id}")
                return commands.execute()

        return bool(self._server.ask(forget, about="letters")[-1])

    def letters_dropped(self) -> int:
        """Return how many dead letters were dropped in favour of newer ones."""
        with self._server.readable("meta"):
            return int(
                self._server.ask(lambda c: c.redis.hget(f"{self._prefix}:meta", "letters_dropped"), about="meta") or 0
            )

    def listed(self, query: WorkflowQuery) -> ListedPage:
        """Return workflows that fit a query."""
        return read_listed(self._server, query)

    def counted(self) -> Mapping[str, Mapping[CurrentState, int]]:
        """Return how many workflows stand at each activity, by state."""
        return read_counts(self._server)

    def list_older(self) -> bool:
        """List some of the workflows that older versions have recorded, and say whether none is left."""
        return list_older(self._server)

    def times(self) -> Mapping[str, HopTimes]:
        """Return how long hops waited and ran in the last days, by activity."""
        return read_times(self._server)

    def standing(self, correlation_id: str) -> ListedWorkflow | None:
        """Return a workflow as a list shows it, or None."""
        return read_one(self._server, correlation_id)

    def serving(self) -> Serving:
        """Return which queues are served by workers that sweep, and when they were."""
        return read_served(self._server)

    def check(self, *, allow_eviction: bool) -> Sequence[str]:
        """Return warnings about the server.

        Raises `Unreachable`, or `ConfigurationError` if the server is part of a cluster, may evict records (unless
        allowed), or holds records of a newer format.
        """
        return check_server(self._server, allow_eviction=allow_eviction)

    def bound_broker(self) -> BoundBroker | None:
        """Return the broker that this prefix belongs to, or None."""
        key = f"{self._prefix}:meta"
        address, id_ = self._server.ask(lambda c: c.redis.hmget(key, "broker", "broker_id"), about="meta")
        return None if address is None else BoundBroker(address=address, id=id_)

    def bind_broker(self, broker: BoundBroker, *, instead_of: BoundBroker | None) -> bool:
        """Remember a broker, unless the one that is remembered has changed."""
        expected = ("", "") if instead_of is None else (instead_of.address, instead_of.id or "")
        reply = self._server.run("bind", *expected, broker.address, broker.id or "", about="meta")
        return bool(reply)

    def send_all_again(self) -> None:
        """Have the next sweeps send all queued hops again, in the order in which they were due."""
        while self._server.run("resend", about="due"):
            pass

    def open_hops(self) -> OpenHops:
        """Count the hops that are not closed."""

        def count(client: Client) -> Reply:
            owners = cast("list[str]", client.redis.zrange(f"{self._prefix}:owners", 0, -1))
            with client.redis.pipeline(transaction=True) as commands:
                commands.zcard(f"{self._prefix}:due")
                commands.zcard(f"{self._prefix}:parked")
                commands.zcard(f"{self._prefix}:asleep")
                for owner in owners:
                    commands.scard(f"{self._prefix}:owner:{owner}")
                return commands.execute()

        due, parked, asleep, *running = self._server.ask(count, about="due")
        return OpenHops(due=due, running=sum(running), parked=parked, asleep=asleep)

    def raise_format(self) -> None:
        """Note that a worker of this version begins, so that older ones begin nothing more."""
        self._server.run("format", about="meta")

    def unswept(self) -> float | None:
        """Return for how many seconds no worker has swept; None if none ever has."""

        def look(client: Client) -> Reply:
            with client.redis.pipeline(transaction=True) as commands:
                commands.time()
                commands.hget(f"{self._prefix}:meta", "swept_at")
                return commands.execute()

        (seconds, micros), swept_at = self._server.ask(look, about="meta")
        with self._server.readable("meta"):
            return None if swept_at is None else max(0.0, seconds + micros / 1e6 - int(swept_at) / 1000)

    def unfinished(self) -> Sequence[str]:
        """Return nothing: the records outlive this process."""
        return ()

    def close(self) -> None:
        """Release this process's connections. A later call opens new ones."""
        self._server.close()

    def _sizes(self, hash_: str, start: str, pieces: int) -> list[int]:
        """Return how many bytes each piece of a history has."""

        def look(client: Client) -> Reply:
            with client.redis.pipeline(transaction=False) as commands:
                for number in range(1, pieces + 1):
                    commands.hstrlen(f"{self._prefix}:{hash_}", f"{start}{number}")
                return commands.execute()

        return cast("list[int]", self._server.ask(look, about=hash_))

    def _branches_of(
        self, hop_id: str, *, first: int = 0, limit: int = 0
    ) -> tuple[HopReading, Sequence[BranchReading]] | None:
        about = f"hop:{hop_id}"
        reply = self._server.run("branches_of", hop_id, max(first, 0), max(limit, 0), about=about)
        with self._server.readable(about):
            return branches_in(reply) if reply is not None else None

    def _closed(self, script: str, closing: Closing, *arguments: str | int) -> Closed | None:
        reply = self._run_for(script, closing, *arguments)
        if reply == OVERTAKEN:
            return None
        with self._server.readable(f"hop:{closing.hop_id}"):
            return Closed(hops=hops_of(reply) if isinstance(reply, list) else ())

    def _write(self, script: str, closing: Closing, *more: str | int, about: str = "") -> bool:
        """Run a script that writes for a hop; raises `HopUnknown` if there is no record of it."""
        return bool(self._run_for(script, closing, *more, about=about))

    def _run_for(self, script: str, closing: Closing, *more: str | int, about: str = "") -> Reply:
        about = about or f"hop:{closing.hop_id}"
        reply = self._server.run(script, closing.hop_id, closing.owner, closing.fence, *more, about=about)
        if reply == NO_RECORD:
            raise HopUnknown(closing.hop_id)
        return reply
