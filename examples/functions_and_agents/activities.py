"""Functions and an agent on one slip: a function prepares the text, an agent shortens it, a function judges it."""

from __future__ import annotations

import asyncio

from pydantic import BaseModel
from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models.function import AgentInfo, FunctionModel

from examples.local_models import answer, keywords, previous_output, sentences, summary_of, words
from paigeant_celery import PaigeantAgent, StepPolicy, WorkflowContext, WorkflowDispatcher, activity

__all__ = ["Article", "Report", "Summary", "clean", "compare", "dispatcher", "editor"]


class Article(BaseModel):
    """A text and its measurements."""

    text: str
    words: int
    sentences: int


class Summary(BaseModel):
    """A shorter text about the same subject."""

    text: str


class Report(BaseModel):
    """How the summary compares with the article, for a reader of a given speed."""

    seconds_to_read: float
    seconds_saved: float
    keywords_kept: list[str]
    keywords_lost: list[str]


@activity
def clean(text: str) -> Article:
    """Keep each sentence once, without extra space, and measure the result. A sync function runs in a thread."""
    unique = list(dict.fromkeys(sentences(text)))
    tidy = " ".join(unique)
    return Article(text=tidy, words=len(words(tidy)), sentences=len(unique))


@activity(policy=StepPolicy(timeout=1.0))
async def compare(context: WorkflowContext, service_delay: float = 0.0) -> Report:
    """Compare the summary with the article; both come from the workflow, and so does the reader's speed."""
    await asyncio.sleep(service_delay)  # stands in for a call to another service
    article = (await context.output("clean")).output_as(Article)
    assert context.previous_output is not None
    summary = context.previous_output.output_as(Summary)
    per_word = 60 / float(str(context.variables["words_per_minute"]))
    main_words, left = keywords(article.text), set(words(summary.text))
    return Report(
        seconds_to_read=round(len(words(summary.text)) * per_word, 1),
        seconds_saved=round((article.words - len(words(summary.text))) * per_word, 1),
        keywords_kept=[word for word in main_words if word in left],
        keywords_lost=[word for word in main_words if word not in left],
    )


def shorten(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """Stand in for a model: keep the sentences with the most frequent words."""
    article = previous_output(messages, Article)
    return answer(info, Summary(text=" ".join(summary_of(article.text))))


dispatcher = WorkflowDispatcher()

editor = PaigeantAgent(
    FunctionModel(shorten),
    output_type=Summary,
    instructions="Shorten the article to at most a third of its sentences, at least one.",
    dispatcher=dispatcher,
)
