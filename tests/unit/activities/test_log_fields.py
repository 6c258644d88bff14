"""Which hop a line of the log belongs to, whoever writes it."""

from __future__ import annotations

import contextvars
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from paigeant_celery import WorkflowLogFilter
from paigeant_celery.activities.log_fields import FIELDS, HopLine, asks_for_fields, within_line

LINE = HopLine(hop="w.0", activity="draft", step="draft", attempt=2)


class Lines(logging.Handler):
    """Keeps the fields of what it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[tuple[object, ...]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.kept.append(tuple(getattr(record, name) for name in FIELDS))


@pytest.fixture
def written() -> Iterator[list[tuple[object, ...]]]:
    """Return the fields of each line of a library's logger, below which nobody knows of hops."""
    handler, logger = Lines(), logging.getLogger("library")
    handler.addFilter(WorkflowLogFilter())
    logger.addHandler(handler)
    yield handler.kept
    logger.removeHandler(handler)


def write(**fields: object) -> None:
    logging.getLogger("library.part").warning("a line", extra=fields)


def test_a_line_inside_a_hop_has_its_ids_and_one_outside_has_none(written: list[tuple[object, ...]]) -> None:
    """One search finds all that happened in a hop."""
    with within_line(LINE):
        write()
    write()

    assert written == [("w", "w.0", "draft", "draft", 2), ("-",) * 5]


def test_what_a_line_says_itself_stays(written: list[tuple[object, ...]]) -> None:
    """A line of ours may be about another hop than the one that a thread is busy with."""
    write(hop="v.1", attempt=1)
    with within_line(LINE):
        write(hop="v.1", attempt=1)
        write(hop="w.0", attempt=2, step="other")

    assert written == [("v", "v.1", "-", "-", 1)] * 2 + [("w", "w.0", "other", "draft", 2)]


def test_a_thread_with_the_context_of_a_hop_belongs_to_it(written: list[tuple[object, ...]]) -> None:
    """Sync tools run in threads."""
    with ThreadPoolExecutor() as pool:
        with within_line(LINE):
            context = contextvars.copy_context()
        pool.submit(context.run, write).result()

    assert [line[1] for line in written] == ["w.0"]


def test_a_thread_without_context_belongs_to_the_only_hop_of_its_process(written: list[tuple[object, ...]]) -> None:
    """A tool may start threads itself. The threads of ours serve any hop."""
    with within_line(LINE):
        for name in ("a-tool", "paigeant-sweeper"):
            thread = threading.Thread(target=write, name=name)
            thread.start()
            thread.join()

    assert [line[1] for line in written] == ["w.0", "-"]


def test_a_hop_of_one_of_many_threads_is_not_that_of_others(written: list[tuple[object, ...]]) -> None:
    """A pool of threads runs many hops, and a thread without context may belong to any."""

    def hop() -> None:
        with within_line(LINE):
            thread = threading.Thread(target=write)
            thread.start()
            thread.join()

    outer = threading.Thread(target=hop)
    outer.start()
    outer.join()

    assert [line[1] for line in written] == ["-"]


def test_a_format_that_has_a_field_is_recognized() -> None:
    """Only then anything is added to the handlers of a worker."""
    assert asks_for_fields("%(asctime)s %(hop)s: %(message)s")
    assert not asks_for_fields("%(asctime)s hop: %(message)s")
