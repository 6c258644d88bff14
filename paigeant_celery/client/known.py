"""What a process knows when it looks at a document."""

from __future__ import annotations

from datetime import UTC, datetime

from paigeant_celery.activities.registry import registry
from paigeant_celery.broker.port import Transport
from paigeant_celery.core.lint import Known
from paigeant_celery.core.slip import Step

__all__ = ["known_anywhere", "known_here"]


def known_here(transport: Transport | None, *, deadlines: bool) -> Known:
    """Return what this process knows about documents."""
    activities = {name: str(activity.kind) for name, activity in registry.activities().items()}
    now = datetime.now(UTC) if deadlines else None
    limits = {}
    if transport is not None:
        settings = transport.settings
        limits = {"max_steps": settings.max_steps, "max_branches": settings.max_branches}
    return Known(activities=activities or None, check=_check, now=now, **limits)


def known_anywhere(transport: Transport | None, *, deadlines: bool) -> Known:
    """Return what holds for documents whichever activities this process has loaded: workers may have others.

    Steps of those that it has loaded are checked when messages are made of them.
    """
    known = known_here(transport, deadlines=deadlines)
    return Known(now=known.now, max_steps=known.max_steps, max_branches=known.max_branches)


def _check(step: Step) -> None:
    activity = registry.find(step.activity)
    if activity is not None:
        activity.check(step)
