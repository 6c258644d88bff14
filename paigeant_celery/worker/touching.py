"""The helper of a worker: a process that extends its leases while a step holds the interpreter lock.

A process renews its own lease in a thread (`hop/lease.py`), which stands still while a call in C holds the lock. The
helper (`hop/toucher.py`) then does it, for all processes of a worker: those of a prefork pool, or the worker itself. It
is no child of the worker, so that nobody's `os.wait` sees it, and no member of its session, so that it outlives a
Ctrl-C as the worker does. It needs `/proc`; where that is missing there is none.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress

from paigeant_celery.hop.lease import RENEWALS_PER_LEASE
from paigeant_celery.hop.liveness import host_id, new_owner_id

__all__ = ["Touching"]

# It must not end at the signals that a service manager sends to a whole group: steps go on for a while then. The
# process that was started ends at once, so that the other one has no parent here.
PROGRAM = """
import json, os, signal, sys
if os.fork():
    os._exit(0)
try:
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    os.set_blocking(0, True)  # it is not if gevent made it
    given = json.loads(sys.stdin.buffer.readline())
    sys.path[:] = given["path"]
    from paigeant_celery.hop.toucher import touch_until_closed
    touch_until_closed(given)
except BaseException as error:
    os.write(0, type(error).__name__.encode())
os._exit(0)
"""

logger = logging.getLogger(__name__)


class Touching:
    """Starts the helper of this process when the first step is accepted, and says once if there is none."""

    def __init__(self, reopening: Mapping[str, str | int] | None, *, lease: float) -> None:
        self._reopening, self._lease = reopening, lease
        self._lock = threading.Lock()
        self._begun = False
        self._ours: socket.socket | None = None
        os.register_at_fork(after_in_child=self._leave)

    def begin(self) -> None:
        """Start the helper if there is none and this system can have one. It needs no thread of this process then."""
        if self._begun:
            return
        with self._lock:
            if self._begun:
                return
            self._begun = True
            if self._reopening is None or host_id() is None:
                return
            try:
                self._start()
            except OSError as error:
                self._tell(type(error).__name__)

    def end(self) -> None:
        """End the helper; the next step starts one again."""
        with self._lock:
            ours, self._ours, self._begun = self._ours, None, False
            if ours is not None:
                ours.shutdown(socket.SHUT_RDWR)

    def _start(self) -> None:
        ours, its = socket.socketpair()
        try:
            with its:
                # `-I`: what an environment adds to each Python process is not for this one.
                first = subprocess.Popen(  # noqa: S603 - nothing in it comes from outside
                    [_python(), "-I", "-c", PROGRAM, f"(keeps the leases of process {os.getpid()})"],
                    stdin=its.fileno(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
                )  # fmt: skip
            ours.sendall(self._given())
        except OSError:
            ours.close()
            raise
        self._ours = ours
        threading.Thread(target=self._watch, args=(first, ours), name="paigeant-touching", daemon=True).start()

    def _given(self) -> bytes:
        """Return what the helper reads first. Addresses and passwords are nowhere else that others could see."""
        given = {
            "path": [entry for entry in sys.path if isinstance(entry, str)],
            "store": self._reopening,
            "worker": new_owner_id(),
            "interval": self._lease / RENEWALS_PER_LEASE,
        }
        return json.dumps(given).encode() + b"\n"

    def _watch(self, first: subprocess.Popen[bytes], ours: socket.socket) -> None:
        """Wait until the helper ends, which it should not do before this process."""
        first.wait()
        said = b""
        with ours:
            with suppress(ConnectionError):  # it had not read everything
                said = ours.recv(1024)
            with self._lock:
                asked = self._ours is not ours
                if not asked:
                    self._ours = None
        if not asked:
            self._tell(said.decode(errors="replace") or "it was killed")

    def _tell(self, why: str) -> None:
        logger.warning(
            "no process extends the lease of this worker while a step holds the interpreter lock (%s); a step that "
            "holds it for longer than `paigeant_lease` (%g s) may be begun again; a restart of the worker starts one",
            why, self._lease, extra={"action": "touching_failed"},
        )  # fmt: skip

    def _leave(self) -> None:
        """Forget the helper of the parent, which must see that end even if this child goes on."""
        ours, self._ours, self._begun, self._lock = self._ours, None, False, threading.Lock()
        if ours is not None:
            os.close(ours.detach())


def _python() -> str:
    """Return the Python that runs this process; raises `OSError` if it is not one that runs a program."""
    name = os.path.basename(sys.executable or "")
    if getattr(sys, "frozen", False) or not name.startswith(("python", "pypy")):
        raise FileNotFoundError(f"{name!r} is no Python interpreter")
    return sys.executable
