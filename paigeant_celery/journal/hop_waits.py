"""What the code of a hop waits for from outside, and when an attempt is left because nothing else is going on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractContextManager, suppress
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from paigeant_celery.activities.real_threads import real
from paigeant_celery.core.errors import HopUnknown, PaigeantError, UsageError
from paigeant_celery.core.waits import Wait
from paigeant_celery.store.port import Closing, NewWait, Standing, WaitStore

__all__ = ["BRANCHES", "SHORTEST", "Flight", "HopWaits"]

IN_PEACE = 0.05  # seconds in which nothing else is going on until an attempt is left; a replay is never so slow
BEFORE_THE_END = 0.02  # seconds before a step runs out of time by which an attempt that only waits is left
SETTLING = 20  # turns of the event loop before that, so that code that is ready to go on does
SHORTEST = 1.0  # seconds; a shorter sleep is over before another worker could go on
BRANCHES = "branches"  # what a block waits for, as it is told
AGAIN = 0.1  # seconds until the store is asked once more whether the time of a wait is over


@dataclass(eq=False, slots=True)
class Flight:
    """Code that may be doing something unless it stands at a wait: a tool that is not recorded."""

    outer: Flight | None
    stands: int = 0


_flight: ContextVar[Flight | None] = ContextVar("paigeant_flight", default=None)


@dataclass(eq=False, kw_only=True, slots=True)
class _Stand:
    """Something that the code of a hop stands at: a wait by its token, or only a time."""

    name: str
    over: asyncio.Future[None]
    token: str | None = field(default=None, repr=False)
    until: datetime | None = None
    quiet: bool = False
    timer: asyncio.TimerHandle | None = field(default=None)


class HopWaits:
    """The waits of one attempt of a hop.

    `known` are those that its claim brought. `now` is the store's clock, which also says when a sleep is over, because
    workers on several machines go on with one wait. When the code stands at a wait and nothing else has been going on
    for `IN_PEACE`, the attempt is left: `standing` then says what for.
    """

    __slots__ = (
        "_closing",
        "_ends",
        "_flights",
        "_is_busy",
        "_known",
        "_leave",
        "_lock",
        "_look",
        "_loop",
        "_moves",
        "_sleeps_until",
        "_stands",
        "_store",
        "_tasks",
        "now",
        "recording",
        "standing",
    )

    def __init__(
        self, *, store: WaitStore, closing: Closing, known: Sequence[Wait], now: Callable[[], datetime]
    ) -> None:
        self._store, self._closing, self.now = store, closing, now
        self._known = {wait.wait_id: wait for wait in known}
        self._lock = real().Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._leave: Callable[[], object] | None = None  # until an attempt begins, there is none to leave
        self._ends = self._sleeps_until = now()
        self._is_busy: Callable[[], bool] = lambda: False
        self._stands: set[_Stand] = set()
        self._flights: set[Flight] = set()
        self._moves = 0
        self.recording = asyncio.Lock()  # a signal goes to the oldest wait of its name: the first that the code came to
        self._look: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.standing: Standing | None = None  # what the attempt was left for

    def begin(self, *, leave: Callable[[], object], timeout: float) -> None:
        """Let an attempt begin on this loop that may take so many seconds; `leave` cancels it."""
        self._loop, self._leave = asyncio.get_running_loop(), leave
        self._ends = self.now() + timedelta(seconds=timeout)
        self._sleeps_until = self._ends - timedelta(seconds=min(SHORTEST, timeout / 4))

    def end(self) -> None:
        """Leave no attempt any more: its code has ended, and what it left standing ends as well."""
        self._leave = None
        if self._look is not None:
            self._look.cancel()
        for stand in list(self._stands):
            stand.over.cancel()

    def busy_if(self, is_busy: Callable[[], bool]) -> None:
        """Leave no attempt while a call is being made or must be recorded."""
        self._is_busy = is_busy

    @property
    def has_waited(self) -> bool:
        """Whether a wait of the hop is known: of an earlier attempt, or of this one."""
        return bool(self._known)

    @property
    def seen(self) -> tuple[Wait, ...]:
        """All waits of the hop, as they were last seen."""
        return tuple(self._known.values())

    def known(self, wait_id: str) -> Wait | None:
        """Return a wait as it was last seen."""
        return self._known.get(wait_id)

    def record(self, new: NewWait) -> Wait | None:
        """Record a wait unless it is recorded. Blocks; None if another owner has the hop. Raises `TransientError`."""
        wait = self._store.wait(self._closing, new)
        if wait is not None:
            self._known[wait.wait_id] = wait
        return wait

    def answer(self, wait: Wait, answers: dict[str, str], *, by: str, call: str) -> Wait:
        """Answer a wait from inside and return it; somebody else may have been faster. Blocks."""
        found = self._store.resolve(wait.token, answers, by=by, call=call).wait
        if found is None:
            raise HopUnknown(self._closing.hop_id)
        self._known[found.wait_id] = found
        return found

    async def over(self, wait: Wait) -> Wait:
        """Stand at a wait until it is settled or its time is over, and return it."""
        while (found := self._known.get(wait.wait_id, wait)).state == "open":
            await self._stand(name=wait.name, token=wait.token, until=wait.until)
        return found

    async def sleep_until(self, until: datetime, *, name: str, quiet: bool = False) -> None:
        """Stand until a time; a short sleep is slept here unless too little of the step's time would be left."""
        left = (until - self.now()).total_seconds()
        if 0 < left < SHORTEST and until < self._sleeps_until:
            with self.flying():  # whoever leaves the attempt would not know when it is over
                await asyncio.sleep(left)
        while self.now() < until:
            await self._stand(name=name, until=until, quiet=quiet)

    async def leave_to_branches(self, until: datetime | None) -> None:
        """Leave the attempt at once: the hop waits for its branches, at most until then."""
        await self.check_may_wait()
        self.standing = Standing(wake_at=until, names=(BRANCHES,), branches=True)
        if self._leave is not None:
            self._leave()
        await asyncio.Event().wait()  # to be cancelled here

    def flying(self) -> AbstractContextManager[Flight]:
        """Surround code that is not recorded and must not be cut off, unless it stands at a wait itself."""
        return _Flying(self)

    def notice(self, settled: int) -> None:
        """Learn, in any thread, how many waits of the hop are settled by now."""
        known = sum(wait.state == "settled" for wait in list(self._known.values()))
        if settled > known and self._stands and self._loop is not None:
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(lambda: self._begin(self._read()))

    def moved(self) -> None:
        """Note that something has begun or ended. May be called from any thread."""
        self._moves += 1
        if not self._stands or self._loop is None or self._leave is None:
            return
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._watch)

    async def check_may_wait(self) -> asyncio.AbstractEventLoop:
        """Return the loop of the attempt; raises `UsageError` on another one, which cannot be left.

        Code that goes on although its attempt was left is cancelled: it would hold its worker with another wait.
        """
        loop = asyncio.get_running_loop()
        self._loop = self._loop or loop
        if loop is not self._loop:
            text = "a step waits only on the event loop that runs it; `await` the wait in an `async` function or tool"
            raise UsageError(text)
        if self.standing is not None:
            await asyncio.sleep(IN_PEACE)  # code that swallows this in a loop does not block the others
            raise asyncio.CancelledError
        return loop

    async def _stand(
        self, *, name: str, token: str | None = None, until: datetime | None = None, quiet: bool = False
    ) -> None:
        loop = await self.check_may_wait()
        stand = _Stand(name=name, over=loop.create_future(), token=token, until=until, quiet=quiet)
        flights = _around(_flight.get())
        for flight in flights:
            flight.stands += 1
        self._stands.add(stand)
        self._set_timer(stand, loop)
        self.moved()
        try:
            await stand.over
        except asyncio.CancelledError:
            self._leave_at_the_end()
            raise
        finally:
            self._stands.discard(stand)
            if stand.timer is not None:
                stand.timer.cancel()
            for flight in flights:
                flight.stands -= 1
            self.moved()

    def _set_timer(self, stand: _Stand, loop: asyncio.AbstractEventLoop, *, at_least: float = 0.0) -> None:
        if stand.until is not None:
            delay = max(at_least, (stand.until - self.now()).total_seconds())
            stand.timer = loop.call_later(delay, self._time_is_over, stand, loop)

    def _time_is_over(self, stand: _Stand, loop: asyncio.AbstractEventLoop) -> None:
        if stand.token is None:
            _set(stand.over)
        else:
            self._begin(self._ask_time(stand, stand.token, loop))

    async def _ask_time(self, stand: _Stand, token: str, loop: asyncio.AbstractEventLoop) -> None:
        """Have the store give the wait up, unless an answer was faster."""
        with suppress(PaigeantError):  # it is asked again
            wait = await asyncio.to_thread(self._store.time_out, token)
            if wait is not None:
                self._learn([wait])
        if not stand.over.done():
            self._set_timer(stand, loop, at_least=AGAIN)

    async def _read(self) -> None:
        with suppress(PaigeantError):  # the next renewal says so again
            self._learn(await asyncio.to_thread(self._store.waits, self._closing.hop_id))

    def _learn(self, waits: Sequence[Wait]) -> None:
        for wait in waits:
            self._known[wait.wait_id] = wait
            if wait.state != "open":
                for stand in [stand for stand in self._stands if stand.token == wait.token]:
                    _set(stand.over)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        assert self._loop is not None
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _watch(self) -> None:
        assert self._loop is not None
        if self._look is not None:
            self._look.cancel()
        left = (self._ends - self.now()).total_seconds() - BEFORE_THE_END
        delay = max(0.0, min(IN_PEACE, left))
        self._look = self._loop.call_later(delay, lambda moves: self._begin(self._leave_if(moves)), self._moves)

    async def _leave_if(self, moves: int) -> None:
        """Leave the attempt if nothing has moved since, not even now that the loop has had time."""
        for _ in range(SETTLING):
            await asyncio.sleep(0)
        if self._moves != moves or not self._stands or self.standing is not None or self._is_at_work():
            return
        if self._leave is None:
            return
        self.standing = self._stood_at()
        self._leave()

    def _leave_at_the_end(self) -> None:
        """Note that the attempt is left if the step's time is over, and it has done nothing but wait at the end.

        On a busy machine that may come before anybody has left it. It is no timeout.
        """
        if self.standing is None and self._leave is not None and self.now() >= self._ends and not self._is_at_work():
            self.standing = self._stood_at()

    def _is_at_work(self) -> bool:
        with self._lock:
            return self._is_busy() or any(not flight.stands for flight in self._flights)

    def _stood_at(self) -> Standing:
        times = [stand.until for stand in self._stands if stand.token is None and stand.until is not None]
        return Standing(
            tokens=tuple(sorted({stand.token for stand in self._stands if stand.token is not None})),
            wake_at=min(times, default=None),
            names=tuple(sorted({stand.name for stand in self._stands})),
            quiet=all(stand.quiet for stand in self._stands),
        )

    def take_off(self, flight: Flight) -> None:
        """Note that such code begins."""
        with self._lock:
            self._flights.add(flight)
        self.moved()

    def land(self, flight: Flight) -> None:
        """Note that it has ended."""
        with self._lock:
            self._flights.discard(flight)
        self.moved()


class _Flying:
    """The block in which code flies."""

    __slots__ = ("_flight", "_token", "_waits")
    _token: Token[Flight | None]

    def __init__(self, waits: HopWaits) -> None:
        self._waits, self._flight = waits, Flight(_flight.get())

    def __enter__(self) -> Flight:
        self._token = _flight.set(self._flight)
        self._waits.take_off(self._flight)
        return self._flight

    def __exit__(self, *error: object) -> None:
        self._waits.land(self._flight)
        _flight.reset(self._token)


def _around(flight: Flight | None) -> list[Flight]:
    found = []
    while flight is not None:
        found.append(flight)
        flight = flight.outer
    return found


def _set(over: asyncio.Future[None]) -> None:
    if not over.done():
        over.set_result(None)
