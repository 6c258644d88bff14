"""Threads that go on by themselves, with and without gevent, which makes greenlets of those of `threading`."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from paigeant_celery.activities.real_threads import (
    OfThread,
    RealFuture,
    are_greenlets,
    new_loop,
    real,
    run_on,
    start_thread,
)
from tests.support.processes import run_script

PATIENCE = 20.0  # seconds after which a test that waits has failed

# What a process sees in which everything is patched, as Celery does it for `-P gevent`.
UNDER_GEVENT = """
import gevent.monkey
gevent.monkey.patch_all()
import asyncio, json, threading, time
import anyio.to_thread, gevent
from paigeant_celery.activities.real_threads import *
from paigeant_celery.activities.threads import SharedThreads

PATIENCE, seen = 20.0, {}

def serve():
    loop = new_loop()
    loops.set_result(loop)
    loop.run_forever()

async def nap(seconds, answer=None):
    await asyncio.sleep(seconds)
    return answer

async def count_beside(other, enough):
    other, counted = asyncio.ensure_future(other), 0
    while not other.done():
        await asyncio.sleep(0.01)
        counted += 1
        if counted == 3:
            enough.set()
    return counted

loops = RealFuture()
thread = start_thread(serve, name="loop")
loop = loops.result(PATIENCE)
seen["greenlets"] = are_greenlets()
seen["native"] = [real().Thread is not threading.Thread, thread.ident != real().get_ident()]
seen["asyncio.run"] = asyncio.run(nap(0.01, "ran"))

began = time.monotonic()
waiting = [gevent.spawn(lambda n=n: run_on(loop, nap(0.3, n)).result()) for n in range(500)]
gevent.joinall(waiting)
seen["at once"] = [[greenlet.value for greenlet in waiting] == list(range(500)), time.monotonic() - began]

computing, ticks = RealFuture(), 0
def compute():
    end, rounds = time.monotonic() + PATIENCE, 0
    while ticks < 3 and time.monotonic() < end:
        rounds += 1
    computing.set_result(rounds > 0)
start_thread(compute, name="computes")
while not computing.done():
    gevent.sleep(0.02)
    ticks += 1
seen["beside a thread that computes"] = [computing.result(0), ticks]

end = time.monotonic() + PATIENCE
beats = []
def beat():
    pause = real().Event()
    while len(beats) < 3 and not pause.wait(0.02):
        beats.append(time.monotonic())
start_thread(beat, name="beats")
while len(beats) < 3 and time.monotonic() < end:  # a greenlet that never lets go
    pass
seen["beside a greenlet that computes"] = len(beats)

enough = threading.Event()
waits = anyio.to_thread.run_sync(enough.wait, PATIENCE)
seen["threads of libraries"] = run_on(loop, count_beside(waits, enough)).result(PATIENCE)

endless = run_on(loop, nap(1000))
try:
    endless.result(0.05)
except TimeoutError:
    seen["in time"] = endless.cancel()

held, closed, kept = OfThread(lambda value: closed.append(value)), [], RealFuture()
held.value = "mine"
def hold():
    before, held.value = held.value, "its own"
    kept.set_result([before, held.value])
holding = start_thread(hold, name="holds")
seen["own"] = [*kept.result(PATIENCE), held.value]
while not closed:
    gevent.sleep(0.01)
seen["closed"] = closed

lock, passed = threading.Lock(), []
def pass_through(name):
    for _ in range(20):
        with lock:
            passed.append(name)
            time.sleep(0.001)
threads = SharedThreads(4, name="shared")
ends = [threads.submit(pass_through, number) for number in range(4)]
greenlets = [gevent.spawn(pass_through, "greenlet") for _ in range(2)]
single = [start_thread(lambda: pass_through("single"), name="single") for _ in range(2)]
with gevent.Timeout(PATIENCE, False):
    while len(passed) < 8 * 20:
        gevent.sleep(0.01)
