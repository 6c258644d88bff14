"""Prompts with files and links: what crosses, what the store holds of it, and what older workers make of it."""

from __future__ import annotations

import base64
import json
from collections import deque
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, SecretStr, TypeAdapter, ValidationError
from pydantic_ai.messages import (
    AudioUrl,
    BinaryContent,
    BinaryImage,
    CachePoint,
    DocumentUrl,
    ImageUrl,
    TextContent,
    UploadedFile,
    VideoUrl,
)

from paigeant_celery import ActivitySpec, InvalidInput
from paigeant_celery.core.content import StoredApart, blob_of, by_digest, shown, stored_in
from paigeant_celery.core.errors import MessageError
from paigeant_celery.core.faults import kind_fault
from paigeant_celery.core.message import PaigeantMessage, content_digest, encode, parse
from paigeant_celery.core.slip import FunctionSpec

PNG = b"\x89PNG\r\n\x1a\n\xfb\xff" * 30
PARTS = [
    "Compare.",
    ImageUrl("https://example.com/a.png", vendor_metadata={"detail": "low"}, identifier="first"),
    AudioUrl("https://example.com/a.mp3"),
    VideoUrl("https://example.com/v", media_type="video/mp4", force_download=True),
    DocumentUrl("https://example.com/d.pdf"),
    BinaryContent(PNG, media_type="image/png", vendor_metadata={"detail": "high"}, identifier="second"),
    BinaryImage(PNG, media_type="image/jpeg"),
    UploadedFile("file-1", "openai", media_type="application/pdf"),
    TextContent("a note", metadata={"page": 3}),
    CachePoint(ttl="1h"),
]


def apart(prompt: Any, *, inline: int = 0, largest: int = 10**6) -> tuple[Any, dict[str, str]]:
    storing = StoredApart(inline=inline, largest=largest)
    return storing.taken(ActivitySpec("a", prompt).prompt, path="prompt"), storing.blobs


def digest_of(message: PaigeantMessage, step: ActivitySpec) -> str:
    slip = message.slip.model_copy(update={"itinerary": (step.identified("a"),)})
    return content_digest(message.model_copy(update={"slip": slip}))


@pytest.mark.parametrize("as_sequence", [list, tuple])
def test_parts_cross_as_the_json_that_pydantic_ai_writes(as_sequence: type, make_message: Any) -> None:
    """A process that dispatches may have pydantic-ai's objects, and its worker must get the same ones."""
    step = ActivitySpec("a", as_sequence(PARTS))

    read = parse(encode(make_message(step.identified("a"))), max_size=10**6, max_steps=9).step

    assert isinstance(read, ActivitySpec)
    assert read.prompt == step.prompt
    assert list(step.prompt) == [part if isinstance(part, str) else written(part) for part in PARTS]
    assert all("null" not in json.dumps(part["kind"]) for part in step.prompt if isinstance(part, dict))


def written(part: object) -> Any:
    return TypeAdapter(type(part)).dump_python(part, mode="json")


def test_a_process_without_the_library_writes_the_json_itself() -> None:
    """Bytes may be given as they are, and base64 in either alphabet, with padding or without."""
    file = {"kind": "binary", "media_type": "image/png"}
    normal = base64.urlsafe_b64encode(PNG[:11]).decode()
    forms = [
        *(PNG[:11], bytearray(PNG[:11]), memoryview(PNG[:11])),
        *(normal, normal.rstrip("="), base64.b64encode(PNG[:11]).decode()),
    ]

    assert "_" in normal
    assert "=" in normal
    for data in forms:
        assert ActivitySpec("a", [{**file, "data": data}]).prompt == ({**file, "data": normal},)


def test_a_part_is_not_changed_by_what_its_giver_does_with_it_later() -> None:
    """A step is built once and may be dispatched much later."""
    part: dict[str, Any] = {"kind": "image-url", "url": "https://example.com/a.png", "vendor_metadata": {"a": "b"}}
    step = ActivitySpec("a", [part])

    part["vendor_metadata"]["a"] = "c"

    assert step.prompt[0]["vendor_metadata"] == {"a": "b"}  # type: ignore[index]


class Greeting(str, Enum):  # noqa: UP042 - its text is not the one of `str()`
    HELLO = "hello"


def test_a_text_is_a_text_whatever_its_class() -> None:
    """Prompts may be members of an enum, alone or among parts."""
    assert ActivitySpec("a", Greeting.HELLO).prompt == "hello"
    assert ActivitySpec("a", [Greeting.HELLO]).prompt == ("hello",)


class Card(BaseModel):
    kind: str = "image-url"
    url: SecretStr = SecretStr("hidden")


