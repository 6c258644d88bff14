"""Outputs that are no results: a run of pydantic-ai ended early, and waits for something outside it.

The classes are known by their names, because this wing loads no agent library.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from pydantic import BaseModel

from paigeant_celery.core.errors import Paused

__all__ = ["pause_in", "pause_of"]

LIBRARY = "pydantic_ai"
MOST_NAMED = 20  # tools in one text
TOLD = "DeferredToolRequestsEvent"  # tells what was asked for, even if it was answered within the run


def pause_in(output: object) -> Paused | None:
    """Return the pause that an output is, or holds anywhere; None if it is a result."""
    if LIBRARY not in sys.modules:
        return None  # nobody here can have made one
    stack, seen = [output], set[int]()
    while stack:
        node = stack.pop()
        if isinstance(node, (str, bytes, int, float, type)) or node is None or id(node) in seen:
            continue
        seen.add(id(node))
        if (pause := pause_of(node)) is not None:
            return pause
        if TOLD not in _library_names(node):
            stack.extend(_inside(node))
    return None


def pause_of(node: object) -> Paused | None:
    """Return the pause that an object is itself, such as an error that a step raised; None if it is none."""
    for name in _library_names(node) & PAUSES.keys():
        if (pause := PAUSES[name](node)) is not None:
            return pause
    return None


def _library_names(node: object) -> set[str]:
    """Return the names of the library's classes that an object is an instance of."""
    return {kind.__name__ for kind in type(node).__mro__ if kind.__module__.partition(".")[0] == LIBRARY}


def _inside(node: object) -> Iterable[object]:
    if isinstance(node, BaseModel):
        return (*vars(node).values(), *(node.model_extra or {}).values())
    if is_dataclass(node) and not isinstance(node, type):
        return [getattr(node, field.name, None) for field in fields(node)]
    if isinstance(node, Mapping):
        return (*node.keys(), *node.values())
    if isinstance(node, Collection) and not isinstance(node, (bytearray, memoryview, range)):
        return node
    return ()


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
    """Return the pause of a run that may not end with what was asked for, so that pydantic-ai raised an error."""
    if NOT_DECLARED not in str(node):
        return None
    trace = node.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    held = trace.tb_frame.f_locals.values() if trace is not None else ()
    asked = (_requests(value) for value in held if "DeferredToolRequests" in _library_names(value))
    return next(filter(None, asked), Paused("tools_deferred", f"the run asks for approvals or results; {REMEDY}"))


def _raised(node: Any) -> Paused:
    return Paused("tools_deferred", f"`{type(node).__name__}` was raised outside a tool of an agent; {REMEDY}")


NOT_DECLARED = "`DeferredToolRequests` is not among output types"

REMEDY = (
    "a step cannot wait for that yet: let the agent have `HandleDeferredToolCalls`, or end the workflow here and do "
    "the rest in another one when it is answered"
)

PAUSES: Mapping[str, Callable[[Any], Paused | None]] = {
    "DeferredToolRequests": _requests,
    "PendingModelResponse": _pending,
    "ModelResponse": _response,
    "UserError": _refused,
    "ApprovalRequired": _raised,
    "CallDeferred": _raised,
}
