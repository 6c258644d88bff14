"""Files and links in outputs: they are recorded whatever their class derives, and found whatever holds them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from pydantic import BaseModel, Field, TypeAdapter
from pydantic_ai.messages import (
    AudioUrl,
    BinaryContent,
    BinaryImage,
    DocumentUrl,
    ImageUrl,
    MultiModalContent,
    TextContent,
    UploadedFile,
    VideoUrl,
)

from paigeant_celery.activities.context import StepOutput
from paigeant_celery.activities.results import result_of
from paigeant_celery.core.crossing import OWN
from paigeant_celery.core.errors import NotSerializable

PNG = b"\x89PNG\r\n\x1a\n\xfb\xff"
NAMED = BinaryImage(PNG, media_type="image/png", identifier="named", vendor_metadata={"detail": "low"})
PLAIN = BinaryImage(PNG, media_type="image/png")
LINK = ImageUrl("https://example.com/a.png")
TYPED = ImageUrl("https://example.com/a", media_type="image/png", identifier="typed")
FILES = [
    NAMED,
    PLAIN,
    BinaryContent(PNG, media_type="application/x-own"),
    LINK,
    TYPED,
    ImageUrl("https://example.com/without-extension"),
    AudioUrl("https://example.com/a.mp3"),
    VideoUrl("https://example.com/a.mp4", force_download=True),
    DocumentUrl("https://example.com/a.pdf", vendor_metadata={"pages": [1]}),
    UploadedFile("file-1", "openai"),
    UploadedFile("file-1", "openai", media_type="application/pdf", identifier="up"),
]


class Card(BaseModel):
    title: str
    picture: BinaryContent = Field(alias="a/picture~")
    link: ImageUrl | None = None


@dataclass
class Pages:
    pages: list[BinaryContent]
    more: dict[str, ImageUrl] = field(default_factory=dict)


class Gallery(BaseModel):
    cards: dict[str, list[Card]]
    parts: list[MultiModalContent] = Field(default_factory=list)


def card(**more: Any) -> Card:
    return Card.model_validate({"title": "t", "a/picture~": NAMED, **more})


@pytest.mark.parametrize("file", FILES, ids=lambda file: type(file).__name__)
@pytest.mark.parametrize("declared", ["own", "its class", "base", "any of them"])
def test_a_file_is_recorded_and_read_back_as_it_was(file: Any, declared: str) -> None:
    """Whoever declares `BinaryContent` and returns what its `from_path` gives has returned a `BinaryImage`."""
    types = {
        "own": OWN,
        "its class": type(file),
        "base": BinaryContent if isinstance(file, BinaryContent) else type(file),
        "any of them": MultiModalContent,
    }

    result = result_of(file, declared=types[declared])
    read = StepOutput(step_id="s", activity="a", output=result.output).output_as(type(file))

    assert result.content == ("",)
    assert read == file
    assert (read.identifier, read.vendor_metadata) == (file.identifier, file.vendor_metadata)


@pytest.mark.parametrize(
    ("output", "declared", "places"),
    [
        ([NAMED, "x", LINK], OWN, ("/0", "/2")),
        ([NAMED, PLAIN], list[BinaryContent], ("/0", "/1")),
        ([NAMED, TYPED, LINK, PLAIN], list[MultiModalContent], ("/0", "/1", "/2", "/3")),
        ((1, PLAIN), OWN, ("/1",)),
        ({"a": {"b": [LINK]}}, OWN, ("/a/b/0",)),
        ({"a": PLAIN}, dict[str, BinaryContent], ("/a",)),
        ({"a": TYPED}, dict[str, Any], ("/a",)),
        (card(), OWN, ("/a~1picture~0",)),
        (card(link=TYPED), OWN, ("/a~1picture~0", "/link")),
        (card(**{"a/picture~": FILES[2]}, link=TYPED), Card, ("/a~1picture~0", "/link")),
        ([card(), card(link=LINK)], list[Card], ("/0/a~1picture~0", "/1/a~1picture~0", "/1/link")),
        (Pages([PLAIN, NAMED], {"x": LINK}), OWN, ("/pages/0", "/pages/1", "/more/x")),
        (
            Gallery(cards={"x": [card()]}, parts=[TYPED, PLAIN]),
            OWN,
            ("/cards/x/0/a~1picture~0", "/parts/0", "/parts/1"),
        ),
        ("text", OWN, ()),
        (TextContent("a note"), OWN, ()),
        ([TypeAdapter(ImageUrl).dump_python(LINK, mode="json")], OWN, ()),
        ({"kind": "binary", "media_type": "image/png", "data": "iVBORw0="}, OWN, ()),
        ([PLAIN, {"kind": "image-url", "url": LINK.url}, {"data": 5}, {"kind": "binary"}], OWN, ("/0",)),
    ],
)
def test_a_file_is_found_wherever_its_output_has_it(output: Any, declared: Any, places: tuple[str, ...]) -> None:
    """Aliases, nesting and forms of their own change the way to it, and JSON that only looks like one is none."""
    assert result_of(output, declared=declared).content == places


def test_what_has_more_files_than_any_model_takes_is_data() -> None:
    """Their places travel in the message."""
    links = [ImageUrl(f"https://example.com/{number}.png") for number in range(1001)]

    assert len(result_of(links[:1000]).content) == 1000
    assert result_of(links).content == ()


def test_other_classes_still_come_back_as_what_they_are() -> None:
    """Only what a library derives of a file's data may differ."""

    @dataclass
    class Base:
        kind: str = "binary"
        hidden: str | None = field(default=None, compare=False)

    @dataclass
    class Narrow(Base):
        pass

    with pytest.raises(NotSerializable, match=r"`Narrow` comes back as `Base`"):
        result_of([Narrow()], declared=list[Base])
    with pytest.raises(NotSerializable, match=r"`output\[0\]\.vendor_metadata\.a`: `tuple` comes back as `list`"):
        result_of([BinaryImage(PNG, media_type="image/png", vendor_metadata={"a": (1,)})], declared=list[BinaryImage])
