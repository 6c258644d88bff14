"""The errors of paigeant_celery, in three families.

`UsageError`: the caller did something wrong. `MessageError`: a message cannot be run, whoever sent it.
`TransientError`: something outside is down, and the same call may succeed later.

Celery rebuilds an error as `cls(*args)`, so each class passes its own positional arguments to `Exception` and builds
its text in `__str__`.
"""

from __future__ import annotations

from collections.abc import Sequence

from paigeant_celery.core.names import CORRELATION_ID_RULE, MAX_NAME_LENGTH, is_correlation_id, split_hop_id

__all__ = [
    "ConfigurationError",
    "DuplicateActivity",
    "EmptyItinerary",
    "HopFailed",
    "HopLost",
    "HopUnknown",
    "IllegalEvent",
    "InvalidInput",
    "MessageError",
    "NewerMessage",
    "NoWorkflow",
    "NonDeterminismError",
    "NotPublished",
    "NotRecorded",
    "NotSent",
    "NotSerializable",
    "OutdatedVersion",
    "PaigeantError",
    "Paused",
    "RemoteTraceback",
    "ReplayedError",
    "StoreCorrupt",
    "StoreRequired",
    "TransientError",
    "Unreachable",
    "UnknownActivity",
    "UnknownTransport",
    "UnknownWorkflow",
    "UsageError",
    "WaitInsideStep",
    "WorkerEnded",
    "WorkflowCancelled",
    "WorkflowConflict",
    "WorkflowError",
    "WorkflowFailed",
    "WorkflowParked",
]


class PaigeantError(Exception):
    """Base class of every error that paigeant_celery raises on purpose."""


class UsageError(PaigeantError):
    """The library was called in a way that cannot work; calling again unchanged will not help."""


class TransientError(PaigeantError):
    """Something outside is down; the same call may succeed later."""


class InvalidInput(UsageError, ValueError):
    """A value given by the caller was refused before anything was enqueued.

    `reason` is a fixed code; `path` is the dotted field that it concerns ("" for the whole), never a value.
    """

    def __init__(self, reason: str, path: str, text: str) -> None:
        super().__init__(reason, path, text)
        self.reason, self.path, self.text = reason, path, text

    def __str__(self) -> str:
        where = f" at `{self.path}`" if self.path else ""
        return f"{self.reason}{where}: {self.text}"


class EmptyItinerary(InvalidInput):
    """A workflow without a step was dispatched."""

    def __init__(self, reason: str = "empty_itinerary", path: str = "itinerary", text: str = "") -> None:
        super().__init__(
            reason,
            path,
            text or "there is no step to run; call `add_to_runway(…)` since the last dispatch, or pass `itinerary=[…]`",
        )


class WorkflowConflict(UsageError):
    """The correlation id belongs to a workflow with other content."""

    def __init__(self, correlation_id: str) -> None:
        super().__init__(correlation_id)
        self.correlation_id = correlation_id

    def __str__(self) -> str:
        return (
            f"workflow_conflict: a workflow {self.correlation_id!r} exists with another itinerary, variables or "
            "deadline; choose another `correlation_id`, or dispatch the same content to get the existing one"
        )


class StoreRequired(UsageError):
    """The call needs a store and the transport has none."""

    def __init__(self, operation: str) -> None:
        super().__init__(operation)
        self.operation = operation

    def __str__(self) -> str:
        return (
            f"`{self.operation}` reads the store, but this transport has none; set `paigeant_store_url` "
            '(`"broker"` for the broker\'s own Redis) in the Celery configuration, or pass `store=` to `get_transport`'
        )


class UnknownWorkflow(UsageError, LookupError):
    """The store holds no workflow of this correlation id; a web application answers 404."""

    def __init__(self, correlation_id: str, store: str) -> None:
        super().__init__(correlation_id, store)
        self.correlation_id, self.store = correlation_id, store

    def __str__(self) -> str:
        return f"the store {self.store} knows no workflow {self.correlation_id[:MAX_NAME_LENGTH]!r}; {self._hint()}"

    def _hint(self) -> str:
        if (hop := split_hop_id(self.correlation_id)) is not None:
            return f"this is the id of a hop or task, and its workflow is {hop[0]!r}"
        if not is_correlation_id(self.correlation_id):
            return f"a correlation id has {CORRELATION_ID_RULE}"
        if self.store.startswith("memory:"):
            return (
                "it was never dispatched in this process, whose workflows are in its memory; to see those of other "
                "processes, set `PAIGEANT_REDIS_URL`, or pass the transport that they were dispatched to"
            )
        return (
            "it was never dispatched there, has another `paigeant_prefix`, or ended longer ago than "
            "`paigeant_result_ttl`"
        )


