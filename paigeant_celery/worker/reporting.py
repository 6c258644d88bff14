"""What those who report errors, such as Sentry, get to see of a hop: classes and frames, but no texts and no values."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

from paigeant_celery.core.errors import HopFailed

__all__ = ["brief", "confidential"]

HIDDEN = "[hidden]"
OF_VALUES = ("vars", "pre_context", "context_line", "post_context")  # source may hold prompts, too
DELIBERATE = {"generic", "logging"}  # what a step itself reports is what it wants to report
WITH_CONTENT = ("EVALSHA ", "HSET ", "LPUSH ")  # commands of the store and the broker, with all that they write
REPORTED_ANYWAY = {"hop_failed", "hop_parked"}  # as the error that the task raises


def confidential() -> AbstractContextManager[None]:
    """Hide texts, variables and the envelope in what Sentry reports of a hop, if the process uses Sentry."""
    return _hidden() if "sentry_sdk" in sys.modules else _NOBODY_REPORTS


_NOBODY_REPORTS = nullcontext()


@contextmanager
def _hidden() -> Iterator[None]:
    import sentry_sdk

    if not hasattr(sentry_sdk, "isolation_scope") or not sentry_sdk.get_client().is_active():
        yield
    elif sentry_sdk.get_client().get_integration("celery") is not None:
        # It gives each task a scope of its own, and reports the error after the task has left this block.
        sentry_sdk.get_isolation_scope().add_event_processor(partial(_masked, reported=True))
        yield
    else:
        with sentry_sdk.isolation_scope() as scope:
            scope.add_event_processor(partial(_masked, reported=False))
            yield


def _masked(event: Any, hint: Mapping[str, Any], *, reported: bool) -> Any:
    """Return what may be told of an event; None for a line of our log about an error that is `reported` itself."""
    if reported and getattr(hint.get("log_record"), "action", None) in REPORTED_ANYWAY:
        return None
    job = event.get("extra", {}).get("celery-job")
    if isinstance(job, dict):
        job.update(args=HIDDEN, kwargs=HIDDEN)
    for told, text in ((_values(event, "breadcrumbs"), "message"), (event.get("spans") or (), "description")):
        for each in told:
            if str(each.get(text)).startswith(WITH_CONTENT):
                each[text] = str(each[text]).partition(" ")[0]
    raised = _values(event, "exception")
    if raised and raised[-1].get("mechanism", {}).get("type") not in DELIBERATE:
        own = isinstance(hint.get("exc_info", (None, None))[1], HopFailed)
        for value in raised:
            if not own:  # the text of ours has ids and a class alone
                value["value"] = HIDDEN
            for frame in (value.get("stacktrace") or {}).get("frames", ()):
                for name in OF_VALUES:
                    frame.pop(name, None)
    return event


def _values(event: Any, name: str) -> list[Any]:
    found = event.get(name)
    values = found.get("values") if isinstance(found, dict) else None
    return values if isinstance(values, list) else []


def brief(record: logging.LogRecord) -> bool:
    """Make Celery's line about a failed hop that of an expected error, because ours has the frames already.

    `Task.throws` would do this as well, but would also hide the error from all who report errors.
    """
    if record.exc_info and isinstance(record.exc_info[1], HopFailed):
        record.exc_info = None
        record.levelno, record.levelname = logging.INFO, logging.getLevelName(logging.INFO)
        if isinstance(record.args, dict):
            record.args["description"] = "raised expected"
    return True
