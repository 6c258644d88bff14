"""Whether a worker claims and sweeps, as its main process knows it: what `celery … paigeant ready` asks it.

A worker answers as Celery's own commands do. One of the solo pool cannot while a step runs in it; it also writes what
is known of it to a file each second, from a thread.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from celery.concurrency.solo import TaskPool as SoloPool
from celery.worker.control import inspect_command

from paigeant_celery.activities.real_threads import end_at_exit, real, start_thread
from paigeant_celery.broker.transport import attachment_of
from paigeant_celery.hop.liveness import is_stopped
from paigeant_celery.worker.app_state import Installation
from paigeant_celery.worker.runtime import HopRuntime

__all__ = ["COMMAND", "FINDINGS", "FRESH", "SILENCE", "Report", "answer_of", "file_of", "judged", "read_file"]

COMMAND = "paigeant_ready"  # the name among Celery's remote commands
SILENCE = 15.0  # seconds without a sign of life by default: a sweep comes each second, a renewal every 2.5
WRITE_EVERY = 1.0  # seconds
FRESH = 5.0  # seconds for which the file of a worker is its answer

# Why a worker is not ready; `docs/commands.md` shows them.
FINDINGS: Mapping[str, str] = {
    "claims_fail": "a process gets no answer to its claims from the store, and puts each message back",
    "ending": "the worker is told to end, and takes no more steps",
    "lease_silent": "a process has not renewed its lease: its hops will be taken over",
    "loop_silent": "the event loop of a process stands still: a step blocks it, or the process is stopped",
    "not_installed": "the app of the worker does not use paigeant_celery",
    "outdated": "a newer version has begun, and this worker takes no more steps",
    "process_stopped": "a process is stopped by a signal",
    "reads_nothing": "it reads none of its queues of steps any more: `celery control cancel_consumer` took them away",
    "starting": "the worker does not serve yet",
    "sweep_silent": "the worker does not sweep: its store is away, or the sweeping stands still",
}

Document = dict[str, Any]


def answer_of(runtime: HopRuntime, *, pids: Collection[int], silence: float) -> Document:
    """Return whether a worker is ready, and why not."""
    return judged(_signs_of(runtime, pids), silence=silence)


def judged(document: Document, *, silence: float) -> Document:
    """Return the answer that the signs in a document give; as it is, if it has none and was judged before."""
    signs = document.get("signs")
    if not isinstance(signs, list):
        return document
    findings = [
        {"code": sign["code"], "text": sign["text"]} for sign in signs if sign["age"] is None or sign["age"] > silence
    ]
    rest = {name: value for name, value in document.items() if name != "signs"}
    return {**rest, "ready": not findings, "findings": findings}


def _signs_of(runtime: HopRuntime, pids: Collection[int]) -> Document:
    """Return what is known of a worker: what is wrong with it, and how long ago it gave which sign of life."""
    signs = [{"code": code, "text": text, "age": age} for code, text, age in _signs(runtime, pids)]
    return {"serves": sorted(runtime.served or ()), "pid": os.getpid(), "signs": signs}


def _signs(runtime: HopRuntime, pids: Collection[int]) -> Iterator[tuple[str, str, float | None]]:
    """Yield code, text and age of what would be wrong if the age were too great; without an age it is wrong."""
    if runtime.shutdown.asked:
        yield "ending", "this worker is told to end", None
    if runtime.outdated:
        text = "a newer version has begun, and this worker takes no more steps; restart it with that version"
        yield "outdated", text, None
    swept, served = runtime.swept_at, runtime.served
    if served is None:
        yield "starting", "it does not serve yet", None
        return
    if runtime.had_queues and not served and not runtime.outdated:
        yield "reads_nothing", "it reads no queue of steps any more", None
    if served and swept is not None:
        ago = time.monotonic() - swept
        why = f" ({runtime.sweep_failure})" if runtime.sweep_failure else ""
        yield "sweep_silent", f"the last sweep that went well was {ago:.0f} s ago{why}", ago
    for pid in sorted(pids):
        if is_stopped(pid):
            yield "process_stopped", f"the process {pid} is stopped by a signal", None
    for beat in runtime.pulse.of(pids):
        if beat.loop is not None:
            text = f"the event loop of the process {beat.pid} has stood still for {beat.loop:.0f} s"
            yield "loop_silent", text, beat.loop
        if beat.lease is not None:
            text = f"the process {beat.pid} has not renewed its lease for {beat.lease:.0f} s"
            yield "lease_silent", text, beat.lease
        if beat.failing is not None:
            text = f"the process {beat.pid} has had no answer to its claims for {beat.failing:.0f} s"
            yield "claims_fail", text, beat.failing


@inspect_command(name=COMMAND, args=[("silence", float)], signature="[silence=15]")  # type: ignore[untyped-decorator]
def _tell_ready(state: Any, silence: float = SILENCE, **_: object) -> Document:
    """Say whether a worker claims and sweeps steps of workflows."""
    attachment = attachment_of(state.app)
    if not isinstance(attachment, Installation) or state.consumer is None:
        text = "the app of this worker does not use paigeant_celery"
        return {"ready": False, "serves": [], "findings": [{"code": "not_installed", "text": text}]}
    return answer_of(attachment.runtime, pids=_pids_of(state.consumer.pool), silence=float(silence))


def _pids_of(pool: Any) -> set[int]:
    """Return the processes of a worker: its own, and those of its pool."""
    own = {os.getpid()}
    with suppress(AttributeError):  # it has not begun, or has ended
        own.update(pool.info.get("processes") or ())
    return own


class Report:
    """Writes what is known of a solo worker to a file, each second; whoever reads it says how long a silence may be."""

    def __init__(self, runtime: HopRuntime, node: str) -> None:
        self._runtime, self._file = runtime, file_of(node)
        self._ending: Any = None
        self._thread: Any = None

    def begin(self, pool: Any) -> None:
        """Begin if the pool runs its tasks in the thread that would answer."""
        if self._ending is None and isinstance(pool, SoloPool):
            self._ending = real().Event()
            self._thread = start_thread(partial(self._write_until, self._ending), name="paigeant-readiness")
            end_at_exit(self._thread, self._ending.set)

    def end(self) -> None:
        """Write no more, and leave no file that says anything."""
        if self._ending is not None:
            self._ending.set()
            self._ending = None
            self._thread.join(WRITE_EVERY)
            with suppress(OSError):
                self._file.unlink()

    def _write_until(self, ending: Any) -> None:
        while True:
            with suppress(OSError):  # whoever looks finds no fresh file, which says enough
                known = _signs_of(self._runtime, {os.getpid()})
                _write(self._file, {**known, **judged(known, silence=SILENCE)})  # older versions read no signs
            if ending.wait(WRITE_EVERY):
                return


def file_of(node: str) -> Path:
    """Return where a solo worker of this host and user writes its answer."""
    name = hashlib.sha256(node.encode()).hexdigest()[:32]
    return Path(tempfile.gettempdir()) / f"paigeant_celery-{_user()}" / f"{name}.json"


def read_file(node: str, *, silence: float = SILENCE, now: Callable[[], float] = time.time) -> Document | None:
    """Return the answer by what a solo worker has written last; None if that is not fresh, or not ours."""
    file = file_of(node)
    with suppress(OSError, ValueError, KeyError, TypeError):
        about = file.stat()
        if about.st_uid == _user() and abs(now() - about.st_mtime) <= FRESH:
            found = json.loads(file.read_text(encoding="utf-8"))
            return judged(found, silence=silence) if isinstance(found, dict) else None
    return None


def _write(file: Path, document: Document) -> None:
    file.parent.mkdir(mode=0o700, exist_ok=True)
    if file.parent.stat().st_uid != _user():
        raise PermissionError(file.parent)
    fresh = file.with_suffix(f".{os.getpid()}")
    fresh.write_text(json.dumps(document), encoding="utf-8")
    fresh.replace(file)


def _user() -> int:
    return os.getuid()
