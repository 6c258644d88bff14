"""How a worker says why it does not start: in its log, which is all that a daemon has, and on its terminal."""

from __future__ import annotations

import logging
import sys
from types import TracebackType
from typing import Any

from celery.signals import celeryd_init

from paigeant_celery.broker.stand_alone import StandAloneApp
from paigeant_celery.core.errors import PaigeantError
from paigeant_celery.worker.selection import told_to

__all__ = ["refused_start"]

logger = logging.getLogger(__name__)


def refused_start(worker: Any, error: PaigeantError) -> SystemExit:
    """Log why a worker does not start, and return what ends it; if raised, that is printed to the standard error."""
    text = f"paigeant_celery: {error}"
    _set_up_log(worker)
    logger.critical("%s", text, extra={"action": "start_refused"})
    return SystemExit(text)


def _set_up_log(worker: Any) -> None:
    """Set up the log as Celery would a moment later."""
    if not worker.app.log.already_setup:
        told = told_to(worker)
        worker.app.log.setup(told.get("loglevel"), told.get("logfile"), hostname=worker.hostname)


def _log_what_ends_it(instance: Any, **_: object) -> None:
    """Let whatever else ends the start of a stand-alone worker stand in its log, such as a module that `-I` misses.

    A worker of a host is left as it is.
    """
    if not isinstance(instance.app, StandAloneApp):
        return
    shown = sys.excepthook

    def logged(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        _set_up_log(instance)
        logger.critical("this worker ends", exc_info=(kind, error, trace), extra={"action": "start_refused"})
        shown(kind, error, trace)

    sys.excepthook = logged


celeryd_init.connect(_log_what_ends_it)
