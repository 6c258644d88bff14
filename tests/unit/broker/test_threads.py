"""Threads that talk to the broker: each caller waits for its own bound, and one queue leaves threads to the others."""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from celery import Celery
from celery.signals import before_task_publish
from kombu.connection import Connection

from paigeant_celery.broker import threads as module
from paigeant_celery.broker.reach import Link
from paigeant_celery.broker.sending import Sending
from paigeant_celery.broker.threads import MOST_IN_LANE, BrokerThreads
from paigeant_celery.core.errors import Unreachable

WITHIN = 10.0  # seconds within which what does not wait must happen on a busy machine


@pytest.fixture
def app() -> Celery:
    return Celery("threads", broker="memory://localhost//", set_as_current=False)


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What calls wait for that are stuck; it opens at the end of the test."""
    event = threading.Event()
    yield event
    event.set()


def stuck(gate: threading.Event, begun: threading.Semaphore) -> Callable[[Link], str]:
    def call(_: Link) -> str:
        begun.release()
        gate.wait(60)
        return "at last"

    return call


def test_an_answer_comes_back_and_so_does_an_error(app: Celery) -> None:
    """A call is as if it were made here, in a copy of the caller's context."""
    variable = contextvars.ContextVar("variable", default="unset")
    variable.set("set")
    threads = BrokerThreads(app, timeout=WITHIN)

    def fail(_: Link) -> None:
        raise RuntimeError("a handler of the host's own")

    async def both() -> tuple[str, str]:
        here = threads.begin(lambda _: threading.current_thread().name, lane="q")
        return await here.arrived(), await threads.begin(lambda _: variable.get(), lane="q").arrived()

    assert asyncio.run(both()) == ("paigeant-broker", "set")
    with pytest.raises(RuntimeError, match="of the host's own"):
        threads.begin(fail, lane="q").wait()


def test_one_thread_keeps_its_connection(app: Celery) -> None:
    """To connect costs more than to send."""
    threads = BrokerThreads(app, timeout=WITHIN)

    links = {id(threads.begin(lambda link: link, lane=str(number)).wait()) for number in range(20)}

    assert len(links) == 1


