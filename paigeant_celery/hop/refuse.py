"""Messages that cannot be run: what is logged and kept about them, and which workflows are parked."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from paigeant_celery.broker.metrics import letter_kept
from paigeant_celery.broker.outbox import Outbox
from paigeant_celery.core import flow
from paigeant_celery.core.causes import Cause, cause_of
from paigeant_celery.core.errors import HopUnknown, MessageError, NewerMessage, StoreCorrupt
from paigeant_celery.core.message import PaigeantMessage, reread, sha256
from paigeant_celery.core.names import MAX_ATTEMPTS, split_hop_id
from paigeant_celery.core.settings import Settings
from paigeant_celery.hop.claims import Claims
from paigeant_celery.hop.effects import GIVEN_BACK, PUT_BACK, Drop, Refusal, Refused
from paigeant_celery.hop.failures import traced
from paigeant_celery.hop.guard import MOST_PUT_BACK, Arrival, is_misaddressed, refusal_of
from paigeant_celery.hop.letters import letter_of
from paigeant_celery.hop.liveness import in_words
from paigeant_celery.hop.sending import send_on
from paigeant_celery.store.port import ClaimAnswer, Claimed, Dropped, HopRecord, Store

__all__ = ["Refusals", "log_given_back", "log_refusal", "put_back", "refused_for"]

logger = logging.getLogger(__name__)


class Refusals:
    """What is done about messages that cannot be run if there is a store."""

    def __init__(
        self, *, store: Store, claims: Claims, outbox: Outbox, settings: Settings, owner: Callable[[], str]
    ) -> None:
        self._store, self._claims, self._settings, self._owner = store, claims, settings, owner
        self._outbox = outbox

    def refuse(self, arrival: Arrival, fault: MessageError, message: PaigeantMessage | None) -> Refusal:
        """Park the workflow of a hop whose own message cannot be run; for anything else, keep a dead letter.

        A hop's own message is the recorded envelope, sent as it was recorded. Any other message with its id harms no
        workflow: the genuine one is sent again when it is overdue. A copy of one that is already handled is dropped.
        """
        answer: ClaimAnswer
        try:
            if is_misaddressed(arrival, message) or not isinstance(arrival.envelope, str):
                answer = self._standing(arrival)
            else:
                answer = self._claim_unrun(arrival, fault, message, sha256(arrival.envelope))
        except StoreCorrupt:  # nothing can be recorded any more
            answer = Dropped(reason="unknown")
        match answer:
            case Claimed():
                self._park_unrun(arrival, answer, fault, message)
                return refused_for(fault, message)
            case Dropped(reason="unknown"):
                self.discard(arrival, fault)
                return refused_for(fault, message)
            case Dropped(reason="altered"):
                self.discard(arrival, fault)
        return Drop(reason=answer.reason)

    def give_back(self, arrival: Arrival, fault: NewerMessage) -> Refusal:
        """Have a hop that only a newer version can read sent again after a while, without an attempt spent.

        One that the store does not know is put back on its queue. Any other message with its id is refused.
        """
        if is_misaddressed(arrival, None) or not isinstance(arrival.envelope, str):
            return self.refuse(arrival, fault, None)
        try:
            answer = self._claim_unrun(arrival, fault, None, sha256(arrival.envelope))
            if isinstance(answer, Claimed):
                closing = self._claims.closing_of(arrival, answer)
                text = f"given back by {in_words(closing.owner)}: {fault.detail}"
                self._store.give_back(closing, flow.Failure(step_id=None, error_class=fault.reason, text=text))
                log_given_back(arrival, fault)
                return GIVEN_BACK
        except StoreCorrupt:
            return self.refuse(arrival, fault, None)
        except HopUnknown:  # the store has lost its data since the claim
            answer = Dropped(reason="unknown")
        match answer:
            case Dropped(reason="unknown") if put_back(arrival, self._outbox):
                log_given_back(arrival, fault)
                return PUT_BACK
            case Dropped(reason="unknown" | "altered"):
                return self.refuse(arrival, fault, None)
        return Drop(reason=answer.reason)

    def set_aside(self, record: HopRecord, fault: MessageError) -> bool:
        """Park the workflow of a recorded hop that can never be sent; False if somebody runs it all the same."""
        try:
            message: PaigeantMessage | None = reread(record.envelope)
        except MessageError:
            message = None
        activity = message.step.activity if message is not None else ""
        arrival = Arrival(hop_id=record.hop_id, activity=activity, envelope=record.envelope, queue=record.queue)
        answer = self._claims.claim(arrival, message, digest=record.digest, max_attempts=MAX_ATTEMPTS)
        if not isinstance(answer, Claimed):
            return False
        self._park_unrun(arrival, answer, fault, message)
        return True

    def refuse_unread(self, arrival: Arrival, fault: MessageError) -> None:
        """Keep a dead letter, and park the workflow if the recorded envelope is too large as well.

        A process with another limit recorded it then, and no delivery of it could ever be run.
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
        """Log and keep what may be told about a message that cannot be run."""
        log_refusal(arrival, fault)
        with suppress(StoreCorrupt):  # the log already says what is wrong with the message
            self._store.bury(letter_of(arrival, fault, worker=self._owner(), cause=_cause(fault)))
            letter_kept(fault.reason)

    def _standing(self, arrival: Arrival) -> Dropped:
        """Say how to treat a message that is not the hop's own: as `altered` if its workflow is known."""
        ids = split_hop_id(arrival.hop_id)
        known = ids is not None and self._store.workflow(ids[0]) is not None
        return Dropped(reason="altered" if known else "unknown")

    def _claim_unrun(
        self, arrival: Arrival, fault: MessageError, message: PaigeantMessage | None, digest: str
    ) -> ClaimAnswer:
        """Claim a hop only to park it; an unknown workflow is adopted first if its agent may still be loaded somewhere.

        With any other fault there is only a dead letter, which expires; a parked hop stays until a person ends it.
        """
        if split_hop_id(arrival.hop_id) is None:
            return Dropped(reason="unknown")
        answer = self._claims.claim(arrival, message, digest=digest, max_attempts=MAX_ATTEMPTS)
        own = message is not None and message.message_id == arrival.hop_id
        if answer == Dropped(reason="unknown") and message is not None and own and fault.reason == "unknown_agent":
            with suppress(MessageError):  # it is too old or asks for no step
                self._claims.adopt(arrival, message, begun=arrival.attempt - 1)
                answer = self._claims.claim(arrival, message, digest=digest, max_attempts=MAX_ATTEMPTS)
        return answer

    def _claim_too_large(self, arrival: Arrival) -> Claimed | None:
        ids = split_hop_id(arrival.hop_id)
        record = self._store.hop(arrival.hop_id) if ids is not None else None
        if record is None:
            return None
        if len(record.envelope.encode()) <= self._settings.max_message_size:
            return None
        answer = self._claims.claim(arrival, None, digest=sha256(record.envelope), max_attempts=MAX_ATTEMPTS)
        return answer if isinstance(answer, Claimed) else None

    def _park_unrun(
        self, arrival: Arrival, claimed: Claimed, fault: MessageError, message: PaigeantMessage | None
    ) -> None:
        log_refusal(arrival, fault)
        parked = flow.decide_refusal(flow.Unrunnable(message=message, reason=fault.reason, text=fault.detail))
        failure = replace(parked.failure, cause=_cause(fault))
        letter = letter_of(arrival, fault, worker=self._owner(), cause=failure.cause)
        with suppress(StoreCorrupt):
            try:
                closed = self._store.park(self._claims.closing_of(arrival, claimed), failure, letter)
            except HopUnknown:  # the store lost its data since the claim
                self._store.bury(letter)
            else:
                send_on(self._outbox, closed.hops if closed is not None else ())
            letter_kept(letter.reason)