@pytest.mark.parametrize(
    ("prompt", "reason", "path"),
    [
        ([], "empty_prompt", "prompt"),
        ((), "empty_prompt", "prompt"),
        ([""], "empty_prompt", "prompt"),
        ([" ", "\n", CachePoint()], "empty_prompt", "prompt"),
        ([TextContent(" ")], "empty_prompt", "prompt"),
        (["x", "\ud800"], "invalid_text", "prompt"),
        (["x", TextContent("\ud800")], "invalid_text", "prompt[1]"),
        (["x", 5], "invalid_prompt", "prompt[1]"),
        (["x", None], "invalid_prompt", "prompt[1]"),
        (["x", ["y"]], "invalid_prompt", "prompt[1]"),
        (["x", PNG], "invalid_prompt", "prompt[1]"),
        (["x", {"url": "https://example.com/a.png"}], "invalid_prompt", "prompt[1]"),
        (["x", {"kind": 5}], "invalid_prompt", "prompt[1]"),
        (["x", object()], "invalid_prompt", "prompt[1]"),
        (["x", {"kind": "image-url", "size": float("nan")}], "invalid_prompt", "prompt[1]"),
        (["x", TextContent("y", metadata=object())], "invalid_prompt", "prompt[1]"),
        (["x", {"kind": "binary", "media_type": "image/png"}], "invalid_prompt", "prompt[1]"),
        (["x", {"kind": "binary", "data": "no base64!"}], "invalid_prompt", "prompt[1]"),
        (["x", {"kind": "binary", "data": 5}], "invalid_prompt", "prompt[1]"),
        (["x", {"kind": "binary", "data_ref": {"size": 1, "sha256": "0" * 64}}], "invalid_prompt", "prompt[1]"),
        (["x", Card()], "secret_without_encryption", "prompt[1]"),
        (5, "invalid_input", "prompt"),
        (None, "invalid_input", "prompt"),
        (PNG, "invalid_input", "prompt"),
        (ImageUrl("https://example.com/a.png"), "invalid_input", "prompt"),
        ({"kind": "image-url"}, "invalid_input", "prompt"),
        ({"x"}, "invalid_input", "prompt"),
        (iter(["x"]), "invalid_input", "prompt"),
    ],
)
def test_what_is_no_prompt_is_refused_when_the_step_is_made(prompt: Any, reason: str, path: str) -> None:
    """Nothing is enqueued, and the error says which part is wrong, without quoting it."""
    with pytest.raises(InvalidInput) as refused:
        ActivitySpec("a", prompt)

    assert (refused.value.reason, refused.value.path) == (reason, path)
    assert "PNG" not in str(refused.value)


@pytest.mark.parametrize(
    ("part", "remedy"),
    [
        (PNG, "give `BinaryContent(data, media_type=…)`"),
        (bytearray(PNG), "give `BinaryContent(data, media_type=…)`"),
        (Path("a.png"), "give `BinaryContent.from_path(…)`"),
    ],
)
def test_a_file_that_is_given_bare_is_answered_with_what_to_write(part: Any, remedy: str) -> None:
    """Bytes and paths are what people try first."""
    with pytest.raises(InvalidInput) as refused:
        ActivitySpec("a", ["x", part])

    assert (refused.value.reason, refused.value.path) == ("invalid_prompt", "prompt[1]")
    assert remedy in str(refused.value)


@pytest.mark.parametrize(
    ("part", "reason", "at"),
    [
        (5, "invalid_prompt", ""),
        (None, "invalid_prompt", ""),
        ({}, "invalid_prompt", ""),
        ({"kind": None}, "invalid_prompt", ""),
        ({"kind": "binary"}, "invalid_prompt", ""),
        ({"kind": "binary", "data": "aGk=", "data_ref": {"size": 4, "sha256": "0" * 64}}, "invalid_prompt", ""),
        ({"kind": "binary", "data_ref": {"size": 4, "sha256": "../other"}}, "invalid_prompt", ""),
        ({"kind": "binary", "data_ref": {"size": -1, "sha256": "0" * 64}}, "invalid_prompt", ""),
        ({"kind": "binary", "data_ref": {"size": 4}}, "invalid_prompt", ""),
        ("\ud800", "invalid_text", "[1]"),
    ],
)
def test_a_message_with_a_part_that_is_none_is_refused(part: Any, reason: str, at: str, make_message: Any) -> None:
    """Parts may be of kinds that this version does not know, but the worker must be able to take them apart."""
    tree = json.loads(encode(make_message(ActivitySpec("a", ["x", "y"]).identified("a"))))
    tree["slip"]["itinerary"][0]["prompt"][1] = part

    with pytest.raises(MessageError) as refused:
        parse(json.dumps(tree), max_size=10**6, max_steps=9)

    assert (refused.value.reason, refused.value.path) == (reason, "slip.itinerary[0].prompt" + at)


