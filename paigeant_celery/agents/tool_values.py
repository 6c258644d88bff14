"""What a tool returned, as records keep it: as the JSON that the model would be shown in a run without a journal.

Pydantic AI's own form of a tool's result is read back as other text for the model: with the names of fields in the
place of their aliases, `bytes` as text, a mapping that looks like a file as a file, a tuple item by item.
"""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from typing import Any, TypeAlias

from pydantic import SerializationInfo, TypeAdapter, ValidationError
from pydantic_ai.durable_exec import JSON_CODEC, CallToolResult, ResultCodec
from pydantic_ai.durable_exec._toolset import wrap_tool_call_result
from pydantic_ai.exceptions import UserError
from pydantic_ai.messages import (
    MultiModalContent,
    ToolReturn,
    ToolReturnPart,
    error_details_ta,
    is_multi_modal_content,
    tool_return_ta,
)
from pydantic_core import PydanticSerializationError, SchemaSerializer, core_schema, to_jsonable_python

from paigeant_celery.core.errors import NotSerializable

__all__ = ["Array", "ToolResults", "dumped_value", "loaded_value", "result_of"]

Path: TypeAlias = tuple[str | int, ...]

NOTES = "notes"  # beside a result: what its JSON does not say; missing in records of earlier versions
NULL = float("nan")  # the one value that is not None and whose JSON is null


class Array(tuple[Any, ...]):
    """What JSON makes of a sequence that is no list: equal to that list, but one item for the model."""

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, (list, tuple)) else NotImplemented

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = tuple.__hash__


def _written(value: Any, info: SerializationInfo) -> Any:
    """Return what is written of a value: for the model by alias, unless it was changed since it was loaded."""
    plain = dict(value) if isinstance(value, dict) else list(value)
    return value.shown if info.by_alias and plain == value.loaded else plain


class _Renamed:
    """JSON with the names of fields, as message histories have it, that the model is shown by alias."""

    shown: Any
    loaded: Any
    __pydantic_serializer__ = SchemaSerializer(
        core_schema.any_schema(serialization=core_schema.plain_serializer_function_ser_schema(_written, info_arg=True))
    )

    @staticmethod
    def of(tree: Any, shown: Any) -> Any:
        """Return the JSON of what a tool returned, with what the model is shown of it."""
        for kind, renamed in ((dict, _RenamedObject), (Array, _RenamedArray), (list, _RenamedList)):
            if isinstance(tree, kind):
                made: Any = renamed(tree)
                made.shown, made.loaded = shown, copy.deepcopy(dict(tree) if kind is dict else list(tree))
                return made
        return shown


class _RenamedObject(_Renamed, dict[str, Any]): ...


class _RenamedList(_Renamed, list[Any]): ...


class _RenamedArray(_Renamed, Array): ...


class ToolResults(ResultCodec[CallToolResult]):
    """Converts results of tool calls to JSON and back; `others` does that for what is not returned but raised.

    Also reads the records of earlier versions, and earlier versions read these.
    """

    def __init__(self, others: ResultCodec[CallToolResult]) -> None:
        self._others = others

    def dump(self, value: CallToolResult) -> object:
        """Return the JSON of a result; raises `NotSerializable` if it has none."""
        if value.kind != "tool_return" and value.kind != "tool_content_result":
            return self._others.dump(value)
        tree, notes = dumped_value(value.result)
        looks_like_one = isinstance(tree, dict) and tree.get("kind") == "tool-return"
        kind = "tool_content_result" if looks_like_one and not isinstance(value.result, ToolReturn) else "tool_return"
        return {"kind": kind, "result": tree, NOTES: notes}

    def load(self, payload: object) -> CallToolResult:
        """Return the result that a record holds."""
        if not isinstance(payload, dict) or NOTES not in payload:
            return self._others.load(payload)
        loaded = self._others.load({"kind": payload["kind"], "result": None})
        assert loaded.kind == "tool_return" or loaded.kind == "tool_content_result"
        loaded.result = loaded_value(payload["result"], payload[NOTES])
        return loaded


async def result_of(answer: Awaitable[Any]) -> CallToolResult:
    """Return what a tool returned, or raised to steer the run; the inputs of validation errors as a model sees them."""
    raised: list[ValidationError] = []

    async def noting() -> Any:
        try:
            return await answer
        except ValidationError as error:
            raised.append(error)
            raise

    result = await wrap_tool_call_result(noting())
    if result.kind == "validation_error" and raised:
        details = raised[-1].errors(include_url=False, include_context=False)
        for described, detail in zip(result.errors, details, strict=True):
            with suppress(PydanticSerializationError, ValueError):  # then it is described
                [shown] = error_details_ta.dump_python([detail], mode="json")
                described.input = shown["input"]
    return result


