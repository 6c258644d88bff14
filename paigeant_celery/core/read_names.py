"""JSON by the names that types read: what pydantic writes by the names of fields, renamed."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Mapping, Set
from itertools import pairwise
from typing import Any

from pydantic import AliasChoices, AliasPath, BaseModel, JsonValue, RootModel

from paigeant_celery.core.likeness import field_info

__all__ = ["renamed"]


def renamed(value: Any, tree: JsonValue) -> JsonValue:
    """Return JSON written by the names of fields with the names that the types of `value` read by default."""
    if isinstance(value, RootModel):
        return renamed(value.root, tree)
    if isinstance(value, BaseModel) and isinstance(tree, dict):
        parts = {name: vars(value).get(name) for name in type(value).model_fields} | (value.model_extra or {})
        return _renamed_fields(type(value), parts, tree)
    if dataclasses.is_dataclass(value) and not isinstance(value, type) and isinstance(tree, dict):
        fields = dataclasses.fields(value)
        computed = {found.name for found in fields if not found.init}
        parts = {found.name: getattr(value, found.name, None) for found in fields}
        return _renamed_fields(type(value), parts, {name: part for name, part in tree.items() if name not in computed})
    if isinstance(value, Mapping) and isinstance(tree, dict) and len(value) == len(tree):
        pairs = zip(value.values(), tree.items(), strict=True)
        return {name: renamed(part, branch) for part, (name, branch) in pairs}
    if isinstance(value, (list, tuple, deque, Set)) and isinstance(tree, list) and len(value) == len(tree):
        return [renamed(part, branch) for part, branch in zip(value, tree, strict=True)]
    return tree


def _renamed_fields(kind: type, parts: Mapping[str, Any], tree: dict[str, JsonValue]) -> JsonValue:
    found: dict[str, JsonValue] = {}
    for name, branch in tree.items():
        _put(found, _read_name(kind, name), renamed(parts.get(name), branch))
    return found


def _read_name(kind: type, name: str) -> list[str | int]:
    """Return the way to a field in the JSON that its class reads: its alias for validation, or its name."""
    info = field_info(kind, name)
    config: Any = getattr(kind, "model_config", None) or getattr(kind, "__pydantic_config__", None) or {}
    if info is None or config.get("validate_by_alias") is False:
        return [name]
    alias = info.validation_alias
    if isinstance(alias, AliasChoices):
        alias = next((choice for choice in alias.choices if isinstance(choice, str)), alias.choices[0])
    if isinstance(alias, AliasPath):
        return list(alias.path)
    return [alias if isinstance(alias, str) else name]


def _put(tree: Any, way: list[str | int], value: JsonValue) -> None:
    """Put a value into nested JSON, making the objects and lists on the way to it."""
    for part, following in pairwise(way):
        tree = _at(tree, part, [] if isinstance(following, int) else {})
    _at(tree, way[-1], value)
    if isinstance(tree, (dict, list)):
        tree[way[-1]] = value  # type: ignore[index]


def _at(tree: Any, part: str | int, missing: JsonValue) -> Any:
    if isinstance(tree, list) and isinstance(part, int) and part >= 0:
        tree.extend([None] * (part + 1 - len(tree)))
        tree[part] = missing if tree[part] is None else tree[part]
        return tree[part]
    return tree.setdefault(part, missing) if isinstance(tree, dict) else None
