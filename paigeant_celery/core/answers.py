"""What answers a wait, as the JSON that is kept with it.

A wait that is answered as a whole gets one text, `{"payload": …}` or `{"failed": reason}`. One with parts gets a text
for each call of a tool, with what pydantic-ai's `DeferredToolResults` has for that call: `{"approval": …}` or
`{"call": …}`, and with it `metadata` and `answered_by`. All of it is checked here, without pydantic-ai, before anything
is settled.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeGuard, cast

from pydantic import JsonValue

from paigeant_celery.core.about import About, AskedCall
from paigeant_celery.core.errors import MessageError
from paigeant_celery.core.jsonable import MAX_VALUE_DEPTH, dumps, is_json, loads
from paigeant_celery.core.wait_errors import InvalidAnswer
from paigeant_celery.core.waits import WHOLE

__all__ = [
    "Given",
    "answers_of",
    "approval_of",
    "decisions_of",
    "denial_of",
    "failure_answers",
    "given_of",
    "results_of",
]

RESULTS = ("approvals", "calls", "metadata", "answered_by")  # the fields of `DeferredToolResults`
MESSAGES = ("tool-failed", "model-retry")  # kinds of results that have a message and nothing else

JsonObject: TypeAlias = dict[str, JsonValue]


@dataclass(frozen=True, kw_only=True)
class Given:
    """An answer as it was read: a `payload`, or why there will be none.

    Of a part, the payload is what `DeferredToolResults` has for the call.
    """

    payload: JsonValue = None
    failed: str | None = None


# Making answers.


def answers_of(payload: object, *, parts: Collection[str], about: About, by: str = "") -> Mapping[str, str]:
    """Return the answers to the parts of a wait that a payload gives; raises `InvalidAnswer`.

    A wait for calls of tools takes `{"approvals": …, "calls": …, "metadata": …}`, any other one any JSON. `by` says of
    each part who answered it, unless the payload does.
    """
    tree = _checked(payload)
    asked = {call.id: call for call in about.calls}
    if not _is_whole(parts):
        return {call_id: dumps(answer) for call_id, answer in _split(tree, asked, pending=parts, by=by).items()}
    if asked:
        _split(tree, asked, pending=asked)
    return {WHOLE: dumps({"payload": tree})}


def decisions_of(
    decision: JsonValue,
    *,
    call: str | None,
    parts: Collection[str],
    unanswered: Collection[str],
    about: About,
    by: str = "",
) -> Mapping[str, str]:
    """Return the answers that decide about one call, or about all approvals that are open; raises `InvalidAnswer`."""
    if call is not None and not isinstance(call, str):
        raise _wrong("call", "must be the id of a call")
    asked = [each.id for each in about.calls if each.kind == "approval"]
    pending = [part for part in parts if part in asked] if not _is_whole(parts) else asked
    chosen = [call] if call is not None else [part for part in pending if part in unanswered] or pending
    if not chosen:
        raise _wrong("token", "the wait asks for no approval; answer it with `resolve` or `celery paigeant answer`")
    if len(chosen) > 1 and _is_object(decision) and decision.get("override_args") is not None:
        raise _wrong("override_args", "several calls wait for approval; say which one with `call`")
    if _is_whole(parts) and (call is not None or len(asked) < len(about.calls)) and len(about.calls) > 1:
        raise _wrong("call", "the wait is answered as a whole, all its calls at once; use `resolve`")
    return answers_of({"approvals": dict.fromkeys(chosen, decision)}, parts=parts, about=about, by=by)


def failure_answers(reason: object, *, parts: Collection[str], about: About) -> Mapping[str, str]:
    """Return the answers that give a wait up: approvals are denied and other calls fail, with this reason."""
    text = _checked_text(reason, "reason")
    if _is_whole(parts):
        return {WHOLE: dumps({"failed": text})}
    denied = dumps({"approval": denial_of(text)})
    failed = dumps({"call": {"kind": "tool-failed", "message": text}})
    approvals = {call.id for call in about.calls if call.kind == "approval"}
    return {part: denied if part in approvals else failed for part in parts}


def approval_of(override_args: object = None) -> JsonValue:
    """Return the approval of a call, as `DeferredToolResults` has it; with other arguments if they are given."""
    if override_args is None:
        return True
    arguments = _checked(override_args, path="override_args")
    if not _is_object(arguments):
        raise _wrong("override_args", "must be a mapping of the names of arguments to values")
    return {"kind": "tool-approved", "override_args": arguments}


def denial_of(message: object = None) -> JsonValue:
    """Return the denial of a call, as `DeferredToolResults` has it; the model reads the message."""
    return False if message is None else {"kind": "tool-denied", "message": _checked_text(message, "message")}


def _split(
    tree: JsonValue, asked: Mapping[str, AskedCall], *, pending: Collection[str], by: str = ""
) -> Mapping[str, JsonObject]:
    """Return the answers to calls that the JSON form of `DeferredToolResults` gives."""
    if not _is_object(tree) or not set(tree) <= set(RESULTS):
        raise _wrong("payload", "must be an object with `approvals`, `calls`, and `metadata` if there is any")
    fields = {name: _object(tree.get(name, {}), f"payload.{name}") for name in RESULTS}
    answers: dict[str, JsonObject] = {}
    for name, key, check in (("approvals", "approval", _check_approval), ("calls", "call", _check_result)):
        for call_id, result in fields[name].items():
            path = f"payload.{name}.{call_id[:64]}"
            if call_id not in pending:
                remedy = "`pending()` and `celery paigeant inbox` have those that are"
                raise _wrong(path, f"no call of this id is pending; {remedy}")
            if call_id in asked and (asked[call_id].kind == "approval") != (key == "approval"):
                raise _wrong(path, "is a call of the other kind; `approvals` is for approvals, `calls` for the rest")
            if call_id in answers:
                raise _wrong(path, "is answered twice")
            check(result, path)
            answers[call_id] = {key: result, "answered_by": by} if by else {key: result}
    if not answers:
        raise _wrong("payload", "answers no call; `approvals` and `calls` have the answers by the ids of the calls")
    _add_what_goes_with(answers, fields)
    return answers


def _add_what_goes_with(answers: dict[str, JsonObject], fields: Mapping[str, JsonObject]) -> None:
    for name in ("metadata", "answered_by"):
        for call_id, more in fields[name].items():
            path = f"payload.{name}.{call_id[:64]}"
            if call_id not in answers:
                raise _wrong(path, "belongs to no call that is answered here")
            if name == "metadata":
                _object(more, path)
            elif not isinstance(more, str):
                raise _wrong(path, "must be a text")
            answers[call_id][name] = more


def _check_approval(result: JsonValue, path: str) -> None:
    if isinstance(result, bool):
        return
    kind = result.get("kind") if _is_object(result) else None
    if kind not in ("tool-approved", "tool-denied"):
        raise _wrong(path, "must be true, false, or an object of the `kind` 'tool-approved' or 'tool-denied'")
    given = cast("JsonObject", result)
    name = "override_args" if kind == "tool-approved" else "message"
    if unknown := sorted(set(given) - {"kind", name}):
        raise _wrong(f"{path}.{unknown[0][:64]}", f"is no field of {kind!r}, which has `{name}`")
    if kind == "tool-approved" and given.get(name) is not None:
        _object(given[name], f"{path}.{name}")
    if kind == "tool-denied" and not isinstance(given.get(name, ""), str):
        raise _wrong(f"{path}.{name}", "must be a text")


def _check_result(result: JsonValue, path: str) -> None:
    """Refuse what names a kind of pydantic-ai but has not its form: that would be read as a plain value."""
    if not _is_object(result):
        return
    if result.get("kind") == "tool-return" and "return_value" not in result:
        raise _wrong(f"{path}.return_value", "is missing in a result of the kind 'tool-return'")
    if result.get("kind") in MESSAGES and not isinstance(result.get("message"), str):
        raise _wrong(f"{path}.message", f"must be a text in a result of the kind {result['kind']!r}")


# Reading answers.


def given_of(text: str) -> Given:
    """Read an answer to a whole wait or to a part."""
    try:
        tree = loads(text)
    except MessageError:
        return Given()
    if not _is_object(tree):
        return Given()
    payload = next((tree[key] for key in ("payload", "approval", "call") if key in tree), None)
    failed = tree.get("failed")
    return Given(payload=payload, failed=failed if isinstance(failed, str) else None)


def results_of(answers: Mapping[str, JsonValue]) -> JsonObject:
    """Return the answers to parts, as they are read from JSON, in the JSON form of `DeferredToolResults`."""
    results: dict[str, JsonObject] = {name: {} for name in RESULTS}
    for call_id, answer in answers.items():
        given = answer if _is_object(answer) else {}
        name, key = ("approvals", "approval") if "approval" in given else ("calls", "call")
        results[name][call_id] = given.get(key)
        for more in ("metadata", "answered_by"):
            if more in given:
                results[more][call_id] = given[more]
    return cast("JsonObject", results)


# What both need.


def _checked(value: object, *, path: str = "payload") -> JsonValue:
    """Return a value as strict JSON; raises `InvalidAnswer`, which quotes nothing of it."""
    if not is_json(value):
        text = "must be JSON: texts, finite numbers, booleans, None, lists, and dicts with texts as keys"
        raise _wrong(path, text)
    try:
        return loads(dumps(value), invalid="invalid_answer", max_depth=MAX_VALUE_DEPTH)
    except MessageError as error:
        dot = "." if error.path and not error.path.startswith("[") else ""
        raise _wrong(f"{path}{dot}{error.path}", error.text) from None
    except (ValueError, RecursionError):
        raise _wrong(path, "is too deep, contains itself, or has a number that is not finite or too long") from None


def _checked_text(value: object, path: str) -> str:
    checked = _checked(value, path=path)
    if not isinstance(checked, str):
        raise _wrong(path, "must be a text")
    return checked


def _object(value: JsonValue, path: str) -> JsonObject:
    if not _is_object(value):
        raise _wrong(path, "must be an object")
    return value


def _is_object(value: Any) -> TypeGuard[JsonObject]:
    return isinstance(value, dict)


def _is_whole(parts: Collection[str]) -> bool:
    return tuple(parts) == (WHOLE,)


def _wrong(path: str, text: str) -> InvalidAnswer:
    return InvalidAnswer("invalid_answer", path, text)
