"""A newsroom: a reporter reads notes, a writer makes an article of them, a publisher asks whether to publish it."""

from __future__ import annotations

import os

from pydantic_ai import RunContext
from pydantic_ai.models import Model

from examples.fastapi_service.archive import Article, headlines_about
from examples.fastapi_service.archive import publish as publish_in_archive
from examples.fastapi_service.thinking import ask_to_publish, report, write
from examples.local_models import Answering, local_model
from paigeant_celery import PaigeantAgent, idempotency_key

__all__ = ["publisher", "reporter", "writer"]

# Seconds between two words of the local models: slow enough to watch.
PACE = float(os.environ.get("NEWSROOM_PACE") or 0.08)


def model(local: Answering) -> Model | str:
    """Return the model that the environment names, since a worker has no command line; otherwise the local function."""
    return os.environ.get("NEWSROOM_MODEL") or local_model(local, pace=PACE)


reporter = PaigeantAgent(
    model(report),
    instructions="Search the archive for the main words of the notes. Then say in two sentences what the notes say.",
)

writer = PaigeantAgent(
    model(write),
    instructions="Write a short article: its headline in the first line, then paragraphs. Add nothing to the notes.",
)

publisher = PaigeantAgent(
    model(ask_to_publish),
    instructions="Publish the article once. Then say what was published, or why it was not.",
)


@reporter.tool_plain
def search_archive(words: list[str]) -> list[str]:
    """Return the headlines of earlier articles that have one of the words."""
    return headlines_about(words)


@publisher.tool(requires_approval=True)
def publish(ctx: RunContext[object], headline: str, body: str) -> str:
    """Publish an article."""
    # The key is the same in each attempt: a call that is made again publishes the same article, not a second one.
    publish_in_archive(Article(headline=headline, body=body), key=idempotency_key(ctx))
    return f"Published: {headline}"
