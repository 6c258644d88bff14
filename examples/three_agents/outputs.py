"""What the agents of this example pass to each other; it crosses the queues as JSON."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

__all__ = ["Jokes", "Selection", "Topic"]


class Topic(BaseModel):
    """What a text is about, and other words from it to play with."""

    topic: str
    related: list[str]


class Jokes(BaseModel):
    """Three jokes."""

    jokes: Annotated[list[str], Field(min_length=3, max_length=3)]


class Selection(BaseModel):
    """The best of three jokes."""

    number: Annotated[int, Field(ge=1, le=3)]
    reason: str
