"""The tool calls that a run asks somebody about, as a wait: its parts, what it is about, and what answers it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from pydantic import JsonValue, TypeAdapter
from pydantic_ai.messages import ToolCallPart
from pydantic_ai.tools import DeferredToolRequests, DeferredToolResults

from paigeant_celery.activities.context import workflow_context
from paigeant_celery.core.about import About, AskedCall, CallKind, write_about
from paigeant_celery.core.answers import answers_of, results_of
from paigeant_celery.core.errors import NoWorkflow

__all__ = ["AskedCalls", "about_step", "read_results"]

KNOWN = {field.name for field in fields(DeferredToolResults)}  # older versions have fewer

_RESULTS = TypeAdapter(DeferredToolResults)


def about_step(*calls: AskedCall, question: str | None = None) -> About:
    """Return what whoever answers is shown of a wait that begins in this step."""
    try:
        context = workflow_context()
    except NoWorkflow:
        return About(calls=calls, question=question)
    return About(step=context.path, activity=context.activity, calls=calls, question=question)


def read_results(tree: Mapping[str, JsonValue]) -> DeferredToolResults:
    """Read answers from their JSON form; raises `ValueError` if they have another."""
    return _RESULTS.validate_python({name: part for name, part in tree.items() if name in KNOWN})


@dataclass(frozen=True)
class AskedCalls:
    """Calls that a run asks about, each of which is a part of the wait."""

    requests: DeferredToolRequests

    @cached_property
    def parts(self) -> tuple[str, ...]:
        """The ids of the calls, each once."""
        return tuple(dict.fromkeys(call.tool_call_id for call in self._calls()))

    @cached_property
    def about(self) -> About:
        """What whoever answers is shown of them."""
        calls = [
            AskedCall(id=call.tool_call_id, kind=self._kind(call), tool=call.tool_name, arguments=_arguments_of(call))
            for call in self._calls()
        ]
        asked = [text for call in calls if call.kind == "question" for text in _questions_in(call.arguments)]
        return about_step(*calls, question="\n".join(asked) or None)

    @property
    def told(self) -> str:
        """The same as the text that a wait keeps."""
        return write_about(self.about)

    def split(self, payload: JsonValue) -> Mapping[str, JsonValue]:
        """Return an answer that was given at once, by the parts; None for calls that it leaves to somebody else.

        Raises `InvalidAnswer`.
        """
        given: Mapping[str, str] = {}
        if not isinstance(payload, dict) or payload.get("approvals") or payload.get("calls"):
            given = answers_of(payload, parts=self.parts, about=self.about)
        return {part: json.loads(given[part]) if part in given else None for part in self.parts}

    def joined(self, answers: Mapping[str, Any]) -> dict[str, JsonValue]:
        """Return the answers to the parts in the JSON form of `DeferredToolResults`."""
        return results_of({part: answer for part, answer in answers.items() if answer is not None})

    def can_use(self, answers: Mapping[str, Any]) -> bool:
        """Say whether a run can go on with these answers."""
        try:
            results = read_results(self.joined(answers))
            self.requests.build_results(approvals=results.approvals, calls=results.calls)
        except ValueError:
            return False
        return True

    def _calls(self) -> Iterator[ToolCallPart]:
        yield from self.requests.approvals
        yield from self.requests.calls

    def _kind(self, call: ToolCallPart) -> CallKind:
        if hasattr(self.requests, "kind"):  # since pydantic-ai 2.68; before that, there are no questions
            return self.requests.kind(call.tool_call_id)
        return "approval" if call in self.requests.approvals else "external"


def _arguments_of(call: ToolCallPart) -> JsonValue:
    try:
        return call.args_as_dict()
    except (ValueError, AssertionError):  # what a model wrote is no JSON object
        return None


def _questions_in(arguments: JsonValue) -> Iterator[str]:
    """Yield the texts of questions, as the arguments of a tool that asks them have them."""
    if not isinstance(arguments, dict):
        return
    listed = arguments.get("questions")
    for each in [arguments, *(listed if isinstance(listed, list) else [])]:
        if isinstance(each, dict) and isinstance(each.get("question"), str):
            yield str(each["question"])
