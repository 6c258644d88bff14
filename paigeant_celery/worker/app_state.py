"""What an app has once paigeant_celery is installed in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from celery import Celery

from paigeant_celery.broker.transport import Attachment, attachment_of
from paigeant_celery.core.errors import UsageError
from paigeant_celery.worker.embedded import EmbeddedWorker
from paigeant_celery.worker.runtime import HopRuntime

__all__ = ["Installation", "installation_of"]


@dataclass(frozen=True, eq=False)
class Installation(Attachment):
    """The transport of an app, what its hops share in one process, and the worker that its executors share."""

    installed: ClassVar[bool] = True

    runtime: HopRuntime
    embedded: EmbeddedWorker

    def serves(self, activity: str) -> bool:
        """Say whether an executor of this process serves an activity."""
        return self.embedded.serves(activity)


def installation_of(app: Celery) -> Installation:
    """Return what `install` attached to an app; raises `UsageError` if it was not called."""
    attachment = attachment_of(app)
    if not isinstance(attachment, Installation):
        raise UsageError(f"paigeant_celery is not installed in the app {app.main!r}; call `install(app)` first")
    return attachment