def test_data_that_is_too_large_to_travel_is_held_by_the_store() -> None:
    """A message stays small; the same file is stored once, however often it is used."""
    one, two = BinaryContent(PNG, media_type="image/png", identifier="one"), BinaryImage(PNG, media_type="image/png")
    data = base64.urlsafe_b64encode(PNG).decode()

    prompt, blobs = apart(["x", one, two, ImageUrl("https://example.com/a.png")])

    [digest] = set(stored_in(prompt))
    assert blobs == {blob_of(digest): data}
    assert len(list(stored_in(prompt))) == 2
    assert prompt[1] == {
        **{name: value for name, value in written(one).items() if name != "data"},
        "data_ref": {"size": len(data), "sha256": digest},
    }
    assert apart(["x", one], inline=len(data)) == (ActivitySpec("a", ["x", one]).prompt, {})


def test_small_files_travel_only_while_all_of_them_together_are_small() -> None:
    """Forty files that are each just small enough would fill a message."""
    files = [BinaryContent(bytes([number]) * 30, media_type="image/png") for number in range(5)]

    prompt, blobs = apart(files, inline=100)

    assert ["data" in part for part in prompt] == [True, True, False, False, False]
    assert len(blobs) == 3


def test_a_file_that_is_too_large_for_the_store_is_refused_with_the_setting() -> None:
    """It is as large as an output may be."""
    with pytest.raises(InvalidInput, match=r"`paigeant_max_output_size` \(100\)") as refused:
        apart(["x", BinaryContent(PNG, media_type="image/png")], largest=100)

    assert (refused.value.reason, refused.value.path) == ("too_large", "prompt[1]")


def test_more_files_than_one_call_records_are_refused() -> None:
    """The same file counts once."""
    files = [BinaryContent(bytes([number]) * 60, media_type="image/png") for number in range(10)]

    assert len(apart([*files[:8]] * 3, largest=80)[1]) == 8
    with pytest.raises(InvalidInput, match=r"together exceed 8 times `paigeant_max_output_size` \(80\)") as refused:
        apart(files, largest=80)
    assert (refused.value.reason, refused.value.path) == ("too_large", "prompt[8]")


def test_the_same_content_has_the_same_digest_wherever_its_data_is(make_message: Any) -> None:
    """A repeated dispatch, and a workflow that is adopted, are the same one, whatever the sizes in the settings."""
    step = ActivitySpec("a", PARTS)
    message = make_message(step.identified("a"))
    stored = step.model_copy(update={"prompt": apart(PARTS)[0]})
    other = ActivitySpec("a", [*PARTS[:-1], BinaryContent(b"x", media_type="image/png")])

    assert digest_of(message, stored) == digest_of(message, step)
    assert digest_of(message, other) != digest_of(message, step)
    assert PNG[:9].hex() not in json.dumps(by_digest(step.prompt))


def test_a_prompt_is_shown_without_its_files() -> None:
    """A model that may insert the step reads what it is about."""
    assert shown("x") == "x"
    assert shown(ActivitySpec("a", PARTS).prompt) == (
        "Compare. [image-url] [audio-url] [video-url] [document-url] [binary] [binary] [uploaded-file] a note"
    )


class AgentOf11(BaseModel):
    kind: Literal["agent"] = "agent"
    prompt: str


def test_older_workers_leave_a_step_with_content_to_newer_ones(make_message: Any) -> None:
    """Versions before 1.2 know no such prompt. They give back a step of an unknown kind, and would park any other."""
    union = Annotated[AgentOf11 | FunctionSpec, Field(discriminator="kind")]
    steps_of_11: TypeAdapter[Any] = TypeAdapter(union)
    step, plain = ActivitySpec("a", PARTS), ActivitySpec("a", "x")

    for reader in (steps_of_11, TypeAdapter(AgentOf11)):  # as a step, and as what may be inserted
        with pytest.raises(ValidationError) as refused:
            reader.validate_python(step.model_dump(mode="json"))
        assert kind_fault(refused.value) is not None
        reader.validate_python(plain.model_dump(mode="json"))


def test_any_sequence_of_parts_is_a_prompt() -> None:
    """Whatever has an order and an index is a sequence, as for pydantic-ai."""
    assert ActivitySpec("a", deque(["x"])).prompt == ("x",)
