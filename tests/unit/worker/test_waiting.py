"""Runs that task bodies wait for, and a worker that ends."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from contextlib import ExitStack

import pytest

from paigeant_celery.activities.real_threads import RealFuture
from paigeant_celery.worker.shutdown import Shutdown
from paigeant_celery.worker.waiting import LookOut, Waiting

SOON = 10.0  # seconds


def waiting(at_rest: Callable[[], bool] = lambda: False) -> Waiting:
    return Waiting(future=RealFuture[str](), at_rest=at_rest)


def test_a_run_at_rest_is_given_up_as_soon_as_the_worker_ends() -> None:
    """Another worker goes on with it while the runs beside it use their grace."""
    shutdown, resting, working = Shutdown(grace=3600), waiting(lambda: True), waiting()
    look_out = LookOut(lambda: shutdown)

    with look_out.over(working), look_out.over(resting):
        shutdown.ask()
        with pytest.raises(CancelledError):
            resting.future.result(SOON)

    assert (resting.given_up, working.given_up, working.future.done()) == (True, False, False)


def test_a_run_that_comes_to_rest_later_is_given_up_then() -> None:
    """The call that was in progress when the worker was told to end is recorded first."""
    shutdown, seen = Shutdown(grace=3600), threading.Event()
    answers = iter([False, False])

    def at_rest() -> bool:
        seen.set()
        return next(answers, True)

    run = waiting(at_rest)
    with LookOut(lambda: shutdown).over(run):
        shutdown.ask()
        assert seen.wait(SOON)
        with pytest.raises(CancelledError):
            run.future.result(SOON)

    assert next(answers, None) is None


def test_no_run_outlasts_the_grace() -> None:
    """A worker ends in time, whatever its steps do."""
    shutdown, run = Shutdown(grace=0), waiting()

    with LookOut(lambda: shutdown).over(run):
        shutdown.ask()
        with pytest.raises(CancelledError):
            run.future.result(SOON)

    assert run.given_up


def test_a_run_that_has_just_ended_counts() -> None:
    """Its output is paid for, so it is recorded."""
    run = waiting()
    run.future.set_result("done")

    run.give_up()

    assert (run.given_up, run.future.result(0)) == (False, "done")


def test_hundreds_of_runs_are_looked_after_by_one_thread() -> None:
    """What only waits uses no processor."""
    shutdown, runs = Shutdown(grace=0), [waiting() for _ in range(300)]
    look_out, before = LookOut(lambda: shutdown), threading.active_count()

    with ExitStack() as stack:
        for run in runs:
            stack.enter_context(look_out.over(run))
        started = threading.active_count() - before
        shutdown.ask()
        for run in runs:
            with pytest.raises(CancelledError):
                run.future.result(SOON)

    assert started == 1


def test_a_forked_child_looks_after_its_own_runs() -> None:
    """Celery forks the processes of a pool from one that may have run steps itself."""
    shutdown = Shutdown(grace=0)
    look_out = LookOut(lambda: shutdown)
    with look_out.over(waiting()):
        answer, told = os.pipe()
        child = os.fork()
        if child == 0:
            run = waiting()
            with look_out.over(run):
                shutdown.ask()
                try:
                    run.future.result(SOON)
                except CancelledError:
                    os.write(told, b"given up")
            os._exit(0)
        os.waitpid(child, 0)

    assert os.read(answer, 100) == b"given up"
    os.close(answer)
    os.close(told)
