"""Workers whose pool runs greenlets: what keeps their connections apart, and which of them cannot run steps."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from celery import Celery

from paigeant_celery.activities.real_threads import RealFuture, start_thread
from paigeant_celery.broker.transport import transport_of
from paigeant_celery.core.errors import ConfigurationError
from paigeant_celery.worker.greenlets import keep_producers_apart
from paigeant_celery.worker.serving import start_checks
from tests.support.processes import run_script

PATIENCE = 20.0


@pytest.fixture
def app() -> Iterator[Celery]:
    with Celery("greenhouse", broker="memory://", set_as_current=False) as app:
        yield app


def test_a_real_thread_has_a_producer_of_its_own(app: Celery) -> None:
    """A connection that gevent has made belongs to the thread that made it."""
    keep_producers_apart(app)
    keep_producers_apart(app)
    found: RealFuture[object] = RealFuture()

    start_thread(lambda: found.set_result(app.producer_pool.acquire(block=True)), name="step")

    with app.producer_or_acquire() as shared:
        assert found.result(PATIENCE) is not shared
        assert shared.__connection__ is not None
    assert app.producer_pool.limit == app.pool.limit


def test_eventlet_is_refused_with_the_reason(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line at the start is better than a worker that hangs at its first log line from two threads."""
    patched = False
    patcher = SimpleNamespace(is_monkey_patched=lambda name: patched)
    monkeypatch.setitem(sys.modules, "eventlet.patcher", patcher)

    start_checks(transport_of(app), embedded=True)

    patched = True
    with pytest.raises(ConfigurationError, match="steps cannot run under eventlet: ") as raised:
        start_checks(transport_of(app), embedded=True)
    assert "\n" not in str(raised.value)


LOGGING = """
import gevent.monkey
gevent.monkey.patch_all()
import logging, time, gevent
from paigeant_celery.activities.real_threads import RealFuture, real, start_thread
from paigeant_celery.worker.greenlets import keep_log_flowing

begun, free, written = RealFuture(), real().Event(), []

class Slow(logging.Handler):
    def emit(self, record):
        written.append(record.getMessage())
        if record.getMessage() == "thread":
            begun.set_result(None)
            time.sleep(0.05)

logging.basicConfig(handlers=[Slow()], level="INFO")
keep_log_flowing()

def compute():
    logging.info("thread")
    free.wait(60)  # gevent does not know that it waits, as if it computed

start_thread(compute, name="computes")
begun.result(20)
with gevent.Timeout(20, False):
    gevent.spawn(logging.info, "greenlet").join()
free.set()
assert written == ["thread", "greenlet"], written
"""


def test_a_thread_that_has_logged_and_computes_keeps_no_greenlet_from_logging() -> None:
    """One of them takes the messages: a worker whose steps logged and computed took no more of them meanwhile."""
    run_script(LOGGING, cold=True)
