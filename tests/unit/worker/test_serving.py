"""What a worker checks before it serves, and what it prints."""

from __future__ import annotations

import io
import sys

import pytest
from celery import Celery

from paigeant_celery.broker.transport import transport_of
from paigeant_celery.core.errors import ConfigurationError
from paigeant_celery.worker.serving import printable, start_checks


def test_a_function_that_cannot_be_imported_is_told_with_all_other_mistakes() -> None:
    """Each start of a worker takes a deployment, so it should not take one for each mistake."""
    app = Celery("host", broker="redis://127.0.0.1:1/0", set_as_current=False)
    app.conf.update(paigeant_around_step="nowhere.around", paigeant_consume="nothing", task_protocol=1)

    with pytest.raises(ConfigurationError) as caught:
        start_checks(transport_of(app))

    assert [mistake.split("`")[1] for mistake in caught.value.mistakes] == [
        "task_protocol",
        "paigeant_consume",
        "paigeant_around_step",
    ]


def test_a_value_that_can_be_no_function_is_a_mistake() -> None:
    """It is found even in a process that only dispatches."""
    app = Celery("host", broker="redis://127.0.0.1:1/0", set_as_current=False)
    app.conf.paigeant_around_step = 3

    assert list(transport_of(app).mistakes()) == [
        "`paigeant_around_step`: must be a function, or the dotted path of one"
    ]


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
