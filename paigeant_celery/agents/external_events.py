"""Waits inside a run for something outside it: a step cannot wait yet, so they are refused with what to do instead."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta

from pydantic import JsonValue
from pydantic_ai.exceptions import UserError

from paigeant_celery.activities.pauses import REMEDY, WAITS

try:  # since pydantic-ai 2.68; before that, no run waits
    from pydantic_ai.external_events import ExternalEventWaiter, external_event_scope
except ImportError:

    def waits_refused() -> AbstractContextManager[object]:
        """Refuse nothing."""
        return nullcontext()

else:

    class _Refusing(ExternalEventWaiter):
        async def wait(
            self,
            name: str,
            *,
            ask: Callable[[str], Awaitable[JsonValue]],
            timeout: timedelta | None,  # noqa: ASYNC109 - as the base class has it
        ) -> JsonValue:
            raise UserError(f"{WAITS}, {name!r}; {REMEDY}")

    def waits_refused() -> AbstractContextManager[object]:
        """Refuse the waits of the block, such as those of `RequestInput`, before anybody is asked."""
        return external_event_scope(_Refusing())


__all__ = ["waits_refused"]
