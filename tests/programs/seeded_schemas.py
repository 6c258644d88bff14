"""Prints the schemas of types that are made from sets, whose order differs with the hash seed of the process."""

import enum
import json
from dataclasses import make_dataclass
from typing import Annotated, Any, Literal, Union

from pydantic import BaseModel, Field, TypeAdapter, create_model
from typing_extensions import TypedDict

WORDS = {"red", "green", "blue", "black", "white", "grey"}


def paint(name: str = "Paint") -> type[BaseModel]:
    """Return a model whose required fields stand in the order of a set."""
    return create_model(name, **dict.fromkeys(WORDS, (int, ...)))


ANIMALS = {name: create_model(name, kind=(Literal[name], ...)) for name in ("Cat", "Dog", "Fish", "Bird")}
ANIMAL = Union[tuple(ANIMALS[name] for name in set(ANIMALS))]  # noqa: UP007
SIMPLE = {"int": int, "str": str, "float": float, "bool": bool}

TYPES: dict[str, Any] = {
    "literal": Literal[tuple(WORDS)],
    "mixed literal": Literal[tuple({*WORDS, 1, None})],
    "enum": enum.Enum("Colour", {word: word for word in WORDS}),
    "enum of sets": enum.Enum("Both", {"a": frozenset(WORDS), "b": frozenset({"red", "blue"})}),
    "union": Union[tuple(SIMPLE[name] for name in set(SIMPLE))],  # noqa: UP007
    "union of models": ANIMAL,
    "discriminated union": Annotated[ANIMAL, Field(discriminator="kind")],
    "required": paint(),
    "dataclass": make_dataclass("Paint", [(word, str) for word in WORDS]),
    "typed dict": TypedDict("Paint", dict.fromkeys(WORDS, int)),  # type: ignore[misc]
    "nested": create_model("Shop", shelf=(list[paint("Tin")], ...), hue=(Literal[tuple(WORDS)] | None, None)),
    "keys": dict[Literal[tuple(WORDS)], int],
    "default": create_model("Shop", colours=(list[str], list(WORDS))),
    "own keywords": Annotated[str, Field(json_schema_extra={"enum": list(WORDS), "x": {"any": list(WORDS)}})],
    "types": Annotated[Any, Field(json_schema_extra={"type": list({"string", "null", "integer", "boolean"})})],
}

print(json.dumps({name: TypeAdapter(of).json_schema() for name, of in TYPES.items()}))
