"""The documents that `docs/commands.md` shows, to compare with those that commands print."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["PAGE", "differences", "documented", "same_shape"]

PAGE = (Path(__file__).parents[2] / "docs/commands.md").read_text(encoding="utf-8")

# What stands under these names has keys of its own: ids, names and kinds of what is counted.
KEYED = {"usage", "outputs", "answers", "running_on", "fields", "versions", "arguments", "more", "output", "payload"}


def documented(heading: str) -> list[Any]:
    """Return the documents that the page shows for a command."""
    (section,) = re.findall(rf"^### [^\n]*`{heading}[` ].*?(?=^##)", f"{PAGE}\n## ", re.MULTILINE | re.DOTALL)
    return [json.loads(text) for text in re.findall(r"```json\n(.*?)```", section, re.DOTALL)]


def differences(shown: Any, found: Any, path: str = "") -> Iterator[str]:
    """Yield where a document has other fields than the page shows; values differ, and so do missing things."""
    if isinstance(shown, dict) and isinstance(found, dict):
        if path.rpartition(".")[2] in KEYED:
            return
        if shown.keys() != found.keys():
            yield f"{path or 'document'}: {sorted(shown.keys() ^ found.keys())}"
        for name in shown.keys() & found.keys():
            yield from differences(shown[name], found[name], f"{path}.{name}")
    elif isinstance(shown, list) and isinstance(found, list):
        for one, other in zip(shown[:1], found[:1], strict=False):
            yield from differences(one, other, f"{path}[]")
    elif shown is not None and found is not None and type(shown) is not type(found):
        yield f"{path}: {type(shown).__name__} on the page, {type(found).__name__} in the document"


def same_shape(shown: Any, found: Any) -> bool:
    """Say whether two documents have the same shape; prints how they differ."""
    different = list(differences(shown, found))
    print("\n".join(different))
    return not different
