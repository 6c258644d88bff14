"""Steps that run nothing of the user's: the workflow waits for a signal, or for a time."""

from __future__ import annotations

import re
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from itertools import chain, count
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, AwareDatetime, Field, model_validator
from pydantic_core import PydanticCustomError

from paigeant_celery.core.names import FLOW, conversation_fault
from paigeant_celery.core.step_fields import StepFields, build
from paigeant_celery.core.wait_inputs import LONGEST_WAIT, checked_moment, checked_seconds, checked_wait_name

__all__ = ["SLEEP", "FlowStep", "SleepSpec", "WaitSpec", "sleep_for", "sleep_until", "start_step", "wait_for"]

SLEEP: Literal["sleep"] = "sleep"  # the kind of a step that gives no output

_NOT_IN_IDS = re.compile(r"[^A-Za-z0-9_]+")


def _wait_name(name: str) -> str:
    if fault := conversation_fault(name):
        raise PydanticCustomError("invalid_wait", "it {fault}", {"fault": fault})
    return name


def _in_utc(time: datetime) -> datetime:
    """Return a time as every process writes it, so that equal times have equal digests."""
    try:
        return time.astimezone(UTC)
    except OverflowError:
        raise PydanticCustomError("invalid_wait", "it is beyond what a calendar can tell in UTC") from None


WaitName = Annotated[str, Field(strict=True), AfterValidator(_wait_name)]
Until = Annotated[AwareDatetime, AfterValidator(_in_utc)]
Seconds = Annotated[float, Field(ge=0, le=LONGEST_WAIT, allow_inf_nan=False, strict=True)]


class FlowStep(StepFields):
    """A step that workers run themselves, with the activity `_flow`. It has no queue but that of this activity."""

    queue: None = None

    @property
    def activity(self) -> str:
        return FLOW

    @property
    def made_by(self) -> str:
        """The function that makes such a step, for texts."""
        raise TypeError(f"{type(self).__name__} is made by no function")


class WaitSpec(FlowStep):
    """A step that waits for a signal of this name, for `timeout` seconds or as long as it takes. Made by `wait_for`."""

    kind: Literal["wait"] = "wait"
    name: WaitName
    timeout: Seconds | None = None

    def __init__(self, name: str, *, timeout: float | None = None, step_id: str | None = None) -> None:
        build(self, name=name, timeout=timeout, step_id=step_id)

    # As with every step: validation of a message fills the fields itself.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @property
    def stem(self) -> str:
        return f"wait-{_NOT_IN_IDS.sub('-', self.name)}".rstrip("-")

    @property
    def made_by(self) -> str:
        return "wait_for"


class SleepSpec(FlowStep):
    """A step that waits for some `seconds`, or `until` a time. Made by `sleep_for` and `sleep_until`."""

    kind: Literal["sleep"] = SLEEP
    seconds: Seconds | None = None
    until: Until | None = None

    def __init__(
        self, *, seconds: float | None = None, until: datetime | None = None, step_id: str | None = None
    ) -> None:
        build(self, seconds=seconds, until=until, step_id=step_id)

    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @model_validator(mode="after")
    def _check_one(self) -> Self:
        if (self.seconds is None) == (self.until is None):
            raise PydanticCustomError("invalid_wait", "a sleep has either `seconds` or `until`")
        return self

    @property
    def stem(self) -> str:
        return "sleep"

    @property
    def made_by(self) -> str:
        return "sleep_for" if self.until is None else "sleep_until"


def wait_for(name: str, *, timeout: float | timedelta | None = None, step_id: str | None = None) -> WaitSpec:
    """Return a step that waits until the workflow gets a signal of this name.

    Its output is the payload of the signal. One that came before the step is taken at once. If none comes within
    `timeout` (seconds, or a `timedelta`), the workflow fails with `WaitTimedOut`. No worker is held meanwhile.
    `step_id` is `wait-NAME` by default.

    Raises `InvalidInput` (`invalid_wait`, `bad_step_id`).
    """
    return WaitSpec(checked_wait_name(name), timeout=checked_seconds(timeout, "timeout"), step_id=step_id)


def sleep_for(seconds: float | timedelta, *, step_id: str | None = None) -> SleepSpec:
    """Return a step that waits for some seconds, or a `timedelta`, counted from when the step first begins.

    The step after it gets the output of the step before it. No worker is held meanwhile. `step_id` is `sleep` by
    default.

    Raises `InvalidInput` (`invalid_wait`, `bad_step_id`).
    """
    return SleepSpec(seconds=checked_seconds(seconds, "seconds"), step_id=step_id)


def sleep_until(when: datetime, *, step_id: str | None = None) -> SleepSpec:
    """Return a step that waits until a time, which has a time zone; one in the past is not waited for.

    In all else it is as `sleep_for`. Raises `InvalidInput` (`invalid_wait`, `naive_datetime`, `bad_step_id`).
    """
    return SleepSpec(until=checked_moment(when, "when"), step_id=step_id)


def start_step(when: datetime, *, taken: Collection[str]) -> SleepSpec:
    """Return the step in front of a workflow that starts later, under an id that is not `taken`."""
    numbered = (f"start-{number}" for number in count(2))
    step_id = next(step_id for step_id in chain(["start"], numbered) if step_id not in taken)
    return SleepSpec(until=checked_moment(when, "start_at"), step_id=step_id)
