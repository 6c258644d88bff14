"""The process's event loop: one for all steps and the whole life of a process, and a new one in each child."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from functools import partial
from inspect import getsource
from textwrap import dedent
from types import CodeType
from typing import Any, TypeVar

import pytest

from paigeant_celery.activities.functions import in_own_thread
from paigeant_celery.activities.stacks import frame_of
from paigeant_celery.worker.loop import ProcessLoop
from paigeant_celery.worker.pulse import Pulse

T = TypeVar("T")

PATIENCE = 20.0  # seconds after which a test that waits has failed


class Interrupted(BaseException):
    """What a time limit or a stopping worker raises in a waiting task body."""


class Endless:
    """A coroutine that goes on until it is cancelled, and then says so."""

    def __init__(self) -> None:
        self.started, self.cancelled = threading.Event(), threading.Event()

    async def __call__(self) -> None:
        self.started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


@pytest.fixture
def interrupting() -> Iterator[None]:
    """Make SIGUSR1 raise `Interrupted` in the main thread, as Celery's time limits do."""

    def interrupt(number: int, frame: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGUSR1, interrupt)
    yield
    signal.signal(signal.SIGUSR1, before)


def run(loop: ProcessLoop, coroutine: Coroutine[Any, Any, T], *, timeout: float | None = None) -> T:
    """Wait for a coroutine as a task body does."""
    with loop.running(coroutine) as future:
        return future.result(timeout)


def run_alone(code: str) -> str:
    """Run a separate program, which has `run` from above, and return what it prints."""
    code = f"from __future__ import annotations\n{getsource(run)}\n{dedent(code)}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_all_coroutines_of_a_process_share_one_loop_in_one_daemon_thread() -> None:
    """Model clients belong to the loop that made them; another loop would find them broken."""
    loop = ProcessLoop()

    async def where() -> tuple[asyncio.AbstractEventLoop, threading.Thread]:
        return asyncio.get_running_loop(), threading.current_thread()

    seen = {run(loop, where()), run(loop, where())}
    other = threading.Thread(target=lambda: seen.add(run(loop, where())))
    other.start()
    other.join(PATIENCE)

    ((_, thread),) = seen
    assert thread.daemon
    assert thread is not threading.main_thread()


