"""The order in which answers reach the code of a step: a replay gives them in the order of the attempts before.

Which of two parallel calls ends first may steer a run. A recorded call answers at once, so without this the order would
be that in which the calls are made.
"""

from __future__ import annotations

import asyncio
from bisect import insort
from collections.abc import Callable, Iterable
from contextlib import suppress

from paigeant_celery.activities.real_threads import real

__all__ = ["PATIENCE", "Turns"]

SETTLING = 20  # turns of the event loop between two answers at most: the code goes as far as the first takes it
PATIENCE = 5.0  # seconds without any progress until a recorded call that nobody makes is given up


class Turns:
    """Numbers the calls of a hop as they end, and lets the code have each answer after those with lower numbers.

    `recorded` are the numbers of earlier attempts, whose answers come first. May be used from any thread and event
    loop. If a recorded call is not made again, its place is kept until nothing has moved for a while. Then the order
    cannot be kept: `given_up` is called, and every call gets its answer when it asks.
    """

    def __init__(self, recorded: Iterable[int] = (), *, given_up: Callable[[], object] = lambda: None) -> None:
        self._ahead = sorted(recorded)
        self._last = self._ahead[-1] if self._ahead else 0
        self._lock = real().Lock()
        self._waiting: dict[int, tuple[asyncio.AbstractEventLoop, asyncio.Event]] = {}
        self._given_up, self._is_given_up = given_up, False
        self._moves = self._at_work = 0

    def next(self) -> int:
        """Return the number of a call that has ended just now; it must be taken or left."""
        with self._lock:
            self._last += 1
            insort(self._ahead, self._last)
            self._moves += 1
            return self._last

    async def take(self, number: int | None) -> None:
        """Wait until the code may have the answer with this number; None has no place in the order."""
        if number is None:
            return
        try:
            await self._come_up(number)
            await _settle()
        finally:
            self.leave(number)

    def leave(self, number: int) -> None:
        """Let the answers after this one go on: the code has it, or will never get it."""
        with self._lock:
            self._moves += 1
            if number in self._ahead:
                self._ahead.remove(number)
            woken = [waiting for other, waiting in self._waiting.items() if self._is_up(other)]
        for waiting in woken:
            _set(*waiting)

    def give_up(self) -> None:
        """Keep no order any more, and let everybody go on."""
        with self._lock:
            self._is_given_up = True
            waiting = list(self._waiting.values())
        for woken in waiting:
            _set(*woken)

    def begin_work(self) -> None:
        """Give up no recorded call until `end_work`: nobody knows how long the code takes that runs now."""
        with self._lock:
            self._at_work += 1

    def end_work(self) -> None:
        """Say that this code has ended."""
        with self._lock:
            self._at_work -= 1
            self._moves += 1

    async def _come_up(self, number: int) -> None:
        up = asyncio.Event()
        with self._lock:
            if self._is_up(number):
                return
            self._waiting[number] = (asyncio.get_running_loop(), up)
            self._moves += 1
        try:
            while not up.is_set():
                moves = self._moves
                try:
                    async with asyncio.timeout(PATIENCE):
                        await up.wait()
                except TimeoutError:
                    await self._look(moves)
        finally:
            with self._lock:
                self._waiting.pop(number, None)

    async def _look(self, moves: int) -> None:
        """Give the order up if nothing has moved since, not even now that the loop has had time."""
        for _ in range(SETTLING):
            await asyncio.sleep(0)
        with self._lock:
            if self._moves != moves or self._at_work or self._is_given_up:
                return
        self._given_up()
        self.give_up()

    def _is_up(self, number: int) -> bool:
        return self._is_given_up or not self._ahead or number <= self._ahead[0]


async def _settle() -> None:
    """Let the loop go on until nothing else is ready to run, as far as its turns show."""
    ready = getattr(asyncio.get_running_loop(), "_ready", None)  # asyncio's own loops have it, others need not
    for _ in range(SETTLING):
        await asyncio.sleep(0)
        if ready is not None and not ready:
            return


def _set(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    with suppress(RuntimeError):  # that loop has ended, and what waited on it too
        loop.call_soon_threadsafe(event.set)
