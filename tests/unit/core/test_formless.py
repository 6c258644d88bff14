"""Which part of a value has no JSON form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, RootModel

from paigeant_celery.core.formless import formless


class Box(BaseModel):
    model_config = ConfigDict(extra="allow")

    held: Any = None


@dataclass
class Crate:
    held: Any


class Bag(RootModel[list[Any]]): ...


def holds_itself() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


@pytest.mark.parametrize(
    ("value", "path", "text"),
    [
        ({"a": [1, float("inf")]}, "v.a[1]", "a number is not finite"),
        (Box(held=Crate({"b": b"\xff"})), "v.held.held.b", "are bytes that are no UTF-8 text"),
        (Box(other=(0, object())), "v.other[1]", "a `object` has no JSON form"),
        (Bag([object()]), "v[0]", "a `object` has no JSON form"),
        ([["\ud800"]], "v[0][0]", "contains a lone surrogate"),
        ({1: object()}, "v", "a `dict` has no JSON form"),
    ],
)
def test_the_part_without_a_form_is_named(value: object, path: str, text: str) -> None:
    """Whoever is refused a large value wants to know which part of it to change."""
    found = formless(value)

    assert found is not None
    assert found.path("v") == path
    assert found.text.startswith(text)


@pytest.mark.parametrize("value", [{"a": [1, None]}, Box(held=b"x"), holds_itself(), {"\ud800": 1}])
def test_no_part_is_blamed_that_has_a_form(value: object) -> None:
    """What is wrong may be the whole: too many levels, or a key."""
    assert formless(value) is None
