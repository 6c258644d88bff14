"""What a wait is about, as the JSON that is kept with it for whoever answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, cast, get_args

from pydantic import JsonValue
from pydantic_core import to_json

from paigeant_celery.core.names import text_fault

__all__ = ["About", "AskedCall", "CallKind", "read_about", "write_about"]

CallKind: TypeAlias = Literal["approval", "external", "question"]

VERSION = 1  # readers take later ones, and leave out what they do not know of them


@dataclass(frozen=True, kw_only=True)
class AskedCall:
    """A call of a tool that waits: for leave to run, for the result of work done elsewhere, or for an answer."""

    id: str
    kind: CallKind
    tool: str
    arguments: JsonValue = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class About:
    """What a wait is about, for whoever answers.

    If it has `calls`, its answer is the JSON form of `DeferredToolResults`, be it for the whole or in parts.
    """

    step: str = ""
    activity: str = ""
    question: str | None = None
    calls: tuple[AskedCall, ...] = ()


def write_about(about: About) -> str:
    """Return the text that a wait keeps.

    Models write arguments and questions. What JSON cannot hold is shown as text: numbers that are not finite by their
    names, and U+FFFD for lone surrogates.
    """
    calls = [{"id": call.id, "kind": call.kind, "tool": call.tool, "arguments": call.arguments} for call in about.calls]
    tree = {"v": VERSION, "step": about.step, "activity": about.activity, "question": about.question, "calls": calls}
    return to_json(_clean(tree), inf_nan_mode="strings").decode()


def _clean(node: Any) -> Any:
    if isinstance(node, str):
        return node if text_fault(node) is None else node.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(node, dict):
        return {_clean(key): _clean(value) for key, value in node.items()}
    return [_clean(each) for each in node] if isinstance(node, list) else node


def read_about(text: str) -> About:
    """Read what a wait is about; fields that are missing, or of another form, are left out."""
    try:
        tree = json.loads(text)  # how deep arguments are is no reason not to show them
    except (ValueError, RecursionError):
        return About()
    if not isinstance(tree, dict):
        return About()
    calls = tree.get("calls")
    question = tree.get("question")
    return About(
        step=_text(tree.get("step")),
        activity=_text(tree.get("activity")),
        question=question if isinstance(question, str) else None,
        calls=tuple(_read_calls(calls)) if isinstance(calls, list) else (),
    )


def _read_calls(calls: list[JsonValue]) -> Iterator[AskedCall]:
    for call in calls:
        if isinstance(call, dict) and isinstance(call.get("id"), str):
            kind = call.get("kind")
            yield AskedCall(
                id=_text(call["id"]),
                kind=cast("CallKind", kind) if kind in get_args(CallKind) else "external",
                tool=_text(call.get("tool")),
                arguments=call.get("arguments"),
            )


def _text(value: JsonValue) -> str:
    return value if isinstance(value, str) else ""
