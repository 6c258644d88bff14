"""The beginning of a fork: what it takes over of the original, and how it is sent, whoever gave its steps."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from paigeant_celery.broker.port import Transport
from paigeant_celery.broker.tracing import current_trace
from paigeant_celery.client.beginning import Beginning
from paigeant_celery.client.checks import (
    check_blocks,
    check_deadline,
    check_queues,
    checked_correlation_id,
    checked_envelope,
    files_apart,
)
from paigeant_celery.client.copied import StepsBefore, said_before
from paigeant_celery.core.errors import InvalidInput
from paigeant_celery.core.files import stored_files
from paigeant_celery.core.forks import folded_whole, unspent
from paigeant_celery.core.jsonable import dumps
from paigeant_celery.core.message import PaigeantMessage, content_digest, reread, sha256
from paigeant_celery.core.names import hop_id
from paigeant_celery.core.slip import ExecutedStep, RoutingSlip, Step
from paigeant_celery.core.steps import check_unique
from paigeant_celery.store.earlier import executed_of
from paigeant_celery.store.pages import all_opened
from paigeant_celery.store.port import Store, WorkflowOrigin, WorkflowRecord

__all__ = ["NewFork", "Original"]


@dataclass(frozen=True, kw_only=True)
class Original:
    """A workflow that others begin from: its message with all steps to come, and the records of those that ran."""

    store: Store
    transport: Transport
    record: WorkflowRecord
    message: PaigeantMessage
    ran: Sequence[ExecutedStep]

    @classmethod
    def read(cls, store: Store, transport: Transport, record: WorkflowRecord) -> Original:
        """Return a workflow as it is now. Raises `StoreCorrupt`."""
        message = all_opened(store, reread(record.envelope))
        ran = executed_of(store, record.correlation_id, message.slip)
        return cls(store=store, transport=transport, record=record, message=message, ran=ran)

    @property
    def step_ids(self) -> list[str]:
        """The ids of all its steps."""
        return [*(record.step_id for record in self.ran), *(step.step_id or "" for step in self.message.slip.itinerary)]

    def number_before(self, from_step: str) -> int:
        """Return how many steps are before the one at which a fork begins; raises `InvalidInput` if it cannot."""
        if not isinstance(from_step, str) or not from_step:
            raise InvalidInput("unknown_path", "from_step", "must be the id of a step")
        ids = self.step_ids
        if "/" in from_step:
            block = from_step.partition("/")[0]
            text = f"{from_step[:64]!r} is in a branch; a fork begins on the workflow's own slip: fork at {block!r}"
            raise InvalidInput("unknown_path", "from_step", text)
        if from_step not in ids:
            close = difflib.get_close_matches(from_step, ids, n=3)
            hint = f"did you mean {' or '.join(map(repr, close))}?" if close else f"there are {ids[:20]}"
            raise InvalidInput("unknown_path", "from_step", f"there is no step {from_step[:64]!r}; {hint}")
        number = ids.index(from_step)
        if number > len(self.ran):
            current = ids[len(self.ran)]
            text = f"{current!r} comes before {from_step!r} and has not ended; fork at {current!r}, or wait"
            raise InvalidInput("not_begun", "from_step", text)
        return number


@dataclass(frozen=True, kw_only=True)
class NewFork:
    """A fork as its caller wants it: its steps are checked, and come after the first `number` ones of the original."""

    from_step: str
    number: int
    steps: tuple[Step, ...]
    correlation_id: str | None
    deadline: datetime | None

    def of(self, original: Original) -> Beginning:
        """Return its beginning. Raises `InvalidInput` for what no worker would take, and `StoreCorrupt`."""
        correlation_id, now = checked_correlation_id(self.correlation_id), datetime.now(UTC)
        check_deadline(self.deadline, now)
        transport, whole = original.transport, original.message
        before = original.ran[: self.number]
        earlier = [record.step_id for record in before]
        check_unique([*earlier, *(step.step_id or "" for step in self.steps)])
        check_blocks(self.steps, "itinerary", earlier, transport.settings.max_branches)
        slip = RoutingSlip(itinerary=self.steps, executed=unspent(before))
        message = PaigeantMessage(
            message_id=hop_id(correlation_id, slip.place),
            correlation_id=correlation_id,
            created_at=now,
            sent_at=now,
            deadline=self.deadline,
            trace_context=current_trace(),
            variables=whole.variables,
            slip=slip,
            registered_activities=whole.registered_activities,
            stream=whole.stream,
            usage_limits=whole.usage_limits,
        )
        check_queues(message, transport)
        taken = StepsBefore(original.store, whole.correlation_id, before)
        copied = [*taken.names, *stored_files(message)]
        content = self._content(original.record, message)
        message, blobs = files_apart(message, transport)
        message, far = _short(message, transport)
        return Beginning(
            transport=transport,
            message=message,
            envelope=checked_envelope(message, transport),
            blobs={**blobs, **far},
            content=content,
            origin=WorkflowOrigin(workflow=whole.correlation_id, step=self.from_step, place=str(self.number)),
            traced=whole.trace_context,
            copied=list(dict.fromkeys(copied)),
            said=said_before(
                original.store, whole.correlation_id, taken.conversations, self.number, fork=correlation_id
            ),
        )

    def _content(self, record: WorkflowRecord, message: PaigeantMessage) -> str:
        """Return a digest of what the caller asked for; the same while the original goes on."""
        asked = content_digest(message, notation="json")
        return sha256(dumps(["fork", record.correlation_id, record.content, self.from_step, asked]))


def _short(message: PaigeantMessage, transport: Transport) -> tuple[PaigeantMessage, dict[str, str]]:
    """Return the message without what need not travel of a long slip, and that."""
    slip, far = folded_whole(message.slip, most=transport.settings.inline_log_size)
    return message.model_copy(update={"slip": slip}), dict(far)