class UnknownActivity(UsageError, LookupError):
    """No activity of this name is loaded in this process."""

    def __init__(self, name: str, searched: str, close: Sequence[str] = ()) -> None:
        super().__init__(name, searched, list(close))
        self.name, self.searched, self.close = name, searched, list(close)

    def __str__(self) -> str:
        hint = f"; did you mean {' or '.join(repr(c) for c in self.close)}?" if self.close else ""
        return f"no activity {self.name!r} is loaded; searched {self.searched}{hint}"


class DuplicateActivity(UsageError):
    """Two different activities of one process have the same name."""

    def __init__(self, name: str, first: str, second: str) -> None:
        super().__init__(name, first, second)
        self.name, self.first, self.second = name, first, second

    def __str__(self) -> str:
        places = f"one made at {self.first}, another at {self.second}"
        if self.first == self.second:
            places = f"both made at {self.first}"
        return f"two activities are named {self.name!r}: {places}; give one of them another `name=`"


class ConfigurationError(UsageError):
    """The configuration is wrong; `mistakes` lists everything that was found."""

    def __init__(self, mistakes: Sequence[str]) -> None:
        super().__init__(list(mistakes))
        self.mistakes = list(mistakes)

    def __str__(self) -> str:
        if len(self.mistakes) == 1:
            return f"configuration: {self.mistakes[0]}"
        return f"configuration, {len(self.mistakes)} mistakes: " + " | ".join(self.mistakes)


class UnknownTransport(UsageError):
    """`get_transport` was given something that it does not understand, or found it in an environment `variable`."""

    def __init__(self, given: str, variable: str | None = None, meant: str | None = None) -> None:
        super().__init__(given, variable, meant)
        self.given, self.variable, self.meant = given, variable, meant

    def __str__(self) -> str:
        named = f"`{self.variable}`:" if self.variable else "transport"
        meant = f"write '{self.meant}://…' with the same server; " if self.meant else ""
        return (
            f"{named} {self.given!r} is not supported; {meant}use 'inmemory', 'redis', a Kombu URL such as "
            "'redis://host:6379/0' or 'amqp://host//', or `app=` with an existing Celery app"
        )


class NoWorkflow(UsageError):
    """`workflow_context()` was called outside a step."""

    def __init__(self) -> None:
        super().__init__()

    def __str__(self) -> str:
        return "no workflow is running here; `workflow_context()` works inside the tools and functions of a step"


class WaitInsideStep(UsageError):
    """A step wanted to wait for a workflow, which may never go on while the step waits."""

    def __init__(self, step_id: str, correlation_id: str) -> None:
        super().__init__(step_id, correlation_id)
        self.step_id, self.correlation_id = step_id, correlation_id

    def __str__(self) -> str:
        return (
            f"the step {self.step_id!r} must not wait for the workflow {self.correlation_id!r}: it keeps its worker "
            "busy, and if all workers are busy like this, nothing goes on. Dispatch the workflow and end the step; "
            "return the id, and let whoever started this workflow wait, or a later step look with `result(timeout=0)`. "
            "Or put the steps into the itinerary of this workflow"
        )


class NotSerializable(UsageError):
    """A value that must cross a queue is not JSON."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(reason, text)
        self.reason, self.text = reason, text

    def __str__(self) -> str:
        return f"{self.reason}: {self.text}"


class Paused(PaigeantError):
    """What a step returned is no result: its run waits for something. `reason` is a fixed code."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(reason, text)
        self.reason, self.text = reason, text

    def __str__(self) -> str:
        return f"{self.reason}: {self.text}"


class IllegalEvent(PaigeantError):
    """An event does not fit the state of the workflow; nothing was changed."""

    def __init__(self, event: str, place: str, text: str) -> None:
        super().__init__(event, place, text)
        self.event, self.place, self.text = event, place, text

    def __str__(self) -> str:
        return f"illegal event {self.event} at place {self.place!r}: {self.text}"


