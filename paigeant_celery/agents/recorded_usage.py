"""The usage of agents that run inside a recorded call: counted when the call is made, and again when it is replayed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from typing import Any, cast

from pydantic import TypeAdapter
from pydantic_ai.tools import AgentDepsT, RunContext
from pydantic_ai.usage import RunUsage

from paigeant_celery.agents.budget import usage_of
from paigeant_celery.core.budget import Usage

__all__ = ["Spending"]

_USAGE = TypeAdapter(RunUsage)


class Spending:
    """What one call adds to a run's usage, kept apart from what calls in parallel add meanwhile."""

    def __init__(self, usage: RunUsage) -> None:
        self._usage, self._before, self._apart = usage, copy(usage), copy(usage)

    @contextmanager
    def apart_from(self, ctx: RunContext[AgentDepsT]) -> Iterator[RunContext[AgentDepsT]]:
        """Surround the call, which counts in the context given; the run's usage has it when the block ends."""
        try:
            yield replace(ctx, usage=self._apart)
        finally:
            self._usage.incr(self._apart - self._before)

    def used(self) -> dict[str, Any]:
        """Return what a record says of it: nothing if there was none."""
        usage = self._apart - self._before
        if not usage.has_values() and not usage.unmeasured_requests:
            return {}
        counted = _USAGE.dump_python(usage, mode="json", exclude_defaults=True)
        return cast("dict[str, Any]", counted)

    def spent(self, *, tool_calls: int = 0) -> Usage:
        """Return what the call used, with calls of tools that its run has not counted yet."""
        used = self._apart - self._before
        used.tool_calls += tool_calls
        return usage_of(used)

    def count(self, usage: Mapping[str, Any]) -> None:
        """Add to the run's usage what a record says."""
        if usage:
            self._usage.incr(_USAGE.validate_python(usage))
