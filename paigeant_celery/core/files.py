"""The files in a message's prompts: which only the store holds, and the message without those that must not travel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

from paigeant_celery.core.content import Prompt, StoredApart, blob_of, filled, has_files, stored_in
from paigeant_celery.core.message import PaigeantMessage
from paigeant_celery.core.slip import ActivitySpec, BlockSpec, Step, steps_in

__all__ = ["carries_files", "files_of", "first_stored", "stored_files", "with_files_apart", "with_files_back"]


def first_stored(message: PaigeantMessage) -> str | None:
    """Return the path of the first prompt of which something is only in the store, or None."""
    return next((path for path, prompt in _prompts_in(message) if any(stored_in(prompt))), None)


def carries_files(message: PaigeantMessage) -> bool:
    """Say whether a message has files that travel in it."""
    return any(has_files(prompt) for _, prompt in _prompts_in(message))


def stored_files(message: PaigeantMessage) -> list[str]:
    """Return the names of the files that a message has only in the store."""
    return [blob_of(digest) for _, prompt in _prompts_in(message) for digest in stored_in(prompt)]


def with_files_apart(message: PaigeantMessage, storing: StoredApart) -> PaigeantMessage:
    """Return the message to send; `storing` takes the files that must not travel.

    Raises `InvalidInput` (`too_large`) with the path of a part that is too large even for the store.
    """
    offered = tuple(
        entry.model_copy(update={"step": _apart(entry.step, f"registered_activities[{index}].step", storing)})
        for index, entry in enumerate(message.registered_activities)
    )
    itinerary = _all_apart(message.slip.itinerary, "slip.itinerary", storing)
    slip = message.slip.model_copy(update={"itinerary": itinerary})
    return message.model_copy(update={"slip": slip, "registered_activities": offered})


def files_of(steps: Iterable[Step]) -> set[str]:
    """Return the digests of the files that steps, and those in their branches, have only in the store."""
    asking = (step for _, step, _ in steps_in(steps, "") if isinstance(step, ActivitySpec))
    return {digest for step in asking for digest in stored_in(step.prompt)}


def with_files_back(steps: Iterable[Step], data: Mapping[str, str]) -> tuple[Step, ...]:
    """Return steps with the files of their prompts, from their data by its digests."""
    return _all_apart(steps, "", _Back(data))


class _Takes(Protocol):
    def taken(self, prompt: Prompt, *, path: str) -> Prompt: ...


class _Back:
    def __init__(self, data: Mapping[str, str]) -> None:
        self._data = data

    def taken(self, prompt: Prompt, *, path: str) -> Prompt:
        return filled(prompt, self._data)


def _all_apart(steps: Iterable[Step], path: str, storing: _Takes) -> tuple[Step, ...]:
    return tuple(_apart(step, f"{path}[{index}]", storing) for index, step in enumerate(steps))


def _apart(step: Step, path: str, storing: _Takes) -> Step:
    if isinstance(step, BlockSpec):
        return step.with_branches(
            branch.model_copy(update={"steps": _all_apart(branch.steps, f"{path}.branches[{number}].steps", storing)})
            for number, branch in enumerate(step.branches)
        )
    if not isinstance(step, ActivitySpec) or isinstance(step.prompt, str):
        return step
    return step.model_copy(update={"prompt": storing.taken(step.prompt, path=f"{path}.prompt")})


def _prompts_in(message: PaigeantMessage) -> Iterator[tuple[str, Prompt]]:
    for path, step in _steps_in(message):
        if isinstance(step, ActivitySpec):
            yield f"{path}.prompt", step.prompt


def _steps_in(message: PaigeantMessage) -> Iterator[tuple[str, Step]]:
    """Yield the steps ahead and those that may be inserted, each with its path."""
    for path, step, _ in steps_in(message.slip.itinerary, "slip.itinerary"):
        yield path, step
    for index, entry in enumerate(message.registered_activities):
        yield f"registered_activities[{index}].step", entry.step
