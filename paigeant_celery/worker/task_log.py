"""Lines of a worker's log that are written inside steps: what Celery itself and the host's formats say of them."""

from __future__ import annotations

import logging
from typing import Any

from celery.signals import after_setup_logger, after_setup_task_logger

from paigeant_celery.activities.context import workflow_context
from paigeant_celery.activities.log_fields import WorkflowLogFilter, asks_for_fields
from paigeant_celery.core.errors import NoWorkflow
from paigeant_celery.core.names import Names

__all__ = ["name_steps_in_task_log", "show_asked_fields"]

TASK_LOGGER = "celery.task"  # the parent of what `get_task_logger` returns


def name_steps_in_task_log(names: Names) -> None:
    """Let the task logger's lines name the task of the step that writes them.

    Celery looks for the task of the thread that writes, and no step runs in the thread of its task.
    """
    for handler in logging.getLogger(TASK_LOGGER).handlers:
        if not any(isinstance(found, _NameOfStep) for found in handler.filters):
            handler.addFilter(_NameOfStep(names))


def show_asked_fields() -> None:
    """Give the lines of a worker the fields that `worker_log_format` or `worker_task_log_format` asks for."""
    after_setup_logger.connect(_show_asked)
    after_setup_task_logger.connect(_show_asked)


def _show_asked(logger: logging.Logger, format: str | None = None, **_: Any) -> None:  # noqa: A002  # Celery's name
    for handler in logger.handlers if asks_for_fields(format or "") else ():
        if not any(isinstance(found, WorkflowLogFilter) for found in handler.filters):
            handler.addFilter(WorkflowLogFilter())


class _NameOfStep(logging.Filter):
    def __init__(self, names: Names) -> None:
        super().__init__()
        self._names = names

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            context = workflow_context()
        except NoWorkflow:
            return True
        record.task_id, record.task_name = context.hop_id, self._names.task(context.activity)
        return True
