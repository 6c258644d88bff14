"""Where an output has files and links of pydantic-ai, so that they are not taken for the JSON that looks like them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from pydantic import JsonValue

from paigeant_celery.core.errors import NotSerializable
from paigeant_celery.core.file_classes import LIBRARY, is_file
from paigeant_celery.core.jsonable import everything_in, is_json, to_jsonable

__all__ = ["files_in", "pointer_below"]

CONTENT = ("data", "url", "file_id")  # of a file: what it is, or where
MOST_FILES = 1000  # of one output; their places travel in the message, and no model takes as many


def files_in(output: object, tree: JsonValue) -> tuple[str, ...]:
    """Return the places of files and links in the JSON of an output, as JSON Pointers.

    They are those that are in the output itself as objects of the library. If there are more than a thousand, none are
    returned: the output is then data like any other.
    """
    if LIBRARY not in sys.modules or is_json(output):
        return ()
    forms: dict[str | None, list[Mapping[str, JsonValue]]] = {}
    for found in filter(is_file, everything_in(output)):
        if (form := _form_of(found)) is not None:
            forms.setdefault(_content_of(form), []).append(form)
    places = tuple(islice(_places(tree, "", forms), MOST_FILES + 1)) if forms else ()
    return places if len(places) <= MOST_FILES else ()


def pointer_below(pointer: str, part: str | int) -> str:
    """Return the JSON Pointer of a part of what is at `pointer`."""
    return f"{pointer}/{str(part).replace('~', '~0').replace('/', '~1')}"


def _form_of(file: object) -> Mapping[str, JsonValue] | None:
    """Return all that is ever written of a file."""
    try:
        form = to_jsonable(file, reason="output_not_serializable")
    except NotSerializable:
        return None
    return form if isinstance(form, dict) else None


def _places(tree: JsonValue, at: str, forms: Mapping[str | None, list[Mapping[str, JsonValue]]]) -> Iterator[str]:
    # Where a part of the output is in its JSON is known only to what wrote it: names and nesting may have changed.
    if isinstance(tree, dict) and any(_is_of(tree, form) for form in forms.get(_content_of(tree), ())):
        yield at
        return
    parts: Any = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for name, part in parts:
        yield from _places(part, pointer_below(at, name), forms)


def _content_of(tree: Mapping[str, JsonValue]) -> str | None:
    """Return what a file is, or where; None if this is no file."""
    found = (tree[name] for name in CONTENT if name in tree and "kind" in tree)
    return next((content for content in found if isinstance(content, str)), None)


def _is_of(tree: dict[str, JsonValue], form: Mapping[str, JsonValue]) -> bool:
    """Say whether this was written of a file, perhaps without what is derived from the rest."""
    return tree.keys() <= form.keys() and all(form[name] == value for name, value in tree.items())
