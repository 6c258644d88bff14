"""A step's limits: where they come from, which errors get another attempt, and when."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_ai import exceptions
from pydantic_ai.exceptions import (
    FallbackExceptionGroup,
    ModelAuthenticationError,
    ModelHTTPError,
    ModelQuotaExceededError,
    RunTimedOut,
    UnexpectedModelBehavior,
    UsageLimitExceeded,
    UserError,
)

from paigeant_celery.core.errors import InvalidInput, MessageError, StoreRequired, Unreachable
from paigeant_celery.core.patience import patience
from paigeant_celery.core.policy import (
    LONGEST_ASKED,
    MAX_BACKOFF,
    Attempt,
    StepPolicy,
    Verdict,
    attempt_of,
    is_final,
    retry_delay,
)


@pytest.mark.parametrize(
    ("own", "default", "expected"),
    [
        (StepPolicy(), StepPolicy(timeout=9, max_attempts=2), StepPolicy(timeout=9, max_attempts=2)),
        (StepPolicy(timeout=1), StepPolicy(timeout=9, max_attempts=2), StepPolicy(timeout=1, max_attempts=2)),
        (StepPolicy(max_attempts=1), StepPolicy(timeout=9), StepPolicy(timeout=9, max_attempts=1)),
        (StepPolicy(timeout=1, max_attempts=1), StepPolicy(timeout=9, max_attempts=2), None),
        (StepPolicy(timeout=1), None, None),
        (StepPolicy(), StepPolicy(), None),
    ],
)
def test_what_a_policy_leaves_open_comes_from_its_default(
    own: StepPolicy, default: StepPolicy | None, expected: StepPolicy | None
) -> None:
    """One step may be slower than its agent's other steps without repeating everything else."""
    assert own.over(default) == (expected if expected is not None else own)


def attempt(number: int = 1, **facts: Any) -> Attempt:
    return Attempt(**{"number": number, "max_attempts": 5, "backoff": 2.0, "jitter": 1.0, **facts})


def test_each_wait_is_twice_the_last_one() -> None:
    """An overloaded provider gets time."""
    assert [retry_delay(attempt(number)) for number in (1, 2, 3, 4)] == [2.0, 4.0, 8.0, 16.0]


@given(number=st.integers(1, 1000), backoff=st.floats(0, 86400), jitter=st.floats(0, 1))
def test_a_wait_is_spread_and_bounded(number: int, backoff: float, jitter: float) -> None:
    """Steps that failed together do not come back together, and none waits for days."""
    delay = retry_delay(attempt(number, backoff=backoff, jitter=jitter))
    most = retry_delay(attempt(number, backoff=backoff, jitter=1.0))

    assert most / 2 <= delay <= most <= MAX_BACKOFF


@pytest.mark.parametrize(
    ("asked", "expected"),
    [(30, 30.0), (1e9, LONGEST_ASKED), (0, None), (-3.0, None), ("soon", None), (None, None)],
)
def test_an_attempt_takes_what_its_error_asks_for(asked: object, expected: float | None) -> None:
    """A provider says how long it wants to be left alone; nonsense, and more than a day, it does not get."""
    error = ConnectionError("busy")
    error.retry_after = asked  # type: ignore[attr-defined]
    policy = StepPolicy(max_attempts=5, backoff=2.0)

    assert attempt_of(error, number=2, policy=policy, jitter=0.5) == Attempt(
        number=2, max_attempts=5, backoff=2.0, jitter=0.5, retry_after=expected
    )


def test_an_attempt_whose_error_the_policy_calls_final_is_final() -> None:
    """What a policy leaves open gives one attempt, and no wait."""
    policy = StepPolicy(final_on=[ConnectionError])

    assert attempt_of(ConnectionError(), number=1, policy=policy, jitter=0.0) == Attempt(
        number=1, max_attempts=1, backoff=0.0, jitter=0.0, final=True
    )


