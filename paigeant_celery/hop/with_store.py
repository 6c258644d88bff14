"""What is done about a hop if there is a store: it is claimed there, recorded, sent on, or set aside."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial

from paigeant_celery.broker.metrics import letter_kept
from paigeant_celery.broker.outbox import Outbox
from paigeant_celery.core.causes import cause_of
from paigeant_celery.core.conversations import batches_in, check_kept, conversation_of
from paigeant_celery.core.errors import (
    HopUnknown,
    MessageError,
    NewerMessage,
    StoreCorrupt,
    TransientError,
)
from paigeant_celery.core.flow import Advance, Arrive, Failure, Finish, Stands
from paigeant_celery.core.forks import as_asked
from paigeant_celery.core.hops import ENDED
from paigeant_celery.core.manifests import BranchEnd
from paigeant_celery.core.message import PaigeantMessage, sha256
from paigeant_celery.core.names import MAX_ATTEMPTS, blocks_above
from paigeant_celery.core.pages import name_of_page, next_page
from paigeant_celery.core.settings import Settings
from paigeant_celery.core.slip import ExecutedStep, RoutingSlip
from paigeant_celery.core.steps import BlockSpec
from paigeant_celery.hop import ended
from paigeant_celery.hop.claims import Claims, is_limited, used_by_step
from paigeant_celery.hop.copies import Copies, following_hop
from paigeant_celery.hop.effects import ClosedAs, Drop, Effects, Refusal, Summary, summary_of
from paigeant_celery.hop.ended import Ended
from paigeant_celery.hop.failures import log_failure, traced
from paigeant_celery.hop.guard import Arrival
from paigeant_celery.hop.lateness import Lateness
from paigeant_celery.hop.letters import letter_of, parked_fault
from paigeant_celery.hop.refuse import Refusals
from paigeant_celery.hop.run import Opened, Outcome, clock_of
from paigeant_celery.hop.sending import send_on
from paigeant_celery.hop.step_blocks import StepBlocks
from paigeant_celery.hop.sweeper import Sweeper
from paigeant_celery.journal.event_feed import EventFeed
from paigeant_celery.journal.hop_journal import MAX_RECORD, OUTCOME, HopJournal
from paigeant_celery.journal.hop_waits import HopWaits
from paigeant_celery.journal.pieces import whole
from paigeant_celery.journal.record import newer_part
from paigeant_celery.journal.told import told_before
from paigeant_celery.store.outputs import Outputs, brought_with_claim
from paigeant_celery.store.pages import with_next_page
from paigeant_celery.store.port import (
    ClaimAnswer,
    Claimed,
    Closed,
    Closing,
    Completion,
    Dropped,
    HopRecord,
    Said,
    Standing,
    Store,
)
from paigeant_celery.store.steps import step_at

__all__ = ["RecordedEffects"]

logger = logging.getLogger(__name__)


class RecordedEffects(Effects):
    """Effects with a store, which decides who may run a hop and keeps the outcome."""

    def __init__(
        self,
        *,
        store: Store,
        outbox: Outbox,
        settings: Settings,
        owner: Callable[[], str],
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._store, self._outbox, self._owner, self._stopping = store, outbox, owner, stopping
        self._outputs = Outputs(settings, store)
        self._copies = Copies(store)
        self._settings = settings
        self._claims = Claims(store=store, outbox=outbox, settings=settings, owner=owner)
        self._refusals = Refusals(store=store, claims=self._claims, outbox=outbox, settings=settings, owner=owner)
        lateness = Lateness(store=store, claims=self._claims, outbox=outbox, settings=settings)
        self._sweeper = Sweeper(store=store, outbox=outbox, set_aside=self._refusals.set_aside, end_late=lateness.end)

    @property
    def drops_copies(self) -> bool:
        """They are, because the hop is claimed once."""
        return True

    @property
    def outputs(self) -> Outputs:
        """Outputs; the large ones stay in the store."""
        return self._outputs

    @property
    def keeps_records(self) -> bool:
        """They may leave it, because the store keeps them."""
        return True

    @property
    def most_kept(self) -> int:
        """As much as is recorded of a call, or else whatever may be recorded of a step."""
        # What is beside an output fits into an envelope.
        return max(MAX_RECORD, self._settings.max_output_size + self._settings.max_message_size)

    def claim(self, arrival: Arrival, message: PaigeantMessage, *, max_attempts: int, timeout: float) -> ClaimAnswer:
        """Claim the hop. A workflow that the store does not know is adopted if its message is recent enough."""
        answer = self._claimed(arrival, message, max_attempts=max_attempts, timeout=timeout)
        if answer == Dropped(reason="unknown"):
            answer = self._adopted(
                arrival, message, begun=arrival.attempt - 1, max_attempts=max_attempts, timeout=timeout
            )
            answer = replace(answer, created_at=None) if isinstance(answer, Claimed) else answer
        match answer:
            case Dropped(reason="unknown"):
                text = "the store knows its workflow, but has no hop of it at this place"
                raise MessageError("inconsistent_slip", "message_id", text)
            case Dropped(reason="altered"):
                text = "the envelope differs from the one that was recorded when it was sent"
                raise MessageError("inconsistent_slip", "", text)
            case Dropped(reason="finished"):
                self._resend_successor(arrival.hop_id)
        return answer

    def _adopted(
        self, arrival: Arrival, message: PaigeantMessage, *, begun: int, max_attempts: int, timeout: float = 0.0
    ) -> ClaimAnswer:
        """Adopt a workflow from the message of its hop, and claim the hop."""
        adopted = self._claims.adopt(arrival, message, begun=begun)
        answer = self._claimed(arrival, message, max_attempts=max_attempts, timeout=timeout)
        if adopted is not None and answer == Dropped(reason="unknown"):
            raise HopUnknown(arrival.hop_id)  # the store has just lost its data once more
        return answer

    def _claimed(self, arrival: Arrival, message: PaigeantMessage, *, max_attempts: int, timeout: float) -> ClaimAnswer:
        return self._claims.claim(
            arrival,
            message,
            digest=sha256(str(arrival.envelope)),
            max_attempts=max_attempts,
            timeout=timeout,
            wanted=brought_with_claim(message),
        )

    def dropped(self, hop_id: str, drop: Dropped | Drop) -> Drop:
        """Return the answer to a copy, with how its hop stands if nobody runs it."""
        return self._copies.answer(hop_id, drop.reason)

    def regain(self, arrival: Arrival, hop: Opened, *, ended: bool) -> Opened | Drop:
        """Adopt the workflow from the message of its hop, and claim the hop again or send its message."""
        attempt = hop.claimed.attempt
        if not ended:
            if (record := self._claims.adopt(arrival, hop.message, begun=attempt)) is not None:
                # The message counts the attempts, because the store may lose the record once more.
                send_on(self._outbox, [record], message=hop.message, attempt=min(attempt + 1, MAX_ATTEMPTS))
            return Drop(reason="unknown")
        answer = self._adopted(arrival, hop.message, begun=attempt - 1, max_attempts=MAX_ATTEMPTS)
        if isinstance(answer, Dropped):
            return Drop(reason=answer.reason)
        closing = self._claims.closing_of(arrival, answer)
        return replace(hop, closing=closing, journal=self.journal_of(hop.message, answer, closing))

    def is_cancelled(self, hop: Opened) -> bool:
        """Say whether a workflow was cancelled. A renewal tells that from a hop that is unknown or taken over."""
        closing = hop.closing
        answer = self._store.renew(closing.owner, {closing.hop_id: closing.fence}, touchable=None)
        if closing.hop_id in answer.unknown:
            raise HopUnknown(closing.hop_id)
        return closing.hop_id in answer.cancelled

    def is_called_off(self, hop: Opened) -> bool:
        """Say whether a workflow was cancelled, or a block above the hop has ended, from their records alone."""
        record = self._store.workflow(hop.message.correlation_id)
        if record is None or record.state == "cancelled":
            return record is not None
        return any(self._has_ended(above) for above in blocks_above(hop.closing.hop_id))

    def _has_ended(self, hop_id: str) -> bool:
        reading = self._store.hop(hop_id)
        return reading is not None and reading.state in ENDED

    def journal_left(self, hop_id: str) -> Mapping[str, str]:
        """Read it from the store."""
        try:
            return whole(self._store.journal(hop_id))
        except (StoreCorrupt, KeyError, ValueError):  # it is damaged
            return {}

    def closing_of(self, arrival: Arrival, claimed: Claimed) -> Closing:
        """Return the owner and fence without which the store accepts nothing."""
        return self._claims.closing_of(arrival, claimed)

    def with_next_page(self, message: PaigeantMessage, claimed: Claimed) -> PaigeantMessage:
        """Open the next page of the itinerary, if the step is the last of this one; the claim has brought it."""
        later = next_page(message.slip)
        if later is None or claimed.exhausted:
            return message
        return with_next_page(self._store, message, brought=claimed.brought.get(name_of_page(later.page)))

    def journal_of(self, message: PaigeantMessage, claimed: Claimed, closing: Closing) -> HopJournal | None:
        """Return the journal with what earlier attempts recorded; None for a hop that is not run again.

        Raises `NewerMessage` if a newer version recorded some of it.
        """
        if claimed.exhausted:
            return None
        # The first claim of a hop would find nothing, so it does not ask.
        records = whole(self._store.journal(closing.hop_id)) if claimed.fence > 1 else {}
        newer = newer_part(records) or (ended.newer_part(records[OUTCOME]) if OUTCOME in records else None)
        if newer is not None:
            raise NewerMessage("newer_version", "", newer)
        journal = HopJournal(
            store=self._store,
            closing=closing,
            step_id=message.step.step_id or "",
            records=records,
            waits=HopWaits(store=self._store, closing=closing, known=claimed.waits, now=clock_of(claimed)),
            stopping=self._stopping,
            totals=claimed.totals,
        )
        if message.stream:
            send = partial(self._store.publish, closing)
            told = told_before(self._store, closing.hop_id) if claimed.fence > 1 else None
            journal.feed = EventFeed(send, attempt=claimed.attempt, told=told, overtaken=journal.lose)
        return journal

    def step_at(self, slip: RoutingSlip, correlation_id: str, path: str) -> ExecutedStep:
        """Return the record of a step that ran, also of one around the branch or in the branches of a block."""
        return step_at(self._store, correlation_id, slip, path)

    def blocks_of(self, hop: Opened) -> StepBlocks | None:
        """Return what opens and joins the branches of a block."""
        if hop.journal is None or not isinstance(hop.message.step, BlockSpec):
            return None
        return StepBlocks(
            store=self._store,
            outbox=self._outbox,
            settings=self._settings,
            message=hop.message,
            closing=hop.closing,
            journal=hop.journal,
        )

    def history_of(self, message: PaigeantMessage, claimed: Claimed) -> tuple[str, ...]:
        """Read it from the store. A step without a conversation, or with a new one, costs no call."""
        key, heard = conversation_of(message), claimed.heard
        if key is None or heard is None or claimed.exhausted:
            return ()
        if heard.size > (most := self._settings.max_conversation_size):
            text = f"its {heard.size} bytes exceed `paigeant_max_conversation_size` ({most}); raise it, and redrive"
            raise MessageError("conversation_too_large", "slip.itinerary[0].conversation", text)
        history = self._store.conversation(key, heard) if heard.pieces else ""
        if history is None:
            text = (
                "its history was kept for `paigeant_result_ttl` after its last step, and has expired or was lost; "
                "`redrive(discard_journal=True)` begins the step again with what there is now"
            )
            raise MessageError("conversation_lost", "slip.itinerary[0].conversation", text)
        batches = batches_in(history)
        check_kept(message, batches)
        return batches

    def release(self, hop: Opened) -> bool:
        """Queue the hop again without counting the attempt; the next sweep of any worker sends its message.

        If the store has no record of it any more, only the broker can send it.
        """
        try:
            _write_held(hop)
            self._store.release(hop.closing)
        except HopUnknown:
            return False
        except (TransientError, StoreCorrupt) as error:
            logger.warning(
                "the hop is not given back; it waits until its lease expires: %s", error,
                extra={"action": "hop_given_back", "hop": hop.closing.hop_id},
            )  # fmt: skip
        return True

    def refuse(self, arrival: Arrival, fault: MessageError, message: PaigeantMessage | None) -> Refusal:
        """Park the workflow of a hop whose own message cannot be run; for anything else, keep a dead letter."""
        refusal = self._refusals.refuse(arrival, fault, message)
        return self.dropped(arrival.hop_id, refusal) if isinstance(refusal, Drop) else refusal

    def give_back(self, arrival: Arrival, fault: NewerMessage) -> Refusal:
        """Have the store send the hop again after a while; if it does not know it, put the message back."""
        return self._refusals.give_back(arrival, fault)

    def refuse_unread(self, arrival: Arrival, fault: MessageError) -> None:
        """Keep a dead letter, and park the workflow if its recorded envelope is too large as well."""
        self._refusals.refuse_unread(arrival, fault)

    def discard(self, arrival: Arrival, fault: MessageError) -> None:
        """Log and keep what may be told about a message that cannot be run."""
        self._refusals.discard(arrival, fault)

    def start_sweeping(self, on_outdated: Callable[[], object], served: Callable[[], Iterable[str]] = tuple) -> None:
        """Start sending again what is due or overdue."""
        self._sweeper.start(on_outdated, served)

    @property
    def swept_at(self) -> float | None:
        """When the store answered a sweep last."""
        return self._sweeper.swept_at

    @property
    def sweep_failure(self) -> str:
        """What the last sweep failed with."""
        return self._sweeper.failure

    def stop_sweeping(self) -> None:
        """Stop sending it, and leave that to other workers."""
        self._sweeper.stop()

    def _advance(self, hop: Opened, decision: Advance, outcome: Outcome) -> Summary:
        """Record the output and the next hop in one step, then send that hop's message."""
        next_hop = self._outbox.record_of(decision.message, decision.envelope)
        if not self._complete(hop, decision, next_hop, outcome):
            return _overtaken(hop)
        # A crash before this line leaves the next hop recorded but not sent; a sweep sends it.
        send_on(self._outbox, [next_hop], message=decision.message)
        return summary_of(hop, ClosedAs.COMPLETED, next_hop=next_hop.hop_id)

    def _finish(self, hop: Opened, decision: Finish, outcome: Outcome) -> Summary:
        """Record the last output and, with it, the end of the workflow."""
        if not self._complete(hop, decision, None, outcome):
            return _overtaken(hop)
        return summary_of(hop, ClosedAs.WORKFLOW_COMPLETED)

    def _arrive(self, hop: Opened, decision: Arrive, outcome: Outcome) -> Summary:
        """Record the last output of a branch and how it ended, and send what goes on with that."""
        closed = self._complete(hop, decision, None, outcome)
        if closed is None:
            return _overtaken(hop)
        send_on(self._outbox, closed.hops)  # a crash before this line leaves it to a sweep
        return summary_of(hop, ClosedAs.BRANCH_COMPLETED)

    def _fail(self, hop: Opened, failure: Failure, end: BranchEnd | None) -> Summary:
        """Record that the hop failed and, with it, the workflow, or its branch."""
        with suppress(StoreCorrupt):
            _write_held(hop)
        with suppress(StoreCorrupt):  # the hop failed; if its record cannot say so, the log does
            closed = self._store.fail(hop.closing, failure, end=end.encode() if end is not None else "")
            if closed is None:
                return _overtaken(hop, failure)
            send_on(self._outbox, closed.hops)  # a crash before this line leaves it to a sweep
        whose = "the workflow" if end is None else "its branch"
        log_failure(logging.ERROR, "hop_failed", hop, failure, f"{whose} has failed")
        return summary_of(hop, ClosedAs.FAILED, failure=failure)

    def _retry(self, hop: Opened, failure: Failure, delay: float) -> Summary:
        """Record that the attempt failed; a sweep sends the hop again after `delay` seconds."""
        _write_held(hop)
        if not self._store.retry_at(hop.closing, failure, delay=delay):
            return _overtaken(hop, failure)
        log_failure(logging.WARNING, "hop_retried", hop, failure, f"it is tried again in {delay:.1f} s")
        return summary_of(hop, ClosedAs.RETRYING, failure=failure, delay=delay)

    def _suspend(self, hop: Opened, stands: Stands) -> Summary:
        """Record what the hop stands at. If some of it has come by now, send the hop on at once."""
        _write_held(hop)
        standing = Standing(
            tokens=stands.tokens,
            wake_at=stands.wake_at,
            names=stands.names,
            quiet=stands.quiet,
            branches=stands.branches,
        )
        suspended = self._store.suspend(hop.closing, standing)
        if suspended is None:
            return _overtaken(hop)
        if suspended.hop is not None:  # a crash before this line leaves it queued but not sent; a sweep sends it
            send_on(self._outbox, [suspended.hop], message=hop.message)
        else:
            logger.info(
                "hop %s waits for %s and holds no worker", hop.closing.hop_id, ", ".join(stands.names) or "a time",
                extra={"action": "hop_suspended", "hop": hop.closing.hop_id},
            )  # fmt: skip
        return summary_of(hop, ClosedAs.SUSPENDED, waits_for=stands.names)

    def _park(self, hop: Opened, failure: Failure, outcome: Outcome) -> Summary:
        """Record that the workflow waits for a person, with a dead letter, and before that what the step gave."""
        with suppress(StoreCorrupt):
            _write_held(hop)
        if outcome.ended is not None:
            # A crash after this line leaves a hop that runs again, and goes on from what is kept.
            failure = replace(failure, text=f"{failure.text}; {self._keep(hop, outcome.ended)}")
        letter = letter_of(*parked_fault(hop, failure), worker=self._owner(), cause=failure.cause)
        with suppress(StoreCorrupt):  # if its record cannot say so, the log does
            closed = self._store.park(hop.closing, failure, letter)
            if closed is None:
                return _overtaken(hop, failure)
            send_on(self._outbox, closed.hops)  # a crash before this line leaves it to a sweep
        letter_kept(letter.reason)
        log_failure(logging.ERROR, "hop_parked", hop, failure, "it is parked and waits for a person")
        return summary_of(hop, ClosedAs.PARKED, failure=failure)

    def _keep(self, hop: Opened, ended: Ended) -> str:
        """Keep what the step gave, and say what a redrive will do."""
        try:
            text = ended.encode()
            if len(text) > self.most_kept:
                return f"more than {self.most_kept} characters are not kept, so a redrive runs the step again"
            assert hop.journal is not None
            hop.journal.keep(text)
        except (TransientError, HopUnknown):
            raise
        except Exception as error:  # noqa: BLE001 - the failure says so
            logger.error(
                "what the step of hop %s gave is not kept%s", hop.closing.hop_id, traced(cause_of(error)),
                extra={"action": "close_failed", "hop": hop.closing.hop_id},
            )  # fmt: skip
            return "what the step gave could not be kept, so a redrive runs it again"
        return "what the step gave is kept, so a redrive goes on from there without a call"

    def _resend_successor(self, hop_id: str) -> None:
        # Covers a crash after a hop is recorded and before the next one is published: the broker delivers the
        # finished hop again, and its successor still waits for its first message.
        following = self._store.hop(following_hop(hop_id))
        if following is not None and following.state == "queued":
            send_on(self._outbox, [following.to_send()])

    def _complete(
        self, hop: Opened, decision: Advance | Finish | Arrive, next_hop: HopRecord | None, outcome: Outcome
    ) -> Closed | None:
        own = hop.message.slip.name_in_store(hop.message.step.step_id or "")
        blobs = {**decision.far, **as_asked(hop.message.slip)}
        if outcome.blob is not None:
            blobs[own] = outcome.blob
        key = conversation_of(hop.message)
        held = hop.journal.held if hop.journal is not None else {}
        done = self._store.complete(
            Completion(
                closing=hop.closing,
                envelope="" if isinstance(decision, Arrive) else decision.envelope,
                end=decision.end.encode() if isinstance(decision, Arrive) else "",
                next_hop=next_hop,
                step=hop.message.path,
                blobs=blobs,
                notes=outcome.notes,
                said=Said(conversation=key, text=outcome.said) if key is not None and outcome.said else None,
                records=held,
                used=used_by_step(hop.message, outcome.event) if is_limited(hop.message) else None,
            )
        )
        if hop.journal is not None:
            hop.journal.let_go(held)
        return done


def _write_held(hop: Opened) -> None:
    """Write the last answer of a step that is not completed now, so that its next attempt does not ask for it again."""
    if hop.journal is not None:
        hop.journal.write_held_now()


def _overtaken(hop: Opened, failure: Failure | None = None) -> Summary:
    if failure is not None:
        log_failure(logging.WARNING, "hop_overtaken", hop, failure, "another owner took it over, and this is discarded")
    else:
        logger.warning(
            "another owner took over the hop; this run's output is discarded",
            extra={"action": "hop_overtaken", "hop": hop.closing.hop_id},
        )
    return summary_of(hop, ClosedAs.OVERTAKEN)
