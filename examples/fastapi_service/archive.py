"""What the newsroom has published: a file for each article, in `NEWSROOM_FOLDER`."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel

from examples.local_models import stems

__all__ = ["Article", "articles", "headlines_about", "publish"]


class Article(BaseModel):
    """A text with its headline."""

    headline: str
    body: str


def publish(article: Article, *, key: str) -> None:
    """Publish an article; a second time with the same key, it is the same one."""
    file = _folder() / f"{key}.json"
    written = file.with_suffix(".part")
    written.write_text(article.model_dump_json(), encoding="utf-8")
    written.replace(file)


def articles() -> list[Article]:
    """Return what has been published, newest first."""
    files = sorted(_folder().glob("*.json"), key=lambda file: file.stat().st_mtime_ns, reverse=True)
    return [Article(**json.loads(file.read_text(encoding="utf-8"))) for file in files]


def headlines_about(words: Iterable[str]) -> list[str]:
    """Return the headlines of articles that have one of the words."""
    wanted = {stem for word in words for stem in stems(word)}
    return [article.headline for article in articles() if wanted & {*stems(article.headline), *stems(article.body)}]


def _folder() -> Path:
    folder = Path(os.environ.get("NEWSROOM_FOLDER") or Path(tempfile.gettempdir()) / "newsroom")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
