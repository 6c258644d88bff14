"""Lines of Celery's task logger that are written inside steps."""

from __future__ import annotations

import logging

from paigeant_celery.activities.context import workflow_context
from paigeant_celery.core.errors import NoWorkflow
from paigeant_celery.core.names import Names

__all__ = ["name_steps_in_task_log"]

TASK_LOGGER = "celery.task"  # the parent of what `get_task_logger` returns


def name_steps_in_task_log(names: Names) -> None:
    """Let the task logger's lines name the task of the step that writes them.

    Celery looks for the task of the thread that writes, and no step runs in the thread of its task.
    """
    for handler in logging.getLogger(TASK_LOGGER).handlers:
        if not any(isinstance(found, _NameOfStep) for found in handler.filters):
            handler.addFilter(_NameOfStep(names))


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
