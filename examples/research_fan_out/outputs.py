"""What the steps of this example pass to each other; it crosses the queues as JSON."""

from __future__ import annotations

from pydantic import BaseModel, RootModel

from examples.research_fan_out.documents import Document

__all__ = ["Answer", "Finding", "Findings", "Library", "Quote", "Verdict", "Verdicts"]


class Library(BaseModel):
    """All that can be read."""

    documents: list[Document]


class Finding(BaseModel):
    """What a document says about the question, in its own words."""

    title: str
    sentences: list[str]


class Findings(RootModel[list[Finding]]):
    """The findings of all readers, in the order of the documents."""


class Quote(BaseModel):
    """A sentence and where it stands."""

    title: str
    sentence: str


class Verdict(BaseModel):
    """The quotes that a judge would answer with, best first, and why."""

    quotes: list[Quote]
    reason: str


class Verdicts(RootModel[dict[str, Verdict]]):
    """The verdicts of the judges that had one in time, by the name of the judge."""


class Answer(BaseModel):
    """What the writer makes of the verdicts."""

    answer: list[str]
    sources: list[str]
    judges: list[str]
