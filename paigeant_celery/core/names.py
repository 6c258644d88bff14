"""Names that stand on the wire, in the store and in Flower. A change here needs a version."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

__all__ = [
    "ACTIVITY_NAME",
    "ATTEMPT_HEADER",
    "CORRELATION_ID",
    "FIRST_PLACE",
    "MAX_ATTEMPTS",
    "MAX_NAME_LENGTH",
    "SPEC_VERSION",
    "VERSION_HEADER",
    "Names",
    "hop_id",
    "is_activity_name",
    "is_correlation_id",
    "next_place",
    "split_hop_id",
    "text_fault",
]

SPEC_VERSION = "1.1"
VERSION_HEADER = "paigeant_spec_version"
ATTEMPT_HEADER = "paigeant_attempt"  # beside the envelope, where no store counts the attempts

MAX_NAME_LENGTH = 128  # characters; keeps keys, queues and task names short on every broker

CORRELATION_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
ACTIVITY_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]+)*")

# The number of a step; inside a branch, the path to it: `3-1.0` is the first step of branch 1 of step 3.
_PLACE = re.compile(r"(?:0|[1-9][0-9]{0,8})(?:-(?:0|[1-9][0-9]{0,8})\.(?:0|[1-9][0-9]{0,8})){0,8}")

FIRST_PLACE = "0"

MAX_ATTEMPTS = 1000  # the highest number that a policy or setting allows


def is_correlation_id(text: str) -> bool:
    """Say whether `text` may identify a workflow."""
    return CORRELATION_ID.fullmatch(text) is not None


def is_activity_name(text: str) -> bool:
    """Say whether `text` may name an activity; ASCII only, so that no two names look alike."""
    return len(text) <= MAX_NAME_LENGTH and ACTIVITY_NAME.fullmatch(text) is not None


def hop_id(correlation_id: str, place: str) -> str:
    """Return the id of the hop at `place`; it is also the id of its Celery task."""
    return f"{correlation_id}.{place}"


def next_place(place: str) -> str:
    """Return the place after `place`, in the same branch."""
    branch, dot, number = place.rpartition(".")
    return f"{branch}{dot}{int(number) + 1}"


def split_hop_id(text: str) -> tuple[str, str] | None:
    """Return correlation id and place of a hop id, or None where `text` is none."""
    correlation_id, dot, place = text.partition(".")
    if not dot or not is_correlation_id(correlation_id) or _PLACE.fullmatch(place) is None:
        return None
    return correlation_id, place


def text_fault(text: str) -> str | None:
    """Say why `text` cannot travel as JSON text in every store and broker, or None where it can."""
    if "\0" in text:
        return "contains a NUL character"
    if any(unicodedata.category(c) == "Cs" for c in text if "\ud800" <= c <= "\udfff"):
        return "contains a lone surrogate"
    return None


@dataclass(frozen=True)
class Names:
    """Task, queue and key names below one prefix."""

    prefix: str = "paigeant"

    def task(self, activity: str) -> str:
        """Return the name of the Celery task of an activity."""
        return f"{self.prefix}.{activity}"

    def queue(self, activity: str) -> str:
        """Return the queue of an activity that names none."""
        return f"{self.prefix}.{activity}"

    @property
    def dead_letters(self) -> str:
        """Return the queue of dead letters where there is no store; no activity has a queue of this name."""
        return f"{self.prefix}-dead-letters"

    def activity(self, task: str) -> str | None:
        """Return the activity of a task name, or None where the task is none of ours."""
        start = f"{self.prefix}."
        return task[len(start) :] or None if task.startswith(start) else None
