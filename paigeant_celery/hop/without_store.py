"""Effects without a store: there is only the message, and the queue of dead letters keeps what cannot go on.

A hop runs as often as the broker delivers it. What an attempt needs to know about earlier attempts travels beside
the envelope.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from paigeant_celery.broker.metrics import letter_kept
from paigeant_celery.broker.outbox import Outbox
from paigeant_celery.broker.port import Letters
from paigeant_celery.core.conversations import conversation_of
from paigeant_celery.core.errors import MessageError, NewerMessage
from paigeant_celery.core.flow import Advance, Arrive, Failure, Finish, Stands
from paigeant_celery.core.flow_steps import FlowStep
from paigeant_celery.core.hops import Hop, count_attempt
from paigeant_celery.core.manifests import BranchEnd
from paigeant_celery.core.message import PaigeantMessage, encode, reread
from paigeant_celery.core.pages import next_page
from paigeant_celery.core.settings import Settings
from paigeant_celery.core.steps import BlockSpec
from paigeant_celery.hop.effects import PUT_BACK, ClosedAs, Effects, Refusal, Refused, Summary, summary_of
from paigeant_celery.hop.failures import log_failure
from paigeant_celery.hop.guard import Arrival
from paigeant_celery.hop.letters import letter_of, parked_fault
from paigeant_celery.hop.refuse import log_given_back, log_refusal, put_back, refused_for
from paigeant_celery.hop.run import Opened, Outcome
from paigeant_celery.store.outputs import Outputs
from paigeant_celery.store.port import Claimed, Closing

__all__ = ["MessageOnlyEffects"]


class MessageOnlyEffects(Effects):
    """What the broker alone can do: send the next hop, send this one again, or set it aside on a separate queue."""

    def __init__(self, *, outbox: Outbox, letters: Letters, settings: Settings, worker: Callable[[], str]) -> None:
        self._outbox, self._letters, self._worker = outbox, letters, worker
        self._outputs = Outputs(settings)

    @property
    def drops_copies(self) -> bool:
        """They are not, because nobody remembers the first delivery."""
        return False

    @property
    def outputs(self) -> Outputs:
        """Outputs; all of them travel in the message."""
        return self._outputs

    @property
    def keeps_records(self) -> bool:
        """They may not, because nothing else keeps them."""
        return False

    @property
    def most_kept(self) -> int:
        """None, because nothing keeps them."""
        return 0

    def claim(self, arrival: Arrival, message: PaigeantMessage, *, max_attempts: int, timeout: float) -> Claimed:
        """Let the delivery run, because nobody remembers an earlier one.

        Raises `MessageError` (`store_required`) for a wait, a block, a branch or a step of a conversation, or if the
        steps after it are in a store.
        """
        if next_page(message.slip) is not None:
            text = "the steps after this one are in a store, and this worker has none; set `paigeant_store_url`"
            raise MessageError("store_required", "slip.later", text)
        if message.slip.branch is not None:
            text = "the block of a branch is in a store, and this worker has none; set `paigeant_store_url`"
            raise MessageError("store_required", "slip.branch", text)
        if isinstance(message.step, FlowStep):
            what = "a block" if isinstance(message.step, BlockSpec) else "a wait"
            text = f"{what} is kept in a store, and this worker has none; set `paigeant_store_url`"
            raise MessageError("store_required", "slip.itinerary[0]", text)
        if conversation_of(message) is not None:
            text = "a conversation is kept in a store, and this worker has none; set `paigeant_store_url`"
            raise MessageError("store_required", "slip.itinerary[0].conversation", text)
        begun = min(arrival.attempt - 1, max_attempts)  # as the message says, which may say any number
        hop = count_attempt(Hop(attempt=begun), max_attempts=max_attempts)
        return Claimed(fence=0, attempt=hop.attempt, now=datetime.now(UTC), exhausted=hop.exhausted)

    def closing_of(self, arrival: Arrival, claimed: Claimed) -> Closing:
        """Return a closing with an owner that nobody looks at."""
        return Closing(hop_id=arrival.hop_id, owner="", fence=claimed.fence)

    def journal_of(self, message: PaigeantMessage, claimed: Claimed, closing: Closing) -> None:
        """Return None: a step that runs again makes its calls again."""

    def history_of(self, message: PaigeantMessage, claimed: Claimed) -> tuple[str, ...]:
        """Return nothing: no step here has a conversation."""
        return ()

    def release(self, hop: Opened) -> bool:
        """Return False, because the broker has the message and redelivers it."""
        return False

    def _advance(self, hop: Opened, decision: Advance, outcome: Outcome) -> Summary:
        """Send the next hop. If the process crashes before this message is acknowledged, the step runs again."""
        self._send(decision.message, decision.envelope)
        return summary_of(hop, ClosedAs.COMPLETED, next_hop=decision.message.message_id)

    def _finish(self, hop: Opened, decision: Finish, outcome: Outcome) -> Summary:
        """Do nothing, because without a store the last output is kept only if the last step does so itself."""
        return summary_of(hop, ClosedAs.WORKFLOW_COMPLETED)

    def _fail(self, hop: Opened, failure: Failure, end: BranchEnd | None) -> Summary:
        """Set the hop aside; otherwise nothing would show that it failed."""
        self._set_aside(hop, failure, "hop_failed")
        return summary_of(hop, ClosedAs.FAILED, failure=failure)

    def _arrive(self, hop: Opened, decision: Arrive, outcome: Outcome) -> Summary:
        """Refuse: no branch is run here, because nothing would join it."""
        raise TypeError("only a store can join branches")

    def _retry(self, hop: Opened, failure: Failure, delay: float) -> Summary:
        """Send the hop again at once, because nobody would remember when it is due."""
        attempt = hop.claimed.attempt + 1
        self._send(hop.message, encode(hop.message), attempt=attempt)
        log_failure(logging.WARNING, "hop_retried", hop, failure, "it is sent again")
        return summary_of(hop, ClosedAs.RETRYING, failure=failure, delay=0.0)

    def _suspend(self, hop: Opened, stands: Stands) -> Summary:
        """Refuse: a step here has no waits, because nothing would remember them."""
        raise TypeError("only a store can remember what a step waits for")

    def _park(self, hop: Opened, failure: Failure, outcome: Outcome) -> Summary:
        """Set the hop aside for a person. Nothing keeps what its step gave: it will run again."""
        self._set_aside(hop, failure, "hop_parked")
        return summary_of(hop, ClosedAs.PARKED, failure=failure)

    def refuse(self, arrival: Arrival, fault: MessageError, message: PaigeantMessage | None) -> Refused:
        """Keep a dead letter, with the envelope if it is sound and another worker might run it."""
        log_refusal(arrival, fault)
        self._letters.bury(letter_of(arrival, fault, worker=self._worker()), _sound(arrival))
        letter_kept(fault.reason)
        return refused_for(fault, message)

    def give_back(self, arrival: Arrival, fault: NewerMessage) -> Refusal:
        """Put the message back on its queue, and keep a dead letter of it when that was done often enough."""
        if isinstance(arrival.envelope, str) and put_back(arrival, self._outbox):
            log_given_back(arrival, fault)
            return PUT_BACK
        return self.refuse(arrival, fault, None)

    def discard(self, arrival: Arrival, fault: MessageError) -> None:
        """Keep a dead letter of something that is not a hop's message."""
        self.refuse(arrival, fault, None)

    def refuse_unread(self, arrival: Arrival, fault: MessageError) -> None:
        """Keep a dead letter of a message that is too large to be read."""
        self.discard(arrival, fault)

    def start_sweeping(self, on_outdated: Callable[[], object], served: Callable[[], Iterable[str]] = tuple) -> None:
        """Do nothing, because only the broker knows what waits."""

    def stop_sweeping(self) -> None:
        """Do nothing, because nothing was started."""

    def _send(self, message: PaigeantMessage, envelope: str, *, attempt: int = 1) -> None:
        self._outbox.send(self._outbox.record_of(message, envelope), message=message, attempt=attempt)

    def _set_aside(self, hop: Opened, failure: Failure, action: str) -> None:
        arrival, fault = parked_fault(hop, failure)
        self._letters.bury(letter_of(arrival, fault, worker=self._worker(), cause=failure.cause), str(arrival.envelope))
        letter_kept(fault.reason)
        log_failure(logging.ERROR, action, hop, failure, "it is set aside on the queue of dead letters")


def _sound(arrival: Arrival) -> str | None:
    """Return the envelope of a message that another worker may be able to run, whatever its limits; None for others."""
    if arrival.fault is not None or not isinstance(arrival.envelope, str):
        return None
    try:
        _ = reread(arrival.envelope).step
    except NewerMessage:
        pass
    except MessageError:
        return None
    return arrival.envelope
