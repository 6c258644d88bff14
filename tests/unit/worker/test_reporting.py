"""What Sentry and Celery's log get to see of a failed hop."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import sentry_sdk
from sentry_sdk.transport import Transport

from paigeant_celery.core.errors import HopFailed
from paigeant_celery.core.hop_failures import hop_failed
from paigeant_celery.worker.reporting import brief, confidential

SECRET = "-".join(["tiger", "42"])


class Kept(Transport):
    events: list[dict[str, Any]]

    def capture_envelope(self, envelope: Any) -> None:
        self.events.append(envelope.get_event())


@pytest.fixture
def events() -> Iterator[list[dict[str, Any]]]:
    """Make Sentry's package active for this test alone, and return what it reports."""
    transport = Kept({"dsn": "https://k@sentry.invalid/1"})
    transport.events = []
    with sentry_sdk.isolation_scope() as scope:
        scope.set_client(
            sentry_sdk.Client(dsn="https://k@sentry.invalid/1", transport=transport, default_integrations=False)
        )
        yield transport.events


def report(mechanism: str, error: Exception) -> None:
    """Report an error as an integration does."""
    try:
        secret = SECRET
        raise error
    except Exception as raised:
        assert secret == SECRET
        event, hint = sentry_sdk.utils.event_from_exception(
            raised, client_options=sentry_sdk.get_client().options, mechanism={"type": mechanism, "handled": False}
        )
        sentry_sdk.capture_event(event, hint=hint)


def test_without_sentry_nothing_changes() -> None:
    """Most hosts do not use it, and no client is active."""
    with confidential():
        assert not sentry_sdk.get_client().is_active()


@pytest.mark.parametrize("error", [KeyError(SECRET), hop_failed("w.0", "s", "KeyError")])
def test_what_an_integration_reports_of_a_hop_has_class_and_frames_alone(
    events: list[dict[str, Any]], error: Exception
) -> None:
    """Texts, variables and lines of source may hold prompts and secrets."""
    with confidential():
        for command in (
            "EVALSHA",
            "HSET",
            "LPUSH",
        ):  # the store's, Kombu's note of what is not acknowledged, and a message
            sentry_sdk.add_breadcrumb(message=f"{command} 'x' '{SECRET}'", category="redis")
        report("pydantic_ai", error)
    report("pydantic_ai", KeyError(SECRET))

    inside, outside = events
    (value,) = inside["exception"]["values"]
    assert value["type"] == "KeyError"
    assert value["value"] == (str(error) if isinstance(error, HopFailed) else "[hidden]")
    assert value["stacktrace"]["frames"][-1]["function"] == "report"
    assert SECRET not in json.dumps(inside)
    assert SECRET in json.dumps(outside)


def test_what_a_step_reports_itself_is_reported_as_it_is(events: list[dict[str, Any]]) -> None:
    """It knows what it may tell."""
    with confidential():
        sentry_sdk.capture_exception(ValueError("told"))

    assert events[0]["exception"]["values"][0]["value"] == "told"


@pytest.mark.parametrize(("error", "level"), [(hop_failed("w.0", "s", "KeyError"), "INFO"), (KeyError(), "ERROR")])
def test_the_line_of_celery_about_a_failed_hop_is_brief(error: Exception, level: str) -> None:
    """Ours has the frames; that of another task stays as it is."""
    about = (type(error), error, None)
    context = {"description": "raised unexpected"}
    record = logging.LogRecord("celery.app.trace", logging.ERROR, "x.py", 1, "%(description)s", (context,), about)

    assert brief(record)

    ours = level == "INFO"
    assert record.levelname == level
    assert record.getMessage() == ("raised expected" if ours else "raised unexpected")
    assert (record.exc_info is None) == ours
