"""The part of the seam to a store that is about waits: what a hop waits for, and what an answer does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from paigeant_celery.core.waits import WHOLE, Answered, Signalled, Wait, WaitKind
from paigeant_celery.store.records import Closing, HopRecord

__all__ = ["AskedWait", "NewWait", "Resolution", "Standing", "Suspended", "WaitStore"]


@dataclass(frozen=True, kw_only=True)
class NewWait:
    """A wait to record; its `timeout` is in seconds from now.

    A hop records a wait once by its `wait_id`, and gets the one that is recorded ever after, with the token of that.
    `instead_of` is the token of the recorded one whose answer was of no use: this one takes its place, open again.
    """

    wait_id: str
    token: str = field(repr=False)
    kind: WaitKind
    name: str
    timeout: float | None = None
    parts: tuple[str, ...] = (WHOLE,)
    about: str = field(default="", repr=False)
    instead_of: str | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What a hop stands at: the tokens of its waits, and when it goes on without them.

    `names` are those of the waits, for the event; a `quiet` hop leaves none, neither now nor when it wakes. `branches`
    says that it waits for those of the block that it is.
    """

    tokens: Sequence[str] = field(default=(), repr=False)
    wake_at: datetime | None = None
    names: Sequence[str] = ()
    quiet: bool = False
    branches: bool = False


@dataclass(frozen=True, kw_only=True)
class Suspended:
    """The answer to SUSPEND. `hop` must be sent now, because something that it waits for had come; otherwise None."""

    hop: HopRecord | None = None


@dataclass(frozen=True, kw_only=True)
class Resolution:
    """What an answer or a signal did. `wait` is the one that it was for, as it is now; None if there was none.

    `hop` must be sent now, because it was suspended and goes on.
    """

    outcome: Answered | Signalled
    wait: Wait | None = None
    hop: HopRecord | None = None


@dataclass(frozen=True, kw_only=True)
class AskedWait:
    """An open wait of any workflow, and whose it is; `cursor` resumes reading."""

    cursor: str
    hop_id: str
    wait: Wait


class WaitStore(Protocol):
    """What hops wait for. `core/waits.py` says what an answer makes of a wait, and `core/hops.py` what of its hop."""

    def wait(self, closing: Closing, new: NewWait) -> Wait | None:
        """Record a wait of a hop that the owner runs, before anybody is asked, or return the recorded one.

        A wait for a signal takes the oldest kept one of its name. None if another owner has overtaken this one, or the
        hop is closed. Raises `HopUnknown`, and `InvalidInput` (`too_many_waits`) if too many of the hop are open.
        """
        ...

    def suspend(self, closing: Closing, standing: Standing) -> Suspended | None:
        """Let a hop wait for what it stands at, owned by nobody; the attempt does not count.

        If any of it has come, the hop is queued instead, and the answer has it, to be sent. A repetition of the call
        gets the same answer. None if another owner has overtaken this one. Raises `HopUnknown`.
        """
        ...

    def resolve(self, token: str, answers: Mapping[str, str], *, by: str, call: str) -> Resolution:
        """Answer parts of a wait: `answers` maps them to JSON texts. If that settles it, a suspended hop is queued.

        `call` names this call, so that its repetition gets the same answer. `unknown` if no such wait is recorded.
        """
        ...

    def time_out(self, token: str) -> Wait | None:
        """Give a wait up if its time is over and it is open; return it as it is now, or None if it is not known.

        For the run that waits. If its hop is suspended by now, it is queued, and a sweep sends it.
        """
        ...

    def signal(
        self, correlation_id: str, name: str, text: str, *, by: str, call: str, below: str | None = None
    ) -> Resolution:
        """Settle the oldest open wait for a signal of this name with a JSON text, or keep the signal for one to come.

        If `below` is the place of a branch, only waits in it are looked at, and none is kept for: `unknown` if there is
        no such wait.
        `call` is the id of the signal: a second one with it changes nothing (`repeated`). `ended` if the workflow goes
        on no more, `too_many` if it keeps as many as it may, `unknown` if there is no such workflow.
        """
        ...

    def waits(self, hop_id: str) -> Sequence[Wait]:
        """Return the waits of a hop, by since; empty if there are none."""
        ...

    def asked(self, *, after: str | None, limit: int) -> Sequence[AskedWait]:
        """Return open waits of all workflows, oldest first, after a cursor; raises `InvalidInput` if it is none."""
        ...