seen["through one lock"] = len(passed)
print(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    """What a process with gevent saw."""
    found: dict[str, Any] = json.loads(run_script(UNDER_GEVENT, cold=True).splitlines()[-1])
    return found


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """Give a loop that runs in a thread."""
    made: RealFuture[asyncio.AbstractEventLoop] = RealFuture()

    def serve() -> None:
        loop = new_loop()
        made.set_result(loop)
        loop.run_forever()
        loop.close()

    thread = start_thread(serve, name="loop")
    loop = made.result(PATIENCE)
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join(PATIENCE)


def test_without_gevent_there_is_nothing_but_the_standard_library() -> None:
    """Every other pool goes on as it did."""
    held: OfThread[str] = OfThread(lambda value: None)
    held.value = "everybody's"
    found: RealFuture[str | None] = RealFuture()

    start_thread(lambda: found.set_result(held.value), name="looks").join(PATIENCE)

    assert (are_greenlets(), real(), found.result(0)) == (False, threading, "everybody's")


def test_a_coroutine_is_run_on_the_loop_of_another_thread(loop: asyncio.AbstractEventLoop) -> None:
    """The task of a hop waits for its run, and gets what it returned or raised."""

    async def told(answer: object) -> object:
        await asyncio.sleep(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    assert run_on(loop, told("answer")).result(PATIENCE) == "answer"
    assert isinstance(run_on(loop, told(KeyError("missing"))).exception(PATIENCE), KeyError)


def test_a_coroutine_is_cancelled_with_its_future(loop: asyncio.AbstractEventLoop) -> None:
    """A run that was given up must not go on and pay for calls."""
    ended, begun = threading.Event(), threading.Event()

    async def endless() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    future = run_on(loop, endless())
    assert begun.wait(PATIENCE)

    assert future.cancel()
    assert ended.wait(PATIENCE)
    assert not future.cancel() or future.cancelled()


def test_a_coroutine_that_was_given_up_before_it_began_does_not_begin(loop: asyncio.AbstractEventLoop) -> None:
    """The loop may be blocked for a while."""
    free, begun = threading.Event(), threading.Event()

    async def never() -> None:
        begun.set()

    loop.call_soon_threadsafe(free.wait, PATIENCE)
    future = run_on(loop, never())
    assert future.cancel()
    free.set()

    assert run_on(loop, asyncio.sleep(0, "after it")).result(PATIENCE) == "after it"
    assert not begun.is_set()


@pytest.mark.together
class TestUnderGevent:
    """One process sees it all, because patching is for a whole process."""

    def test_threads_are_real(self, seen: dict[str, Any]) -> None:
        """A greenlet is no place for an event loop."""
        assert (seen["greenlets"], seen["native"]) == (True, [True, True])

    def test_a_loop_in_a_thread_leaves_asyncio_run_to_others(self, seen: dict[str, Any]) -> None:
        """The host's tasks are none of our business."""
        assert seen["asyncio.run"] == "ran"

    def test_greenlets_wait_at_the_same_time(self, seen: dict[str, Any]) -> None:
        """A worker has a thousand of them."""
        right, seconds = seen["at once"]

        assert right
        assert seconds < 500 * 0.3 / 10

    def test_a_thread_that_computes_leaves_the_greenlets_alone(self, seen: dict[str, Any]) -> None:
        """A sync step may take its time."""
        ended, ticks = seen["beside a thread that computes"]

        assert ended
        assert ticks >= 3

    def test_a_greenlet_that_computes_leaves_the_threads_alone(self, seen: dict[str, Any]) -> None:
        """The lease is renewed beside a task of the host that computes."""
        assert seen["beside a greenlet that computes"] >= 3

    def test_threads_that_libraries_start_from_the_loop_go_on_beside_it(self, seen: dict[str, Any]) -> None:
        """Clients of models use anyio's threads."""
        assert seen["threads of libraries"] >= 3

    def test_a_wait_ends_in_time(self, seen: dict[str, Any]) -> None:
        """A task looks up from its wait several times a second."""
        assert seen["in time"] is True

    def test_each_thread_has_connections_of_its_own(self, seen: dict[str, Any]) -> None:
        """A socket of gevent cannot be used by two threads. Those of a thread are closed with it."""
        assert (seen["own"], seen["closed"]) == ([None, "its own", "mine"], ["its own"])

    def test_threads_and_greenlets_pass_through_one_lock(self, seen: dict[str, Any]) -> None:
        """Libraries have locks. Whoever waited for one that an idle thread had released waited for good."""
        assert seen["through one lock"] == 8 * 20
