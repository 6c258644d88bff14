"""The arguments of the task that dispatches a document, and which of them everybody may read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["ARGUMENTS", "named", "shown"]

ARGUMENTS = ("document", "schedule", "deadline_after", "at")  # in their order
OPEN = ("schedule", "deadline_after", "at")  # they are times; a document has prompts


def named(args: Sequence[Any]) -> dict[str, Any]:
    """Return arguments that were given by their place by their names."""
    return dict(zip(ARGUMENTS, args, strict=False))


def shown(kwargs: object) -> dict[str, Any]:
    """Return those that everybody may read."""
    given = kwargs if isinstance(kwargs, Mapping) else {}
    return {name: given[name] for name in OPEN if name in given}
