"""The files in a message's prompts: which only the store holds, and the message without those that must not travel."""

from __future__ import annotations

from collections.abc import Iterator

from paigeant_celery.core.content import Prompt, StoredApart, has_files, stored_in
from paigeant_celery.core.message import PaigeantMessage
from paigeant_celery.core.slip import ActivitySpec, Step

__all__ = ["carries_files", "first_stored", "with_files_apart"]


def first_stored(message: PaigeantMessage) -> str | None:
    """Return the path of the first prompt of which something is only in the store, or None."""
    return next((path for path, prompt in _prompts_in(message) if any(stored_in(prompt))), None)


def carries_files(message: PaigeantMessage) -> bool:
    """Say whether a message has files that travel in it."""
    return any(has_files(prompt) for _, prompt in _prompts_in(message))


def with_files_apart(message: PaigeantMessage, storing: StoredApart) -> PaigeantMessage:
    """Return the message to send; `storing` takes the files that must not travel.

    Raises `InvalidInput` (`too_large`) with the path of a part that is too large even for the store.
    """
    steps = tuple(_apart(step, path, storing) for path, step in _steps_in(message))
    ahead = len(message.slip.itinerary)
    offered = zip(message.registered_activities, steps[ahead:], strict=True)
    return message.model_copy(
        update={
            "slip": message.slip.model_copy(update={"itinerary": steps[:ahead]}),
            "registered_activities": tuple(entry.model_copy(update={"step": step}) for entry, step in offered),
        }
    )


def _apart(step: Step, path: str, storing: StoredApart) -> Step:
    if not isinstance(step, ActivitySpec) or isinstance(step.prompt, str):
        return step
    return step.model_copy(update={"prompt": storing.taken(step.prompt, path=f"{path}.prompt")})


def _prompts_in(message: PaigeantMessage) -> Iterator[tuple[str, Prompt]]:
    for path, step in _steps_in(message):
        if isinstance(step, ActivitySpec):
            yield f"{path}.prompt", step.prompt


def _steps_in(message: PaigeantMessage) -> Iterator[tuple[str, Step]]:
    """Yield the steps ahead and those that may be inserted, each with its path."""
    for index, step in enumerate(message.slip.itinerary):
        yield f"slip.itinerary[{index}]", step
    for index, entry in enumerate(message.registered_activities):
        yield f"registered_activities[{index}].step", entry.step
