"""Signs of life, and what a worker says from them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from celery.concurrency.solo import TaskPool as SoloPool

from paigeant_celery.worker import pulse as pulse_module
from paigeant_celery.worker import readiness
from paigeant_celery.worker.pulse import REMEMBERED, Pulse
from paigeant_celery.worker.readiness import FRESH, Report, answer_of, file_of, read_file

NODE = "celery@host"


def runtime(**known: Any) -> Any:
    """A worker that serves and swept just now."""
    usual = {
        "shutdown": SimpleNamespace(asked=False),
        "outdated": False,
        "served": frozenset({"draft"}),
        "had_queues": True,
        "swept_at": time.monotonic(),
        "sweep_failure": "",
        "pulse": Pulse(),
    }
    return SimpleNamespace(**{**usual, **known})


def codes(of: Any) -> list[str]:
    answer = answer_of(of, pids={os.getpid()}, silence=15)
    assert answer["ready"] is (answer["findings"] == [])
    return [finding["code"] for finding in answer["findings"]]


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where files of answers are in this test."""
    monkeypatch.setattr(readiness.tempfile, "gettempdir", lambda: str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("known", "why"),
    [
        ({}, []),
        ({"swept_at": None}, []),  # without a store
        ({"served": frozenset(), "had_queues": False, "swept_at": 0.0}, []),  # it serves nothing, so does not sweep
        ({"served": frozenset()}, ["reads_nothing"]),  # somebody has cancelled its consumers
        ({"served": frozenset(), "outdated": True}, ["outdated"]),  # it has cancelled them itself
        ({"served": None}, ["starting"]),
        ({"shutdown": SimpleNamespace(asked=True)}, ["ending"]),
        ({"outdated": True}, ["outdated"]),
        ({"swept_at": time.monotonic() - 100}, ["sweep_silent"]),
    ],
)
def test_a_worker_says_why_it_is_not_ready(known: dict[str, Any], why: list[str]) -> None:
    """Whoever restarts it wants to know whether that would help."""
    assert codes(runtime(**known)) == why


def test_a_sign_that_never_came_is_no_silence() -> None:
    """A child that has run no step has no loop yet."""
    pulse = Pulse()
    assert list(pulse.of({os.getpid()})) == []

    pulse.give("loop")

    (beat,) = pulse.of({os.getpid()})
    assert beat.loop is not None
    assert beat.loop < 15
    assert beat.lease is None
    assert list(pulse.of({1})) == []


def test_a_process_whose_claims_all_fail_is_not_ready_until_one_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The main process sweeps well, and each message that it hands over goes back to its queue."""
    now, pulse = [1000.0], Pulse()
    monkeypatch.setattr(pulse_module.time, "monotonic", lambda: now[0])
    worker = runtime(pulse=pulse, swept_at=None)

    def after(seconds: float, tell: Callable[[], object] = lambda: None) -> list[str]:
        now[0] += seconds
        tell()
        return codes(worker)

    assert after(0, pulse.claim_failed) == []  # a moment without the store is none
    assert after(10, pulse.claim_failed) == []
    assert after(10, pulse.claim_failed) == ["claims_fail"]
    assert after(1, pulse.claim_answered) == []
    assert after(50) == []
    assert after(1, pulse.claim_failed) == []  # it is counted anew
    assert after(20, pulse.claim_failed) == ["claims_fail"]
    assert after(REMEMBERED + 1) == []  # nothing was tried since, so nobody knows
    assert after(1, pulse.claim_failed) == []
    assert after(20, pulse.claim_failed) == ["claims_fail"]


def test_a_child_gives_its_own_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The main process tells them apart by their processes."""
    pulse = Pulse()
    pulse.give("loop")
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            pulse.give("lease")
            os.write(write, b"1")
            os.read(read, 0)
        finally:
            os._exit(0)
    assert os.read(read, 1) == b"1"
    os.waitpid(child, 0)
    for end in (read, write):
        os.close(end)

    own, others = pulse.of({os.getpid()}), list(pulse.of({child}))
    assert [beat.lease for beat in own] == [None]
    assert [(beat.loop, beat.lease is not None) for beat in others] == [(None, True)]


def test_a_solo_worker_writes_its_answer_and_leaves_no_file_behind(folder: Path) -> None:
    """It answers nothing else while a step runs in it."""
    report = Report(cast("Any", runtime()), NODE)
    report.begin(SoloPool(app=None, forking_enable=False))
    end = time.monotonic() + 20
    while read_file(NODE) is None:
        assert time.monotonic() < end, "nothing was written"
        time.sleep(0.01)

    found = read_file(NODE)
    assert found is not None
    assert (found["ready"], found["serves"], found["pid"]) == (True, ["draft"], os.getpid())
    report.end()
    assert not file_of(NODE).exists()


def test_the_file_of_a_solo_worker_is_judged_by_whoever_reads_it(folder: Path) -> None:
    """A liveness probe waits longer than the probe of a service; else it would end workers for working."""
    pulse = Pulse()
    pulse.give("loop")
    report = Report(cast("Any", runtime(swept_at=time.monotonic() - 100, pulse=pulse)), NODE)
    report.begin(SoloPool(app=None, forking_enable=False))
    end = time.monotonic() + 20
    while read_file(NODE) is None:
        assert time.monotonic() < end, "nothing was written"
        time.sleep(0.01)

    strict, patient = read_file(NODE, silence=30), read_file(NODE, silence=300)
    report.end()

    assert strict is not None
    assert (strict["ready"], [finding["code"] for finding in strict["findings"]]) == (False, ["sweep_silent"])
    assert strict["findings"][0].keys() == {"code", "text"}
    assert patient == {**strict, "ready": True, "findings": []}


def test_an_answer_that_is_old_or_no_answer_is_none(folder: Path) -> None:
    """A worker that was killed leaves its file."""
    assert read_file(NODE) is None
    file = file_of(NODE)
    file.parent.mkdir()
    for text in ("[]", "{", ""):
        file.write_text(text)
        assert read_file(NODE) is None
    file.write_text('{"ready": true}')

    assert read_file(NODE) == {"ready": True}
    assert read_file(NODE, now=lambda: time.time() + FRESH + 1) is None
    assert file.is_relative_to(folder)


def test_a_worker_of_another_pool_writes_no_file(folder: Path) -> None:
    """Its main process answers at any time."""
    report = Report(cast("Any", runtime()), NODE)
    report.begin(SimpleNamespace())
    report.end()

    assert list(folder.iterdir()) == []
