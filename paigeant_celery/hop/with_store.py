"""What is done about a hop once it is decided: recorded in the store, sent on, dropped or set aside.

Each effect may be repeated, and raises `TransientError` where store or broker is away; the same call then goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

from paigeant_celery.broker.outbox import Outbox
from paigeant_celery.core.errors import MessageError, StoreCorrupt
from paigeant_celery.core.flow import Advance, Failure, Finish, Refused, decide_refusal
from paigeant_celery.core.message import PaigeantMessage, content_digest, sha256
from paigeant_celery.core.names import MAX_ATTEMPTS, next_place, split_hop_id
from paigeant_celery.core.settings import Settings
from paigeant_celery.hop.answers import Drop, Refusal, Summary, summary_of
from paigeant_celery.hop.guard import Arrival, is_misaddressed
from paigeant_celery.hop.letters import letter_of, parked_fault
from paigeant_celery.hop.refuse import log_refusal, refused_for
from paigeant_celery.hop.run import Opened, Outcome
from paigeant_celery.store.port import (
    Claim,
    ClaimAnswer,
    Claimed,
    Closing,
    Completion,
    Dropped,
    HopRecord,
    NewWorkflow,
    Store,
)

__all__ = ["RecordedEffects"]

logger = logging.getLogger(__name__)


class RecordedEffects:
    """Effects with a store, which decides who may run a hop and keeps what came of it."""

    def __init__(self, *, store: Store, outbox: Outbox, settings: Settings, owner: Callable[[], str]) -> None:
        self._store, self._outbox, self._settings, self._owner = store, outbox, settings, owner

    def claim(self, arrival: Arrival, message: PaigeantMessage, *, max_attempts: int) -> ClaimAnswer:
        """Claim the hop; one of a workflow that the store does not know is adopted while it is young enough."""
        digest = sha256(str(arrival.envelope))
        answer = self._claim(arrival, digest=digest, max_attempts=max_attempts)
        if answer == Dropped(reason="unknown"):
            self._adopt(arrival, message)
            answer = self._claim(arrival, digest=digest, max_attempts=max_attempts)
            answer = replace(answer, created_at=None) if isinstance(answer, Claimed) else answer
        match answer:
            case Dropped(reason="unknown"):
                text = "the store knows its workflow, and no hop of it at this place"
                raise MessageError("inconsistent_slip", "message_id", text)
            case Dropped(reason="altered"):
                text = "the envelope differs from the one that was recorded when it was sent"
                raise MessageError("inconsistent_slip", "", text)
            case Dropped(reason="finished"):
                self._resend_successor(arrival.hop_id)
        return answer

    def advance(self, hop: Opened, decision: Advance, outcome: Outcome) -> Summary:
        """Record output and next hop in one step, then send its message."""
        next_hop = self._outbox.record_of(decision.message, decision.envelope)
        if not self._complete(hop, decision.envelope, next_hop, outcome):
            return _overtaken(hop)
        # A crash before this line leaves the next hop recorded and not sent; a sweep sends it.
        self._outbox.send(next_hop, message=decision.message)
        return summary_of(hop, "completed", next_hop=next_hop.hop_id)

    def finish(self, hop: Opened, decision: Finish, outcome: Outcome) -> Summary:
        """Record the last output and with it the end of the workflow."""
        if not self._complete(hop, decision.envelope, None, outcome):
            return _overtaken(hop)
        return summary_of(hop, "workflow_completed")

    def fail(self, hop: Opened, failure: Failure) -> Summary:
        """Record that the hop failed and with it the workflow."""
        with suppress(StoreCorrupt):  # the hop failed; that its record cannot say so is in the log
            if not self._store.fail(hop.closing, failure):
                return _overtaken(hop)
        logger.error(
            "hop %s failed with %s", hop.closing.hop_id, failure.error_class,
            extra={"action": "hop_failed", "hop": hop.closing.hop_id, "step": failure.step_id},
        )  # fmt: skip
        return summary_of(hop, "failed", error_class=failure.error_class)

    def retry(self, hop: Opened, failure: Failure, *, delay: float) -> Summary:
        """Record that the attempt failed; a sweep sends the hop again after `delay` seconds."""
        if not self._store.retry_at(hop.closing, failure, delay=delay):
            return _overtaken(hop)
        logger.warning(
            "hop %s failed with %s and is tried again in %.1f s", hop.closing.hop_id, failure.error_class, delay,
            extra={"action": "hop_retried", "hop": hop.closing.hop_id, "step": failure.step_id},
        )  # fmt: skip
        return summary_of(hop, "retrying", error_class=failure.error_class, delay=delay)

    def park(self, hop: Opened, failure: Failure) -> Summary:
        """Record that the workflow waits for a person, with a dead letter."""
        letter = letter_of(*parked_fault(hop, failure), worker=self._owner())
        if not self._store.park(hop.closing, failure, letter):
            return _overtaken(hop)
        logger.error(
            "hop %s is parked: attempt %d failed with %s",
            hop.closing.hop_id, hop.claimed.attempt, failure.error_class,
            extra={"action": "hop_parked", "hop": hop.closing.hop_id, "step": failure.step_id},
        )  # fmt: skip
        return summary_of(hop, "parked", error_class=failure.error_class)

    def refuse(self, arrival: Arrival, fault: MessageError, message: PaigeantMessage | None) -> Refusal:
        """Park the workflow of a hop whose own message cannot be run; of anything else keep a dead letter.

        A hop's own message is the envelope that was recorded, sent as it was recorded. Whatever else bears its id harms
        no workflow: the genuine message is sent again when it is overdue. A copy of what is handled already is dropped.
        """
        refused = refused_for(fault, message)
        answer: ClaimAnswer
        try:
            if is_misaddressed(arrival, message) or not isinstance(arrival.envelope, str):
                answer = self._standing(arrival)
            else:
                answer = self._claim_unrun(arrival, fault, message, sha256(arrival.envelope))
        except StoreCorrupt:  # there is nothing left that could be recorded
            answer = Dropped(reason="unknown")
        match answer:
            case Claimed():
                self._park_unrun(arrival, answer, fault, message)
                return refused
            case Dropped(reason="unknown"):
                self.discard(arrival, fault)
                return refused
            case Dropped(reason="altered"):
                self.discard(arrival, fault)
        return Drop(reason=answer.reason)

    def refuse_unread(self, arrival: Arrival, fault: MessageError) -> None:
        """Keep a dead letter, and park the workflow where the envelope that was recorded is too large as well.

        It was recorded by a process with another limit, and no delivery of it could ever be run.
        """
        try:
            claimed = self._claim_too_large(arrival)
        except StoreCorrupt:
            claimed = None
        if claimed is not None:
            self._park_unrun(arrival, claimed, fault, None)
        else:
            self.discard(arrival, fault)

    def discard(self, arrival: Arrival, fault: MessageError) -> None:
        """Log and keep what may be told of a message that cannot be run."""
        log_refusal(arrival, fault)
        with suppress(StoreCorrupt):  # what is wrong with the message is in the log
            self._store.bury(letter_of(arrival, fault, worker=self._owner()))

    def _claim(self, arrival: Arrival, *, digest: str, max_attempts: int) -> ClaimAnswer:
        claim = Claim(
            hop_id=arrival.hop_id, owner=self._owner(), token=arrival.token, max_attempts=max_attempts, digest=digest
        )
        return self._store.claim(claim)

    def _claim_too_large(self, arrival: Arrival) -> Claimed | None:
        ids = split_hop_id(arrival.hop_id)
        record = self._store.workflow(ids[0]) if ids is not None else None
        if record is None or record.hop_id != arrival.hop_id:
            return None
        if len(record.envelope.encode()) <= self._settings.max_message_size:
            return None
        answer = self._claim(arrival, digest=sha256(record.envelope), max_attempts=MAX_ATTEMPTS)
        return answer if isinstance(answer, Claimed) else None

    def _standing(self, arrival: Arrival) -> Dropped:
        """Say how a message stands to a hop that it is not the own message of."""
        ids = split_hop_id(arrival.hop_id)
        known = ids is not None and self._store.workflow(ids[0]) is not None
        return Dropped(reason="altered" if known else "unknown")

    def _claim_unrun(
        self, arrival: Arrival, fault: MessageError, message: PaigeantMessage | None, digest: str
    ) -> ClaimAnswer:
        """Claim a hop only to park it; an unknown workflow is adopted first where its agent may still come.

        With any other fault it stays a dead letter, which expires: what is parked stays until a person ends it.
        """
        if split_hop_id(arrival.hop_id) is None:
            return Dropped(reason="unknown")
        answer = self._claim(arrival, digest=digest, max_attempts=MAX_ATTEMPTS)
        own = message is not None and message.message_id == arrival.hop_id
        if answer == Dropped(reason="unknown") and message is not None and own and fault.reason == "unknown_agent":
            with suppress(MessageError):  # it is too old, or asks for no step
                self._adopt(arrival, message)
                answer = self._claim(arrival, digest=digest, max_attempts=MAX_ATTEMPTS)
        return answer

    def _park_unrun(
        self, arrival: Arrival, claimed: Claimed, fault: MessageError, message: PaigeantMessage | None
    ) -> None:
        log_refusal(arrival, fault)
        parked = decide_refusal(Refused(message=message, reason=fault.reason, text=fault.detail))
        letter = letter_of(arrival, fault, worker=self._owner())
        with suppress(StoreCorrupt):
            self._store.park(self._closing(arrival, claimed), parked.failure, letter)

    def _closing(self, arrival: Arrival, claimed: Claimed) -> Closing:
        return Closing(hop_id=arrival.hop_id, owner=self._owner(), fence=claimed.fence)

    def _adopt(self, arrival: Arrival, message: PaigeantMessage) -> None:
        """Record a workflow that only its message knows; its age is judged by the store's clock."""
        hop = self._outbox.record_of(message, str(arrival.envelope))
        new = NewWorkflow(correlation_id=message.correlation_id, content=content_digest(message), hop=hop)
        oldest = timedelta(seconds=min(self._settings.max_message_age, self._settings.result_ttl))
        answer = self._store.adopt(new, sent_at=message.sent_at, max_age=oldest)
        if answer == "expired":
            raise MessageError(
                "expired", "sent_at",
                f"{message.sent_at:%Y-%m-%d %H:%M:%S} is longer ago than `paigeant_max_message_age` "
                f"({oldest.total_seconds():g} s), and the store does not know the workflow",
            )  # fmt: skip
        if answer == "adopted":
            logger.warning(
                "workflow %s was not known to this store and is adopted from its message; whoever dispatched it has "
                "no store, or another one, and cannot see it", message.correlation_id,
                extra={"action": "workflow_adopted", "hop": arrival.hop_id},
            )  # fmt: skip

    def _resend_successor(self, hop_id: str) -> None:
        # Covers the crash between recording a hop and publishing the next one: the broker delivers the
        # finished hop again, and its successor still waits for its first message.
        ids = split_hop_id(hop_id)
        record = self._store.workflow(ids[0]) if ids is not None else None
        if ids is None or record is None or record.state != "running" or record.running:
            return
        if split_hop_id(record.hop_id) == (ids[0], next_place(ids[1])):
            self._outbox.send(record)

    def _complete(self, hop: Opened, envelope: str, next_hop: HopRecord | None, outcome: Outcome) -> bool:
        blobs = {hop.message.step.step_id or "": outcome.blob} if outcome.blob is not None else {}
        return self._store.complete(
            Completion(closing=hop.closing, envelope=envelope, next_hop=next_hop, blobs=blobs, notes=outcome.notes)
        )


def _overtaken(hop: Opened) -> Summary:
    logger.warning(
        "another owner took the hop over; this run's output is discarded",
        extra={"action": "hop_overtaken", "hop": hop.closing.hop_id},
    )
    return summary_of(hop, "overtaken")
