"""A researcher that plans, searches, reads, compares and files a report: many calls in one step of a workflow."""

from __future__ import annotations

import os

from pydantic import BaseModel
from pydantic_ai import RunContext

from examples.durable_research.ledger import CountedModel, counted, folder
from examples.durable_research.library import Comparison, Hit, compared, find, own, page
from examples.durable_research.thinking import research
from examples.local_models import local_model
from paigeant_celery import PaigeantAgent, WorkflowDispatcher, idempotency_key

__all__ = ["Report", "dispatcher", "researcher"]

PACE = 0.03  # seconds between two words of the local model: about as fast as a real one


class Report(BaseModel):
    """What was found out."""

    question: str
    findings: list[str]
    sources: list[str]
    missing: list[str]
    filed: str


dispatcher = WorkflowDispatcher()

researcher = PaigeantAgent(
    # A worker has no command line: the environment names its model.
    CountedModel(os.environ.get("RESEARCH_MODEL") or local_model(research, pace=PACE)),
    output_type=Report,
    instructions=(
        "Answer the user's question from the library alone. First search for each of its main words, in parallel. "
        "Then read the most promising passages, in parallel, and compare them. File a report once, then answer: "
        "findings are sentences with their source in brackets, missing are words that no passage speaks of."
    ),
    dispatcher=dispatcher,
)


@researcher.tool
def search(ctx: RunContext[object], query: str) -> list[Hit]:
    """Search the library for a few words; returns titles, best first."""
    with counted(ctx):
        return find(query, also=own(ctx.prompt))


@researcher.tool
def read(ctx: RunContext[object], title: str) -> str:
    """Read a passage that `search` named."""
    with counted(ctx):
        return page(title, also=own(ctx.prompt)) or f"There is no passage {title!r}; search first."


@researcher.tool
def compare(ctx: RunContext[object], titles: list[str], words: list[str]) -> Comparison:
    """Say which of the words each passage mentions, and which no passage does."""
    with counted(ctx):
        return compared(titles, words, also=own(ctx.prompt))


@researcher.tool
def file_report(ctx: RunContext[object], text: str) -> str:
    """File a report; returns the name under which it can be found."""
    with counted(ctx):
        # The key is the same in each attempt: a call that is made again writes the same file, not a second one.
        name = f"report-{idempotency_key(ctx)}.md"
        (folder() / name).write_text(text, encoding="utf-8")
        return name
