"""The local models of this example: they read, judge and write by the words of the question."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable

from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models.function import AgentInfo

from examples.local_models import answer, keywords, previous_output, prompt_of, sentences, stems
from examples.research_fan_out.documents import Document
from examples.research_fan_out.outputs import Answer, Finding, Findings, Quote, Verdict, Verdicts

__all__ = ["judge_clarity", "judge_evidence", "judge_relevance", "read", "write"]

MOST_READ = 2  # sentences of a document
MOST_JUDGED = 3  # quotes of a judge
MOST_WRITTEN = 4  # sentences of the answer
LONG_THOUGHT = 60.0  # seconds, in which the two other judges have long decided

HOW = re.compile(r"\d|\b(?:because|by|from)\b")


def read(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """Take the sentences of a document that have most words of the question."""
    document, asked = previous_output(messages, Document), _asked(messages)
    found = [(len(asked & set(stems(sentence))), sentence) for sentence in sentences(document.text)]
    best = sorted((weight for weight, _ in found if weight), reverse=True)[:MOST_READ]
    told = [sentence for weight, sentence in found if best and weight >= best[-1]][:MOST_READ]
    return answer(info, Finding(title=document.title, sentences=told))


def judge_relevance(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """Prefer the quotes that have most words of the question."""
    asked = _asked(messages)
    return _judged(messages, info, lambda text: len(asked & set(stems(text))), "they say most of what was asked")


def judge_evidence(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """Prefer the quotes that say how, why or how much."""
    asked = _asked(messages)

    def weight(text: str) -> float:
        return len(HOW.findall(text)) + len(asked & set(stems(text))) / 100

    return _judged(messages, info, weight, "they say how, why or how much")


async def judge_clarity(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """Prefer short quotes, after a thought that is so long that the others have decided by then."""
    await asyncio.sleep(LONG_THOUGHT)
    return _judged(messages, info, lambda text: -len(text), "they are short")


def write(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """Take what most judges would answer with; among equals, what stands higher on their lists."""
    verdicts = previous_output(messages, Verdicts).root
    votes: Counter[tuple[str, str]] = Counter()
    for verdict in verdicts.values():
        for place, quote in enumerate(verdict.quotes):
            votes[quote.sentence, quote.title] += MOST_JUDGED - place
    best = sorted(votes, key=lambda quote: (-votes[quote], quote))[:MOST_WRITTEN]
    told = [f"{sentence} [{title}]" for sentence, title in best] or ["The documents do not say."]
    sources = list(dict.fromkeys(title for _, title in best))
    return answer(info, Answer(answer=told, sources=sources, judges=list(verdicts)))


def _asked(messages: list[ModelMessage]) -> set[str]:
    """Return the words of the question that tell something, without their endings."""
    before_output = prompt_of(messages).partition("\n<previous_output ")[0]
    question = before_output.rpartition("\n")[0]  # its last line introduces the output
    return set(stems(" ".join(keywords(question, most=20))))


def _judged(
    messages: list[ModelMessage], info: AgentInfo, weight: Callable[[str], float], reason: str
) -> ModelResponse:
    found = previous_output(messages, Findings).root
    quotes = [Quote(title=finding.title, sentence=sentence) for finding in found for sentence in finding.sentences]
    best = sorted(quotes, key=lambda quote: -weight(quote.sentence))[:MOST_JUDGED]
    return answer(info, Verdict(quotes=best, reason=reason if best else "nobody found anything"))