@pytest.mark.parametrize(
    ("verdict", "policy", "expected"),
    [
        (Verdict(OSError(), delay=7.5), StepPolicy(), {"max_attempts": 5, "delay": 7.5}),
        (Verdict(OSError(), delay=0.0), StepPolicy(), {"max_attempts": 5, "delay": 0.0}),
        (Verdict(TypeError(), delay=7.5), StepPolicy(retry_on=[KeyError]), {"max_attempts": 5, "delay": 7.5}),
        (Verdict(OSError(), delay=7.5), StepPolicy(final_on=[OSError]), {"delay": 7.5, "final": True}),
        (Verdict(OSError()), StepPolicy(), {"max_attempts": 2}),
        (Verdict(TypeError()), StepPolicy(), {"max_attempts": 2, "final": True}),
        (Verdict(OSError(), parks=True), StepPolicy(), {"max_attempts": 2}),
        (Verdict(TypeError(), parks=True), StepPolicy(final_on=[TypeError]), {"max_attempts": 2}),
        (Verdict(OSError(), parks=True), StepPolicy(max_attempts=1), {"max_attempts": 1}),
    ],
)
def test_what_a_step_says_of_its_own_attempt_counts(
    verdict: Verdict, policy: StepPolicy, expected: dict[str, Any]
) -> None:
    """It asks for another attempt, has none left, or wants a person. What it cannot do is overrule `final_on`."""
    policy = policy.over(StepPolicy(max_attempts=5, backoff=2.0))

    assert attempt_of(verdict.error, number=2, policy=policy, jitter=0.5, verdict=verdict) == Attempt(
        **{"number": 2, "max_attempts": 5, "backoff": 2.0, "jitter": 0.5, **expected}
    )


@pytest.mark.parametrize("delay", [0.0, 0.25, 10_000.0])
def test_the_time_that_a_step_says_is_neither_spread_nor_stretched(delay: float) -> None:
    """It knows when the bank opens. No backoff and no limit of ours makes it earlier or later."""
    assert retry_delay(attempt(4, retry_after=30.0, delay=delay)) == delay


def test_a_provider_that_says_how_long_is_not_asked_before() -> None:
    """The provider counts calls that come too early against the caller."""
    assert retry_delay(attempt(retry_after=30.0)) == 30.0
    assert retry_delay(attempt(4, retry_after=3.0)) == 16.0


@pytest.mark.parametrize(
    "error",
    [
        TypeError(), NotImplementedError(), ModuleNotFoundError(), UnboundLocalError(),
        UserError("no key"), UsageLimitExceeded("spent"), UnexpectedModelBehavior("no valid output"),
        ModelHTTPError(400, "m"), ModelHTTPError(401, "m"), ModelHTTPError(404, "m"),
        ModelQuotaExceededError("m", "insufficient_quota"), ModelAuthenticationError("m", "wrong key"),
        MessageError("invalid_deps"), InvalidInput("a", "b", "c"), StoreRequired("x"),
        FallbackExceptionGroup("all failed", [ModelHTTPError(401, "m"), TypeError()]),
    ],
)  # fmt: skip
def test_an_error_that_would_come_again_is_final(error: Exception) -> None:
    """A wrong key or program is not paid for five times."""
    assert is_final(error, retry_on=None, final_on=())


@pytest.mark.parametrize(
    "error",
    [
        ValueError(), RuntimeError(), ConnectionError(), TimeoutError(), OSError(), SystemExit(), MemoryError(),
        ModelHTTPError(429, "m"), ModelHTTPError(408, "m"), ModelHTTPError(500, "m"), ModelHTTPError(529, "m"),
        Unreachable("store", "redis://host", "ConnectionError"),
        FallbackExceptionGroup("all failed", [ModelHTTPError(401, "m"), ModelHTTPError(503, "n")]),
    ],
)  # fmt: skip
def test_an_error_that_may_pass_is_retried(error: BaseException) -> None:
    """Servers are down now and then, and a model answers differently the next time."""
    assert not is_final(error, retry_on=None, final_on=())


