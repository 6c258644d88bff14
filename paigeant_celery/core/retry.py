"""Retries: which errors of a step are worth another attempt, and when. No clock and no randomness."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

__all__ = ["FINAL_ERRORS", "Attempt", "is_final", "retry_delay"]

MAX_BACKOFF = 300.0  # seconds
MOST_DOUBLINGS = 32  # beyond it every backoff has reached its longest wait

# Another attempt would end in the same way, after another paid call: names of classes, whose subclasses count, too.
FINAL_ERRORS = frozenset(
    {
        # ours
        "UsageError",
        "MessageError",
        # of pydantic-ai: a wrong call of it, a budget that is spent, a model that did not come to a valid output, and
        # what a provider refuses for good, even with a status that otherwise passes (429 for a spent quota)
        "UserError",
        "UsageLimitExceeded",
        "UnexpectedModelBehavior",
        "ModelQuotaExceededError",
        "ModelRequestRejectedError",
        # of code
        "ImportError",
        "NameError",
        "NotImplementedError",
        "SyntaxError",
        "TypeError",
    }
)
# What HTTP calls a passing refusal: request timeout, conflict, locked, too early, too many requests.
PASSING_REFUSALS = frozenset({408, 409, 423, 425, 429})


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """An attempt of a step that failed, as its policy sees it.

    Times are in seconds. `jitter` is a random number from 0 to 1; `retry_after` is how long the provider asks to
    wait. `final` says that another attempt is not worth it.
    """

    number: int
    max_attempts: int
    backoff: float
    jitter: float
    max_backoff: float = MAX_BACKOFF
    retry_after: float | None = None
    final: bool = False


def retry_delay(attempt: Attempt) -> float:
    """Return the seconds to the next attempt: doubled each time, spread, and no shorter than was asked for.

    The spread is over the upper half of the wait, so that steps that failed together do not come back together.
    """
    longest = min(attempt.max_backoff, attempt.backoff * float(2 ** min(attempt.number - 1, MOST_DOUBLINGS)))
    return max(longest * (1 + attempt.jitter) / 2, attempt.retry_after or 0.0)


def is_final(error: BaseException, *, retry_on: Collection[str] | None, final_on: Collection[str]) -> bool:
    """Say whether another attempt is not worth it.

    `retry_on` and `final_on` are names of classes; a subclass counts as its bases do. Without `retry_on`, all errors
    are retried but those of `FINAL_ERRORS` and what a provider refuses for good (HTTP 4xx). Of a group, such as that of
    a fallback model, one error that is worth it suffices.
    """
    if isinstance(error, BaseExceptionGroup):
        return all(is_final(part, retry_on=retry_on, final_on=final_on) for part in error.exceptions)
    names = {kind.__name__ for kind in type(error).__mro__}
    if not names.isdisjoint(final_on):
        return True
    if retry_on is not None:
        return names.isdisjoint(retry_on)
    status = getattr(error, "status_code", None)
    refused = isinstance(status, int) and 400 <= status < 500 and status not in PASSING_REFUSALS
    return refused or not names.isdisjoint(FINAL_ERRORS)
