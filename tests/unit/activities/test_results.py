"""What a step returned becomes what is recorded; nothing that it returned makes a failure of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, field_serializer

from paigeant_celery.activities.results import result_of
from paigeant_celery.core.errors import NotSerializable


class Said(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)

    text: str = Field(serialization_alias="said")


@dataclass(frozen=True)
class Told:
    text: str
    more: tuple[Said, ...] = ()


@pytest.mark.parametrize(
    ("output", "recorded"),
    [
        ("a\ud800b", "a\ufffdb"),
        (["\udfff", {"k\ud800": ("\ud800",)}], ["\ufffd", {"k\ufffd": ["\ufffd"]}]),
        (Said(text="x\ud800", more="\ud800"), {"text": "x\ufffd", "more": "\ufffd"}),
        (Told("\ud800", (Said(text="\udfff"),)), {"text": "\ufffd", "more": [{"text": "\ufffd"}]}),
        ({"a": Said(text="x\ud800"), "n": 1.5}, {"a": {"text": "x\ufffd"}, "n": 1.5}),
    ],
)
def test_a_lone_surrogate_is_replaced_and_an_event_says_so(output: object, recorded: object) -> None:
    """Models write them, and the rest of the answer is worth its price."""
    result = result_of(output, notes=({"type": "note"},))

    assert result.output == recorded
    assert result.notes == ({"type": "note"}, {"type": "text_replaced"})


@pytest.mark.parametrize("output", ["a\0b", "🦊", ["\u202e"], None, 1])
def test_other_text_stays_as_it_is_and_nothing_is_said(output: object) -> None:
    """U+0000 is text."""
    result = result_of(output)

    assert (result.output, result.notes) == (output, ())


class Torn(BaseModel):
    a: int

    @field_serializer("a")
    def _write(self, _: int) -> int:
        raise LookupError("hunter2")


class Endless:
    """A collection that cannot be walked through."""

    def __len__(self) -> int:
        return 1

    def __contains__(self, _: object) -> bool:
        return False

    def __iter__(self) -> Iterator[Any]:
        raise TypeError("hunter2")


CYCLE: list[Any] = ["\ud800"]
CYCLE.append(CYCLE)


@pytest.mark.parametrize("output", [Torn(a=1), Endless(), [Endless()], object(), {"a\ud800": object()}, CYCLE])
def test_whatever_goes_wrong_as_an_output_is_written_is_no_failure_of_its_step(output: object) -> None:
    """A `TypeError` of the step itself would end its workflow; this one parks it."""
    with pytest.raises(NotSerializable) as caught:
        result_of(output)

    assert caught.value.reason in ("output_not_serializable", "invalid_text")
    assert "hunter2" not in str(caught.value)
