"""The standard streams of a worker can be given to processes, and still write to its log."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest
from celery.utils.log import LoggingProxy

from paigeant_celery.worker.streams import complete_streams

ADDED = ("fileno", "buffer", "encoding", "errors")


@pytest.fixture
def proxy() -> Iterator[LoggingProxy]:
    """Give Celery's stand-in for the streams as Celery makes it, and leave its class as it is."""
    before = {name: vars(LoggingProxy)[name] for name in ADDED if name in vars(LoggingProxy)}
    _take_away()
    yield LoggingProxy(logging.getLogger("redirected"), logging.WARNING)
    _take_away()
    for name, value in before.items():
        setattr(LoggingProxy, name, value)


def _take_away() -> None:
    for name in ADDED:
        if name in vars(LoggingProxy):
            delattr(LoggingProxy, name)


def test_a_stand_in_that_was_kept_before_gets_a_descriptor(
    proxy: LoggingProxy, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """`mcp` keeps the stream of its import as a default argument."""
    monkeypatch.setattr(sys, "__stderr__", sys.stderr)  # pytest captures descriptors, and writes here to its own file
    with pytest.raises(AttributeError, match="fileno"):
        subprocess.run([sys.executable, "-c", "pass"], stderr=proxy, check=True)

    complete_streams()
    complete_streams()

    subprocess.run([sys.executable, "-c", "import sys; print(1, file=sys.stderr)"], stderr=proxy, check=True)
    assert capfd.readouterr().err == "1\n"
    assert proxy.encoding.lower() == "utf-8"


def test_what_is_written_goes_to_the_log_as_before(proxy: LoggingProxy, caplog: pytest.LogCaptureFixture) -> None:
    """The host chose where the prints of its tasks go."""
    complete_streams()

    print("a line", file=proxy)

    assert [record.message for record in caplog.records] == ["a line"]
    assert proxy.isatty() is False


def test_an_attribute_that_celery_adds_stays_celerys(proxy: LoggingProxy) -> None:
    """A later Celery may do better."""
    LoggingProxy.encoding = "latin-1"

    complete_streams()

    assert proxy.encoding == "latin-1"


def test_a_process_without_a_standard_error_says_so(proxy: LoggingProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream without a descriptor is an `OSError`, which tools know how to meet."""
    complete_streams()
    monkeypatch.setattr(sys, "__stderr__", None)

    with pytest.raises(OSError, match="no standard error"):
        proxy.fileno()