def put_back(arrival: Arrival, outbox: Outbox) -> bool:
    """Put a message that cannot be read here at the end of its queue; False if that was done often enough."""
    if arrival.given_back >= MOST_PUT_BACK:
        return False
    outbox.begin_unread(
        arrival.hop_id, arrival.activity, arrival.queue, str(arrival.envelope),
        attempt=arrival.attempt, given_back=arrival.given_back + 1,
    ).wait()  # fmt: skip
    return True


def refused_for(fault: MessageError, message: PaigeantMessage | None) -> Refused:
    """Return the answer to a message that cannot be run."""
    path = message.path if message is not None and message.slip.next_step is not None else ""
    return Refused(reason=fault.reason, step_id=path)


def _cause(fault: MessageError) -> Cause | None:
    """Return what raised the error behind a fault, for example a validator; our own frames alone say nothing."""
    return cause_of(fault.__cause__) if fault.__cause__ is not None else None


def log_refusal(arrival: Arrival, fault: MessageError) -> None:
    """Log what may be told about a message that cannot be run."""
    fields = refusal_of(arrival, fault)
    logger.error(
        "message refused: %s (hop %s, %d bytes, sha256 %s)%s",
        fault, fields["hop"], fields["size"], fields["sha256"], traced(_cause(fault)),
        extra={"action": "message_refused", **fields},
    )  # fmt: skip


def log_given_back(arrival: Arrival, fault: NewerMessage) -> None:
    """Log that a message is left to newer workers."""
    logger.warning(
        "hop %s is left to newer workers; if there are none, start one of the version that sent it: %s",
        arrival.hop_id[:300], fault,
        extra={"action": "hop_left_to_newer", "hop": arrival.hop_id[:300]},
    )  # fmt: skip
