"""The local model of this example: it uses the tools as a real model would, going by the words of the question."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import TypeAdapter
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo

from examples.durable_research.library import Comparison, Hit
from examples.local_models import keywords, prompt_of, sentences, stems

__all__ = ["research"]

MOST_SEARCHED = 3  # words, one by one and together
MOST_READ = 3  # passages

_HITS, _COMPARISON = TypeAdapter(list[Hit]), TypeAdapter(Comparison)


def research(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """Take the next step, depending on which tools have answered so far."""
    question = prompt_of(messages)
    asked = list(keywords(question, most=MOST_SEARCHED))
    searched, pages = _returned(messages, "search"), _returned(messages, "read")
    if not searched:
        queries = dict.fromkeys([" ".join(asked), *asked])
        return _calling(f"I look for {_listed(asked)}.", "search", [{"query": query} for query in queries])
    titles = _best(hit for found in searched for hit in _HITS.validate_python(found))
    if not pages and titles:
        return _calling(f"I read {_listed(titles)}.", "read", [{"title": title} for title in titles])
    compared, filed = _returned(messages, "compare"), _returned(messages, "file_report")
    if not compared:
        return _calling("What do they have in common?", "compare", [{"titles": titles, "words": asked}])
    comparison = _COMPARISON.validate_python(compared[0])
    findings = _findings(dict(zip(titles, pages, strict=True)), asked)
    if not filed:
        text = "\n".join([f"# {question}", "", *(f"- {finding}" for finding in findings)])
        return _calling(f"I file {len(findings)} findings.", "file_report", [{"text": f"{text}\n"}])
    output = {
        "question": question, "findings": findings, "sources": titles, "missing": comparison.missing,
        "filed": filed[0],
    }  # fmt: skip
    return ModelResponse(parts=[ToolCallPart(info.output_tools[0].name, output)])


def _returned(messages: list[ModelMessage], tool: str) -> list[Any]:
    """Return the results of a tool's calls, in the order in which they were asked for."""
    returned = {
        part.tool_call_id: part.content
        for message in messages
        for part in message.parts
        if isinstance(part, ToolReturnPart) and part.tool_name == tool
    }
    calls = (part for message in messages for part in message.parts if isinstance(part, ToolCallPart))
    return [returned[call.tool_call_id] for call in calls if call.tool_call_id in returned]


def _calling(words: str, tool: str, calls: Iterable[Mapping[str, object]]) -> ModelResponse:
    return ModelResponse(parts=[TextPart(words), *(ToolCallPart(tool, dict(arguments)) for arguments in calls)])


def _best(hits: Iterable[Hit]) -> list[str]:
    """Return the titles that weigh most over all searches together."""
    weights: dict[str, float] = defaultdict(float)
    for hit in hits:
        weights[hit.title] += hit.weight
    return sorted(weights, key=lambda title: (-weights[title], title))[:MOST_READ]


def _findings(pages: Mapping[str, str], asked: list[str]) -> list[str]:
    """Return the sentence of each passage with most of the asked words; among equals, shorter ones first."""
    wanted = set(stems(" ".join(asked)))
    best = {
        title: max(sentences(text), key=lambda sentence: (len(wanted & set(stems(sentence))), -len(sentence)))
        for title, text in pages.items()
    }
    return [f"{sentence} [{title}]" for title, sentence in best.items()]


def _listed(items: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(items[:-1]), *items[-1:]]))
