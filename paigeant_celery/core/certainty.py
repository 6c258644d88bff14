"""Values that are known to be read back equal, so that nobody has to write and read them to find out.

Known are plain texts, numbers, dates and times, lists and mappings of them, and models with such fields under one name
each, without validators, serializers or anything else that could change them. Whatever else a type may do is not known,
and so is whatever a later version of pydantic adds. A type is looked at once; each value is compared with what its
type says, because models take anything that is assigned to them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta
from typing import Any, cast

from pydantic import BaseModel

__all__ = ["Certainty", "certainty_of"]

Certainty = Callable[[Any], bool]

EXACT: dict[str, type] = {"str": str, "int": int, "bool": bool, "none": type(None), "date": date}
HARMLESS = {"type", "metadata", "ref", "cls", "schema", "custom_init", "root_model", "config", "frozen", "post_init"}
HARMLESS_IN_A_FIELD = {"type", "metadata", "schema", "frozen", "validation_alias", "serialization_alias"}
HARMLESS_DEFAULT = {"type", "metadata", "schema", "default", "default_factory", "default_factory_takes_data"}
HARMLESS_CONFIG = {"title", "hide_input_in_errors", "extra_fields_behavior"}
MINUTE = timedelta(minutes=1)


def certainty_of(schema: Any) -> Certainty | None:
    """Return what says of a value that its type reads it back equal, or None if that can be said of none."""
    definitions: dict[str, Any] = {}
    if schema.get("type") == "definitions":
        definitions = {found["ref"]: found for found in schema["definitions"]}
        schema = schema["schema"]
    try:
        return _Known(definitions).of(schema)
    except _NotKnown:
        return None


class _NotKnown(Exception):
    """The type has a part of which nothing is known."""


class _Known:
    def __init__(self, definitions: Mapping[str, Any]) -> None:
        self._definitions = definitions
        self._models: dict[type, dict[str, Certainty]] = {}

    def of(self, schema: Mapping[str, Any]) -> Certainty:
        kind, keys = schema["type"], schema.keys()
        if kind == "definition-ref" and keys <= {"type", "schema_ref", "metadata"}:
            return self.of(self._definitions[schema["schema_ref"]])
        if kind in EXACT and keys <= {"type", "metadata"}:
            exact = EXACT[kind]
            return lambda value: type(value) is exact
        if kind == "float" and keys <= {"type", "metadata"}:
            return lambda value: type(value) in (float, int) and math.isfinite(value) and value == float(value)
        if kind == "datetime" and keys <= {"type", "metadata", "microseconds_precision"}:
            return _is_plain_time
        if kind == "nullable" and keys <= {"type", "metadata", "schema"}:
            inner = self.of(schema["schema"])
            return lambda value: value is None or inner(value)
        if kind == "default" and keys <= HARMLESS_DEFAULT:
            return self.of(schema["schema"])
        if kind == "list" and keys <= {"type", "metadata", "items_schema"} and "items_schema" in keys:
            item = self.of(schema["items_schema"])
            return lambda value: type(value) is list and all(map(item, value))
        if kind == "dict" and keys <= {"type", "metadata", "keys_schema", "values_schema"} and "values_schema" in keys:
            return self._mapping(schema)
        if kind == "model" and keys <= HARMLESS:
            return self._model(schema)
        raise _NotKnown

    def _mapping(self, schema: Mapping[str, Any]) -> Certainty:
        key, part = self.of(schema["keys_schema"]), self.of(schema["values_schema"])
        if schema["keys_schema"]["type"] != "str":
            raise _NotKnown
        return lambda value: type(value) is dict and all(map(key, value)) and all(map(part, value.values()))

    def _model(self, schema: Mapping[str, Any]) -> Certainty:
        kind: type[BaseModel] = schema["cls"]
        fields, config = schema["schema"], schema.get("config", {})
        plain = not (schema.get("custom_init") or schema.get("root_model"))
        if not plain or not config.keys() <= HARMLESS_CONFIG or config.get("extra_fields_behavior") == "allow":
            raise _NotKnown
        if fields["type"] != "model-fields" or not fields.keys() <= {"type", "fields", "computed_fields", "model_name"}:
            raise _NotKnown
        if fields.get("computed_fields") or not _starts_plainly(kind):
            raise _NotKnown
        parts = self._models.get(kind)
        if parts is None:
            parts = self._models[kind] = {}  # a model may hold itself
            parts.update({name: self._field(field) for name, field in fields["fields"].items()})

        def is_known(value: Any) -> bool:
            if type(value) is not kind:
                return False
            values = vars(value)
            return all(name in values and known(values[name]) for name, known in parts.items())

        return is_known

    def _field(self, field: Mapping[str, Any]) -> Certainty:
        read, written = field.get("validation_alias"), field.get("serialization_alias")
        if not field.keys() <= HARMLESS_IN_A_FIELD or read != written or not isinstance(read, (str, type(None))):
            raise _NotKnown
        return self.of(cast("Mapping[str, Any]", field["schema"]))


def _starts_plainly(kind: type[BaseModel]) -> bool:
    """Say whether a model has no code of its own that runs when it is made, and nothing private that could be lost."""
    if kind.model_post_init is BaseModel.model_post_init:
        return True
    made_by_the_step: frozenset[str] = getattr(kind, "made_by_the_step", frozenset())
    own = getattr(kind.model_post_init, "__name__", "") != "init_private_attributes"  # pydantic's, if it is alone
    return not own and kind.__private_attributes__.keys() <= made_by_the_step


def _is_plain_time(value: Any) -> bool:
    if type(value) is not datetime:
        return False
    offset = value.utcoffset()
    return offset is None or not offset % MINUTE  # older offsets have seconds, which are not written
