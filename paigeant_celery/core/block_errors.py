"""Why a block fails: because of a branch, its join or its time."""

from __future__ import annotations

from paigeant_celery.core.causes import Cause
from paigeant_celery.core.errors import PaigeantError

__all__ = ["BlockFailed", "JoinMissed"]


class BlockFailed(PaigeantError):
    """A block cannot go on: a branch failed that may not, or its time is over. Another attempt would change nothing.

    `step` is the path of the step that failed, or None for the block itself, and `cause` is what raised its error.
    """

    def __init__(self, error_class: str, text: str, step: str | None = None, *, cause: Cause | None = None) -> None:
        super().__init__(error_class, text, step)
        self.error_class, self.text, self.step, self.cause = error_class, text, step, cause

    def __str__(self) -> str:
        return self.text


class JoinMissed(BlockFailed):
    """Too few branches of a block succeeded, and too few can still."""

    def __init__(self, text: str, *, cause: Cause | None = None) -> None:
        super().__init__("JoinMissed", text, cause=cause)
        self.args = (text,)
