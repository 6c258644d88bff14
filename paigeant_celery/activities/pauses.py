"""Outputs that are no results: a run of pydantic-ai ended early, instead of waiting for something outside it.

The classes are known by their names, because this wing loads no agent library.
"""

from __future__ import annotations

import secrets
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any

from paigeant_celery.core.errors import Paused
from paigeant_celery.core.jsonable import everything_in, parts_of

__all__ = ["IN_CALL", "NO_STORE", "no_waits_in_process", "pause_in", "pause_of"]

LIBRARY = "pydantic_ai"
MOST_NAMED = 20  # tools in one text
TOLD = "DeferredToolRequestsEvent"  # tells what was asked for, even if it was answered within the run


def pause_in(output: object) -> Paused | None:
    """Return the pause that an output is, or holds anywhere; None if it is a result."""
    if LIBRARY not in sys.modules:
        return None  # nobody here can have made one
    pauses = (pause_of(node) for node in everything_in(output, parts=_parts))
    return next((pause for pause in pauses if pause is not None), None)


def pause_of(node: object) -> Paused | None:
    """Return the pause that an object is itself, such as an error that a step raised; None if it is none."""
    for name in _library_names(node):
        if name in PAUSES and (pause := PAUSES[name](node)) is not None:
            return pause
    return None


def no_waits_in_process() -> AbstractContextManager[object]:
    """Refuse the waits of runs in the block that are not durable, unless whoever is asked answers at once.

    pydantic-ai would have them wait in this process, as long as the step may take.
    """
    library: Any = sys.modules.get(f"{LIBRARY}.external_events")  # since 2.68; without it, no run waits
    return nullcontext() if library is None else library.external_event_scope(_Refusing())


class _Refusing:
    """Stands for an `ExternalEventWaiter`."""

    async def wait(self, name: str, *, ask: Callable[[str], Awaitable[Any]], timeout: object) -> Any:  # noqa: ASYNC109 - as it is called
        if (answer := await ask(secrets.token_urlsafe())) is None:
            raise Paused("tools_deferred", IN_PROCESS)
        return answer


def _library_names(node: object) -> frozenset[str]:
    """Return the names of the library's classes that an object is an instance of."""
    kind: Any = type(node)
    return _names_of(kind)


@lru_cache(maxsize=512)
def _names_of(kind: type) -> frozenset[str]:
    return frozenset(base.__name__ for base in kind.__mro__ if str(base.__module__).partition(".")[0] == LIBRARY)


def _parts(node: object) -> Iterable[object]:
    return () if TOLD in _library_names(node) else parts_of(node)


def _requests(node: Any) -> Paused | None:
    asked: dict[str, Counter[str]] = {"approval of": Counter(), "results of": Counter(), "answers to": Counter()}
    asked["approval of"].update(str(call.tool_name) for call in node.approvals)
    for call in node.calls:
        asked["answers to" if _is_question(node, call) else "results of"][str(call.tool_name)] += 1
    parts = [f"{what} {_named(tools)}" for what, tools in asked.items() if tools]
    if not parts:
        return None  # nothing is asked for
    return Paused("tools_deferred", f"the run asks for {' and for '.join(parts)}; {REMEDY}")


def _is_question(node: Any, call: Any) -> bool:
    """Say whether a call asks a person something; before pydantic-ai 2.68 none says so."""
    return hasattr(node, "kind") and node.kind(call.tool_call_id) == "question"


def _named(tools: Counter[str]) -> str:
    named = [repr(name) if count == 1 else f"{name!r} ({count} times)" for name, count in sorted(tools.items())]
    more = [f"{len(named) - MOST_NAMED} more"] if len(named) > MOST_NAMED else []
    return ", ".join([*named[:MOST_NAMED], *more])


def _pending(_: Any) -> Paused:
    text = "the provider still works on the response; leave `PendingModelResponse` out of `output_type`, so that the "
    return Paused("response_pending", text + "step waits for it")


def _response(node: Any) -> Paused | None:
    return _pending(node) if getattr(node, "state", None) == "suspended" else None


def _refused(node: Any) -> Paused | None:
    """Return the pause of a run that may not wait, or not end with what was asked for, so that an error was raised."""
    text = str(node)
    if WAITS_INSIDE in text:
        return Paused("tools_deferred", IN_CALL)
    if NOT_DECLARED not in text:
        return None
    trace = node.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    held = trace.tb_frame.f_locals.values() if trace is not None else ()
    asked = (_requests(value) for value in held if "DeferredToolRequests" in _library_names(value))
    return next(filter(None, asked), Paused("tools_deferred", f"the run asks for approvals or results; {REMEDY}"))


def _raised(node: Any) -> Paused:
    return Paused("tools_deferred", f"`{type(node).__name__}` was raised outside a tool of an agent; {REMEDY}")


WAITS_INSIDE = "`wait_for_external_event()` was called from inside a durable unit"
NOT_DECLARED = "`DeferredToolRequests` is not among output types"

NO_STORE = "a step can wait only if a store remembers what for; set `paigeant_store_url`, and redrive it"
IN_CALL = (
    "a recorded call cannot wait, because it is made again as a whole; give the tool `metadata={'paigeant': False}`, "
    "so that only what it calls is recorded"
)
REMEDY = (
    "only the agent of a step waits for that by itself (if it has an output validator and a call asks again, it needs "
    "`DeferredToolRequests` in its `output_type`); let another one have `CeleryDurability`, and `RequestInput` (since "
    "pydantic-ai 2.68) or `HandleDeferredToolCalls`, which answer within its run"
)

IN_PROCESS = (
    "a run that is not durable would wait in this process and hold its slot, and no answer would reach it; give its "
    "agent `CeleryDurability`, or use `await workflow_context().wait_for(…)`"
)

PAUSES: Mapping[str, Callable[[Any], Paused | None]] = {
    "DeferredToolRequests": _requests,
    "PendingModelResponse": _pending,
    "ModelResponse": _response,
    "UserError": _refused,
    "ApprovalRequired": _raised,
    "CallDeferred": _raised,
}
