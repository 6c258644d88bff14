"""The documents that `docs/commands.md` shows, to compare with those that commands print."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

__all__ = ["PAGE", "differences", "documented", "same_shape", "unseen"]

PAGE = (Path(__file__).parents[2] / "docs/commands.md").read_text(encoding="utf-8")

# What stands under these names has keys of its own: ids, names and kinds of what is counted.
KEYED = {"usage", "outputs", "answers", "running_on", "fields", "versions", "arguments", "more", "output", "payload"}
KEYED |= {"states", "activities", "times", "envelope", "records", "blobs"}

TIME = "2026-01-02T12:00:00Z"
FRAME = {"file": "a.py", "line": 1, "function": "f", "skipped": 0}
CAUSE: dict[str, Any] = {
    "error_class": "ValueError", "text": "", "frames": [FRAME], "notes": [], "raised_from": None, "direct": True,
    "group": [],
}  # fmt: skip
RUNNER = {"host": "host", "pid": 1, "since": TIME, "lapsed_at": None}

# What may stand where the page has null, as the text of the page says.
ELSEWHERE: dict[str, Any] = {
    "failure": {"step_id": "a", "error_class": "ValueError", "text": "", "cause": None},
    "workflows[].failure": {"step_id": "a", "error_class": "ValueError", "where": ""},
    "workflows[].last_failure": {"step_id": "a", "error_class": "ValueError", "where": ""},
    "last_failure": {"step_id": "a", "error_class": "ValueError", "text": "", "cause": None},
    "cause": CAUSE, "raised_from": CAUSE, "runner": RUNNER,
    "block": {"form": "for_each", "branches": [{"name": "0", "state": "completed", "steps": []}], "more": {}},
    "origin": {"workflow": "w", "step": "a", "place": "1"},
    "unreadable": {"code": "newer_version", "text": ""},
    "ahead": 1,
    **dict.fromkeys(("retry_at", "until", "since", "lapsed_at", "started_at", "finished_at"), TIME),
    **dict.fromkeys(("stuck", "cost", "added_by", "question", "next", "step_id", "output"), "text"),
}  # fmt: skip


def documented(heading: str) -> list[Any]:
    """Return the documents that the page shows for a command; of a stream, those of its lines."""
    (section,) = re.findall(rf"^### [^\n]*`{heading}[` ].*?(?=^##)", f"{PAGE}\n## ", re.MULTILINE | re.DOTALL)
    return [found for text in re.findall(r"```json\n(.*?)```", section, re.DOTALL) for found in _read(text)]


def _read(text: str) -> list[Any]:
    try:
        return [json.loads(text)]
    except ValueError:
        return [json.loads(line) for line in text.splitlines()]


def differences(shown: Any, found: Any, path: str = "") -> Iterator[str]:
    """Yield where a document has other fields than the page shows, or other kinds of values in them.

    Any field may be null; where the page has null, the field has what `ELSEWHERE` says.
    """
    if found is None:
        return
    if shown is None:
        known = next((ELSEWHERE[name] for name in _names(path) if name in ELSEWHERE), None)
        if known is None:
            yield f"{path}: NoneType on the page, {type(found).__name__} in the document"
        yield from differences(known, found, path) if known is not None else ()
    elif isinstance(shown, dict) and isinstance(found, dict):
        if _is_keyed(path):
            return
        if shown.keys() != found.keys():
            yield f"{path or 'document'}: {sorted(shown.keys() ^ found.keys())}"
        for name in shown.keys() & found.keys():
            yield from differences(shown[name], found[name], f"{path}.{name}")
    elif isinstance(shown, list) and isinstance(found, list):
        for other in found if shown else ():
            yield from differences(shown[0], other, f"{path}[]")
    elif _kind(shown) is not _kind(found) and path.rpartition(".")[2] not in KEYED:
        yield f"{path}: {type(shown).__name__} on the page, {type(found).__name__} in the document"


def unseen(shown: Any, found: Sequence[Any], path: str = "") -> Iterator[str]:
    """Yield what the page shows and none of these documents has."""
    values = [each for each in found if each is not None]
    if shown is None or not found:
        return
    if not values or (isinstance(shown, list) and shown and not any(values)):
        yield path
    elif isinstance(shown, dict) and not _is_keyed(path):
        for name in shown:
            yield from unseen(shown[name], [each.get(name) for each in values], f"{path}.{name}")
    elif isinstance(shown, list) and shown:
        yield from unseen(shown[0], [entry for each in values for entry in each], f"{path}[]")


def same_shape(shown: Any, found: Any) -> bool:
    """Say whether two documents have the same shape; prints how they differ."""
    different = list(differences(shown, found))
    print("\n".join(different))
    return not different


def _is_keyed(path: str) -> bool:
    return path.rpartition(".")[2] in KEYED


def _names(path: str) -> Iterator[str]:
    """Yield the ends of a path, the longest first."""
    parts = path.strip(".").split(".")
    for number in range(len(parts)):
        yield ".".join(parts[number:])


def _kind(value: Any) -> type:
    return float if type(value) is int else type(value)
