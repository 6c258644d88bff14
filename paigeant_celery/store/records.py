"""What every part of the seam to a store is about: a hop, who writes for it, and the workflow that it begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, TypeAlias

from paigeant_celery.core.conversations import ConversationKey

__all__ = ["Closed", "Closing", "HopRecord", "NewWorkflow", "Said", "Started", "WorkflowOrigin"]


@dataclass(frozen=True, kw_only=True)
class HopRecord:
    """A hop that waits to be run: everything that is needed to publish its message again.

    `activity` and `step_id` are for the list of workflows, and recorded with it; one that is read has none.
    """

    hop_id: str
    queue: str
    envelope: str = field(repr=False)
    digest: str
    activity: str = field(default="", compare=False)
    step_id: str = field(default="", compare=False)


@dataclass(frozen=True, kw_only=True)
class Closing:
    """Who closes a hop; the store accepts it only while owner and fence are unchanged."""

    hop_id: str
    owner: str
    fence: int


@dataclass(frozen=True, kw_only=True)
class Closed:
    """A hop was closed, now or by an earlier call of its claim. `hops` must be sent now.

    They are what the end of a branch lets go on. A repetition of the call may bring none: a sweep sends them then.
    """

    hops: tuple[HopRecord, ...] = ()


@dataclass(frozen=True, kw_only=True)
class WorkflowOrigin:
    """The workflow that another one is a fork of, the id of the step at which that begins, and its place.

    Steps at earlier places ran in the other workflow, and have no hops in this one.
    """

    workflow: str
    step: str
    place: str


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a step adds to the end of a conversation: one line of text."""

    conversation: ConversationKey
    text: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class NewWorkflow:
    """What START records; `content` is the digest of what the caller asked for.

    `blobs` are texts that do not travel, such as files of prompts, by the names that `core/content.py` gives them. A
    fork has an `origin`, of which it gets the blobs that `copied` names and that are there, and what was `said` there
    in conversations of the workflow.
    """

    correlation_id: str
    content: str
    hop: HopRecord
    deadline: datetime | None = None
    blobs: Mapping[str, str] = field(default_factory=dict, repr=False)
    origin: WorkflowOrigin | None = None
    copied: Sequence[str] = ()
    said: Sequence[Said] = ()


Started: TypeAlias = Literal["started", "exists", "conflict", "gone", "too_large"]
