"""What Celery's stand-in for the standard streams lacks.

In a worker `sys.stdout` and `sys.stderr` are one object that writes to the log (`worker_redirect_stdouts`). It has no
descriptor, so a tool that starts a process with `stderr=sys.stderr`, as clients of MCP servers do, fails.
"""

from __future__ import annotations

import io
import sys
from typing import BinaryIO, TextIO

from celery.utils.log import LoggingProxy

__all__ = ["complete_streams"]


class _OfStandardError:
    """What the stand-in passes on to the standard error, which is where the log goes unless it has a file."""

    def fileno(self) -> int:
        return _standard_error().fileno()

    @property
    def buffer(self) -> BinaryIO:
        return _standard_error().buffer

    @property
    def encoding(self) -> str:
        return _standard_error().encoding

    @property
    def errors(self) -> str | None:
        return _standard_error().errors


def complete_streams() -> None:
    """Give the stand-in a descriptor, a buffer and an encoding; what is written to it goes to the log as before.

    The class gets them, not the object: a library may have kept an older object when it was imported, and each process
    of a prefork pool makes another one.
    """
    for name in ("fileno", "buffer", "encoding", "errors"):
        if not hasattr(LoggingProxy, name):
            setattr(LoggingProxy, name, vars(_OfStandardError)[name])


def _standard_error() -> TextIO:
    if sys.__stderr__ is None:
        raise io.UnsupportedOperation("this process has no standard error")
    return sys.__stderr__
