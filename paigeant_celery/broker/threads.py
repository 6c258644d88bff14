"""Threads of ours that talk to the broker, so that nothing else in the process ever waits for it without a bound.

A broker may block for as long as it likes: RabbitMQ under its memory alarm, a Redis that is paused, an address that
swallows packets. It then blocks these threads, of which there are few, and nobody else.
"""

from __future__ import annotations

import atexit
import contextvars
import logging
import os
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from celery import Celery
from celery.signals import worker_process_shutdown

from paigeant_celery.activities.real_threads import RealFuture, real, start_thread
from paigeant_celery.broker.inherited_locks import renew_locks
from paigeant_celery.broker.reach import Link, away, broker_address, reaching_broker
from paigeant_celery.broker.sending import Sending
from paigeant_celery.core.errors import Unreachable

__all__ = ["BrokerThreads"]

MOST_THREADS = 32  # in one process, for one broker; a thread is started when all others are busy
MOST_IN_LANE = 4  # threads that call about one queue at once
SLOW = 1.0  # seconds; a lane with a call that takes longer gets no further thread, so that one queue cannot take all
IDLE = 60.0  # seconds after which a thread without work closes its connection and ends
LAST_FLUSH = 2.0  # seconds for which a process that ends waits for what is on its way
PAUSES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 1.0)  # seconds before each new try while the broker is away

T = TypeVar("T")

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class _Job:
    """A call that waits for a thread, or is made by one."""

    call: Callable[[Link], Any]
    lane: str
    end: float  # on the monotonic clock; nobody waits for it after that
    future: RealFuture[Any] = field(default_factory=RealFuture)
    context: contextvars.Context = field(default_factory=contextvars.copy_context)
    begun: float = 0.0

    @property
    def is_given_up(self) -> bool:
        return time.monotonic() >= self.end or self.future.cancelled()


class BrokerThreads:
    """Makes calls to the broker of an app. Each thread has a connection of its own, which it keeps.

    Calls about one queue are a lane: they are begun in their order, and a lane that is stuck leaves threads to others.
    A forked child begins with none of this and never touches the connections of its parent.
    """

    def __init__(self, app: Celery, *, timeout: float) -> None:
        self._app, self.timeout = app, timeout
        self._crew = _Crew(app, timeout)
        _all.add(self)

    def begin(self, call: Callable[[Link], T], *, lane: str, within: float | None = None) -> Sending[T]:
        """Have a call made, in a copy of the caller's context, within `timeout` unless told otherwise.

        Raises nothing, and waits for nothing.
        """
        job = _Job(call, lane, time.monotonic() + (within or self.timeout))
        self._crew.add(job)
        return Sending(job.future, end=job.end, late=self._late)

    def has_ended(self, within: float) -> bool:
        """Wait for what is on its way, and say whether all of it has ended."""
        return self._crew.has_ended(within)

    def after_fork(self) -> None:
        """Begin anew in a forked child."""
        _inherited.append(self._crew)
        self._crew.abandon()
        self._crew = _Crew(self._app, self.timeout)

    def _late(self) -> Unreachable:
        return Unreachable(
            "broker", broker_address(self._app), f"no answer within {self.timeout:g} s (`paigeant_publish_timeout`)"
        )


