"""The usage of agents that run inside a recorded call: counted when the call is made, and again when it is replayed."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import Any, cast

from pydantic import TypeAdapter
from pydantic_ai.usage import RunUsage

__all__ = ["Spending"]

_USAGE = TypeAdapter(RunUsage)


class Spending:
    """What one call adds to a run's usage, kept apart from what calls in parallel add meanwhile."""

    def __init__(self, usage: RunUsage) -> None:
        self._usage, self._before, self.apart = usage, copy(usage), copy(usage)

    def settle(self) -> None:
        """Add to the run's usage what was added to `apart`."""
        self._usage.incr(self.apart - self._before)

    def used(self) -> dict[str, Any]:
        """Return what a record says of it: nothing if there was none."""
        usage = self.apart - self._before
        if not usage.has_values() and not usage.unmeasured_requests:
            return {}
        counted = _USAGE.dump_python(usage, mode="json", exclude_defaults=True)
        return cast("dict[str, Any]", counted)

    def count(self, usage: Mapping[str, Any]) -> None:
        """Add to the run's usage what a record says."""
        if usage:
            self._usage.incr(_USAGE.validate_python(usage))
