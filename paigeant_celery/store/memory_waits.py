"""The waits of the store in memory, and the signals that it keeps for waits to come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from paigeant_celery.core import hops as protocol
from paigeant_celery.core import waits as rules
from paigeant_celery.core.hops import ENDED, Change, Pace
from paigeant_celery.core.waits import WHOLE, Answer, Wait, hop_of_token, is_over, next_look
from paigeant_celery.store.limits import StoreLimits
from paigeant_celery.store.memory_records import Kept, Records, Workflow
from paigeant_celery.store.port import AskedWait, HopRecord, NewWait, Resolution, Standing, Suspended
from paigeant_celery.store.waits import after_cursor, cursor_of, too_many_waits

__all__ = ["Waits"]


@dataclass(frozen=True)
class Waits:
    """What hops wait for. The store's lock protects it, and the store says who may write for a hop."""

    records: Records
    limits: StoreLimits
    pace: Pace

    def wait(self, hop_id: str, kept: Kept, new: NewWait, *, now: datetime) -> Wait:
        """Record a wait, or return the recorded one."""
        found = next((wait for wait in kept.waits.values() if wait.wait_id == new.wait_id), None)
        if found is not None and found.token != new.instead_of:
            return found
        open_ = [wait for wait in kept.waits.values() if wait.state == "open" and wait is not found]
        if len(open_) >= self.limits.max_waits:
            raise too_many_waits(self.limits.max_waits)
        if found is not None:
            del kept.waits[found.token]
        wait = Wait(
            token=new.token,
            wait_id=new.wait_id,
            kind=new.kind,
            name=new.name,
            since=now,
            until=None if new.timeout is None else now + timedelta(seconds=new.timeout),
            parts=new.parts,
            about=new.about,
        )
        kept.workflow.events.add_event("asked", hop_id, now=now, wait=wait.name)
        if wait.kind == "signal" and (early := kept.workflow.signals.take(wait.name)) is not None:
            wait = replace(wait, state="settled", answers={WHOLE: early})
            self._tell(kept, hop_id, wait, (WHOLE,), by=early.by, now=now)
        kept.waits[wait.token] = wait
        return wait

    def suspend(
        self, hop_id: str, kept: Kept, standing: Standing, *, owner: str, fence: int, now: datetime
    ) -> Suspended | None:
        """Let a hop wait, or queue it."""
        stood_at = [kept.waits[token] for token in standing.tokens if token in kept.waits]
        is_due = standing.wake_at is not None and standing.wake_at <= now
        is_joined = standing.branches and kept.block is not None and kept.block.joined is not None
        change = protocol.suspend(
            kept.hop,
            owner=owner,
            fence=fence,
            over=is_due
            or len(stood_at) < len(standing.tokens)
            or any(is_over(wait, now=now) for wait in stood_at)
            or is_joined,
            until=self._look_at(kept, standing.wake_at, now),
            wake_at=standing.wake_at,
            line=self.records.line_of(kept.queue),
            now=now,
            pace=self.pace,
            on_branches=standing.branches,
        )
        if change is False:
            return None
        if isinstance(change, Change):
            kept.quiet = standing.quiet
            self.records.apply(hop_id, change, now=now)
            if not standing.quiet:
                about = {"waits_for": ", ".join(standing.names)} if standing.names else {}
                kept.workflow.events.add_event("suspended", hop_id, now=now, **about)
        goes_on = kept.hop.state == "queued" and kept.hop.fence == fence and not kept.hop.slept
        return Suspended(hop=self.records.to_send(hop_id) if goes_on else None)

    def resolve(self, token: str, answers: Mapping[str, str], *, by: str, call: str, now: datetime) -> Resolution:
        """Answer parts of a wait."""
        hop_id, kept = self._hop_of(token)
        if kept is None:
            return Resolution(outcome="unknown")
        before = kept.waits[token]
        wait, outcome = rules.answer(before, answers, by=by, call=call, now=now, ended=_has_ended(kept, now))
        if wait.state == "timed_out":
            self._give_up(kept, hop_id, before, now)
        kept.waits[token] = wait
        if wait.answers != before.answers:
            self._tell(kept, hop_id, wait, answers, by=by, now=now)
        return Resolution(outcome=outcome, wait=wait, hop=self._woken(hop_id, before, wait, now))

    def time_out(self, token: str, *, now: datetime) -> Wait | None:
        """Give a wait up if its time is over."""
        hop_id, kept = self._hop_of(token)
        if kept is None:
            return None
        before = kept.waits[token]
        self._give_up(kept, hop_id, before, now)
        self._woken(hop_id, before, kept.waits[token], now)
        return kept.waits[token]

    def signal(
        self, workflow: Workflow, name: str, text: str, *, by: str, call: str, below: str | None, now: datetime
    ) -> Resolution:
        """Settle the oldest open wait of this name, or keep the signal."""
        signals = workflow.signals
        if call in signals.calls:
            return Resolution(outcome="repeated")
        if workflow.state not in ("running", "parked") or _has_ended(self.records.hops[workflow.hop_id], now):
            return Resolution(outcome="ended")
        woken: HopRecord | None = None
        for before in self._awaited(workflow, name, below):
            hop_id = hop_of_token(before.token)
            kept = self.records.hops[hop_id]
            if self._give_up(kept, hop_id, before, now):  # nobody has noted yet that its time is over
                woken = self._woken(hop_id, before, kept.waits[before.token], now) or woken
                continue
            wait, _ = rules.answer(before, {WHOLE: text}, by=by, call=call, now=now)
            kept.waits[wait.token] = wait
            signals.remember(call, self.limits.max_calls)
            self._tell(kept, hop_id, wait, (WHOLE,), by=by, now=now)
            woken = self._woken(hop_id, before, wait, now) or woken
            return Resolution(outcome="settled", wait=wait, hop=woken)
        if below is not None:
            return Resolution(outcome="unknown", hop=woken)
        if signals.count >= self.limits.max_signals:
            return Resolution(outcome="too_many", hop=woken)
        signals.remember(call, self.limits.max_calls)
        signals.keep(name, Answer(text=text, by=by, at=now, call=call))
        workflow.events.add_event("signalled", workflow.hop_id, now=now, name=name, by=by)
        return Resolution(outcome="kept", hop=woken)

    def _awaited(self, workflow: Workflow, name: str, below: str | None) -> tuple[Wait, ...]:
        """Return the open waits for a signal, oldest first: all of a workflow, or those in a branch."""
        begins = "" if below is None else f"{workflow.correlation_id}.{below}."
        return by_since(
            wait
            for hop_id in workflow.hop_ids
            if hop_id.startswith(begins) and (kept := self.records.hops[hop_id]).hop.state not in ENDED
            for wait in kept.waits.values()
            if (wait.kind, wait.name, wait.state) == ("signal", name, "open")
        )

    def forget(self, kept: Kept) -> None:
        """Forget the waits of a hop that begins anew, and keep the signals that they took for it."""
        for wait in reversed(kept.waits.values()):
            if wait.kind == "signal" and wait.state == "settled":
                kept.workflow.signals.put_back(wait.name, wait.answers[WHOLE])
        kept.waits.clear()

    def asked(self, *, after: str | None, limit: int) -> Sequence[AskedWait]:
        """Return open waits of all workflows, oldest first."""
        place = after_cursor(after)
        found = [
            (cursor_of(wait), hop_id, wait)
            for hop_id, kept in self.records.hops.items()
            if kept.hop.state not in ENDED
            for wait in kept.waits.values()
            if wait.state == "open"
        ]
        later = sorted((entry for entry in found if entry[0] > place), key=lambda entry: entry[0])
        return [
            AskedWait(cursor=f"{since} {token}", hop_id=hop_id, wait=wait)
            for (since, token), hop_id, wait in later[: max(limit, 0)]
        ]

    def wake_due(self, *, now: datetime, most: int) -> Iterator[str]:
        """Queue the suspended hops whose time is over, and yield them; others are looked at again later."""
        due = sorted((at, hop_id) for hop_id, at in self.records.asleep.items() if at <= now)
        for _, hop_id in due[:most]:
            kept = self.records.hops[hop_id]
            is_due = kept.hop.wake_at is not None and kept.hop.wake_at <= now
            for wait in list(kept.waits.values()):
                is_due = self._give_up(kept, hop_id, wait, now) or is_due
            is_due = is_due or (kept.workflow.deadline is not None and kept.workflow.deadline <= now)
            if not is_due:
                until = self._look_at(kept, kept.hop.wake_at, now)
                self.records.apply(hop_id, protocol.sleep_on(kept.hop, until=until), now=now)
                continue
            yield hop_id

    def _look_at(self, kept: Kept, wake_at: datetime | None, now: datetime) -> datetime:
        return next_look(
            kept.waits.values(),
            wake_at=wake_at,
            deadline=kept.workflow.deadline,
            now=now,
            at_most=self.pace.longest_sleep,
        )

    def _give_up(self, kept: Kept, hop_id: str, wait: Wait, now: datetime) -> bool:
        passed = rules.time_out(wait, now=now)
        if passed is wait:
            return False
        kept.waits[wait.token] = passed
        kept.workflow.events.add_event("wait_timed_out", hop_id, now=now, wait=wait.name)
        return True

    def _hop_of(self, token: str) -> tuple[str, Kept | None]:
        hop_id = hop_of_token(token)
        kept = self.records.hops.get(hop_id)
        return hop_id, kept if kept is not None and token in kept.waits else None

    def _tell(self, kept: Kept, hop_id: str, wait: Wait, parts: Iterable[str], *, by: str, now: datetime) -> None:
        of = {"calls": ", ".join(filter(None, parts))} if wait.parts != (WHOLE,) else {}
        kept.workflow.events.add_event("answered", hop_id, now=now, wait=wait.name, by=by, **of)

    def _woken(self, hop_id: str, before: Wait, wait: Wait, now: datetime) -> HopRecord | None:
        """Queue the hop if the wait is over now, and it is suspended."""
        kept = self.records.hops[hop_id]
        if before.state != "open" or wait.state == "open":
            return None
        line = self.records.line_of(kept.queue)
        change = protocol.wake(kept.hop, line=line, now=now, pace=self.pace)
        if change is None:
            return None
        kept.quiet = False
        self.records.apply(hop_id, change, now=now)
        return self.records.to_send(hop_id)


def by_since(waits: Iterable[Wait]) -> tuple[Wait, ...]:
    """Return waits in the order in which they were recorded."""
    return tuple(sorted(waits, key=lambda wait: wait.since))


def _has_ended(kept: Kept, now: datetime) -> bool:
    deadline = kept.workflow.deadline
    return kept.hop.state in ENDED or (deadline is not None and deadline <= now)
