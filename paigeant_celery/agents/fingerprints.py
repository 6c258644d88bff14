"""Digests of what a model request is made with: enough to tell changed code from the code that was recorded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic_ai.durable_exec import ModelRequestParams
from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.tools import ToolDefinition
from pydantic_core import PydanticSerializationError, to_json

__all__ = ["Digests", "asked", "digest"]

# Words for people and models; changing them does not change the values that a schema takes.
TEXTS = {"title", "description", "examples", "$comment"}
NAMED_SCHEMAS = {"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"}
MOST_KEPT = 1000  # digests of schemas; schemas that are rebuilt for each request would pile up


class Digests:
    """Makes fingerprints. Those of schemas are cached, because they stay the same from one request to the next."""

    def __init__(self) -> None:
        self._schemas: dict[int, tuple[object, str]] = {}

    def of_request(self, params: ModelRequestParams, *, model_name: str) -> dict[str, str]:
        """Return the fingerprint of a model request; its cost does not grow with the history.

        It covers the messages since the model's last answer. That answer came from the journal, and everything before
        it was covered by its own request.
        """
        parameters = params.model_request_parameters
        output = [
            parameters.output_mode,
            parameters.allow_text_output,
            [self._of_tool(tool) for tool in parameters.output_tools],
            self._of_schema(parameters.output_object.json_schema) if parameters.output_object is not None else None,
        ]
        return {
            "model": model_name,
            "tools": digest(sorted(self._of_tool(tool) for tool in parameters.function_tools)),
            "output": digest(output),
            "prompt": digest(asked(params.messages)),
            "tool descriptions": digest([tool.description for tool in _tools(params)]),
            "settings": digest(params.model_settings),
        }

    def _of_tool(self, tool: ToolDefinition) -> list[str]:
        return [tool.name, self._of_schema(tool.parameters_json_schema)]

    def _of_schema(self, schema: Mapping[str, Any]) -> str:
        kept = self._schemas.get(id(schema))
        if kept is not None:  # the schema is held so that no other one gets its id
            return kept[1]
        if len(self._schemas) >= MOST_KEPT:
            self._schemas.clear()
        made = digest(_without_texts(schema))
        self._schemas[id(schema)] = (schema, made)
        return made


def digest(value: object) -> str:
    """Return 16 hexadecimal digits that stand for `value`; equal for equal JSON, whatever the order of keys."""
    try:
        text = json.dumps(value, sort_keys=True).encode()
    except (TypeError, ValueError):
        text = _any_json(value)
    return hashlib.blake2b(text, digest_size=8).hexdigest()


def _any_json(value: object) -> bytes:
    try:
        return to_json(
            value, fallback=_type_name, inf_nan_mode="constants", bytes_mode="base64", serialize_unknown=True
        )
    except (PydanticSerializationError, ValueError):  # it has no bytes at all, so its drift goes unnoticed
        return _type_name(value).encode()


def _tools(params: ModelRequestParams) -> Iterable[ToolDefinition]:
    parameters = params.model_request_parameters
    return sorted((*parameters.function_tools, *parameters.output_tools), key=lambda tool: tool.name)


def asked(messages: Sequence[ModelMessage]) -> list[object]:
    """Return what the model is asked, without the times and ids that differ in each attempt."""
    asked: list[object] = []
    for message in reversed(messages):
        if isinstance(message, ModelResponse) and asked:
            break
        if not isinstance(message, ModelResponse):
            asked.append([getattr(message, "instructions", None), *(_content(part) for part in message.parts)])
    return asked


def _content(part: Any) -> list[object]:
    return [part.part_kind, getattr(part, "tool_name", None), getattr(part, "content", None)]


def _without_texts(schema: object) -> object:
    if isinstance(schema, list):
        return [_without_texts(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: {name: _without_texts(value) for name, value in part.items()}
        if key in NAMED_SCHEMAS and isinstance(part, dict)
        else _without_texts(part)
        for key, part in schema.items()
        if key not in TEXTS
    }


def _type_name(value: object) -> str:
    return type(value).__name__