def dumped_value(value: Any) -> tuple[Any, dict[str, Any]]:
    """Return the JSON of what a tool returned, and notes on it; raises `NotSerializable` if it has none."""
    try:
        if not isinstance(value, ToolReturn):
            return _dumped_content(value)
        tree, notes = _dumped_content(value.return_value)
        # As they are, because pydantic-ai itself refuses what are no names of tools.
        tools: dict[str, Any] = (
            {"tools": to_jsonable_python(value.tools)} if getattr(value, "tools", None) is not None else {}
        )
        around = JSON_CODEC.dump(ToolReturn, replace(value, return_value=None, **_empty(tools)))
        return {**around, **tools, "return_value": tree}, {**notes, "tool_return": True}
    except (PydanticSerializationError, TypeError, ValueError) as error:
        text = f"a result has no JSON form ({type(error).__name__}), but is recorded"
        raise NotSerializable("result_not_serializable", text) from error


def _empty(tools: Mapping[str, Any]) -> dict[str, Any]:
    return dict.fromkeys(tools)


def loaded_value(tree: Any, notes: Mapping[str, Any]) -> Any:
    """Return what a tool returned, so that the model is shown the same as of the original."""
    if not notes.get("tool_return"):
        return _loaded_content(tree, notes)
    tools: dict[str, Any] = {"tools": tree["tools"]} if "tools" in tree else {}
    around = {**tree, **_empty(tools), "return_value": None}
    loaded: ToolReturn[Any] = replace(JSON_CODEC.load(ToolReturn, around), **tools)
    loaded.return_value = _loaded_content(tree["return_value"], notes)
    return loaded


def _dumped_content(value: Any) -> tuple[Any, dict[str, Any]]:
    if isinstance(value, list) and any(isinstance(item, ToolReturn) for item in value):
        raise UserError("a tool returned a list with a `ToolReturn` in it; return the `ToolReturn` itself")
    tree, shown = tool_return_ta.dump_python(value, mode="json"), _shown(value)
    items = list(_items(value, tree, shown))
    notes = {
        "files": list(_files(value, ())),
        "nulls": [path for path, item, _, told in items if told is None and item is not None],
        "array": isinstance(tree, list) and not isinstance(value, list),
        "shown": [[path, told] for path, _, written, told in items if written != told],
    }
    return tree, {name: note for name, note in notes.items() if note}


def _loaded_content(tree: Any, notes: Mapping[str, Any]) -> Any:
    holder = [tree]
    for path in notes.get("files", ()):
        place, last = _place(holder, path)
        place[last] = _file_adapter().validate_python(place[last])
    for path in notes.get("nulls", ()):
        place, last = _place(holder, path)
        place[last] = NULL
    if notes.get("array"):
        holder[0] = Array(holder[0])
    for path, shown in notes.get("shown", ()):
        place, last = _place(holder, path)
        place[last] = _Renamed.of(place[last], shown)
    return holder[0]


def _shown(value: Any) -> Any:
    """Return the JSON that the model is shown of a value, and that of a file in it."""
    return ToolReturnPart("", {"value": value}, "").model_response_object()["value"]


def _items(value: Any, tree: Any, shown: Any) -> Iterator[tuple[Path, Any, Any, Any]]:
    """Yield what the model may be shown by itself, how it is written and how it is shown: the whole, or each item."""
    if not isinstance(value, list):
        yield (), value, tree, shown
        return
    for index, (item, written, told) in enumerate(zip(value, tree, shown, strict=True)):
        yield (index,), item, written, told


def _files(value: Any, path: Path) -> Iterator[Path]:
    """Yield where in a value the files are that can be told from mappings like them in its JSON."""
    if is_multi_modal_content(value):
        yield path
    elif isinstance(value, dict):
        for key, item in value.items():
            if type(key) is str:
                yield from _files(item, (*path, key))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _files(item, (*path, index))


def _place(holder: list[Any], path: Sequence[str | int]) -> tuple[Any, str | int]:
    place: Any = holder
    *before, last = (0, *path)
    for step in before:
        place = place[step]
    return place, last


@cache
def _file_adapter() -> TypeAdapter[Any]:
    return TypeAdapter(MultiModalContent)
