"""One sweep of the store in memory: which hops are sent again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from paigeant_celery.core import hops as protocol
from paigeant_celery.core.hops import Change, Pace
from paigeant_celery.store.limits import StoreLimits
from paigeant_celery.store.memory_records import Records
from paigeant_celery.store.memory_waits import Waits
from paigeant_celery.store.port import HopRecord

__all__ = ["Round"]


@dataclass(kw_only=True)
class Round:
    """One look through the records. It finds hops to send (`again`) or to close (`late`), and queues to look at."""

    records: Records
    pace: Pace
    limits: StoreLimits
    now: datetime
    again: list[HopRecord] = field(default_factory=list)
    late: list[HopRecord] = field(default_factory=list)
    asked: dict[str, None] = field(default_factory=dict)
    woken: set[str] = field(default_factory=set)
    is_cut: bool = False  # there is more than one look takes

    def lapse(self, owner: str, why: Literal["owner_gone", "lease_over"]) -> None:
        """Queue the hops of an owner."""
        for hop_id in sorted(self.records.owned.get(owner, ())):
            if self._is_full:
                return
            kept = self.records.hops[hop_id]
            line = self.records.line_of(kept.queue)
            self._send(hop_id, protocol.lapse(kept.hop, why, line=line, now=self.now, pace=self.pace))

    def lapse_all(self) -> None:
        """Queue the hops of all owners whose leases have expired."""
        leases = self.records.leases.items()
        for _, owner in sorted((end, owner) for owner, end in leases if end <= self.now):
            self.lapse(owner, "lease_over")

    def look(self, queues: Mapping[str, bool]) -> None:
        """Look at the hops that are due. `queues` says whether each queue is empty, if that is known."""
        for hop_id in self._due():
            if self._is_full:
                return
            kept = self.records.hops[hop_id]
            empty, line = queues.get(kept.queue), self.records.line_of(kept.queue)
            change = protocol.sweep(kept.hop, empty=empty, line=line, now=self.now, pace=self.pace)
            if change is None:
                self.asked[kept.queue] = None
            else:
                self._send(hop_id, change)

    def wake(self, waits: Waits) -> None:
        """Queue the suspended hops whose time is over."""
        left = math.ceil((self.limits.most_at_once - len(self.again)) / 2)  # each counts twice
        most = min(self.limits.woken_at_once, max(0, left))
        self.is_cut = sum(at <= self.now for at in self.records.asleep.values()) > most
        for hop_id in waits.wake_due(now=self.now, most=most):
            kept = self.records.hops[hop_id]
            line = self.records.line_of(kept.queue)
            change = protocol.wake(kept.hop, line=line, now=self.now, pace=self.pace, resent="time_over")
            if change is not None:
                self._send(hop_id, change)

    def look_at_deadlines(self) -> None:
        """Return the hops of workflows whose deadline has passed. Whoever gets them may die, so they are kept."""
        deadlines = self.records.deadlines
        passed = sorted((at, name) for name, at in deadlines.items() if at <= self.now)
        for _, name in passed[: self.limits.most_at_once]:
            deadlines[name] = self.now + self.pace.due_after
            hop_id = self.records.workflows[name].hop_id
            if protocol.may_be_ended(self.records.hops[hop_id].hop):
                self.late.append(self.records.to_send(hop_id))

    @property
    def is_full(self) -> bool:
        """Whether another look would find more at once."""
        return self.is_cut or self._is_full

    @property
    def _is_full(self) -> bool:
        return len(self.again) + len(self.woken) >= self.limits.most_at_once  # as on Redis, where they cost more

    def _due(self) -> list[str]:
        """Return the hops that are due. Those that are sent whatever waits on their queue come first."""
        hops, due = self.records.hops, self.records.due

        def order(hop_id: str) -> tuple[bool, datetime, str]:
            return not protocol.goes_first(hops[hop_id].hop), due[hop_id], hop_id

        return sorted((hop_id for hop_id, at in due.items() if at <= self.now), key=order)

    def _send(self, hop_id: str, change: Change) -> None:
        self.records.apply(hop_id, change, now=self.now)
        if change.resent is None:
            return
        kept = self.records.hops[hop_id]
        if change.resent == "time_over":
            self.woken.add(hop_id)
        if change.resent != "time_over" or not kept.quiet:
            kept.workflow.events.add_event("resent", hop_id, now=self.now, why=change.resent)
        self.again.append(self.records.to_send(hop_id))
