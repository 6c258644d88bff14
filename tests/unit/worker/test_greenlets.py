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