class _Crew:
    """The threads of one process, and the calls that wait for them."""

    def __init__(self, app: Celery, timeout: float) -> None:
        self._app, self._timeout = app, timeout
        held = real().RLock()  # for moments only: greenlets come here as well
        self._changed, self._ended = real().Condition(held), real().Condition(held)
        self._waiting: OrderedDict[str, deque[_Job]] = OrderedDict()  # by lane; the first lane is next
        self._made: dict[str, list[_Job]] = {}  # those that threads make now, by lane
        self._threads = self._idle = 0
        self._links: set[Link] = set()

    def add(self, job: _Job) -> None:
        """Let a thread make a call, and start one if none is idle."""
        with self._changed:
            lane = self._waiting.setdefault(job.lane, deque())
            while lane and lane[0].is_given_up:
                lane.popleft().future.cancel()
            lane.append(job)
            ready = sum(min(len(jobs), self._room_in(lane)) for lane, jobs in self._waiting.items())
            needed = ready > self._idle and self._threads < MOST_THREADS
            self._threads += needed
            self._idle += needed
            self._changed.notify()
        if needed:
            self._start_thread()

    def has_ended(self, within: float) -> bool:
        """Wait until no call waits or is made."""
        with self._ended:
            return bool(self._ended.wait_for(lambda: not self._made and not self._waiting, within))

    def abandon(self) -> None:
        """Let go of the connections in a forked child, without a word to the broker: they are the parent's."""
        for link in list(self._links):
            link.abandon()

    def _start_thread(self) -> None:
        try:
            start_thread(self._serve, name="paigeant-broker")
        except RuntimeError:  # the interpreter ends, or the system has no thread left; then the caller makes the call
            self._serve(patience=0.0)

    def _serve(self, patience: float = IDLE) -> None:
        link: Link | None = None
        while (job := self._next(patience)) is not None:
            try:
                link = self._make(job, link)
            finally:
                self._end(job)
            del job  # with its future, what it answered and the caller's context
        if link is not None:
            self._drop(link)

    def _next(self, patience: float) -> _Job | None:
        """Return the next call that may be made; None after a while without one."""
        with self._changed:
            self._changed.wait_for(lambda: self._open_lane() is not None, patience)
            self._idle -= 1
            lane = self._open_lane()
            if lane is None:
                self._threads -= 1
                return None
            job = self._waiting[lane].popleft()
            self._waiting.move_to_end(lane)
            if not self._waiting[lane]:
                del self._waiting[lane]
            job.begun = time.monotonic()
            self._made.setdefault(lane, []).append(job)
            return job

    def _open_lane(self) -> str | None:
        return next((lane for lane in self._waiting if self._room_in(lane)), None)

    def _room_in(self, lane: str) -> int:
        """Return how many more calls of a lane may be made now."""
        made, slow = self._made.get(lane, []), time.monotonic() - SLOW
        return 0 if any(job.begun <= slow for job in made) else MOST_IN_LANE - len(made)

    def _end(self, job: _Job) -> None:
        with self._changed:
            self._made[job.lane].remove(job)
            if not self._made[job.lane]:
                del self._made[job.lane]
            self._idle += 1
            if self._waiting:  # a lane may have room again, and for more calls than this thread makes next
                self._changed.notify_all()
            elif not self._made:
                self._ended.notify_all()

    def _make(self, job: _Job, link: Link | None) -> Link | None:
        """Make a call, and return the connection if it can be used again."""
        if job.is_given_up or not job.future.set_running_or_notify_cancel():
            job.future.cancel()
            return link
        try:
            with reaching_broker(self._app):
                link, answer = self._tried(job, link)
        except BaseException as error:  # noqa: BLE001 - whoever waits gets it
            job.future.set_exception(error)
            return None
        job.future.set_result(answer)
        return link

    def _tried(self, job: _Job, link: Link | None) -> tuple[Link, Any]:
        """Try until the broker answers, refuses, or nobody waits any longer."""
        for pause in (*PAUSES, None):
            try:
                if link is None:
                    link = self._connected(job)
                return link, job.context.run(job.call, link)
            except BaseException as error:
                if link is not None:
                    self._drop(link, broken=True)
                    link = None
                if pause is None or not away(self._app, error) or time.monotonic() + pause >= job.end:
                    raise
            time.sleep(pause)
        raise AssertionError

    def _connected(self, job: _Job) -> Link:
        link = Link(self._app, timeout=self._timeout)
        self._links.add(link)
        try:
            link.connect(within=job.end - time.monotonic())
        except BaseException:
            self._drop(link, broken=True)
            raise
        return link

    def _drop(self, link: Link, *, broken: bool = False) -> None:
        self._links.discard(link)
        link.close(broken=broken)


_all: weakref.WeakSet[BrokerThreads] = weakref.WeakSet()
_inherited: list[object] = []  # of the parents of this process: kept for good, so that no destructor says goodbye


def _flush(**_: object) -> None:
    """Give what is on its way a moment when the process ends; a sweep sends the rest."""
    end = time.monotonic() + LAST_FLUSH
    for threads in list(_all):
        threads.has_ended(max(0.0, end - time.monotonic()))


def _begin_anew() -> None:
    with suppress(Exception):
        renew_locks()
    for threads in list(_all):
        with suppress(Exception):  # whatever a library holds, the child must live
            threads.after_fork()


atexit.register(_flush)
worker_process_shutdown.connect(_flush)  # those of Celery's prefork pool end without `atexit`
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
