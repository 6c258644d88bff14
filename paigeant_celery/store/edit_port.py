"""The seam to a store, of edits: the envelope of a hop that nobody runs is replaced by another one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

from paigeant_celery.core.hops import NotEdited
from paigeant_celery.store.records import HopRecord

__all__ = ["Edit", "EditAnswer", "EditStore"]

EditAnswer: TypeAlias = Literal["edited", "unknown"] | NotEdited


@dataclass(frozen=True, kw_only=True)
class Edit:
    """What EDIT records: the hop as it is from now on, if its digest is still `instead_of`.

    `restarts` says that its step is another one: what its attempts have recorded is discarded then, as a redrive may.
    `by` says who edits, for the event, and `blobs` are texts that do not travel, as those of a completion.
    """

    hop: HopRecord
    instead_of: str
    restarts: bool = False
    by: str = ""
    blobs: Mapping[str, str] = field(default_factory=dict)


class EditStore(Protocol):
    """What people change of workflows that stand still."""

    def edit(self, edit: Edit) -> EditAnswer:
        """Replace the envelope of a parked or suspended hop, with its digest, in one step.

        Copies of its earlier messages are dropped from then on (`superseded`). Nothing else changes: whoever redrives
        or answers it sends the new one. Any answer but `edited` says why nothing was changed.
        """
        ...
