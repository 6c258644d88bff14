"""What code inside a recorded call may not do to its run, because a replay would miss it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NoReturn

from pydantic_ai.durable_exec._toolset import CancelGuard
from pydantic_ai.exceptions import UserError
from pydantic_ai.tools import AgentDepsT, RunContext

try:
    from pydantic_ai._enqueue import EnqueueGuard
except ImportError:  # where older releases have it
    from pydantic_ai.durable_exec._toolset import EnqueueGuard  # type: ignore[attr-defined]

__all__ = ["guarded"]


def guarded(ctx: RunContext[AgentDepsT]) -> RunContext[AgentDepsT]:
    """Return a context for a recorded call, in which `enqueue` and `cancel` raise `UserError` with what to do."""
    return replace(ctx, pending_messages=_NoMessages(), _cancellation=CancelGuard(_refusal("cancel")))


class _NoMessages(EnqueueGuard):
    def __init__(self) -> None:
        list.__init__(self)  # the base class takes other arguments in each release, for texts of its own

    def append(self, pending: Any) -> NoReturn:
        raise UserError(_refusal("enqueue"))

    def change_error(self, method: str) -> UserError:
        return UserError(_refusal(method))


def _refusal(method: str) -> str:
    return (
        f"`ctx.{method}()` is refused inside a recorded call, because a replay does not run it again; "
        'give the tool `metadata={"paigeant": False}`, or do it in a hook of a capability'
    )
