"""The errors of waits: what is wrong with an answer or a signal, and what becomes of a step that waits."""

from __future__ import annotations

from paigeant_celery.core.errors import InvalidInput, PaigeantError, UsageError, WorkflowError

__all__ = [
    "HopSuspended",
    "InvalidAnswer",
    "SignalRefused",
    "UnknownWait",
    "WaitFailed",
    "WaitTimedOut",
    "WorkflowWaits",
]


class HopSuspended(PaigeantError):
    """A hop waits for something from outside and holds no worker. Flower shows it as the reason of a retry."""

    def __init__(self, waits_for: str) -> None:
        super().__init__(waits_for)
        self.waits_for = waits_for

    def __str__(self) -> str:
        return f"waits for {self.waits_for}"

    def __repr__(self) -> str:
        return str(self)


class UnknownWait(UsageError, LookupError):
    """The store has no wait with this token; a web application answers 404.

    It is wrong, of another deployment or workflow, or its step was begun anew without its journal.
    """

    def __init__(self, store: str) -> None:
        super().__init__(store)
        self.store = store

    def __str__(self) -> str:
        return (
            f"the store {self.store} has no such wait; the token is wrong or of another workflow, or the wait ended "
            "with its workflow or with the journal of its step; `pending()` and `celery paigeant inbox` list the waits "
            "that are open"
        )


class InvalidAnswer(InvalidInput):
    """An answer was refused before it settled anything; `path` is the part of it that is wrong, never a value."""

    def __init__(self, reason: str = "invalid_answer", path: str = "", text: str = "") -> None:
        super().__init__(reason, path, text)


class SignalRefused(UsageError):
    """A signal cannot be taken: its workflow has ended, or keeps as many for waits to come as it may.

    `reason` is `workflow_ended`, `too_many_signals`, or `not_awaited` if nothing in the branch waits for it.
    """

    def __init__(self, reason: str, correlation_id: str, text: str) -> None:
        super().__init__(reason, correlation_id, text)
        self.reason, self.correlation_id, self.text = reason, correlation_id, text

    def __str__(self) -> str:
        return f"{self.reason}: the signal for workflow {self.correlation_id!r} was not taken, because {self.text}"


class WaitTimedOut(PaigeantError, TimeoutError):
    """Nobody answered a wait of a step in time. Trying again would not help."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"no answer to the wait {self.name!r} came in time"


class WaitFailed(PaigeantError):
    """Whoever was asked says that there will be no answer to a wait of a step. Trying again would not help."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(name, text)
        self.name, self.text = name, text

    def __str__(self) -> str:
        return f"there is no answer to the wait {self.name!r}: {self.text}"


class WorkflowWaits(WorkflowError):
    """In a test, a workflow waits for something that the test has no answer for."""

    def __init__(self, correlation_id: str, waits_for: str) -> None:
        super().__init__(correlation_id, waits_for)
        self.correlation_id, self.waits_for = correlation_id, waits_for

    def __str__(self) -> str:
        return f"workflow {self.correlation_id!r} waits for {self.waits_for}; pass an answer in `answers=`"
