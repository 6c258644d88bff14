"""The name of an agent that was given none: that of the global variable that holds it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

from paigeant_celery.core.errors import UsageError

__all__ = ["GlobalName", "local_name", "maker_frame"]

LIBRARIES = {"paigeant_celery", "pydantic_ai", "typing"}  # whose frames make agents for somebody else


class GlobalName:
    """Finds the name of the global that holds an agent in the module that made it."""

    def __init__(self, module: dict[str, Any]) -> None:
        self._module = module

    def __call__(self, agent: object) -> str | None:
        names = [name for name, value in list(self._module.items()) if value is agent]
        return next((name for name in names if not name.startswith("_")), names[0] if names else None)


def local_name(agent: object) -> str:
    """Return the caller's local variable that holds the agent; raises `UsageError` if there is none."""
    for frame in _frames():
        for name, value in frame.f_locals.items():
            if value is agent and name != "self":
                return name
    raise UsageError("UnnamedAgent: no variable that could name the agent holds it; pass `name=` to it")


def maker_frame(agent: object) -> FrameType:
    """Return the frame that called the constructor, past those of subclasses and libraries."""
    frame = sys._getframe(1)
    for frame in _frames():
        library = str(frame.f_globals.get("__name__")).partition(".")[0]
        if library not in LIBRARIES and frame.f_locals.get("self") is not agent:
            return frame
    return frame


def _frames() -> Iterator[FrameType]:
    """Yield the frames around the function that asks, the nearest first."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        yield frame
        frame = frame.f_back
