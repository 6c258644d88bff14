"""Answers that are ready before anybody is asked, by the names of waits and of tools: what a test gives a workflow."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import TypeAlias, cast

from pydantic import JsonValue, PydanticSchemaGenerationError, TypeAdapter
from pydantic_core import PydanticSerializationError

from paigeant_celery.client.handle import WorkflowHandle
from paigeant_celery.client.readings import PendingWait
from paigeant_celery.core.about import AskedCall
from paigeant_celery.core.jsonable import is_json
from paigeant_celery.core.wait_errors import InvalidAnswer

__all__ = ["Prepared", "answer_prepared"]

Prepared: TypeAlias = Mapping[str, object]  # an answer, or a function that gets the wait or the call and returns one

BY = "test"
RESULTS = "DeferredToolResults"  # pydantic-ai's own, which this wing does not load


async def answer_prepared(handle: WorkflowHandle, prepared: Prepared, *, to: Iterable[PendingWait]) -> list[str]:
    """Answer those waits of a workflow for which answers are prepared, in their order; return their tokens.

    A wait is answered by its name. One for calls of tools is also answered by the names of its tools, if all of them
    have an answer. A function may be async. Raises `InvalidAnswer`, and what a function raises.
    """
    found = []
    for wait in to:
        if wait.name in prepared:
            payload = _of_wait(wait, await _asked(prepared[wait.name], wait))
        elif wait.calls and all(call.tool in prepared for call in wait.calls):
            payload = _of_calls({call.id: await _asked(prepared[call.tool], call) for call in wait.calls}, wait)
        else:
            continue
        await handle.resolve(wait.token, payload, by=BY)
        found.append(wait.token)
    return found


async def _asked(answer: object, about: PendingWait | AskedCall) -> object:
    given = answer(about) if callable(answer) else answer
    return await given if inspect.isawaitable(given) else given


def _of_wait(wait: PendingWait, given: object) -> JsonValue:
    """Return the payload for a wait: of one for calls, all results, those by the ids of calls, or one for all."""
    if not wait.calls or type(given).__name__ == RESULTS:
        return _json(given)
    if isinstance(given, Mapping) and given:
        if set(given) <= {call.id for call in wait.calls}:
            return _of_calls(given, wait)
        if set(given) <= {"approvals", "calls", "metadata", "answered_by"}:
            return _json(given)
    return _of_calls({call.id: given for call in wait.calls}, wait)


def _of_calls(given: Mapping[str, object], wait: PendingWait) -> JsonValue:
    """Return the answers to calls in the JSON form of pydantic-ai's `DeferredToolResults`."""
    kinds = {call.id: call.kind for call in wait.calls}
    results: dict[str, JsonValue] = {call_id: _json(answer) for call_id, answer in given.items()}
    return {
        "approvals": {call_id: result for call_id, result in results.items() if kinds[call_id] == "approval"},
        "calls": {call_id: result for call_id, result in results.items() if kinds[call_id] != "approval"},
    }


def _json(given: object) -> JsonValue:
    """Return an answer as JSON; pydantic-ai's own objects, such as `ToolDenied`, have a form of their own."""
    if is_json(given):
        return cast("JsonValue", given)
    try:
        return cast("JsonValue", TypeAdapter(type(given)).dump_python(given, mode="json"))
    except (PydanticSchemaGenerationError, PydanticSerializationError) as error:
        text = f"{type(given).__name__} has no JSON form; give JSON, or what `DeferredToolResults` has for a call"
        raise InvalidAnswer("invalid_answer", "answers", text) from error
