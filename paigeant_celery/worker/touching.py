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
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from paigeant_celery.activities.real_threads import real, start_thread
from paigeant_celery.core.patience import patience
from paigeant_celery.core.settings import Settings
from paigeant_celery.hop.lease import RENEWALS_PER_LEASE
from paigeant_celery.hop.liveness import host_id, new_owner_id
from paigeant_celery.store.endpoint import Endpoint

__all__ = ["Touching"]

# The process that is started ends at once, so that the other one has no parent here. That must not end at the signals
# that go to all processes of a service: steps go on for a while then. It says on its standard output why it ends.
# What it closes at first is what is open: a container may allow a thousand million files, and an older kernel would try
# each of them.
PROGRAM = """
import os, signal, sys
os.closerange(3, 1 + max(map(int, os.listdir("/proc/self/fd"))))
if os.fork():
    os._exit(0)
try:
    os.setsid()
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    import json
    given = json.loads(sys.stdin.buffer.readline())
    sys.path[:] = given.pop("path")
    from paigeant_celery.hop.toucher import touch_until_closed
    touch_until_closed(given)
except BaseException as error:
    os.write(1, type(error).__name__.encode())
os._exit(0)
"""

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds until a helper that was killed is started again

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Helper:
    starter: int  # the process that has started it, and has ended since
    stdin: int  # our end; the helper ends when it is closed
    stdout: int

    def last_words(self) -> str:
        """Wait until it ends, and return what it says then: nothing if it was killed."""
        with suppress(ChildProcessError):  # somebody else has waited for all children
            os.waitid(os.P_PID, self.starter, os.WEXITED)  # gevent's `waitpid` works in its first thread alone
        return os.read(self.stdout, 1024).decode(errors="replace")


class Touching:
    """Starts the helper of this process when the first step is accepted, and says so if there is none."""

    def __init__(self, endpoint: Endpoint | None, settings: Settings) -> None:
        self._endpoint, self._prefix, self._lease = endpoint, settings.prefix, settings.lease
        self._lock = real().Lock()
        self._begun = False
        self._helper: _Helper | None = None
        os.register_at_fork(after_in_child=self._leave)

    @property
    def helps(self) -> bool:
        """Whether this process has a helper."""
        return self._helper is not None

    def begin(self) -> None:
        """Start the helper if there is none and this system can have one. Nothing here stops a step."""
        if self._begun:
            return
        with self._lock:
            if self._begun:
                return
            self._begun = True
            if self._endpoint is None or host_id() is None:
                return
            helper = self._started(self._endpoint)
        if helper is not None:
            with suppress(RuntimeError):  # the system has no thread left; the helper works, and nobody watches it
                start_thread(partial(self._watch, self._endpoint, helper), name="paigeant-touching")

    def end(self) -> None:
        """End the helper; the next step starts one again."""
        with self._lock:
            helper, self._helper, self._begun = self._helper, None, False
            if helper is not None:
                os.close(helper.stdin)

    def _started(self, endpoint: Endpoint) -> _Helper | None:
        """Start the helper, and return it; None if this system refuses."""
        try:
            self._helper = _spawned(_python())
        except OSError as error:
            self._tell(type(error).__name__)
            return None
        with suppress(BrokenPipeError):  # it was killed already
            os.write(self._helper.stdin, self._given(endpoint))
        return self._helper

    def _given(self, endpoint: Endpoint) -> bytes:
        """Return what the helper reads first. Addresses and passwords are nowhere else that others could see."""
        given = {
            "path": [entry for entry in sys.path if isinstance(entry, str)],
            "endpoint": endpoint.as_plain(),
            "prefix": self._prefix,
            "lease": self._lease,
            "interval": self._lease / RENEWALS_PER_LEASE,
            "worker": new_owner_id(),
        }
        return json.dumps(given).encode() + b"\n"

    def _watch(self, endpoint: Endpoint, helper: _Helper) -> None:
        """Start the helper again whenever it is killed, until it is ended here or says that it cannot work."""
        for pause in patience(FIRST_PAUSE, LONGEST_PAUSE):
            said = helper.last_words()
            if not self._is_missed(helper):
                return
            self._tell(said or f"it was killed, and is started again in {pause:g} s")
            if said:
                return
            real().Event().wait(pause)
            with self._lock:
                if not self._begun or self._helper is not None:  # it was ended, or begun anew
                    return
                again = self._started(endpoint)
            if again is None:
                return
            helper = again

    def _is_missed(self, helper: _Helper) -> bool:
        """Let go of a helper that has ended, and say whether it should not have."""
        with self._lock:
            missed = self._helper is helper
            if missed:
                self._helper = None  # first: a child that is forked now must not close what has the same number then
                os.close(helper.stdin)
            os.close(helper.stdout)
        return missed

    def _tell(self, why: str) -> None:
        logger.warning(
            "no process extends the lease of this worker while a step holds the interpreter lock (%s); a step that "
            "holds it for longer than `paigeant_lease` (%g s) may be begun again meanwhile",
            why, self._lease, extra={"action": "touching_failed"},
        )  # fmt: skip

    def _leave(self) -> None:
        """Forget the helper of the parent, which must see that end even if this child goes on."""
        helper, self._helper, self._begun, self._lock = self._helper, None, False, real().Lock()
        if helper is not None:
            os.close(helper.stdin)
            os.close(helper.stdout)


def _spawned(python: str) -> _Helper:
    """Start the helper. Raises `OSError` if this system refuses.

    Nothing of it goes through `subprocess` and `socket`, which gevent replaces. With `-I`, what an environment adds to
    each Python process is not loaded.
    """
    (its, ours), (told, tells) = os.pipe(), os.pipe()
    try:
        starter = os.posix_spawn(
            python,
            [python, "-I", "-c", PROGRAM, f"(keeps the leases of process {os.getpid()})"],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, its, 0),
                (os.POSIX_SPAWN_DUP2, tells, 1),
                (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
            ],
        )
    except OSError:
        os.close(ours)
        os.close(told)
        raise
    finally:
        os.close(its)
        os.close(tells)
    return _Helper(starter, ours, told)


def _python() -> str:
    """Return the Python that runs this process; raises `OSError` if it is not one that runs a program."""
    name = os.path.basename(sys.executable or "")
    if getattr(sys, "frozen", False) or not name.startswith(("python", "pypy")):
        raise FileNotFoundError(f"{name!r} is no Python interpreter")
    return sys.executable
