"""A call to the broker that somebody else makes, and for which nobody waits longer than the settings allow."""

from __future__ import annotations

import asyncio
import concurrent.futures
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from paigeant_celery.activities.real_threads import RealFuture

__all__ = ["Sending"]

T = TypeVar("T")


class Sending(Generic[T]):
    """A call that a thread of ours makes, most often to send a message.

    Whoever gives up takes it back if it has not begun. One that has begun may still succeed: then the message arrives
    although its sender was told that it did not. With a store its hop runs once all the same.
    """

    def __init__(self, future: RealFuture[T], *, end: float, late: Callable[[], Exception] = TimeoutError) -> None:
        self._future, self._end, self._late = future, end, late

    @classmethod
    def made(cls, call: Callable[[], T]) -> Sending[T]:
        """Make a call here and now, where nothing can block it."""
        future: RealFuture[T] = RealFuture()
        try:
            future.set_result(call())
        except Exception as error:  # noqa: BLE001 - whoever waits gets it
            future.set_exception(error)
        return cls(future, end=time.monotonic())

    @property
    def is_over(self) -> bool:
        """Whether the call has ended, or is too late by now."""
        return self._future.done() or self._left == 0

    def when_ended(self, tell: Callable[[BaseException | None], object]) -> None:
        """Have `tell` called with the error of the call, or None, in the thread that ends it."""

        def ended(future: concurrent.futures.Future[T]) -> None:
            tell(self._late() if future.cancelled() else future.exception())

        self._future.add_done_callback(ended)

    def sooner(self, seconds: float) -> Sending[T]:
        """Wait for this much less, because the caller has waited for the broker before."""
        self._end -= seconds
        return self

    def ends_within(self, seconds: float) -> bool:
        """Wait for a moment, and say whether the call has ended, well or not. It goes on if it has not."""
        try:
            self._future.exception(seconds)
        except (concurrent.futures.TimeoutError, concurrent.futures.CancelledError):
            return self._future.done()
        return True

    def wait(self) -> T:
        """Return the answer. Raises what the call raised, or that it is too late; then the call is given up."""
        if not self.ends_within(self._left):
            self._give_up()
        return self._answer()

    async def arrived(self) -> T:
        """Do what `wait` does, without blocking the event loop. Cancelled, it gives the call up as well."""
        waiting = asyncio.wrap_future(self._future)
        try:
            await asyncio.wait([waiting], timeout=self._left)
        finally:
            waiting.cancel()  # and with it the call, unless it has begun
        if not self._future.done():
            self._give_up()
        return self._answer()

    def _answer(self) -> T:
        if self._future.cancelled():  # by who was to make the call, and found that it was too late
            raise self._late()
        return self._future.result(0)

    @property
    def _left(self) -> float:
        return max(0.0, self._end - time.monotonic())

    def _give_up(self) -> None:
        if self._future.cancel() or not self._future.done():
            raise self._late()
