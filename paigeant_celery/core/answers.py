"""What a wait is about and what answers it, as the JSON that is kept with it.

Whoever asks writes an `About`, and whoever answers reads it. A wait that is answered as a whole gets one text, either
`{"payload": …}` or `{"failed": reason}`. One with parts gets a text for each call of a tool, with what pydantic-ai's
`DeferredToolResults` has for that call: `{"approval": …}` or `{"call": …}`, and with it `metadata` and `answered_by`.
All of it is checked here, without pydantic-ai, before anything is settled.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeGuard, cast, get_args

from pydantic import JsonValue

from paigeant_celery.core.errors import MessageError
from paigeant_celery.core.jsonable import MAX_VALUE_DEPTH, dumps, is_json, loads
from paigeant_celery.core.wait_errors import InvalidAnswer
from paigeant_celery.core.waits import WHOLE, Answer

__all__ = [
    "About",
    "AskedCall",
    "CallKind",
    "Given",
    "answers_of",
    "approval_of",
    "denial_of",
    "failure_answers",
    "given_of",
    "read_about",
    "results_of",
    "write_about",
]

CallKind: TypeAlias = Literal["approval", "external", "question"]

VERSION = 1  # of what a wait is about; readers take later ones, and what they do not know of them is left out
RESULTS = ("approvals", "calls", "metadata", "answered_by")  # the fields of `DeferredToolResults`
MESSAGES = ("tool-failed", "model-retry")  # kinds of results that have a message and nothing else

JsonObject: TypeAlias = dict[str, JsonValue]


@dataclass(frozen=True, kw_only=True)
class AskedCall:
    """A call of a tool that waits: for leave to run, for the result of work done elsewhere, or for an answer."""

    id: str
    kind: CallKind
    tool: str
    arguments: JsonValue = None


@dataclass(frozen=True, kw_only=True)
class About:
    """What a wait is about, for whoever answers.

    If it has `calls`, its answer is the JSON form of `DeferredToolResults`, be it for the whole or in parts.
    """

    step: str = ""
    activity: str = ""
    question: str | None = None
    calls: tuple[AskedCall, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Given:
    """An answer as it was read: a `payload`, or why there will be none.

    Of a part, the payload is what `DeferredToolResults` has for the call among its `approvals` or its `calls`;
    `is_approval` says among which.
    """

    payload: JsonValue = None
    failed: str | None = None
    is_approval: bool = False
    metadata: Mapping[str, JsonValue] | None = None
    answered_by: str | None = None


# What a wait is about.


def write_about(about: About) -> str:
    """Return the text that a wait keeps."""
    calls = [{"id": call.id, "kind": call.kind, "tool": call.tool, "arguments": call.arguments} for call in about.calls]
    return dumps(
        {"v": VERSION, "step": about.step, "activity": about.activity, "question": about.question, "calls": calls}
    )


def read_about(text: str) -> About:
    """Read what a wait is about; fields that are missing, or of another form, are left out."""
    tree = _tree(text)
    if not _is_object(tree):
        return About()
    calls = tree.get("calls")
    question = tree.get("question")
    return About(
        step=_text(tree.get("step")),
        activity=_text(tree.get("activity")),
        question=question if isinstance(question, str) else None,
        calls=tuple(_read_calls(calls)) if isinstance(calls, list) else (),
    )


def _read_calls(calls: list[JsonValue]) -> Iterable[AskedCall]:
    for call in calls:
        if _is_object(call) and isinstance(call.get("id"), str):
            kind = call.get("kind")
            yield AskedCall(
                id=_text(call["id"]),
                kind=cast("CallKind", kind) if kind in get_args(CallKind) else "external",
                tool=_text(call.get("tool")),
                arguments=call.get("arguments"),
            )


# Making answers.


def answers_of(payload: object, *, parts: tuple[str, ...], about: About) -> Mapping[str, str]:
    """Return the answers to the parts of a wait that a payload gives; raises `InvalidAnswer`.

    A wait for calls of tools takes `{"approvals": …, "calls": …, "metadata": …}`, any other one any JSON.
    """
    tree = _checked(payload)
    if parts == (WHOLE,) and not about.calls:
        return {WHOLE: dumps({"payload": tree})}
    asked = {call.id: call for call in about.calls}
    split = _split(tree, asked, pending=tuple(asked) if parts == (WHOLE,) else parts)
    return {WHOLE: dumps({"payload": tree})} if parts == (WHOLE,) else split


def failure_answers(reason: object, *, parts: tuple[str, ...], about: About) -> Mapping[str, str]:
    """Return the answers that give a wait up: approvals are denied and other calls fail, with this reason."""
    text = _checked_text(reason, "reason")
    if parts == (WHOLE,):
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


def _split(tree: JsonValue, asked: Mapping[str, AskedCall], *, pending: tuple[str, ...]) -> Mapping[str, str]:
    """Return the answers to calls that the JSON form of `DeferredToolResults` gives."""
    if not _is_object(tree) or not set(tree) <= set(RESULTS):
        raise _wrong("payload", "must be an object with `approvals`, `calls`, and `metadata` if there is any")
    fields = {name: _object(tree.get(name, {}), f"payload.{name}") for name in RESULTS}
    answers: dict[str, JsonObject] = {}
    for name, key, check in (("approvals", "approval", _check_approval), ("calls", "call", _check_result)):
        for call_id, result in fields[name].items():
            path = f"payload.{name}.{call_id[:64]}"
            if call_id not in pending:
                raise _wrong(path, "no call of this id is pending; `pending()` has those that are")
            if call_id in asked and (asked[call_id].kind == "approval") != (key == "approval"):
                raise _wrong(
                    path, "is a call of the other kind; `approvals` has answers to approvals, `calls` the rest"
                )
            if call_id in answers:
                raise _wrong(path, "is answered twice")
            check(result, path)
            answers[call_id] = {key: result}
    if not answers:
        raise _wrong("payload", "answers no call; `approvals` and `calls` have the answers by the ids of the calls")
    _add_what_goes_with(answers, fields)
    return {call_id: dumps(answer) for call_id, answer in answers.items()}


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
    tree = _tree(text)
    if not _is_object(tree):
        return Given()
    metadata, answered_by = tree.get("metadata"), tree.get("answered_by")
    return Given(
        payload=next((tree[key] for key in ("payload", "approval", "call") if key in tree), None),
        failed=_text(tree["failed"]) if "failed" in tree else None,
        is_approval="approval" in tree,
        metadata=metadata if _is_object(metadata) else None,
        answered_by=answered_by if isinstance(answered_by, str) else None,
    )


def results_of(answers: Mapping[str, Answer]) -> JsonObject:
    """Return the answers to parts in the JSON form of `DeferredToolResults`, with who gave them."""
    results: dict[str, JsonObject] = {name: {} for name in RESULTS}
    for call_id, answer in answers.items():
        given = given_of(answer.text)
        results["approvals" if given.is_approval else "calls"][call_id] = given.payload
        if given.metadata is not None:
            results["metadata"][call_id] = dict(given.metadata)
        if by := given.answered_by or answer.by:
            results["answered_by"][call_id] = by
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


def _tree(text: str) -> JsonValue:
    try:
        return loads(text)
    except MessageError:
        return None


def _object(value: JsonValue, path: str) -> JsonObject:
    if not _is_object(value):
        raise _wrong(path, "must be an object")
    return value


def _is_object(value: Any) -> TypeGuard[JsonObject]:
    return isinstance(value, dict)


def _text(value: JsonValue) -> str:
    return value if isinstance(value, str) else ""


def _wrong(path: str, text: str) -> InvalidAnswer:
    return InvalidAnswer("invalid_answer", path, text)
