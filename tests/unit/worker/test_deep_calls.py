"""Which thread makes calls that need much of a stack."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from textwrap import dedent
from typing import Any

import pytest

from paigeant_celery.activities import threads
from paigeant_celery.worker.deep_calls import DeepCalls

PATIENCE = 20.0  # seconds after which a test that waits has failed


def in_threads(number: int, call: Callable[[], object]) -> list[tuple[threading.Thread, object]]:
    """Make the call twice in each of some threads that live beside each other, and return who got what."""
    got, all_there = list[tuple[threading.Thread, object]](), threading.Barrier(number)

    def both() -> None:
        for _ in range(2):
            got.append((threading.current_thread(), call()))
            all_there.wait(PATIENCE)

    begun = [threading.Thread(target=both) for _ in range(number)]
    for thread in begun:
        thread.start()
    for thread in begun:
        thread.join(PATIENCE)
    assert len(got) == 2 * number
    return got


def test_a_few_threads_make_them_themselves_and_all_others_in_one_other_thread() -> None:
    """A small pool hands nothing over, and a large one keeps the stacks of its threads small."""
    deep = DeepCalls(few=2)

    got = in_threads(5, lambda: deep.make(threading.current_thread))

    themselves = {here for here, made in got if made is here}
    others = {made for here, made in got if made is not here}
    assert len(themselves) == 2
    assert [thread.name for thread in others if isinstance(thread, threading.Thread)] == ["paigeant-deep-calls"]
    assert all(made is here for here, made in got if here in themselves)


def test_threads_that_have_ended_make_room_for_others() -> None:
    """The threads of a pool may end, for example when it is made smaller."""
    deep = DeepCalls(few=1)
    for _ in range(3):
        ((here, made), *_) = in_threads(1, lambda: deep.make(threading.current_thread))
        assert made is here
        del here, made


def test_what_a_call_raises_reaches_its_caller() -> None:
    """A message that cannot be read is refused, whoever reads it."""
    with pytest.raises(ZeroDivisionError):
        DeepCalls(few=0).make(lambda: 1 // 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_has_a_thread_of_its_own() -> None:
    """The parent's thread is not there, so that a child that waited for it would wait for ever."""
    code = """
        import os, signal
        from paigeant_celery.worker.deep_calls import DeepCalls

        deep = DeepCalls(few=0)
        assert deep.make(os.getpid) == os.getpid()
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            os._exit(deep.make(os.getpid) != os.getpid())
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """

    done = subprocess.run([sys.executable, "-c", dedent(code)], capture_output=True, text=True, timeout=60, check=False)

    assert done.stdout.strip() == "0", done.stderr


def test_a_process_that_can_start_no_thread_makes_the_calls_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for a thread that never began would take every slot of the worker."""
    deep = DeepCalls(few=0)

    def no_thread(*_: Any, **__: Any) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as full:
        full.setattr(threads, "start_thread", no_thread)
        assert [deep.make(threading.get_ident) for _ in range(2)] == [threading.get_ident()] * 2

    assert deep.make(threading.get_ident) != threading.get_ident()