class MessageError(PaigeantError):
    """A message that cannot be run; it is never retried. `reason` is a fixed code, `path` the field."""

    def __init__(self, reason: str, path: str = "", text: str = "") -> None:
        super().__init__(reason, path, text)
        self.reason, self.path, self.text = reason, path, text

    @property
    def detail(self) -> str:
        """Field and text, for use next to the reason."""
        return ": ".join(part for part in (f"`{self.path}`" if self.path else "", self.text) if part)

    def __str__(self) -> str:
        where = f" at `{self.path}`" if self.path else ""
        return f"{self.reason}{where}: {self.text}" if self.text else f"{self.reason}{where}"


class NewerMessage(MessageError):
    """A message that only a newer version can read; it is given back, and a worker of that version takes it."""


class Unreachable(TransientError):
    """A server is away, or it is there and refuses to serve (`refused`); the address has no password.

    `remedy` says what to do if what it refuses with has a name.
    """

    def __init__(self, what: str, address: str, cause: str, refused: bool = False, remedy: str = "") -> None:
        super().__init__(what, address, cause, refused, remedy)
        self.what, self.address, self.cause, self.refused, self.remedy = what, address, cause, refused, remedy

    def __str__(self) -> str:
        if self.remedy:
            return f"cannot use the {self.what} at {self.address} ({self.cause}); {self.remedy}"
        if self.refused:
            return (
                f"cannot reach the {self.what} at {self.address} ({self.cause}): it is there, but refuses; change what "
                "it refuses, the permissions of the account or the limits of the server"
            )
        return (
            f"cannot reach the {self.what} at {self.address} ({self.cause}); start or fix it, or point "
            "`PAIGEANT_REDIS_URL` (or the Celery configuration) at a running one"
        )


class NotSent(Unreachable):
    """The broker did not take the first message of a workflow, and there is no store that has recorded it."""

    def __str__(self) -> str:
        return (
            f"{super().__str__()}. Nothing is recorded, because there is no store: nobody sends the workflow later, so "
            "dispatch it again. If the broker only did not answer in time, it may have the message all the same, and "
            "each dispatch then runs"
        )


class NotRecorded(TransientError):
    """The store could not be asked to record the workflow, or its reply was lost; nothing was sent."""

    def __init__(self, correlation_id: str, cause: str) -> None:
        super().__init__(correlation_id, cause)
        self.correlation_id, self.cause = correlation_id, cause

    def __str__(self) -> str:
        return (
            f"nothing was sent: {self.cause}. Dispatch again with `correlation_id={self.correlation_id!r}`: the "
            "workflow may already be recorded if only the reply was lost"
        )


class NotPublished(TransientError):
    """The workflow is recorded, but the broker has not taken its first message. A sweep of any worker sends it.

    `refused`: the broker is there and refuses; otherwise it is away, or did not answer in time.
    """

    def __init__(self, correlation_id: str, cause: str, refused: bool = False) -> None:
        super().__init__(correlation_id, cause, refused)
        self.correlation_id, self.cause, self.refused = correlation_id, cause, refused

    def __str__(self) -> str:
        when = "no longer refuses it" if self.refused else "is back"
        return (
            f"workflow {self.correlation_id} is recorded, but its first message was not sent ({self.cause}). A sweep "
            f"of any worker sends it once the broker {when}, without your help. To try at once, dispatch the same "
            f"content again with `correlation_id={self.correlation_id!r}`; under another id it would run, and be paid "
            "for, twice"
        )


class WorkerEnded(TransientError):
    """The embedded worker of an executor ended by itself; the hops that it did not run wait on their queues."""

    def __init__(self, broker: str) -> None:
        super().__init__(broker)
        self.broker = broker

    def __str__(self) -> str:
        return f"the worker on {self.broker} ended; the log says why. Start the executor again"


class StoreCorrupt(PaigeantError):
    """A record of the store has a different type from the one that this version writes."""

    def __init__(self, key: str, text: str) -> None:
        super().__init__(key, text)
        self.key, self.text = key, text

    def __str__(self) -> str:
        return (
            f"store_corrupt: {self.key!r}: {self.text}; something else writes under this prefix: move it away, "
            "or choose another `paigeant_prefix`"
        )


class OutdatedVersion(PaigeantError):
    """A worker of a newer version works on the store, so this version begins nothing there any more."""

    def __init__(self, store: str, prefix: str, found: int, own: int) -> None:
        super().__init__(store, prefix, found, own)
        self.store, self.prefix, self.found, self.own = store, prefix, found, own

    def __str__(self) -> str:
        return (
            f"a newer version of paigeant_celery works on the store {self.store} under the prefix {self.prefix!r}: its "
            f"records have format {self.found}, and this version writes {self.own}, so it begins nothing more there; "
            "install that version here too, and restart"
        )


