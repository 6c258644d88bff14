"""An editor that may insert a fact checker before the publisher, a trainee who may not, and their local models."""

from __future__ import annotations

from datetime import UTC, datetime

from pydantic import BaseModel
from pydantic_ai.messages import ModelMessage, ModelResponse, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from examples.dynamic_itinerary.claims import checked, claims_in
from examples.local_models import answer, keywords, previous_output, prompt_of, sentences
from paigeant_celery import PaigeantAgent, WorkflowDispatcher

__all__ = ["Article", "Draft", "dispatcher", "editor", "fact_checker", "proofreader", "publisher", "trainee"]


class Draft(BaseModel):
    """A text on its way to the publisher; `notes` say what readers should know about its claims."""

    text: str
    notes: list[str] = []


class Article(BaseModel):
    """What is published."""

    headline: str
    body: str
    notes: list[str]


def edit(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """Tidy the text; if it makes claims, first ask for a fact checker, once."""
    text = " ".join(sentence[0].upper() + sentence[1:] for sentence in sentences(prompt_of(messages)))
    asked = any(isinstance(part, ToolReturnPart) for message in messages for part in message.parts)
    claims = claims_in(text)
    if claims and not asked:
        step = {"activity": "fact_checker", "prompt": "Check these claims:\n" + "\n".join(claims)}
        return ModelResponse(parts=[ToolCallPart("insert_activities", {"steps": [step]})])
    return answer(info, Draft(text=text))


def check_facts(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """Put a note on each claim of the draft."""
    draft = previous_output(messages, Draft)
    today = datetime.now(UTC).date()
    notes = [f"{claim} ({checked(claim, today=today)})" for claim in claims_in(draft.text)]
    return answer(info, Draft(text=draft.text, notes=[*draft.notes, *notes]))


def proofread(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """End the draft with a full stop."""
    draft = previous_output(messages, Draft)
    text = draft.text if draft.text.endswith((".", "!", "?")) else f"{draft.text}."
    return answer(info, Draft(text=text, notes=draft.notes))


def publish(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """Set the draft under a headline made of its main words."""
    draft = previous_output(messages, Draft)
    headline = ", ".join(keywords(draft.text, most=3)).capitalize()
    return answer(info, Article(headline=headline, body=draft.text, notes=draft.notes))


EDITING = (
    "You edit the user's text: correct it, keep what it says. If it states numbers or absolutes (all, never, first), "
    "insert the activity `fact_checker` before you answer; otherwise insert nothing. If that is refused, go on."
)

dispatcher = WorkflowDispatcher()

editor = PaigeantAgent(
    FunctionModel(edit),
    output_type=Draft,
    instructions=EDITING,
    dispatcher=dispatcher,
    can_edit_itinerary=True,
    max_added_steps=1,
)

trainee = PaigeantAgent(
    FunctionModel(edit),
    output_type=Draft,
    instructions=EDITING,
    dispatcher=dispatcher,
    can_edit_itinerary=True,
    allowed_activities=["proofreader"],
)

fact_checker = PaigeantAgent(
    FunctionModel(check_facts),
    output_type=Draft,
    description="Puts a note on each claim of a draft.",
    instructions="Return the draft unchanged, with one note for each claim: correct, wrong, or what would prove it.",
    dispatcher=dispatcher,
)

proofreader = PaigeantAgent(
    FunctionModel(proofread),
    output_type=Draft,
    description="Corrects spelling and punctuation of a draft.",
    instructions="Return the draft with its spelling and punctuation corrected.",
    dispatcher=dispatcher,
)

publisher = PaigeantAgent(
    FunctionModel(publish),
    output_type=Article,
    instructions="Publish the draft under a short headline; keep its text and its notes.",
    dispatcher=dispatcher,
)

# What an agent with `can_edit_itinerary` may insert, with a prompt that it may change.
fact_checker.register_activity("Check the claims of this draft.")
proofreader.register_activity("Correct this draft.")