# Every error of pydantic-ai, by what another attempt may make of it. A new one fails the test until somebody decides.
NEVER_BETTER = {
    "UserError", "UndrainedPendingMessagesError", "UsageLimitExceeded", "RunCancelled", "SuspendedResponseExpired",
    "UnexpectedModelBehavior", "ContentFilterError", "OutputTokenLimitExceeded", "IncompleteToolCall",
    "ModelQuotaExceededError", "ModelRequestRejectedError", "ModelAuthenticationError", "ModelNotFoundError",
    "ModelContextWindowExceededError", "ApprovalRequired", "CallDeferred", "RetryModelRequest", "SkipModelRequest",
    "SkipToolExecution", "SkipToolValidation",
}  # fmt: skip
PERHAPS_BETTER = {
    "AgentRunError", "RunTimedOut", "ConcurrencyLimitExceeded", "ModelAPIError", "ModelRateLimitError",
    "ModelUnavailableError", "ModelOverloadedError", "ModelServerError", "ModelConnectionError", "ModelTimeoutError",
    "ModelRequestTimeout", "ModelHTTPError",
    # raised by code about the world: what a tool needs may be there the next time
    "ModelRetry", "ToolFailed", "ToolRetryError", "ToolFailedError",
    # a group is judged by what it holds, and these are errors only if a filter makes them so
    "FallbackExceptionGroup", "MessageHistoryMutatedWarning", "UnsupportedSettingWarning", "CostNotFoundWarning",
    "CostCalculationFailedWarning", "UsageExtractionFailedWarning", "UsageLimitUnavailableWarning",
    "PydanticAIDeprecationWarning",
}  # fmt: skip
OF_PYDANTIC_AI = {
    name: kind
    for name, kind in vars(exceptions).items()
    if not name.startswith("_") and isinstance(kind, type) and issubclass(kind, Exception)
}


@pytest.mark.parametrize("name", OF_PYDANTIC_AI)
def test_each_error_of_pydantic_ai_is_judged(name: str) -> None:
    """What its run can never do better is not begun five times."""
    kind = OF_PYDANTIC_AI[name]
    layout = max(kind.__mro__, key=lambda base: base.__basicsize__ if base.__module__ == "builtins" else 0)
    error = layout.__new__(kind, "failed", [OSError()])  # whatever its own arguments are

    assert (name in NEVER_BETTER) != (name in PERHAPS_BETTER)
    assert is_final(error, retry_on=None, final_on=()) == (name in NEVER_BETTER)


def test_a_run_that_timed_out_is_no_cancelled_one_unless_the_policy_says_so() -> None:
    """It is a subclass of it."""
    error = RunTimedOut("The agent run timed out.")

    assert not is_final(error, retry_on=None, final_on=())
    assert not is_final(error, retry_on=["TimeoutError"], final_on=())
    assert is_final(error, retry_on=None, final_on=["RunCancelled"])
    assert is_final(error, retry_on=["ConnectionError"], final_on=())


def test_a_policy_names_the_errors_that_alone_are_retried() -> None:
    """A step with effects outside retries what it knows to be harmless."""
    policy = StepPolicy(retry_on=[ConnectionError, "TypeError"], final_on=[BrokenPipeError])
    assert policy.retry_on is not None
    assert policy.final_on is not None
    known = {"retry_on": policy.retry_on, "final_on": policy.final_on}

    judged = [ConnectionResetError(), TypeError(), ValueError(), BrokenPipeError()]
    assert [is_final(error, **known) for error in judged] == [False, False, True, True]


@pytest.mark.parametrize(
    "given", [{"backoff": -1.0}, {"backoff": float("nan")}, {"retry_on": [""]}, {"retry_on": "ValueError"}]
)
def test_a_policy_of_retries_that_makes_no_sense_is_refused(given: dict[str, Any]) -> None:
    """Otherwise it would be noticed only when the provider is down."""
    with pytest.raises(InvalidInput, match="invalid_policy"):
        StepPolicy(**given)


def test_a_server_that_is_away_is_asked_less_and_less_often_and_never_given_up() -> None:
    """A thousand runs that wait for one store must let it start; whoever waits says for how long."""
    assert list(islice(patience(), 7)) == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    assert list(islice(patience(0.05, 0.3), 5)) == [0.05, 0.1, 0.2, 0.3, 0.3]
