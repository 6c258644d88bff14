"""The shop's agents and functions: triage the message, look up the stock, draft a reply."""

from __future__ import annotations

import os
import re
from typing import Annotated

from pydantic import BaseModel, Field
from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models import Model
from pydantic_ai.models.function import AgentInfo, FunctionModel

from examples.common_words import EVERYDAY_WORDS, STOP_WORDS
from examples.local_models import answer, keywords, previous_output, prompt_of, words
from paigeant_celery import PaigeantAgent, WorkflowContext, activity

__all__ = ["Case", "Reply", "Ticket", "check_stock", "responder", "triage"]

TOPICS = {
    "damage": {"broke", "broken", "crack", "cracked", "damage", "damaged", "defect", "defective", "leaks", "torn"},
    "delivery": {
        "arrive",
        "arrived",
        "delivery",
        "late",
        "lost",
        "missing",
        "package",
        "parcel",
        "shipping",
        "waiting",
    },
    "refund": {"back", "cancel", "charged", "money", "paid", "refund", "return"},
}
UPSET = {
    "angry",
    "asap",
    "awful",
    "disappointed",
    "immediately",
    "never",
    "now",
    "still",
    "terrible",
    "urgent",
    "worst",
}
STOCK = {"bowl": 31, "cup": 64, "jug": 8, "kettle": 5, "mug": 120, "plate": 77, "spoon": 210, "teapot": 12, "tray": 9}


class Ticket(BaseModel):
    """What a customer's message is about."""

    topic: str
    urgency: Annotated[int, Field(ge=1, le=5)]
    about: list[str]


class Case(Ticket):
    """A ticket, and the warehouse's stock of the things that it names."""

    in_stock: dict[str, int]


class Reply(BaseModel):
    """What to tell the customer."""

    subject: str
    text: str


def sort_message(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """Stand in for a model: choose the topic whose words occur most, and count signs of impatience."""
    message = prompt_of(messages)
    found = words(message)
    topic = max(TOPICS, key=lambda name: sum(word in TOPICS[name] for word in found))
    known = any(word in TOPICS[topic] for word in found)
    urgency = 1 + sum(word in UPSET for word in found) + len(re.findall("!", message))
    no_things = UPSET.union(*TOPICS.values(), STOP_WORDS, EVERYDAY_WORDS)
    about = [word for word in keywords(message, most=8) if word not in no_things][:3]
    return answer(info, Ticket(topic=topic if known else "question", urgency=min(urgency, 5), about=about))


@activity
def check_stock(context: WorkflowContext) -> Case:
    """Ask the warehouse for the things that the message names; fail if it is closed today."""
    if context.variables.get("warehouse") == "closed":
        raise ConnectionError("the warehouse is closed and does not answer")
    assert context.previous_output is not None
    ticket = context.previous_output.output_as(Ticket)
    in_stock = {thing: STOCK.get(thing.removesuffix("s"), 0) for thing in ticket.about}
    return Case(**ticket.model_dump(), in_stock=in_stock)


def draft_reply(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """Stand in for a model: answer with what the case says."""
    case = previous_output(messages, Case)
    opening = "We are very sorry." if case.urgency > 2 else "Thank you for writing."
    named = " and ".join(f"the {thing}" for thing in case.about) or "your order"
    stock = ", ".join(f"{count} x {thing}" for thing, count in case.in_stock.items() if count)
    text = f"{opening} {_offer(case, named)} In stock: {stock or 'nothing that you name'}."
    return answer(info, Reply(subject=f"Your message about {named}", text=text))


def _offer(ticket: Case, named: str) -> str:
    """Say what is done about the things in the ticket, depending on what the warehouse has."""
    ready = " and ".join(f"the {thing}" for thing, count in ticket.in_stock.items() if count)
    match ticket.topic:
        case "damage" if ready:
            return f"We send you {ready} once more."
        case "damage" | "refund":
            return f"You get your money back for {named}."
        case "delivery" if ready:
            return f"If the parcel is not found today, we send you {ready} once more."
        case "delivery":
            return f"We look for the parcel with {named} today."
    return f"A colleague answers you about {named} today."


def _model(local: FunctionModel) -> Model | str:
    """Return the model that the environment names, since a worker has no command line; otherwise the local function."""
    return os.environ.get("SHOP_MODEL") or local


triage = PaigeantAgent(
    _model(FunctionModel(sort_message)),
    output_type=Ticket,
    instructions="Sort the customer's message: topic (damage, delivery, refund or question), urgency, things it names.",
)

responder = PaigeantAgent(
    _model(FunctionModel(draft_reply)),
    output_type=Reply,
    instructions="Draft a short, friendly reply to the customer. Promise nothing that the case does not hold.",
)
