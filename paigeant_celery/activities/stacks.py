"""Where a thread is that cannot be stopped, for the record of the step that it belongs to."""

from __future__ import annotations

import gc
import sys
import threading
from types import FrameType, TracebackType

__all__ = ["StillRunning", "frame_of", "still_running"]


class StillRunning(Exception):
    """A thread goes on; the frames are those in which it was seen."""


def still_running(thread: threading.Thread) -> StillRunning | None:
    """Return where the thread is, as the traceback of an error that nobody raised; None if it has ended."""
    frame = frame_of(thread.ident or 0)
    if frame is None:
        return None
    at: TracebackType | None = None
    while frame is not None:
        at = TracebackType(at, frame, frame.f_lasti, frame.f_lineno or 0)
        frame = frame.f_back
    return StillRunning("the thread cannot be stopped and goes on").with_traceback(at)


def frame_of(thread_id: int) -> FrameType | None:
    """Return the frame that a thread is in, None if it has ended."""
    # Before Python 3.12 the process may stop for good if garbage is collected meanwhile, and another thread begins.
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return sys._current_frames().get(thread_id)
    finally:
        if was_enabled:
            gc.enable()