def test_threads_that_come_first_together_make_one_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first steps of a threaded worker begin at the same moment."""
    loop, both, made = ProcessLoop(), threading.Barrier(2), []
    new_event_loop = asyncio.new_event_loop

    def slowly() -> asyncio.AbstractEventLoop:
        with suppress(threading.BrokenBarrierError):
            both.wait(0.2)  # a second maker would meet the first one here
        made.append(new_event_loop())
        return made[-1]

    monkeypatch.setattr(asyncio, "new_event_loop", slowly)

    threads = [
        threading.Thread(
            target=run,
            args=(
                loop,
                asyncio.sleep(0),
            ),
        )
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)

    assert len(made) == 1


def test_an_error_reaches_who_waits_for_it() -> None:
    """The task body sees the error of its coroutine, not just that some loop failed."""
    error = ValueError("no")

    async def fail() -> None:
        raise error

    with pytest.raises(ValueError, match="no") as caught:
        run(ProcessLoop(), fail())
    assert caught.value is error


def test_a_coroutine_sees_the_context_of_its_caller_and_does_not_change_it() -> None:
    """What a host keeps in context variables (tracing, tenants) is there in the step."""
    tenant = contextvars.ContextVar("tenant", default="nobody")
    tenant.set("shop")

    async def read() -> str:
        seen = tenant.get()
        tenant.set("changed")
        return seen

    assert (run(ProcessLoop(), read()), tenant.get()) == ("shop", "shop")


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="this system has no SIGUSR1")
def test_an_interrupted_wait_cancels_the_coroutine(interrupting: None) -> None:
    """A time limit or a stop also ends the model call; nobody goes on paying for a result that no one waits for."""
    loop, endless = ProcessLoop(), Endless()
    waiter = threading.main_thread().ident
    assert waiter is not None

    def interrupt_the_waiter() -> None:
        end = time.monotonic() + PATIENCE
        while _code_of(waiter) is not threading.Condition.wait.__code__ and time.monotonic() < end:
            os.sched_yield()
        signal.pthread_kill(waiter, signal.SIGUSR1)

    async def be_interrupted() -> None:
        await asyncio.gather(endless(), asyncio.to_thread(interrupt_the_waiter))

    with pytest.raises(Interrupted):
        run(loop, be_interrupted())

    assert endless.cancelled.wait(PATIENCE)


def test_a_wait_that_times_out_cancels_the_coroutine() -> None:
    """A step that nobody waits for any longer does not go on."""
    endless = Endless()

    with pytest.raises(TimeoutError):
        run(ProcessLoop(), endless(), timeout=0.05)

    assert not endless.started.is_set() or endless.cancelled.wait(PATIENCE)


def test_a_wait_ends_in_time_though_the_coroutine_blocks_its_loop() -> None:
    """Code that never awaits cannot be cancelled, but the task body is free anyway."""
    release, ended = threading.Event(), threading.Event()

    async def block() -> None:
        release.wait(PATIENCE)
        ended.set()

    try:
        with pytest.raises(TimeoutError):
            run(ProcessLoop(), block(), timeout=0.05)
        assert not ended.is_set()
    finally:
        release.set()


def test_a_started_coroutine_is_cancelled_by_its_future() -> None:
    """A hop that another owner took over is stopped while the task body still waits."""
    endless = Endless()

    with ProcessLoop().running(endless()) as future:
        assert endless.started.wait(PATIENCE)
        future.cancel()

        assert endless.cancelled.wait(PATIENCE)
        assert future.cancelled()


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_a_task_that_would_end_the_process_leaves_the_loop_to_the_other_steps(
    error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """A step may leave a task behind that raises `SystemExit`, which asyncio lets out of its loop."""
    loop, other, left_behind = ProcessLoop(), Endless(), []

    async def leave_behind() -> asyncio.AbstractEventLoop:
        async def quit_later() -> None:
            raise error

        left_behind.append(asyncio.create_task(quit_later()))
        return asyncio.get_running_loop()

    async def whose() -> tuple[asyncio.AbstractEventLoop, bool]:
        with suppress(BaseException):
            await asyncio.wait(left_behind)
        return asyncio.get_running_loop(), isinstance(left_behind[0].exception(), error)

    with loop.running(other()) as running:
        before = run(loop, leave_behind(), timeout=PATIENCE)
        after = run(loop, whose(), timeout=PATIENCE)

        assert after == (before, True)
        assert not running.done()
    assert [(r.__dict__["action"], r.__dict__["error"]) for r in caplog.records if hasattr(r, "action")] == [
        ("loop_interrupted", error.__name__)
    ]


def test_what_a_step_leaves_on_the_loop_is_logged_without_texts_and_values(caplog: pytest.LogCaptureFixture) -> None:
    """asyncio would log what the error says, and the arguments of a callback."""
    secret = "tiger" + "-42"

    async def left(value: str) -> None:
        raise KeyError(value)

    def called(value: str) -> None:
        raise KeyError(value)

    async def leave() -> None:
        task = asyncio.create_task(left(secret))
        asyncio.get_running_loop().call_soon(called, secret)
        await asyncio.wait([task])
        del task
        gc.collect()

    run(ProcessLoop(), leave(), timeout=PATIENCE)

    texts = sorted(r.getMessage() for r in caplog.records if r.__dict__.get("action") == "left_task_failed")
    assert len(texts) == 2
    assert "a callback" in texts[0]
    assert "in test_what_a_step_leaves_on_the_loop_is_logged_without_texts_and_values.<locals>.called" in texts[0]
    assert "left, which a step left" in texts[1]
    assert texts[1].endswith("KeyError")
    assert secret not in caplog.text


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_has_a_loop_of_its_own() -> None:
    """The thread of the parent's loop does not exist in a prefork child, so every step there would wait forever."""
    exit_codes = run_alone(
        """
        import asyncio, os, signal
        from paigeant_celery.worker.loop import ProcessLoop

        async def where():
            return os.getpid()

        loop = ProcessLoop()
        assert run(loop, where()) == os.getpid()
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            os._exit(0 if run(loop, where()) == os.getpid() and run(loop, where()) == os.getpid() else 1)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), run(loop, where()) == os.getpid())
        """
    )

    assert exit_codes == "0 True"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_forked_while_the_loop_is_made_does_not_wait_for_the_parent() -> None:
    """A pool may grow at any moment; a lock that is held then is released only in the parent."""
    exit_code = run_alone(
        """
        import asyncio, os, signal, threading
        from paigeant_celery.worker.loop import ProcessLoop

        held, release, new_event_loop = threading.Event(), threading.Event(), asyncio.new_event_loop

        def slowly():
            held.set()
            release.wait(20)
            return new_event_loop()

        loop, asyncio.new_event_loop = ProcessLoop(), slowly
        threading.Thread(target=lambda: run(loop, asyncio.sleep(0))).start()
        assert held.wait(20)
        child = os.fork()
        if child == 0:
            signal.alarm(10)
            asyncio.new_event_loop = new_event_loop
            run(loop, asyncio.sleep(0))
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        release.set()
        """
    )

    assert exit_code == "0"


