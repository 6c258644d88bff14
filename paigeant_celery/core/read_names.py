"""The names of fields in JSON: those that a class reads, which may be others than those it is usually written with."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Mapping, Set
from functools import lru_cache
from itertools import pairwise
from typing import Any

from pydantic import AliasChoices, AliasPath, BaseModel, JsonValue, RootModel

from paigeant_celery.core.jsonable import everything_in
from paigeant_celery.core.likeness import field_info

__all__ = ["is_misnamed", "renamed"]

SEQUENCES = (list, tuple, deque, Set)


def is_misnamed(value: Any) -> bool:
    """Say whether the usual JSON of a value has a name that the field's own class does not read."""
    kinds: set[Any] = {type(node) for node in everything_in(value)}
    return any(map(_writes_other_names, kinds))


@lru_cache(maxsize=512)
def _writes_other_names(kind: type) -> bool:
    fields: dict[str, Any] = getattr(kind, "__pydantic_fields__", {})
    return any((info.serialization_alias or name) not in _read_names(kind, name) for name, info in fields.items())


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
    if isinstance(value, SEQUENCES) and isinstance(tree, list) and len(value) == len(tree):
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
    if info is None or _config(kind).get("validate_by_alias") is False:
        return [name]
    alias = info.validation_alias
    if isinstance(alias, AliasChoices):
        alias = next((choice for choice in alias.choices if isinstance(choice, str)), alias.choices[0])
    if isinstance(alias, AliasPath):
        return list(alias.path)
    return [alias if isinstance(alias, str) else name]


def _read_names(kind: type, name: str) -> set[str]:
    """Return the names by which a class reads one of its fields from JSON, without those inside other objects."""
    info, config = field_info(kind, name), _config(kind)
    by_name = config.get("validate_by_name") or config.get("populate_by_name")
    alias = info.validation_alias if info is not None and config.get("validate_by_alias") is not False else None
    if alias is None:
        return {name}
    choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
    return {choice for choice in choices if isinstance(choice, str)} | ({name} if by_name else set())


def _config(kind: type) -> Mapping[str, Any]:
    config: Mapping[str, Any] | None = getattr(kind, "model_config", None) or getattr(kind, "__pydantic_config__", None)
    return config or {}


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