class HopFailed(PaigeantError):
    """What Celery, Flower and other monitors see of a failed hop: ids and the class of the error, never its text."""

    def __init__(self, hop_id: str, step_id: str, error_class: str) -> None:
        super().__init__(hop_id, step_id, error_class)
        self.hop_id, self.step_id, self.error_class = hop_id, step_id, error_class

    def __str__(self) -> str:
        return (
            f"hop {self.hop_id} (step {self.step_id!r}) failed with {self.error_class}; "
            "the handle of the workflow has the text"
        )


class RemoteTraceback(PaigeantError):
    """What was raised in another process, as text: the `__cause__` of an error that reports it here."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n{self.text}"


class WorkflowError(PaigeantError):
    """The workflow did not complete: it failed, waits for a person, or was cancelled."""

    def __init__(self, correlation_id: str, *more: object) -> None:
        super().__init__(correlation_id, *more)
        self.correlation_id = correlation_id

    def __reduce__(self) -> tuple[object, ...]:
        """Keep the traceback of the step, which pickle would drop, as that of a `multiprocessing` worker is kept."""
        state = {**vars(self), "__cause__": self.__cause__} if isinstance(self.__cause__, RemoteTraceback) else None
        return (type(self), self.args) if state is None else (type(self), self.args, state)


class WorkflowFailed(WorkflowError):
    """The workflow ended as failed: the step, the class of its error (or a reason code) and the text."""

    def __init__(self, correlation_id: str, step_id: str | None, error_class: str, text: str) -> None:
        super().__init__(correlation_id, step_id, error_class, text)
        self.step_id, self.error_class, self.text = step_id, error_class, text

    def __str__(self) -> str:
        step = f" at step {self.step_id!r}" if self.step_id is not None else ""
        return f"workflow {self.correlation_id} failed{step}: {self.error_class}: {self.text}"


class WorkflowParked(WorkflowFailed):
    """The workflow waits for a person because its step failed in every attempt.

    It has the fields of a failed one, but it may go on.
    """

    def __str__(self) -> str:
        step = f" at step {self.step_id!r}" if self.step_id is not None else ""
        return (
            f"workflow {self.correlation_id} is parked{step}: {self.error_class}: {self.text}; fix the cause and "
            "call `handle.redrive()`, or `handle.cancel()`"
        )


class WorkflowCancelled(WorkflowError):
    """The workflow was cancelled before it completed."""

    def __init__(self, correlation_id: str) -> None:
        super().__init__(correlation_id)

    def __str__(self) -> str:
        return f"workflow {self.correlation_id} was cancelled"


class HopLost(PaigeantError):
    """Another owner runs the hop now, or its workflow was cancelled; this run cannot record anything more."""

    def __init__(self, hop_id: str) -> None:
        super().__init__(hop_id)
        self.hop_id = hop_id

    def __str__(self) -> str:
        return f"hop {self.hop_id} was taken over or cancelled; what this run does from now on is not recorded"


class HopUnknown(PaigeantError):
    """The store has no record of the hop that is to be written for: it lost its data, and nobody overtook the hop."""

    def __init__(self, hop_id: str) -> None:
        super().__init__(hop_id)
        self.hop_id = hop_id

    def __str__(self) -> str:
        return f"the store has no record of hop {self.hop_id}; it has lost its data since the hop was claimed"


class NonDeterminismError(PaigeantError):
    """The code of a step does not repeat what its journal holds; the hop is parked, and no call was made."""

    def __init__(self, step_id: str, call: str, text: str) -> None:
        super().__init__(step_id, call, text)
        self.step_id, self.call, self.text = step_id, call, text

    def __str__(self) -> str:
        return (
            f"step {self.step_id!r}: {self.call} cannot be replayed: {self.text}. Deploy the code that began the step "
            "and redrive the workflow; or redrive it with its journal discarded (`redrive(discard_journal=True)`, "
            "`paigeant retry --discard-journal`), which makes all calls of the step again"
        )


class ReplayedError(PaigeantError):
    """A call failed in an earlier attempt, and the run went on; this stands for an error of one of your own classes."""

    def __init__(self, error_class: str, text: str) -> None:
        super().__init__(error_class, text)
        self.error_class, self.text = error_class, text

    def __str__(self) -> str:
        return f"{self.error_class}: {self.text}"
