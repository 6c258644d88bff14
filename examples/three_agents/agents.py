"""Three agents that pass their outputs on: topic, jokes, selection."""

from __future__ import annotations

from pydantic_ai.models.function import FunctionModel

from examples.three_agents.outputs import Jokes, Selection, Topic
from examples.three_agents.wordplay import choose_joke, find_topic, write_jokes
from paigeant_celery import PaigeantAgent, WorkflowDispatcher

__all__ = ["dispatcher", "joke_judge", "joke_writer", "topic_finder"]

dispatcher = WorkflowDispatcher()

topic_finder = PaigeantAgent(
    FunctionModel(find_topic),
    output_type=Topic,
    instructions="Name the topic of the user's text in one word, and up to four other words of it to joke about.",
    dispatcher=dispatcher,
)

joke_writer = PaigeantAgent(
    FunctionModel(write_jokes),
    output_type=Jokes,
    instructions="You write one-line jokes that play with words, in the language of the topic.",
    dispatcher=dispatcher,
)

joke_judge = PaigeantAgent(
    FunctionModel(choose_joke),
    output_type=Selection,
    instructions="You choose the best joke by its number, counted from 1, and say why in a few words.",
    dispatcher=dispatcher,
)
