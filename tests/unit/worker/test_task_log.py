"""Lines of Celery's task logger name the step that writes them."""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Callable, Iterator
from contextvars import copy_context

import pytest
from celery.app.log import TaskFormatter
from celery.utils.log import get_task_logger

from paigeant_celery.activities.context import WorkflowContext, entered
from paigeant_celery.core.names import Names
from paigeant_celery.worker.task_log import TASK_LOGGER, name_steps_in_task_log

FORMAT = "%(task_name)s[%(task_id)s]: %(message)s"


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """Return what the handler of a worker's task logger writes."""
    stream, parent = io.StringIO(), logging.getLogger(TASK_LOGGER)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TaskFormatter(FORMAT, use_color=False))
    parent.addHandler(handler)
    yield stream
    parent.removeHandler(handler)


def test_a_line_names_the_hop_in_whatever_thread_the_step_writes_it(
    written: io.StringIO, make_context: Callable[..., WorkflowContext]
) -> None:
    """The log of a host is searched by the id of a task."""
    logger = get_task_logger("shop")
    name_steps_in_task_log(Names("p"))
    name_steps_in_task_log(Names("p"))

    with entered(make_context()):
        logger.warning("inside")
        thread = threading.Thread(target=copy_context().run, args=(logger.warning, "in a thread"))
        thread.start()
        thread.join()
    logger.warning("outside")

    assert written.getvalue().splitlines() == [
        "p.writer[w-1.0]: inside",
        "p.writer[w-1.0]: in a thread",
        "???[???]: outside",
    ]