async def in_threads(*calls: Callable[[], object]) -> list[object]:
    return await asyncio.gather(*(in_own_thread(call) for call in calls), return_exceptions=True)


def test_functions_that_hang_leave_a_thread_for_the_next_one() -> None:
    """The executor of a loop has a handful of threads, and a function that hangs never gives its own back."""
    release, loop = threading.Event(), ProcessLoop()

    async def hang_and_go_on() -> object:
        hanging = [asyncio.create_task(in_own_thread(lambda: release.wait(PATIENCE))) for _ in range(64)]
        others = await asyncio.wait_for(in_threads(lambda: "ran", lambda: "ran, too"), PATIENCE)
        release.set()
        await asyncio.gather(*hanging)
        return others

    assert run(loop, hang_and_go_on(), timeout=2 * PATIENCE) == ["ran", "ran, too"]


def test_a_function_in_its_thread_sees_the_context_and_hands_over_what_it_raises() -> None:
    """A sync step is a step like any other; nobody waits forever for an error that no future can carry."""
    tenant = contextvars.ContextVar("tenant", default="nobody")
    tenant.set("shop")

    def fail() -> None:
        raise KeyError("no")

    outcomes = run(ProcessLoop(), in_threads(tenant.get, fail, lambda: next(iter(()))), timeout=PATIENCE)

    assert outcomes[0] == "shop"
    assert [(type(outcome), str(outcome)) for outcome in outcomes[1:]] == [
        (KeyError, "'no'"), (RuntimeError, "the function raised StopIteration: "),
    ]  # fmt: skip


def test_a_blocked_loop_is_left_and_the_next_coroutine_runs_on_a_new_one() -> None:
    """One step that never awaits would end every later step of its process."""
    loop, release, begun = ProcessLoop(), threading.Event(), threading.Event()

    async def block() -> None:
        begun.set()
        release.wait(PATIENCE)

    async def where() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    first = run(loop, where())
    assert not loop.leave_if_blocked(PATIENCE)
    assert run(loop, where()) is first
    with loop.running(block()):
        assert begun.wait(PATIENCE)

        assert loop.leave_if_blocked(0.05)

        assert run(loop, where(), timeout=PATIENCE) is not first
        release.set()


def test_a_process_that_has_left_a_blocked_loop_and_is_idle_gives_no_sign_that_grows_old() -> None:
    """A probe would hold it for hung until the next step came, which may take hours."""
    pulse, release, begun = Pulse(), threading.Event(), threading.Event()
    loop = ProcessLoop(turned=partial(pulse.give, "loop"), left=partial(pulse.take_back, "loop"))

    async def block() -> None:
        begun.set()
        release.wait(PATIENCE)

    def sign() -> float | None:
        (beat,) = pulse.of({os.getpid()})
        return beat.loop

    with loop.running(block()):
        assert begun.wait(PATIENCE)
        assert sign() is not None
        assert loop.leave_if_blocked(0.05)
        left = sign()
        release.set()
    run(loop, asyncio.sleep(0))

    assert left is None
    assert sign() is not None, "the next loop gives signs"


def _code_of(thread: int) -> CodeType:
    frame = frame_of(thread)
    assert frame is not None
    return frame.f_code
