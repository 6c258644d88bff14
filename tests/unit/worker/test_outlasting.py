"""A worker whose broker refuses for a while connects again instead of ending."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import WorkerShutdown
from redis.exceptions import NoPermissionError, ReadOnlyError, ResponseError

from paigeant_celery.worker import outlasting
from paigeant_celery.worker.outlasting import outlast_refusals

DEMOTED = "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)"


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let time pass without waiting, and say how much it was."""
    clock = [0.0]
    monkeypatch.setattr(outlasting.time, "monotonic", lambda: clock[-1])
    monkeypatch.setattr(outlasting.time, "sleep", lambda seconds: clock.append(clock[-1] + seconds))
    return clock


def consumer(error: Exception, *, ran: bool = True) -> Any:
    def start(_: object) -> None:
        raise error

    return SimpleNamespace(
        blueprint=SimpleNamespace(start=start), channel_errors=(ResponseError,),
        task_consumer=object() if ran else None, app=Celery("shop", broker="redis://:hunter2@h", set_as_current=False),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ReadOnlyError("x"), "READONLY"), (ResponseError(DEMOTED), "READONLY"), (ResponseError("MISCONF x"), "MISCONF"),
        (ResponseError("OOM command not allowed"), "OOM"), (ResponseError("NOREPLICAS x"), "NOREPLICAS"),
        (NoPermissionError("this user has no permissions to run the 'brpop' command"), "do not permit `BRPOP`"),
    ],
)  # fmt: skip
def test_a_refusal_is_told_once_and_counts_as_a_lost_connection(
    error: Exception, said: str, pauses: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    """Celery connects again after those, and ends a worker after all others."""
    refused = consumer(error)
    outlast_refusals(refused, reads_ours=lambda: True)

    for pause in (1, 2, 4, 8, 8):
        began = pauses[-1]
        with pytest.raises(ConnectionResetError, match=said):
            refused.blueprint.start(refused)
        assert pauses[-1] - began == pytest.approx(pause, abs=0.2)

    (record,) = caplog.records
    assert said in record.getMessage()
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize(
    ("error", "ran", "ours"),
    [
        (ResponseError("ERR unknown"), True, True),
        (NoPermissionError("x"), False, True),
        (ReadOnlyError("x"), True, False),
    ],
)
def test_other_errors_mistakes_at_the_start_and_workers_without_steps_are_celerys(
    error: Exception, ran: bool, ours: bool
) -> None:
    """Waiting would hide them."""
    refused = consumer(error, ran=ran)
    outlast_refusals(refused, reads_ours=lambda: ours)

    with pytest.raises(type(error)):
        refused.blueprint.start(refused)


def test_a_worker_that_is_told_to_end_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service manager would kill it."""

    def shut_down() -> None:
        raise WorkerShutdown(0)

    monkeypatch.setattr(outlasting, "maybe_shutdown", shut_down)
    refused = consumer(ReadOnlyError("x"))
    outlast_refusals(refused, reads_ours=lambda: True)

    with pytest.raises(WorkerShutdown):
        refused.blueprint.start(refused)
