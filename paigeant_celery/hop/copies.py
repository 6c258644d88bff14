"""What a copy of a hop's message is told: how the hop stands, for whoever sees only this copy."""

from __future__ import annotations

from contextlib import suppress

from paigeant_celery.core.errors import MessageError, OutdatedVersion, StoreCorrupt
from paigeant_celery.core.flow import Failure
from paigeant_celery.core.message import reread
from paigeant_celery.core.names import block_of, next_place, split_hop_id
from paigeant_celery.core.names import hop_id as make_hop_id
from paigeant_celery.hop.effects import ClosedAs, Drop, Summary
from paigeant_celery.journal.hop_waits import BRANCHES
from paigeant_celery.store.branch_port import HopReading
from paigeant_celery.store.earlier import executed_at
from paigeant_celery.store.port import Store, WorkflowRecord

__all__ = ["Copies", "following_hop"]


class Copies:
    """Answers copies from the records of the store. Nothing is shown that is not known."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def answer(self, hop_id: str, reason: str) -> Drop:
        """Return the answer to a copy that was dropped for a reason, with how its hop stands if nobody runs it."""
        if reason in ("suspended", "waiting"):
            return Drop(reason=reason, stands=self._waiting(hop_id))
        if reason not in ("finished", "parked"):
            return Drop(reason=reason)
        return Drop(reason=reason, stands=self._standing(hop_id))

    def _waiting(self, hop_id: str) -> Summary | None:
        """Return what a hop waits for; None if it has gone on meanwhile."""
        hop = self._reading_of(hop_id)
        if hop is None:
            return None
        if hop.state == "suspended":
            names = {wait.name for wait in hop.waits if wait.state == "open"} if not hop.on_branches else {BRANCHES}
            return Summary(hop_id=hop_id, step_id="", outcome=ClosedAs.SUSPENDED, waits_for=tuple(sorted(names)))
        if hop.retry_at is None or hop.failure is None:
            return None
        return _failed_with(hop.failure, hop_id, ClosedAs.RETRYING)

    def _reading_of(self, hop_id: str) -> HopReading | None:
        with suppress(StoreCorrupt, OutdatedVersion):  # it is only shown, and nothing is shown that is not known
            return self._store.hop(hop_id) if split_hop_id(hop_id) is not None else None
        return None

    def _record_of(self, hop_id: str) -> WorkflowRecord | None:
        ids = split_hop_id(hop_id)
        with suppress(StoreCorrupt, OutdatedVersion):
            return self._store.workflow(ids[0]) if ids is not None else None
        return None

    def _standing(self, hop_id: str) -> Summary | None:
        if block_of(hop_id) is not None:
            return self._standing_in_branch(hop_id)
        ids, record = split_hop_id(hop_id), self._record_of(hop_id)
        if ids is None or record is None:
            return None
        if record.hop_id == hop_id and record.failure is not None:
            return _failed_with(record.failure, hop_id, ClosedAs.FAILED)
        try:
            slip = reread(record.envelope).slip
            ran = executed_at(self._store, ids[0], slip, ids[1])
        except (MessageError, StoreCorrupt):
            return None
        step_id = ran.step_id if ran is not None else ""
        if record.state == "completed" and slip.executed[-1].place == ids[1]:
            return Summary(hop_id=hop_id, step_id=step_id, outcome=ClosedAs.WORKFLOW_COMPLETED)
        return Summary(hop_id=hop_id, step_id=step_id, outcome=ClosedAs.COMPLETED, next_hop=following_hop(hop_id))

    def _standing_in_branch(self, hop_id: str) -> Summary | None:
        """Return how a hop of a branch ended so far; nothing here says which step it was."""
        hop, following = self._reading_of(hop_id), following_hop(hop_id)
        if hop is None:
            return None
        if hop.failure is not None:
            return _failed_with(hop.failure, hop_id, ClosedAs.FAILED)
        if hop.state == "failed":  # what its branch ended with is with the block
            return Summary(hop_id=hop_id, step_id="", outcome=ClosedAs.FAILED)
        if self._reading_of(following) is None:
            return Summary(hop_id=hop_id, step_id="", outcome=ClosedAs.BRANCH_COMPLETED)
        return Summary(hop_id=hop_id, step_id="", outcome=ClosedAs.COMPLETED, next_hop=following)


def following_hop(hop_id: str) -> str:
    """Return the id of the hop of the step after that of a hop."""
    correlation_id, _, place = hop_id.partition(".")
    return make_hop_id(correlation_id, next_place(place))


def _failed_with(failure: Failure, hop_id: str, outcome: ClosedAs) -> Summary:
    return Summary(
        hop_id=hop_id,
        step_id=failure.step_id or "",
        outcome=outcome,
        error_class=failure.error_class,
        frames=failure.frames,
    )
