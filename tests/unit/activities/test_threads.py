"""The threads of steps: one call after the other, nothing kept for them, and nobody who waits for one that hangs."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import CancelledError
from contextvars import Context, ContextVar, copy_context
from functools import partial

import pytest

from paigeant_celery.activities.functions import in_own_thread
from paigeant_celery.activities.threads import NoResources, OwnThread, ThreadPerCall, released, thread_of_step

pytestmark = pytest.mark.anyio

PATIENCE = 20.0  # seconds after which a test that waits has failed

kept: ContextVar[str] = ContextVar("kept", default="nothing")


class Host:
    """Notes what is let go of, and in which thread."""

    def __init__(self) -> None:
        self.noted: list[tuple[str, str, threading.Thread]] = []

    def enter_context(self) -> None:
        self._note("enter context")

    def release_context(self) -> None:
        self._note("release context")

    def release_thread(self) -> None:
        self._note("release thread")

    def _note(self, what: str) -> None:
        self.noted.append((what, kept.get(), threading.current_thread()))

    def words(self) -> list[tuple[str, str]]:
        return [(what, value) for what, value, _ in self.noted]


def keep(value: str) -> threading.Thread:
    kept.set(value)
    return threading.current_thread()


def test_a_thread_makes_its_calls_in_order_and_lets_go_when_it_is_closed() -> None:
    """What a function keeps for its thread belongs to whatever still surrounds the function."""
    host = Host()
    thread = OwnThread(host)

    first = thread.make_inside(copy_context(), partial(keep, "one"))
    second = thread.submit(threading.current_thread)
    assert first.result(PATIENCE) is second.result(PATIENCE)
    assert host.words() == [("enter context", "nothing"), ("release context", "one")]

    thread.close().result(PATIENCE)

    assert host.words()[2:] == [("release thread", "nothing")]
    assert {where for *_, where in host.noted} == {first.result()}


def test_a_thread_that_nothing_used_never_starts() -> None:
    """A step whose code is all async costs none."""
    host, before = Host(), threading.active_count()

    OwnThread(host).close().result(0)

    assert (host.noted, threading.active_count()) == ([], before)


def test_a_closed_thread_refuses_calls() -> None:
    """A call that nobody makes would be waited for."""
    thread = OwnThread(NoResources())
    thread.close()

    with pytest.raises(RuntimeError, match="the step to which this thread belongs has ended"):
        thread.submit(print)


def test_a_thread_that_waits_for_a_call_to_itself_gets_its_answer() -> None:
    """Sync code may run an event loop that sends its sync code to the same thread."""
    thread = OwnThread(NoResources())

    inner = thread.submit(lambda: thread.submit(threading.current_thread).result(PATIENCE)).result(PATIENCE)

    assert inner is not thread.submit(threading.current_thread).result(PATIENCE)
    inner.join(PATIENCE)
    assert not inner.is_alive()
    thread.close()


def test_a_call_that_is_given_up_before_it_begins_is_not_made() -> None:
    """Its step has ended in the meantime."""
    release, made = threading.Event(), list[str]()
    thread = OwnThread(NoResources())
    hanging = thread.submit(release.wait, PATIENCE)
    waiting = thread.submit(made.append, "made")

    assert waiting.cancel()
    assert not thread.free
    release.set()

    assert hanging.result(PATIENCE)
    thread.close().result(PATIENCE)
    with pytest.raises(CancelledError):
        waiting.result(0)
    assert made == []


def test_a_thread_in_which_no_call_is_made_is_never_there() -> None:
    """Most steps are agents that wait for a model."""
    thread = OwnThread(NoResources())

    assert thread.close().done()
    assert thread.thread is None
    assert not thread.free


async def test_sync_code_of_a_step_runs_in_the_threads_of_the_step_or_beside_it() -> None:
    """A step may call a second function while the first one waits for it."""
    host = Host()
    thread, both = OwnThread(host), threading.Barrier(2)

    def work() -> threading.Thread:
        both.wait(PATIENCE)
        return threading.current_thread()

    with thread_of_step(thread):
        beside = await asyncio.gather(in_own_thread(work), in_own_thread(work))
        alone = await in_own_thread(threading.current_thread)
    without = await in_own_thread(threading.current_thread)

    own = thread.submit(threading.current_thread).result(PATIENCE)
    assert [found is own for found in (*beside, alone, without)] == [True, False, True, False]
    for other in (beside[1], without):
        await asyncio.to_thread(other.join, PATIENCE)
    assert [where for what, _, where in host.noted if what == "release thread"] == [beside[1]]
    thread.close()


@pytest.mark.parametrize("fails", [False, True])
def test_a_thread_for_one_call_lets_go_in_the_context_of_the_call(fails: bool) -> None:
    """Whoever waits for the call finds nothing open any more."""
    host = Host()

    def call() -> None:
        kept.set("inside")
        if fails:
            raise KeyError("x")

    future = ThreadPerCall(host, name="tool").submit(copy_context().run, call)

    assert isinstance(future.exception(PATIENCE), KeyError if fails else type(None))
    assert host.words() == [
        ("enter context", "nothing"), ("release context", "inside"), ("release thread", "nothing"),
    ]  # fmt: skip
    assert len({where for *_, where in host.noted}) == 1


def test_what_a_call_keeps_in_an_empty_context_is_let_go_of() -> None:
    """Such a context is false."""
    host = Host()

    released(host, Context().run, keep, "inside")()

    assert ("release context", "inside") in host.words()


async def test_a_call_without_a_context_of_its_own_lets_go_of_its_thread() -> None:
    """Not everyone who uses the threads of the loop carries the context there."""
    host = Host()

    assert released(host, keep, "changed")() is threading.current_thread()

    assert host.words()[-1] == ("release thread", "changed")
