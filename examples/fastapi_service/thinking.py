"""The local models of this example: what they say comes from the notes that they get, and comes word by word."""

from __future__ import annotations

from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo

from examples.local_models import keywords, own_prompt, previous_text, sentences, summary_of

__all__ = ["ask_to_publish", "report", "write"]

MOST_OF_A_HEADLINE = 3  # words


def report(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """Ask the archive for the main words of the notes; then say what the notes say."""
    notes = own_prompt(messages)
    found = _results(messages)
    if not found:
        return ModelResponse(parts=[ToolCallPart("search_archive", {"words": list(keywords(notes))})])
    earlier = [str(headline) for headline in found[0].content] if isinstance(found[0].content, list) else []
    counts = ", ".join(f"{word} ({count})" for word, count in keywords(notes).items())
    text = f"The notes have {len(sentences(notes))} sentences. Their main words: {counts or 'none'}."
    text += f" In the archive: {'; '.join(earlier)}." if earlier else " The archive has nothing about it."
    return ModelResponse(parts=[TextPart(text)])


def write(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """Write an article: a headline, what matters most, the rest, and what the reporter found."""
    notes, brief = own_prompt(messages), previous_text(messages)
    first = summary_of(notes)
    rest = [sentence for sentence in sentences(notes) if sentence not in first]
    words = [word.capitalize() for word in list(keywords(notes))[:MOST_OF_A_HEADLINE]]
    headline = f"{', '.join(words) or 'Notes'}: what we know"
    paragraphs = [headline, " ".join(first), " ".join(rest), f"What our reporter found out: {brief}"]
    return ModelResponse(parts=[TextPart("\n\n".join(filter(None, paragraphs)))])


def ask_to_publish(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """Ask to publish what the writer wrote; then say what came of it."""
    headline, _, body = previous_text(messages).partition("\n")
    found = _results(messages)
    if not found:
        return ModelResponse(parts=[ToolCallPart("publish", {"headline": headline, "body": body.strip()})])
    (result,) = found
    text = str(result.content) if result.outcome == "success" else f"Not published: {result.content}"
    return ModelResponse(parts=[TextPart(text)])


def _results(messages: list[ModelMessage]) -> list[ToolReturnPart]:
    return [part for message in messages for part in message.parts if isinstance(part, ToolReturnPart)]
