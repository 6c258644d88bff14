"""The agent of this example. A worker that imports this module serves it."""

from __future__ import annotations

from pydantic import BaseModel
from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models.function import AgentInfo, FunctionModel

from examples.local_models import answer, keywords, prompt_of, summary_of
from paigeant_celery import PaigeantAgent, WorkflowDispatcher

__all__ = ["Summary", "dispatcher", "summariser"]


class Summary(BaseModel):
    """What the agent returns: the sentences that say most, and how often the main words occur."""

    sentences: list[str]
    keywords: dict[str, int]


def summarise(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """Stand in for a model: choose the sentences with the most frequent words."""
    text = prompt_of(messages)
    return answer(info, Summary(sentences=summary_of(text), keywords=keywords(text)))


dispatcher = WorkflowDispatcher()

summariser = PaigeantAgent(
    FunctionModel(summarise),
    output_type=Summary,
    instructions=(
        "Summarise the user's text in at most a third of its sentences (at least one), in its own words and language. "
        "Count its five most frequent words that carry meaning."
    ),
    dispatcher=dispatcher,
)
