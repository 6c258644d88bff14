"""Why a block fails: because of a branch, its join or its time."""

from __future__ import annotations

from paigeant_celery.core.errors import PaigeantError

__all__ = ["BlockFailed", "JoinMissed"]


class BlockFailed(PaigeantError):
    """A block cannot go on: a branch failed that may not, or its time is over. Another attempt would change nothing.

    `step` is the path of the step that failed, or None for the block itself.
    """

    def __init__(self, error_class: str, text: str, step: str | None = None) -> None:
        super().__init__(error_class, text, step)
        self.error_class, self.text, self.step = error_class, text, step

    def __str__(self) -> str:
        return self.text


class JoinMissed(BlockFailed):
    """Too few branches of a block succeeded, and too few can still."""

    def __init__(self, text: str) -> None:
        super().__init__("JoinMissed", text)
        self.args = (text,)
