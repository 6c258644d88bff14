"""Prompts with files and links beside text: the JSON that crosses, and what of it only the store holds.

A prompt is a text, or a sequence of texts and parts. A part is the JSON of one of pydantic-ai's own classes, which has
a `kind`; this wing knows no more about it than what it must take apart. The worker's pydantic-ai reads all of it.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Annotated, Any, TypeAlias, cast

from pydantic import JsonValue, PlainSerializer, PlainValidator
from pydantic_core import PydanticCustomError

from paigeant_celery.core.errors import InvalidInput, NotSerializable
from paigeant_celery.core.jsonable import holds_secret, to_jsonable
from paigeant_celery.core.names import text_fault

__all__ = [
    "Part",
    "Prompt",
    "StoredApart",
    "blob_of",
    "by_digest",
    "crossing_prompt",
    "decoded",
    "digest_in",
    "filled",
    "has_files",
    "shown",
    "stored_in",
]

Part: TypeAlias = str | dict[str, JsonValue]

BINARY = "binary"  # the kind of a part whose `data` is base64; `data_ref` stands for data that the store holds
MARKS = {"cache-point"}  # kinds of parts that say nothing to a model
TEXTS = {"text-content", "structured-content"}  # kinds of parts whose `content` is text
MOST_LARGEST = 8  # files of the largest size in one workflow; they are recorded in one call, which must not take long
REF_FIELDS = {"size": int, "sha256": str}
SHA256 = re.compile(r"[0-9a-f]{64}")
ANY_ALPHABET = str.maketrans("-_", "+/")

AS_PARTS = (
    "a prompt is a text, or a list of texts, URLs and files, such as pydantic-ai's `ImageUrl` and `BinaryContent`"
)


def crossing_prompt(given: object) -> object:
    """Return a prompt that a caller gave with its parts as JSON, and what is no prompt as it is.

    Raises `InvalidInput` (`invalid_prompt`, `invalid_text`, `secret_without_encryption`) with the path of the part.
    """
    if isinstance(given, str) or not isinstance(given, Sequence) or isinstance(given, (bytes, bytearray, memoryview)):
        return given
    return tuple(_crossing_part(part, f"prompt[{index}]") for index, part in enumerate(given))


def _read_prompt(value: object) -> str | tuple[Part, ...]:
    """Read a prompt as it crosses, or say what is wrong with it."""
    if isinstance(value, str):
        _check_text(value)
        if not value.strip():
            raise _empty()
        return str.__str__(value)
    if isinstance(value, Mapping) or not isinstance(value, (list, tuple)):
        raise PydanticCustomError(
            "invalid_envelope", "{rule}", {"rule": f"{AS_PARTS}; a single part is put into a list"}
        )
    for index, part in enumerate(value):
        _check_part(part, index)
    if all(map(_says_nothing, value)):
        raise _empty()
    return tuple(value)


def _write_prompt(prompt: str | tuple[Part, ...]) -> Any:
    return prompt if isinstance(prompt, str) else list(prompt)


Prompt: TypeAlias = Annotated[str | tuple[Part, ...], PlainValidator(_read_prompt), PlainSerializer(_write_prompt)]


class StoredApart:
    """Takes the data of binary parts out of prompts, as far as it is too large to travel.

    What stays travels in one message, so that all of it together is at most `inline` bytes of base64. `blobs` is what
    the store must hold, by name; the same data has the same name wherever it occurs.
    """

    def __init__(self, *, inline: int, largest: int) -> None:
        self._left, self._largest, self._room = inline, largest, MOST_LARGEST * largest
        self.blobs: dict[str, str] = {}

    def taken(self, prompt: Prompt, *, path: str) -> Prompt:
        """Return the prompt to send; raises `InvalidInput` (`too_large`) if a part is too large for the store too."""
        if isinstance(prompt, str):
            return prompt
        return tuple(self._part(part, f"{path}[{index}]") for index, part in enumerate(prompt))

    def _part(self, part: Part, path: str) -> Part:
        if (data := _data_of(part)) is None:
            return part
        if len(data) > self._largest:
            limit = f"`paigeant_max_output_size` ({self._largest})"
            raise InvalidInput("too_large", path, f"its data has {len(data)} bytes as base64, which exceed {limit}")
        if len(data) <= self._left:
            self._left -= len(data)
            return part
        apart = _without_data(part)
        name = blob_of(cast("dict[str, Any]", apart)["data_ref"]["sha256"])
        if name not in self.blobs:
            self._room -= len(data)
            self.blobs[name] = data
        if self._room < 0:
            limit = f"{MOST_LARGEST} times `paigeant_max_output_size` ({self._largest})"
            raise InvalidInput("too_large", path, f"the files of the workflow together exceed {limit}; give links")
        return apart


def by_digest(prompt: Prompt) -> JsonValue:
    """Return a prompt with a digest for the data of each part; the same wherever the data is."""
    if isinstance(prompt, str):
        return prompt
    return [part if _data_of(part) is None else _without_data(part) for part in prompt]


def has_files(prompt: Prompt) -> bool:
    """Say whether a prompt has data that travels with it."""
    return not isinstance(prompt, str) and any(_data_of(part) is not None for part in prompt)


def stored_in(prompt: Prompt) -> Iterator[str]:
    """Yield the digests of the data that a prompt has only in the store."""
    return filter(None, map(digest_in, () if isinstance(prompt, str) else prompt))


def digest_in(part: Part) -> str | None:
    """Return the digest of the data that a part has only in the store, or None if it has all of it."""
    ref = part.get("data_ref") if isinstance(part, dict) and part["kind"] == BINARY else None
    return str(ref["sha256"]) if isinstance(ref, dict) else None


def filled(prompt: Prompt, data: Mapping[str, str]) -> Prompt:
    """Return a prompt with the data, by its digests, of each part that has it only in the store."""
    if isinstance(prompt, str):
        return prompt
    return tuple(part if (digest := digest_in(part)) is None else _with_data(part, data[digest]) for part in prompt)


def decoded(data: str) -> bytes:
    """Return the bytes of base64 in either alphabet, with padding or without; raises `ValueError`."""
    text = data.translate(ANY_ALPHABET).rstrip("=")
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)


def blob_of(digest: str) -> str:
    """Return the name of data in the store; no step has such an id."""
    return f"sha256:{digest}"


def shown(prompt: Prompt) -> str:
    """Return a prompt as one text, in which the kinds of files and links stand for them."""
    if isinstance(prompt, str):
        return prompt
    return " ".join(part if isinstance(part, str) else _named(part) for part in prompt if not _says_nothing(part))


def _named(part: dict[str, JsonValue]) -> str:
    return str(part["content"]) if part["kind"] in TEXTS and "content" in part else f"[{part['kind']}]"


def _crossing_part(part: object, path: str) -> Part:
    if isinstance(part, str):
        return str.__str__(part)
    if isinstance(part, (bytes, bytearray, memoryview)):
        text = "bytes do not say what they are; give `BinaryContent(data, media_type=…)`"
        raise InvalidInput("invalid_prompt", path, text)
    if isinstance(part, PurePath):
        text = "a path is no part of a prompt, because a worker may not reach it; give `BinaryContent.from_path(…)`"
        raise InvalidInput("invalid_prompt", path, text)
    if holds_secret(part):
        text = "a pydantic secret would travel as asterisks; leave it out"
        raise InvalidInput("secret_without_encryption", path, text)
    try:
        tree = to_jsonable(_as_base64(part), reason="invalid_prompt")
    except NotSerializable as error:
        raise InvalidInput(error.reason, path, error.text) from None
    if not isinstance(tree, dict) or not isinstance(tree.get("kind"), str):
        raise InvalidInput("invalid_prompt", path, f"a {type(part).__name__} is no part of a prompt; {AS_PARTS}")
    if tree["kind"] == BINARY:
        tree["data"] = _normal_data(tree, path)
    return tree


def _as_base64(part: object) -> object:
    """Return a part that is written as a mapping with its bytes as base64."""
    data = part.get("data") if isinstance(part, Mapping) else None
    if not isinstance(data, (bytes, bytearray, memoryview)):
        return part
    return {**cast("Mapping[str, object]", part), "data": base64.urlsafe_b64encode(data).decode()}


def _normal_data(part: dict[str, JsonValue], path: str) -> str:
    """Return the base64 of a part as pydantic writes it, so that equal data is equal text."""
    data = part.get("data")
    try:
        if "data_ref" not in part and isinstance(data, str):
            return base64.urlsafe_b64encode(decoded(data)).decode()
    except ValueError:
        pass
    raise InvalidInput("invalid_prompt", path, "a part of the kind 'binary' has its bytes in `data`, as base64")


def _check_part(part: object, index: int) -> None:
    if isinstance(part, str):
        _check_text(part)
        return
    if not isinstance(part, dict) or not isinstance(part.get("kind"), str):
        text = "is neither text nor an object with a `kind`"
    elif part["kind"] == BINARY and isinstance(part.get("data"), str) == _is_ref(part.get("data_ref")):
        text = "has neither `data` nor a reference to it, or both"
    else:
        return
    raise PydanticCustomError("invalid_prompt", "part {index} {text}", {"index": index, "text": text})


def _check_text(text: str) -> None:
    if (fault := text_fault(text)) is not None:
        raise PydanticCustomError("invalid_text", "the prompt {fault}", {"fault": fault})


def _is_ref(value: object) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == REF_FIELDS.keys()
        and all(type(value[name]) is kind for name, kind in REF_FIELDS.items())
        and SHA256.fullmatch(value["sha256"]) is not None
        and value["size"] >= 0
    )


def _says_nothing(part: Part) -> bool:
    if isinstance(part, str):
        return not part.strip()
    text = part.get("content")
    return part["kind"] in MARKS or (part["kind"] in TEXTS and isinstance(text, str) and not text.strip())


def _empty() -> PydanticCustomError:
    return PydanticCustomError("empty_prompt", "an agent needs a prompt")


def _data_of(part: Part) -> str | None:
    data = part.get("data") if isinstance(part, dict) and part["kind"] == BINARY else None
    return data if isinstance(data, str) else None


def _with_data(part: Part, data: str) -> Part:
    found = cast("dict[str, JsonValue]", part)
    return {**{name: value for name, value in found.items() if name != "data_ref"}, "data": data}


def _without_data(part: Part) -> Part:
    found = cast("dict[str, JsonValue]", part)
    data = cast("str", found["data"])
    ref: JsonValue = {"size": len(data), "sha256": hashlib.sha256(data.encode()).hexdigest()}
    return {**{name: value for name, value in found.items() if name != "data"}, "data_ref": ref}