def test_a_call_wakes_no_more_threads_than_make_it(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that wakes for nothing takes the interpreter's lock from those that run steps."""
    threads, begun, gate = BrokerThreads(app, timeout=WITHIN), threading.Semaphore(0), threading.Event()
    idle = [threads.begin(stuck(gate, begun), lane=str(number)) for number in range(4)]
    assert all(begun.acquire(timeout=WITHIN) for _ in idle)
    gate.set()
    assert [sending.wait() for sending in idle] == ["at last"] * 4
    assert threads.has_ended(WITHIN)
    looked = list[str]()
    look = module._Crew._open_lane

    def counted(crew: module._Crew) -> str | None:
        looked.append(threading.current_thread().name)
        return look(crew)

    monkeypatch.setattr(module._Crew, "_open_lane", counted)
    for _ in range(20):
        threads.begin(lambda _: None, lane="q").wait()
        assert threads.has_ended(WITHIN)

    # Woken, it looks; it takes the call; it looks before it sleeps again. Those of before may just have begun to sleep.
    assert len(looked) <= 20 * 3 + 2 * len(idle)


def test_whoever_waits_for_a_stuck_call_waits_no_longer_than_the_setting(app: Celery, gate: threading.Event) -> None:
    """It says which setting that is. The call may still succeed later."""
    threads, begun = BrokerThreads(app, timeout=0.2), threading.Semaphore(0)
    sending = threads.begin(stuck(gate, begun), lane="q")
    ended = threading.Event()
    sending.when_ended(lambda _: ended.set())
    late = "no answer within 0.2 s (`paigeant_publish_timeout`)"

    with pytest.raises(Unreachable) as caught:
        sending.wait()
    with pytest.raises(Unreachable, match=r"within 0\.2 s"):
        asyncio.run(threads.begin(stuck(gate, begun), lane="q").arrived())

    assert (caught.value.cause, caught.value.refused) == (late, False)
    assert not ended.is_set()
    gate.set()
    assert ended.wait(WITHIN)


def test_a_stuck_queue_takes_few_threads_and_holds_up_no_other(app: Celery, gate: threading.Event) -> None:
    """However many calls wait for it. What nobody waits for any more is never made."""
    threads, begun, made = BrokerThreads(app, timeout=0.3), threading.Semaphore(0), list[int]()
    others = BrokerThreads(app, timeout=WITHIN)
    for _ in range(MOST_IN_LANE):
        threads.begin(stuck(gate, begun), lane="stuck")
    assert all(begun.acquire(timeout=WITHIN) for _ in range(MOST_IN_LANE))
    before = threading.active_count()

    waiting = [threads.begin(lambda _: made.append(1), lane="stuck") for _ in range(200)]
    free = [threads.begin(lambda _: "free", lane=f"free {number}").wait() for number in range(20)]
    assert threading.active_count() <= before + 1

    assert free == ["free"] * 20
    for sending in waiting:
        with pytest.raises(Unreachable):
            sending.wait()
    gate.set()
    assert threads.has_ended(WITHIN)
    assert made == []
    assert others.begin(lambda _: "other", lane="stuck").wait() == "other"


def test_a_lane_with_a_slow_call_gets_no_further_thread(
    app: Celery, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two hundred queues that are stuck after a second cannot take four threads each."""
    monkeypatch.setattr(module, "SLOW", 0.0)
    threads, begun = BrokerThreads(app, timeout=WITHIN), threading.Semaphore(0)
    threads.begin(stuck(gate, begun), lane="stuck")
    assert begun.acquire(timeout=WITHIN)

    second = threads.begin(stuck(gate, begun), lane="stuck")
    assert threads.begin(lambda _: "free", lane="free").wait() == "free"

    assert not second.ends_within(0.05)
    assert not begun.acquire(blocking=False)


def test_calls_of_one_lane_are_begun_in_their_order(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one thread for a queue, it gets its messages as they were sent."""
    monkeypatch.setattr(module, "MOST_IN_LANE", 1)
    threads, seen = BrokerThreads(app, timeout=WITHIN), list[int]()

    sendings = [threads.begin(lambda _, number=number: seen.append(number), lane="q") for number in range(50)]  # type: ignore[misc]
    for sending in sendings:
        sending.wait()

    assert seen == list(range(50))


def test_a_cancelled_coroutine_leaves_nothing_behind(app: Celery, gate: threading.Event) -> None:
    """A request that is given up leaves no call that nobody waits for, and no complaint of the event loop."""
    threads, begun, made = BrokerThreads(app, timeout=WITHIN), threading.Semaphore(0), list[int]()

    async def main() -> list[object]:
        complaints: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        running = [threads.begin(stuck(gate, begun), lane="q") for _ in range(MOST_IN_LANE)]
        waiting = threads.begin(lambda _: made.append(1), lane="q")
        tasks = [asyncio.ensure_future(sending.arrived()) for sending in (*running, waiting)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        return complaints

    complaints = asyncio.run(main())
    gate.set()
    assert threads.has_ended(WITHIN)

    assert (complaints, made) == ([], [])


def test_a_process_that_ends_gives_what_is_on_its_way_a_moment(app: Celery) -> None:
    """A child of a prefork pool ends right after its last step, whose next hop should be on its queue by then."""
    threads, sent = BrokerThreads(app, timeout=WITHIN), list[int]()

    def slowly(_: Link) -> None:
        time.sleep(0.1)
        sent.append(1)

    threads.begin(slowly, lane="q")
    module._flush()

    assert sent == [1]


def test_a_lost_connection_is_made_again_and_a_refusal_is_not_tried_again(
    app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that closed an idle connection costs nobody an error; one that says no says it at once."""
    monkeypatch.setattr(module, "PAUSES", (0.0, 0.0))
    threads, links, refusals = BrokerThreads(app, timeout=WITHIN), list[int](), list[int]()

    def lose(link: Link) -> str:
        links.append(id(link))
        if len(links) < 3:
            raise ConnectionResetError
        return "sent"

    def refuse(_: Link) -> None:
        refusals.append(1)
        raise type("MessageNacked", (Exception,), {})

    assert threads.begin(lose, lane="q").wait() == "sent"
    with pytest.raises(Unreachable) as caught:
        threads.begin(refuse, lane="q").wait()

    assert len(links) == 3
    assert refusals == [1]
    assert caught.value.refused


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_has_threads_of_its_own(app: Celery, gate: threading.Event) -> None:
    """Whatever the parent's do at that moment; the parent's call goes on."""
    threads, begun = BrokerThreads(app, timeout=WITHIN), threading.Semaphore(0)
    stuck_here = threads.begin(stuck(gate, begun), lane="q")
    assert begun.acquire(timeout=WITHIN)
    held, ended = threading.Event(), threading.Event()

    def hold() -> None:
        with threads._crew._changed:
            held.set()
            ended.wait(WITHIN)

    holding = threading.Thread(target=hold)
    holding.start()
    assert held.wait(WITHIN)
    pid = os.fork()
    if pid == 0:
        signal.alarm(10)
        try:
            answers = [threads.begin(lambda _: "child", lane="q").wait() for _ in range(2 * MOST_IN_LANE)]
            module._flush()
            os._exit(0 if set(answers) == {"child"} else 1)
        finally:
            os._exit(2)
    ended.set()
    holding.join()

    assert os.waitpid(pid, 0)[1] == 0
    gate.set()
    assert stuck_here.wait() == "at last"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_does_not_wait_for_a_lock_of_celery_that_another_thread_of_its_parent_held(app: Celery) -> None:
    """Kombu's cached properties have one for all apps, and each dispatch reads some; signals have one each."""
    told: list[object] = []
    held, ended = threading.Event(), threading.Event()

    def hear(sender: object, **_: object) -> None:
        told.append(sender)

    def hold() -> None:
        with vars(Celery)["amqp"].lock, vars(Connection)["manager"].lock, before_task_publish.lock:
            held.set()
            ended.wait(WITHIN)

    before_task_publish.connect(hear)
    holding = threading.Thread(target=hold)
    holding.start()
    assert held.wait(WITHIN)
    pid = os.fork()
    if pid == 0:
        signal.alarm(10)
        try:
            app.send_task("dig", queue="q")
            os._exit(0 if told == ["dig"] else 1)
        finally:
            os._exit(2)
    ended.set()
    holding.join()
    before_task_publish.disconnect(hear)

    assert os.waitpid(pid, 0)[1] == 0


def test_what_is_made_at_once_can_be_waited_for_as_well() -> None:
    """The test kit has no broker that could block."""
    assert Sending.made(lambda: 3).wait() == 3
    assert asyncio.run(Sending.made(lambda: 3).arrived()) == 3
    with pytest.raises(ZeroDivisionError):
        Sending.made(lambda: 1 / 0).wait()
