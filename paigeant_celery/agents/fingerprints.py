"""Digests of what a model request is made with: enough to tell changed code from the code that was recorded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from pydantic_ai.durable_exec import ModelRequestParams
from pydantic_ai.messages import BinaryContent, ModelMessage, ModelResponse
from pydantic_ai.tools import ToolDefinition
from pydantic_core import PydanticSerializationError, to_json

from paigeant_celery.agents.canonical import NAMED_SCHEMAS, TEXTS, canonical, canonical_schema, sorted_lists
from paigeant_celery.core.jsonable import everything_in

__all__ = ["Digests", "asked", "digest"]

LARGE_FILE = 64 * 1024  # bytes; smaller ones are digested as base64, as they always were
MOST_KEPT = 1000  # digests of schemas; those that differ in each request would pile up


@dataclass(frozen=True)
class _OfSchema:
    """The digests of a schema. Records of earlier versions have only that in which the order of its parts counts."""

    canonical: str
    in_order: str


class Digests:
    """Makes fingerprints. Those of schemas are cached by their text: pydantic-ai copies schemas for each request."""

    def __init__(self) -> None:
        self._schemas: dict[bytes, _OfSchema] = {}

    def of_request(self, params: ModelRequestParams, *, model_name: str) -> dict[str, str]:
        """Return the fingerprint of a model request; its cost does not grow with the history.

        It covers the messages since the model's last answer. That answer came from the journal, and everything before
        it was covered by its own request.
        """
        parameters = params.model_request_parameters
        tools = [(tool.name, self._of(tool.parameters_json_schema)) for tool in parameters.function_tools]
        output_tools = [(tool.name, self._of(tool.parameters_json_schema)) for tool in parameters.output_tools]
        way = [parameters.output_mode, parameters.allow_text_output]
        form = self._of(parameters.output_object.json_schema) if parameters.output_object is not None else None
        return {
            "model": model_name,
            # As workers of earlier versions wrote them, and still read them.
            "tools": digest(sorted([name, of.in_order] for name, of in tools)),
            "output": digest([*way, [[name, of.in_order] for name, of in output_tools], form and form.in_order]),
            "prompt": digest(asked(params.messages)),
            "tool descriptions": digest([tool.description for tool in _tools(params)]),
            "settings": digest(params.model_settings),
            "tools/2": digest(sorted([name, of.canonical] for name, of in tools)),
            "output/2": digest(
                [*way, sorted([name, of.canonical] for name, of in output_tools), form and form.canonical]
            ),
        }

    def _of(self, schema: Mapping[str, Any]) -> _OfSchema:
        try:
            text = json.dumps(schema).encode()
        except (TypeError, ValueError, RecursionError):  # it has a text only in its canonical form
            return _made_of(schema)
        name = hashlib.blake2b(text, digest_size=16).digest()
        if (kept := self._schemas.get(name)) is not None:
            return kept
        if len(self._schemas) >= MOST_KEPT:
            self._schemas.clear()
        made = self._schemas[name] = _made_of(schema)
        return made


def _made_of(schema: Mapping[str, Any]) -> _OfSchema:
    return _OfSchema(_hashed(canonical(canonical_schema(schema))), digest(_without_texts(schema)))


def digest(value: object) -> str:
    """Return 16 hexadecimal digits that stand for `value`; equal for equal JSON, whatever the order of keys."""
    try:
        text = json.dumps(value, sort_keys=True).encode()
    except (TypeError, ValueError):
        text = _any_json(value)
    return _hashed(text)


def _hashed(text: bytes) -> str:
    return hashlib.blake2b(text, digest_size=8).hexdigest()


def _any_json(value: object) -> bytes:
    try:
        text = to_json(
            value, fallback=_type_name, inf_nan_mode="constants", bytes_mode="base64", serialize_unknown=True
        )
        if any(isinstance(part, Set) for part in everything_in(value)):
            return canonical(sorted_lists(json.loads(text)))
        return text
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
    return [part.part_kind, getattr(part, "tool_name", None), _light(getattr(part, "content", None))]


def _light(content: object) -> object:
    """Return content with digests in the place of large files, which would be written as base64 for each request."""
    if isinstance(content, BinaryContent) and len(content.data) > LARGE_FILE:
        return [content.media_type, content.vendor_metadata, _hashed(content.data)]
    if isinstance(content, (list, tuple)):
        return [_light(part) for part in content]
    if isinstance(content, dict):
        return {name: _light(part) for name, part in content.items()}
    return content


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
