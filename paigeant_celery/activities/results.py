"""What a step returned, as the result that is recorded."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from pydantic import BaseModel, JsonValue

from paigeant_celery.activities.pauses import pause_in
from paigeant_celery.activities.port import ActivityResult
from paigeant_celery.core.crossing import OWN, recordable
from paigeant_celery.core.errors import NotSerializable, Paused
from paigeant_celery.core.output_files import files_in
from paigeant_celery.core.slip import Step

__all__ = ["result_of"]


def result_of(
    output: object,
    *,
    declared: Any = OWN,
    usage: Mapping[str, int] | None = None,
    cost: Decimal | None = None,
    inserted: tuple[Step, ...] = (),
    notes: tuple[Mapping[str, str], ...] = (),
) -> ActivityResult:
    """Return the result of a step that returned `output`, which the `declared` type is to read back.

    Lone surrogates, which models may write, are replaced, and an event says so. Raises `Paused` if the output is no
    result, and `NotSerializable` (`output_not_serializable`) if it has no JSON form that is read back equal.
    """
    try:
        tree, files = _recordable(output, declared)
    except NotSerializable as error:
        if error.reason != "invalid_text":
            raise
        tree, files = _recordable(output, declared, mended=True)
        notes = (*notes, {"type": "text_replaced"})
    return ActivityResult(output=tree, content=files, usage=usage or {}, cost=cost, inserted=inserted, notes=notes)


def _recordable(output: object, declared: Any, *, mended: bool = False) -> tuple[JsonValue, tuple[str, ...]]:
    """Return an output as JSON, and the places of files and links in that."""
    try:
        if (pause := pause_in(output)) is not None:
            raise pause
        output = _mended(output) if mended else output
        tree = recordable(output, declared=declared)
        return tree, files_in(output, tree)
    except (NotSerializable, Paused):
        raise
    except Exception as error:
        # Serializers and containers may be the user's. The step ended well, so this is not a failure of it.
        text = f"writing a {type(output).__name__} as JSON raised {type(error).__name__}"
        raise NotSerializable("output_not_serializable", text) from error


def _mended(value: Any) -> Any:
    """Return a value in which U+FFFD stands for each lone surrogate; text may hold one, but UTF-8 cannot."""
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, dict):
        return {_mended(key): _mended(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_mended, value)) if type(value) in (list, tuple) else [_mended(part) for part in value]
    if isinstance(value, BaseModel):
        model = BaseModel.__copy__(value)
        vars(model).update(_mended(vars(value)))
        (model.model_extra or {}).update(_mended(value.model_extra or {}))
        return model
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        made = copy.copy(value)
        for field in dataclasses.fields(value):
            object.__setattr__(made, field.name, _mended(getattr(value, field.name)))  # it may be frozen
        return made
    return value
