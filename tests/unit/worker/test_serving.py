"""What a worker prints."""

from __future__ import annotations

import io
import sys

import pytest

from paigeant_celery.worker.serving import printable


@pytest.mark.parametrize(
    ("encoding", "shown"), [("latin-1", r"größe \u2192"), ("ascii", r"gr\xf6\xdfe \u2192"), ("utf-8", "größe →")]
)
def test_a_banner_is_printed_whatever_the_terminal_can_show(
    encoding: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Queues and stores have the names that users gave them, and no name may keep a worker from starting."""
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))

    assert printable("größe →") == shown


def test_a_banner_may_go_to_something_that_is_no_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Celery puts an object that logs in the place of the standard output."""
    monkeypatch.setattr(sys, "stdout", object())

    assert printable("größe →") == "größe →"
