"""What a workflow's limits leave for the step that runs now, and what the step's calls use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import fields, replace
from decimal import Decimal
from typing import Any

from pydantic_ai.exceptions import UsageLimitExceeded
from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models._continuation import merge_mode
from pydantic_ai.tools import RunContext
from pydantic_ai.usage import RequestUsage, RunUsage, UsageLimits

from paigeant_celery.core.budget import Usage, WorkflowLimits, reported_cost, reported_count, used_by
from paigeant_celery.core.message import PaigeantMessage
from paigeant_celery.journal.hop_journal import HopJournal

__all__ = ["Budget", "budget_of", "usage_of", "usage_of_answer"]

_applied: ContextVar[Budget | None] = ContextVar("paigeant_budget", default=None)


class Budget:
    """What a workflow's limits leave for the step that runs now.

    A run has limits of its own, which are the same in each attempt: what the steps before it left. Where the store
    counts what all steps use, also those that run at the same time, a call is refused as well before it is made; one
    that is replayed never is. `usage` is that of the step's run, and of those that share it.
    """

    def __init__(self, message: PaigeantMessage, journal: HopJournal | None) -> None:
        limits = message.usage_limits
        self._limits = limits if limits is not None and limits.set_limits() else None
        self._used = used_by(message.slip.executed, earlier=message.slip.earlier)
        self._journal = journal
        self._calling = 0  # tools, whose calls are not counted yet
        self._refused = False
        self.usage = RunUsage()

    def left(self) -> UsageLimits | None:
        """Return the limits of the run, or None if the workflow has none.

        Raises `UsageLimitExceeded` if nothing is left for another model request.
        """
        if self._limits is None:
            return None
        left = _left(self._limits, self._used)
        usual = UsageLimits()
        if "request_limit" in left and usual.request_limit is not None:
            left["request_limit"] = min(usual.request_limit, left["request_limit"])
        return _limits_of_run(left)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Surround the run: its calls are checked, and `UsageLimitExceeded` also states the workflow's limits."""
        if self._limits is None:
            yield
            return
        token = _applied.set(self)
        try:
            yield
        except UsageLimitExceeded as error:
            raise UsageLimitExceeded(f"{error}; the workflow has {self._account(self._limits)}") from error
        finally:
            _applied.reset(token)

    def check_request(self) -> None:
        """Raise `UsageLimitExceeded` if all steps together have used what a model request needs."""
        with self._refusing():
            if (left := self._left_by_others()) is not None:
                _limits_of_run(left).check_before_request(self.usage)

    @contextmanager
    def calling_tool(self) -> Iterator[None]:
        """Surround the call of a tool, until it is counted; raises `UsageLimitExceeded` before it, as for a request."""
        with self._refusing():
            if (left := self._left_by_others(for_tool=True)) is not None and self._journal is not None:
                totals = self._journal.totals
                counted = totals.counted.of("tool_calls_limit") if totals is not None else 0
                begun = max(self.usage.tool_calls, int(counted)) + self._calling
                _limits_of_run(left).check_before_tool_call(replace(self.usage, tool_calls=begun + 1))
        self._calling += 1
        try:
            yield
        finally:
            self._calling -= 1

    def _left_by_others(self, *, for_tool: bool = False) -> dict[str, Any] | None:
        totals = self._journal.totals if self._journal is not None else None
        if self._limits is None or totals is None:
            return None
        return self._limits.left(totals.elsewhere) if for_tool else _left(self._limits, totals.elsewhere)

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except UsageLimitExceeded:
            self._refused = True
            raise

    def _account(self, limits: WorkflowLimits) -> str:
        totals = self._journal.totals if self._journal is not None else None
        if self._refused and totals is not None:
            return limits.account(totals.used, by="all steps")
        return limits.account(self._used, by="earlier steps")


def budget_of(ctx: RunContext[Any]) -> Budget | None:
    """Return the budget of the step that runs here, if this run counts for it; None without limits."""
    budget = _applied.get()
    return budget if budget is not None and ctx.usage is budget.usage else None


def usage_of(usage: RunUsage) -> Usage:
    """Return usage as it is recorded of a step."""
    counters = {
        "requests": reported_count(usage.requests),
        "tool_calls": reported_count(usage.tool_calls),
        "input_tokens": reported_count(usage.input_tokens),
        "output_tokens": reported_count(usage.output_tokens),
    }
    return Usage(counters=counters, cost=reported_cost(getattr(usage, "cost", None)))


def usage_of_answer(answer: ModelResponse, asked: list[ModelMessage]) -> Usage:
    """Return what a model request used, nearly as its run will count it: a job counts as a request when it is done."""
    usage = RunUsage(requests=int(answer.state != "suspended"))
    for attempt in getattr(answer, "failed_attempts", None) or ():
        if attempt.usage is not None:
            usage.incr(attempt.usage)
    usage.incr(answer.usage)
    found = usage_of(usage)
    if getattr(answer.usage, "cost", 0) is None and (price := reported_cost(_price(answer))) is not None:
        found = replace(found, cost=(found.cost or 0) + price)
    last = asked[-1] if asked else None
    if isinstance(last, ModelResponse) and last.state == "suspended" and merge_mode(last, answer) == "replace-same-id":
        return found.less(_counted_before(last.usage))  # it says again what an earlier answer about the job said
    return found


def _counted_before(usage: RequestUsage) -> Usage:
    counted = RunUsage()
    counted.incr(usage)
    return usage_of(counted)


def _price(answer: ModelResponse) -> Decimal | None:
    """Return the cost of an answer as the run will find it; None if it has no known price."""
    try:
        return answer.cost().total_price
    except Exception:  # noqa: BLE001 - the run finds none either, and an answer must not be lost for its price
        return None


def _left(limits: WorkflowLimits, used: Usage) -> dict[str, Any]:
    """Return what is left of the limits; raises `UsageLimitExceeded` if it is nothing for another model request."""
    left: dict[str, Any] = limits.left(used)
    spent = [name for name, amount in left.items() if not amount and name != "tool_calls_limit"]
    if spent:
        raise UsageLimitExceeded(f"nothing is left of the {spent[0]}")
    return left


def _limits_of_run(left: Mapping[str, Any]) -> UsageLimits:
    """Return limits as pydantic-ai checks them, as far as the installed version knows them."""
    known = {found.name for found in fields(UsageLimits)}
    return UsageLimits(**{"request_limit": None, **{name: each for name, each in left.items() if name in known}})
