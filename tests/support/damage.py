"""Damaged messages: parts of a valid one are dropped, of another type, or cut short. A seed decides which."""

from __future__ import annotations

import base64
import copy
import json
import zlib
from collections.abc import Iterator
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

__all__ = ["cut", "damaged", "damaged_items", "drawn"]

Path = tuple[str | int, ...]

# What stands in the place of a part: a value of each type that JSON has.
OTHERS = (None, True, 17, 2.5, "text", [], ["text"], {}, {"key": "text"})


def drawn(examples: int) -> settings:
    """Return how tests draw: always the same examples, each once, with as much time as a worker needs."""
    return settings(
        derandomize=True, max_examples=examples, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn, tree: Any) -> Any:
    """Draw a copy of JSON data of which one part, at any depth, is dropped, of another type, or cut short."""
    path = draw(st.sampled_from(list(paths_of(tree))))
    how = draw(st.sampled_from(["drop", "retype", "cut"]))
    if not path:
        return draw(st.sampled_from(OTHERS))
    whole = copy.deepcopy(tree)
    *parents, last = path
    parent = whole
    for step in parents:
        parent = parent[step]
    if how == "drop":
        del parent[last]
    elif how == "cut" and isinstance(parent[last], (str, list)) and parent[last]:
        parent[last] = draw(cut(parent[last]))
    else:
        parent[last] = draw(st.sampled_from([other for other in OTHERS if type(other) is not type(parent[last])]))
    return whole


def cut(content: Any) -> st.SearchStrategy[Any]:
    """Draw the beginning of a text, of bytes or of a list."""
    return st.integers(0, len(content) - 1).map(lambda length: content[:length])


def damaged_items(item: str) -> st.SearchStrategy[str]:
    """Draw damaged forms of a list item on Redis, which holds its body as base64 of JSON, perhaps compressed."""
    message = json.loads(item)
    body = base64.b64decode(message["body"])
    packed = "compression" in message["headers"]

    def holding(content: bytes) -> str:
        return json.dumps({**message, "body": base64.b64encode(content).decode()})

    def written(arguments: object) -> str:
        text = json.dumps(arguments).encode()
        return holding(zlib.compress(text) if packed else text)

    around = damaged(message).map(json.dumps)  # it has most parts, so most examples
    return st.one_of(
        *[around] * 5,
        damaged(json.loads(zlib.decompress(body) if packed else body)).map(written),
        cut(body).map(holding),
        cut(item),
    )


def paths_of(tree: Any, path: Path = ()) -> Iterator[Path]:
    """Yield where each part of JSON data stands, beginning with the whole."""
    yield path
    if isinstance(tree, (dict, list)):
        for key, part in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from paths_of(part, (*path, key))
