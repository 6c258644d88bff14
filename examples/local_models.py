"""Models that are local functions: no key, no network, and all they say comes from the text that they get.

Such a function takes the place of a provider: it reads the messages of the run and answers by calling the output
tool, as a real model does for a structured output.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

from pydantic import BaseModel
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, UserPromptPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, DeltaToolCalls, FunctionModel

from examples.common_words import EVERYDAY_WORDS, STOP_WORDS

__all__ = [
    "Answering",
    "answer",
    "keywords",
    "local_model",
    "own_prompt",
    "previous_output",
    "previous_text",
    "prompt_of",
    "sentences",
    "stems",
    "summary_of",
    "unreachable",
    "words",
]

Answering = Callable[[list[ModelMessage], AgentInfo], ModelResponse]
ModelT = TypeVar("ModelT", bound=BaseModel)

PREVIOUS = re.compile(r"\n<previous_output [^\n]*>\n(.*)\n</previous_output>\Z", re.DOTALL)
# A full stop, perhaps after a quotation mark, followed by space; a new line; a Chinese or Japanese full stop.
SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[.!?]['\")\]])\s+|\n+|(?<=[\u3002\uff01\uff1f])")
WORD = re.compile(r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*")


def local_model(function: Answering, *, pace: float = 0.0) -> FunctionModel:
    """Return a model that answers as the function does; in a stream, word by word with pauses of `pace`."""

    async def stream(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str | DeltaToolCalls]:
        for index, part in enumerate(function(messages, info).parts):
            if isinstance(part, TextPart):
                for piece in re.findall(r"\s*\S+|\s+", part.content):
                    yield piece
                    await asyncio.sleep(pace)
            elif isinstance(part, ToolCallPart):
                name, arguments, call_id = part.tool_name, part.args_as_json_str(), part.tool_call_id
                yield {index: DeltaToolCall(name, arguments, tool_call_id=call_id)}
                await asyncio.sleep(pace)

    return FunctionModel(function, stream_function=stream, model_name=f"local:{function.__name__}")


def prompt_of(messages: list[ModelMessage]) -> str:
    """Return the user prompt that began the run."""
    return next(
        part.content
        for message in messages
        for part in message.parts
        if isinstance(part, UserPromptPart) and isinstance(part.content, str)
    )


def own_prompt(messages: list[ModelMessage]) -> str:
    """Return the user prompt without the previous step's output at its end."""
    whole, own = prompt_of(messages), PREVIOUS.sub("", prompt_of(messages))
    return own if own == whole else own.rpartition("\n")[0].rstrip()  # the line in front of that says what it is


def previous_output(messages: list[ModelMessage], type_: type[ModelT]) -> ModelT:
    """Return the previous step's output from the block at the end of the prompt."""
    return type_.model_validate_json(previous_text(messages))


def previous_text(messages: list[ModelMessage]) -> str:
    """Return the previous step's output as it stands there: a text as it is, everything else as JSON."""
    block = PREVIOUS.search(prompt_of(messages))
    if block is None:
        raise ValueError("the prompt has no output of a previous step")
    return block[1]


def answer(info: AgentInfo, output: BaseModel) -> ModelResponse:
    """Answer with a structured output, by calling the agent's output tool."""
    return ModelResponse(parts=[ToolCallPart(info.output_tools[0].name, output.model_dump(mode="json"))])


def unreachable(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """Fail as a provider that is down does."""
    raise ConnectionError("the model provider does not answer")


def sentences(text: str) -> list[str]:
    """Return the sentences of a text, each on one line."""
    parts = (" ".join((part or "").split()) for part in SENTENCE_END.split(text))
    return [part for part in parts if part]


def words(text: str) -> list[str]:
    """Return the words of a text in lower case."""
    return [word.lower().replace("\u2019", "'") for word in WORD.findall(text)]


def stems(text: str) -> list[str]:
    """Return the words of a text without their endings, so that *lists* finds *list*."""
    return [_stem(word.removesuffix("'s")) for word in words(text)]


def keywords(text: str, most: int = 5) -> dict[str, int]:
    """Return how often the most frequent words occur; among equals, longer ones first, then earlier ones.

    Everyday words count only in a text that has no others, and stop words only if there is nothing else.
    """
    found = words(text)
    telling = [word for word in found if word not in STOP_WORDS and len(word) > 1]
    counts = Counter(word for word in telling if word not in EVERYDAY_WORDS) or Counter(telling) or Counter(found)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], -len(item[0])))
    return dict(ranked[:most])


def summary_of(text: str) -> list[str]:
    """Return the third of a text's sentences that has most of its frequent words, in their order."""
    found = sentences(text)
    weights = keywords(text, most=20)

    def weight(index: int) -> float:
        inside = words(found[index])
        return sum(weights.get(word, 0) for word in inside) / (len(inside) ** 0.5 or 1)

    best = sorted(range(len(found)), key=lambda index: (-weight(index), index))[: max(1, len(found) // 3)]
    return [found[index] for index in sorted(best)]


def _stem(word: str) -> str:
    for ending in ("ing", "ed", "es", "s", "e"):
        if word.endswith(ending) and not word.endswith("ss") and len(word) - len(ending) >= 3:
            word = word.removesuffix(ending)
            break
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "aeiouls":
        word = word[:-1]  # *running*, *stopped*
    return f"{word[:-1]}i" if word.endswith("y") else word
