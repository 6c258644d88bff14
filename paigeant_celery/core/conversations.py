"""Conversations: message histories that steps share. What is known of them without an agent library."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from paigeant_celery.core.errors import MessageError, NewerMessage
from paigeant_celery.core.message import PaigeantMessage
from paigeant_celery.core.slip import ActivitySpec, ExecutedStep, Step

__all__ = ["FORMAT", "ConversationKey", "batches_in", "check_kept", "conversation_of", "messages_in", "names_of"]

FORMAT = 1  # of a batch; increased when older versions could not read it
_BEGINNING = re.compile(r'\{"v":([0-9]{1,9})[,}]')


@dataclass(frozen=True)
class ConversationKey:
    """A conversation: by its name in one workflow, or by its id, if `workflow` is None."""

    name: str
    workflow: str | None = None

    @property
    def id(self) -> str:
        """What its messages carry as their `conversation_id`."""
        return self.name if self.workflow is None else f"{self.workflow}:{self.name}"


def conversation_of(message: PaigeantMessage, part: Step | ExecutedStep | None = None) -> ConversationKey | None:
    """Return the conversation of a step of a workflow, by default of the one to run; None if it has none."""
    part = part if part is not None else message.slip.next_step
    if not isinstance(part, (ActivitySpec, ExecutedStep)):
        return None
    if part.conversation_id is not None:
        return ConversationKey(part.conversation_id)
    return ConversationKey(part.conversation, message.correlation_id) if part.conversation is not None else None


def names_of(step: Step) -> tuple[str | None, str | None]:
    """Return the name and the id of the conversation that a step gives."""
    return (step.conversation, step.conversation_id) if isinstance(step, ActivitySpec) else (None, None)


def batches_in(text: str) -> tuple[str, ...]:
    """Return what each step added to a history: one line for each.

    Raises `NewerMessage` if only a newer version can read one of them.
    """
    batches = tuple(text.split("\n")[:-1])
    for batch in batches:
        found = _BEGINNING.match(batch)
        if found is not None and int(found[1]) > FORMAT:
            said = f"the history of its conversation has format {found[1]}, and this version reads {FORMAT}"
            raise NewerMessage("newer_version", "", said)
    return batches


def messages_in(batches: Iterable[str]) -> list[JsonValue]:
    """Return the messages of a history as JSON."""
    return [message for batch in batches for message in json.loads(batch)["messages"]]


def check_kept(message: PaigeantMessage, batches: Sequence[str] = ()) -> None:
    """Raise `MessageError` (`conversation_lost`) if a history lacks what earlier steps of the workflow said in it."""
    key = conversation_of(message)
    spoken = sum(conversation_of(message, record) == key for record in message.slip.executed)
    if key is not None and message.slip.earlier is not None:
        spoken += message.slip.earlier.spoken.get(f"{'id' if key.workflow is None else 'name'}:{key.name}", 0)
    if key is not None and len(batches) < spoken:
        text = f"the store has lost what {spoken} earlier steps said in it; dispatch the workflow again"
        raise MessageError("conversation_lost", "slip.itinerary[0].conversation", text)
