"""How long a step may run, how often it may begin, which of its errors are retried, and when."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from paigeant_celery.core.errors import InvalidInput
from paigeant_celery.core.faults import first_fault
from paigeant_celery.core.names import MAX_ATTEMPTS

__all__ = ["FINAL_ERRORS", "Attempt", "StepPolicy", "Verdict", "attempt_of", "is_final", "retry_delay"]

MAX_BACKOFF = 300.0  # seconds
LONGEST_ASKED = 86400.0  # seconds that a provider may ask us to wait before the next attempt
MOST_DOUBLINGS = 32  # by then every backoff has reached its longest wait

# Errors that would recur, after another paid call. These are names of classes; their subclasses count too.
FINAL_ERRORS = frozenset(
    {
        # ours
        "UsageError",
        "MessageError",
        "WaitFailed",
        "WaitTimedOut",
        # of pydantic-ai: wrong use of it, a spent budget, a model that did not reach a valid output, and permanent
        # refusals by a provider, even with a status that is otherwise temporary (429 for a spent quota)
        "UserError",
        "UsageLimitExceeded",
        "UnexpectedModelBehavior",
        "ModelQuotaExceededError",
        "ModelRequestRejectedError",
        # a run that its own code cancelled, a provider's job whose answer is gone, and signals to a run that no run
        # listened to
        "RunCancelled",
        "SuspendedResponseExpired",
        "ApprovalRequired",
        "CallDeferred",
        "RetryModelRequest",
        "SkipModelRequest",
        "SkipToolExecution",
        "SkipToolValidation",
        # of code
        "ImportError",
        "NameError",
        "NotImplementedError",
        "SyntaxError",
        "TypeError",
    }
)

# Of these, what another attempt may do better: the clock of a run's own `timeout=` starts anew in each.
PASSING_ERRORS = frozenset({"RunTimedOut"})

ANY_ERROR = frozenset({"BaseException"})  # in the place of `retry_on`

# Refusals that HTTP calls temporary: request timeout, conflict, locked, too early, too many requests.
PASSING_REFUSALS = frozenset({408, 409, 423, 425, 429})

ErrorName = Annotated[str, Field(min_length=1, max_length=128)]


class StepPolicy(BaseModel):
    """Limits of one step; a limit that is None comes from the activity's own policy, then from the settings.

    `timeout` is in seconds per attempt: after it the run is cancelled, and the attempt fails with `TimeoutError`.
    `max_attempts` is how often a hop may begin, including the first time; an attempt whose worker died counts.
    `backoff` is in seconds before the second attempt; it doubles with each further one, up to five minutes.
    `retry_on` and `final_on` name classes of errors (subclasses count): only those in `retry_on` are retried, and
    those in `final_on` never are. Without `retry_on`, all errors are retried except those that would recur.

    Raises `InvalidInput` (`invalid_policy`).
    """

    # It travels, so limits of a newer minor version are kept when the message is forwarded.
    model_config = ConfigDict(frozen=True, extra="allow", hide_input_in_errors=True)

    timeout: float | None = Field(default=None, gt=0, le=30 * 86400, allow_inf_nan=False, strict=True)
    max_attempts: int | None = Field(default=None, ge=1, le=MAX_ATTEMPTS, strict=True)
    backoff: float | None = Field(default=None, ge=0, le=86400, allow_inf_nan=False, strict=True)
    retry_on: tuple[ErrorName, ...] | None = None
    final_on: tuple[ErrorName, ...] | None = None

    def __init__(
        self,
        *,
        timeout: float | None = None,
        max_attempts: int | None = None,
        backoff: float | None = None,
        retry_on: Iterable[str | type[BaseException]] | None = None,
        final_on: Iterable[str | type[BaseException]] | None = None,
    ) -> None:
        try:
            super().__init__(
                timeout=timeout,
                max_attempts=max_attempts,
                backoff=backoff,
                retry_on=_names(retry_on, "retry_on"),
                final_on=_names(final_on, "final_on"),
            )
        except ValidationError as error:
            place, _, text = first_fault(error)
            raise InvalidInput("invalid_policy", str(place[0]), text) from None

    # Validation of a message fills the fields itself; the signature above would refuse unknown ones.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    def over(self, default: StepPolicy | None) -> StepPolicy:
        """Return this policy with its open limits filled in from `default`."""
        if default is None:
            return self
        given = {name: value for name in _OWN if (value := getattr(self, name)) is not None}
        return StepPolicy(**{**{name: getattr(default, name) for name in _OWN}, **given})


_OWN = tuple(StepPolicy.model_fields)


def _names(errors: Iterable[str | type[BaseException]] | None, path: str) -> tuple[object, ...] | None:
    """Return the names of error classes, because only JSON crosses a queue."""
    if errors is None:
        return None
    if isinstance(errors, (str, type)) or not isinstance(errors, Iterable):
        raise InvalidInput("invalid_policy", path, "must be a list of error classes, or of their names")
    return tuple(error.__name__ if isinstance(error, type) else error for error in errors)


class Verdict(Exception):
    """An attempt ended with `error`, and the step's own code says what becomes of it.

    With `delay` it is to be tried again after so many seconds, unless the policy calls the error final or has no
    attempt left. With `parks` a person must look at it. With neither, its policy judges the error, but there is no
    further attempt. `text` is shown in the place of the error's own.
    """

    def __init__(
        self, error: BaseException, *, delay: float | None = None, parks: bool = False, text: str | None = None
    ) -> None:
        super().__init__(error)
        self.error, self.delay, self.parks, self.text = error, delay, parks, text


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """A failed attempt of a step, as its policy sees it.

    Times are in seconds. `jitter` is a random number from 0 to 1; `retry_after` is how long the provider asks to
    wait. `delay` is what the step itself says, and then nothing else counts. `final` says that another attempt is not
    worth it.
    """

    number: int
    max_attempts: int
    backoff: float
    jitter: float
    max_backoff: float = MAX_BACKOFF
    retry_after: float | None = None
    delay: float | None = None
    final: bool = False


def attempt_of(
    error: BaseException, *, number: int, policy: StepPolicy, jitter: float, verdict: Verdict | None = None
) -> Attempt:
    """Return what the policy of a step sees in its attempt `number`, which ended with `error`.

    A `verdict` is what the step's own code says of that.
    """
    asked = _attribute(error, "retry_after")
    attempt = Attempt(
        number=number,
        max_attempts=policy.max_attempts or 1,
        backoff=policy.backoff or 0.0,
        jitter=jitter,
        retry_after=float(min(asked, LONGEST_ASKED)) if isinstance(asked, (int, float)) and asked > 0 else None,
        final=is_final(error, retry_on=policy.retry_on, final_on=policy.final_on or ()),
    )
    return attempt if verdict is None else _judged(verdict, attempt, policy)


def _judged(verdict: Verdict, attempt: Attempt, policy: StepPolicy) -> Attempt:
    if verdict.delay is not None:
        final = is_final(verdict.error, retry_on=ANY_ERROR, final_on=policy.final_on or ())
        return replace(attempt, delay=verdict.delay, final=final)
    return replace(
        attempt, max_attempts=min(attempt.max_attempts, attempt.number), final=attempt.final and not verdict.parks
    )


def _attribute(error: BaseException, name: str) -> object:
    """Return what an error has under a name, or None; a property of a class that we do not know may raise anything."""
    try:
        return getattr(error, name, None)
    except Exception:  # noqa: BLE001 - then it says nothing
        return None


def retry_delay(attempt: Attempt) -> float:
    """Return the seconds until the next attempt: doubled each time, spread, and no shorter than was asked for.

    The spread covers the upper half of the wait, so that steps that failed together do not come back together.
    """
    if attempt.delay is not None:
        return attempt.delay
    longest = min(attempt.max_backoff, attempt.backoff * float(2 ** min(attempt.number - 1, MOST_DOUBLINGS)))
    return max(longest * (1 + attempt.jitter) / 2, attempt.retry_after or 0.0)


def is_final(error: BaseException, *, retry_on: Collection[str] | None, final_on: Collection[str]) -> bool:
    """Say whether another attempt is not worth it.

    `retry_on` and `final_on` are names of classes; a subclass counts as its bases do. Without `retry_on`, all errors
    are retried except those in `FINAL_ERRORS` and permanent refusals by a provider (HTTP 4xx). A group of errors,
    such as a fallback model raises, is worth another attempt if one of its errors is.
    """
    if isinstance(error, BaseExceptionGroup):
        return all(is_final(part, retry_on=retry_on, final_on=final_on) for part in error.exceptions)
    names = {kind.__name__ for kind in type(error).__mro__}
    if not names.isdisjoint(final_on):
        return True
    if retry_on is not None:
        return names.isdisjoint(retry_on)
    if not names.isdisjoint(PASSING_ERRORS):
        return False
    status = _attribute(error, "status_code")
    refused = isinstance(status, int) and 400 <= status < 500 and status not in PASSING_REFUSALS
    return refused or not names.isdisjoint(FINAL_ERRORS)
