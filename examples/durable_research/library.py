"""What the researcher searches: Python's reference and library as they are installed here, and our own documents."""

from __future__ import annotations

import ast
import re
import sysconfig
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from math import log
from pathlib import Path
from pydoc_data.topics import topics

from pydantic import BaseModel

from examples.local_models import sentences, stems

__all__ = ["Comparison", "Hit", "Passage", "compared", "find", "own", "page"]

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = 1200  # approximate characters per passage; a model reads several of them
# What looks like code or a drawing does not help a search for sentences.
CODE = re.compile(r"\s*(>>>|\.\.\.|```|[|+*=^~#-]{2,}|\|)")

_reading = threading.Lock()


@dataclass(frozen=True)
class Passage:
    """A piece of text under a unique title."""

    title: str
    text: str


class Hit(BaseModel):
    """A passage that mentions what was searched for."""

    title: str
    weight: float


class Comparison(BaseModel):
    """Which words each passage mentions, and which no passage does."""

    covered: dict[str, list[str]]
    missing: list[str]


@dataclass(frozen=True)
class _Library:
    """Passages, and how often each of their words occurs in each of them and in how many of them."""

    passages: dict[str, Passage]
    counts: dict[str, Counter[str]]
    spread: Counter[str]


def find(query: str, *, also: Iterable[Passage] = (), most: int = 3) -> list[Hit]:
    """Return the passages that say most about the words of a query, best first; `also` holds the user's own."""
    library, asked = _library(), set(stems(query))
    counted = [(passage, library.counts[passage.title]) for passage in library.passages.values()]
    counted += [(passage, Counter(stems(passage.text))) for passage in also]
    weighed = [Hit(title=passage.title, weight=_weight(asked, passage, counts, library)) for passage, counts in counted]
    found = [hit for hit in weighed if hit.weight > 0]
    return sorted(found, key=lambda hit: (-hit.weight, hit.title))[:most]


def page(title: str, *, also: Iterable[Passage] = ()) -> str | None:
    """Return the text of the passage with this title."""
    known = _library().passages | {passage.title: passage for passage in also}
    return known[title].text if title in known else None


def compared(titles: Iterable[str], asked: Sequence[str], *, also: Iterable[Passage] = ()) -> Comparison:
    """Say which of the asked words each passage mentions, and which no passage does."""
    own_passages = list(also)
    said = {title: set(stems(page(title, also=own_passages) or "")) for title in titles}
    covered = {title: [word for word in asked if set(stems(word)) & said[title]] for title in said}
    missing = [word for word in asked if not any(word in words_of for words_of in covered.values())]
    return Comparison(covered=covered, missing=missing)


def own(prompt: object) -> list[Passage]:
    """Return the sentences of the user's own text that are not questions; a single sentence answers nothing."""
    found = sentences(prompt) if isinstance(prompt, str) else []
    told = enumerate(found, 1) if len(found) > 1 else ()
    return [Passage(f"your sentence {number}", text) for number, text in told if not text.endswith("?")]


def _weight(asked: set[str], passage: Passage, counts: Counter[str], library: _Library) -> float:
    """Weigh a passage by the asked words in it: rare words weigh more, and words in a title most."""
    size, total, titled = sum(counts.values()), len(library.passages), set(stems(passage.title))
    weight = 0.0
    for stem in asked & counts.keys():
        rare = log(1 + total / (1 + library.spread[stem]))
        weight += rare * counts[stem] / (counts[stem] + 0.5 + size / 100) * (2 if stem in titled else 1)
    return round(weight, 2)


def _library() -> _Library:
    with _reading:  # parallel searches wait for the first one instead of reading everything too
        return _read_library()


@cache
def _read_library() -> _Library:
    passages = {passage.title: passage for passage in (*_reference(), *_standard_library(), *_documents())}
    counts = {title: Counter(stems(f"{title} {passage.text}")) for title, passage in passages.items()}
    return _Library(passages, counts, Counter(stem for counted in counts.values() for stem in counted))


def _reference() -> Iterator[Passage]:
    """Yield the topics that `help()` knows; a text that several share comes once."""
    seen: set[str] = set()
    for topic, text in sorted(topics.items(), key=lambda item: len(item[1])):
        paragraphs = [paragraph for paragraph in _prose(text) if paragraph not in seen]
        seen.update(paragraphs)
        yield from _passages(f"Python's help on {topic}", paragraphs)


def _standard_library() -> Iterator[Passage]:
    """Yield the docstrings of the standard library's modules, classes and functions, without importing them."""
    folder = Path(sysconfig.get_path("stdlib"))
    for path in sorted([*folder.glob("[a-z]*.py"), *folder.glob("[a-z]*/__init__.py")]):
        name = path.parent.name if path.stem == "__init__" else path.stem
        try:
            module = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        yield from _passages(f"module {name}", _prose(ast.get_docstring(module) or ""))
        for node in module.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.name[0] != "_":
                yield from _passages(f"{name}.{node.name}", _prose(ast.get_docstring(node) or ""))


def _documents() -> Iterator[Passage]:
    """Yield our own documents; an installed package has none."""
    found = {"our README": REPOSITORY / "README.md"}
    found |= {f"our page on {path.stem}": path for path in REPOSITORY.glob("docs/*.md")}
    found |= {f"our README of {path.parent.name}": path for path in REPOSITORY.glob("examples/*/README.md")}
    for name, path in sorted(found.items()):
        if path.exists():
            yield from _passages(name, _prose(path.read_text(encoding="utf-8")))


def _prose(text: str) -> Iterator[str]:
    """Yield the paragraphs that are sentences, each as one line."""
    for paragraph in re.split(r"\n\s*\n", text):
        line = " ".join(paragraph.split())
        if not CODE.match(paragraph) and line.endswith((".", "!", "?", ":")) and len(line.split()) > 3:
            yield line


def _passages(title: str, paragraphs: Iterable[str]) -> Iterator[Passage]:
    """Yield paragraphs as passages of about the same size, numbered from the second on."""
    number, text = 1, ""
    for paragraph in paragraphs:
        if text and len(text) + len(paragraph) > PAGE:
            yield Passage(title if number == 1 else f"{title} ({number})", text)
            number, text = number + 1, ""
        text = f"{text}\n{paragraph}".strip()
    if text:
        yield Passage(title if number == 1 else f"{title} ({number})", text)
