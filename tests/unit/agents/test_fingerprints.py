"""Which code changes a fingerprint shows."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from pydantic_ai.durable_exec import ModelRequestParams
from pydantic_ai.messages import (
    BinaryContent,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    TextPart,
    ToolReturnPart,
    UserContent,
    UserPromptPart,
)
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.output import OutputObjectDefinition
from pydantic_ai.tools import RunContext, ToolDefinition

from paigeant_celery.agents import fingerprints
from paigeant_celery.agents.canonical import canonical_schema
from paigeant_celery.agents.fingerprints import Digests, digest
from paigeant_celery.journal.record import DECISIVE, change_in, differences

SCHEMA = {"type": "object", "properties": {"title": {"type": "string", "description": "of the book"}}}
TOOL = ToolDefinition(name="search", parameters_json_schema=SCHEMA, description="Look for books.")


def asked(text: str, at: int = 1) -> ModelRequest:
    return ModelRequest(parts=[UserPromptPart(content=text, timestamp=datetime(2030, 1, at, tzinfo=UTC))])


def request(*messages: ModelMessage, **changes: Any) -> ModelRequestParams:
    parameters = replace(ModelRequestParameters(function_tools=[TOOL], output_mode="text"), **changes)
    return ModelRequestParams(
        None,
        messages=list(messages) or [asked("hello")],
        model_settings=None,
        model_request_parameters=parameters,
        run_context=cast("RunContext[Any]", None),
    )


def changed(one: ModelRequestParams, other: ModelRequestParams) -> list[str]:
    first = Digests().of_request(one, model_name="m")
    second = Digests().of_request(other, model_name="m")
    decisive, drifted = differences(first, second)
    return [*decisive, *drifted]


def test_the_same_request_at_another_time_has_the_same_fingerprint() -> None:
    """Tomorrow's attempt replays today's."""
    assert changed(request(asked("hello", at=1)), request(asked("hello", at=2))) == []


def test_other_words_show_as_words() -> None:
    """Prompts and descriptions may be reworded while workflows run."""
    reworded = {"type": "object", "properties": {"title": {"type": "string", "description": "of what is sought"}}}

    assert changed(request(), request(asked("hi"))) == ["prompt"]
    assert changed(request(), request(function_tools=[replace(TOOL, description="Find.")])) == ["tool descriptions"]
    assert changed(request(), request(function_tools=[replace(TOOL, parameters_json_schema=reworded)])) == []


def test_other_tools_show_as_tools() -> None:
    """A recorded answer may call a tool that is gone, or with arguments that it no longer takes."""
    renamed = {"type": "object", "properties": {"name": {"type": "string"}}}

    assert changed(request(), request(function_tools=[])) == ["tools", "tool descriptions"]
    assert changed(request(), request(function_tools=[replace(TOOL, parameters_json_schema=renamed)])) == ["tools"]


def test_a_property_named_like_a_word_of_schemas_is_no_text() -> None:
    """`title` as a keyword is a text; as the name of a field it is not."""
    schema = {"type": "object", "title": "Book", "properties": {"title": {"type": "integer"}}}

    assert changed(request(), request(function_tools=[replace(TOOL, parameters_json_schema=schema)])) == ["tools"]


def test_a_schema_is_digested_once_although_each_request_has_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """With twenty tools that is a sixth of a hop. The last schema of each round is another one."""
    digested: list[object] = []

    def noting(schema: object) -> object:
        digested.append(schema)
        return canonical_schema(schema)

    monkeypatch.setattr(fingerprints, "canonical_schema", noting)
    monkeypatch.setattr(fingerprints, "MOST_KEPT", 2)
    digests = Digests()
    other = {"type": "object", "properties": {"name": {"type": "string"}}}
    prints = [
        digests.of_request(
            request(function_tools=[replace(TOOL, parameters_json_schema=deepcopy(schema))]), model_name="m"
        )
        for schema in (SCHEMA, SCHEMA, other, other)
    ]

    assert digested == [SCHEMA, other]
    assert prints[0] == prints[1] != prints[2] == prints[3]
    digests.of_request(
        request(function_tools=[replace(TOOL, parameters_json_schema={"type": "object"})]), model_name="m"
    )
    assert len(digests._schemas) <= fingerprints.MOST_KEPT


def test_another_output_shows_as_output() -> None:
    """A recorded answer may not fit what is expected now."""
    book = OutputObjectDefinition(json_schema={"type": "object", "properties": {"a": {"type": "string"}}})
    other = OutputObjectDefinition(json_schema={"type": "object", "properties": {"b": {"type": "string"}}})

    assert changed(request(), request(output_mode="native", output_object=book)) == ["output"]
    assert changed(request(output_object=book), request(output_object=other)) == ["output"]


def test_only_what_came_since_the_last_answer_is_covered() -> None:
    """A long history costs no more: earlier messages were covered when they were new."""
    answer = ModelResponse(parts=[TextPart("yes")])

    one = request(asked("first"), answer, asked("second"))
    other = request(asked("another first"), answer, asked("second"))

    assert changed(one, other) == []
    assert changed(one, request(asked("first"), answer, asked("another"))) == ["prompt"]
    assert changed(one, request(asked("first"), answer, asked("second"), answer)) == []


def test_a_digest_covers_what_json_cannot_say() -> None:
    """Prompts may hold pictures."""
    one, other = (BinaryContent(data=data, media_type="image/png") for data in (b"1", b"2"))

    assert digest(["a", one]) != digest(["a", other])
    assert digest(["a", one]) == digest(["a", BinaryContent(data=b"1", media_type="image/png")])
    assert digest({"b": 1, "a": 2}) == digest({"a": 2, "b": 1})
    assert digest(object()) == digest(object())
    assert digest({"of": {8, 0}}) == digest({"of": {0, 8}})  # whose order differs, as with the seed of a process
    assert digest([frozenset({8, 0}), 1.5]) != digest([frozenset({8, 0}), 2.5])


def test_a_large_file_is_hashed_and_not_written() -> None:
    """Each request that asks with it is compared with its record, and the event loop waits meanwhile."""
    small = BinaryContent(b"1", media_type="image/png")
    big, same, other = (
        BinaryContent(data * 100_000, media_type="image/png", vendor_metadata={"detail": "low"})
        for data in (b"12", b"12", b"13")
    )
    typed = replace(big, media_type="image/jpeg")

    def of(*content: UserContent) -> ModelRequestParams:
        result = ToolReturnPart("look", {"pages": [content[-1]]}, "id")
        return request(ModelRequest(parts=[UserPromptPart(content=content), result]))

    assert changed(of("a", big), of("a", same)) == []
    for unlike in (of("a", other), of("a", typed), of("b", big), of("a", big, big)):
        assert changed(of("a", big), unlike) == ["prompt"]
    as_before = fingerprints.asked([ModelRequest(parts=[UserPromptPart(content=["a", small])])])
    assert digest(as_before) == digest([[None, ["user-prompt", None, ["a", small]]]])  # of earlier versions
    assert len(json.dumps(fingerprints.asked(of("a", big, big).messages))) < 1000


def in_order(*words: str) -> ToolDefinition:
    """A tool as one process or another makes it, if its choices are a set."""
    return replace(TOOL, parameters_json_schema={"properties": {"of": {"enum": list(words)}}, "required": list(words)})


def test_the_order_of_what_a_set_made_is_no_change() -> None:
    """The hash seed differs in each process, so the next attempt would otherwise park a hop whose code is the same."""
    one, other = in_order("a", "b"), in_order("b", "a")
    form = [OutputObjectDefinition(json_schema=tool.parameters_json_schema) for tool in (one, other)]

    assert changed(request(function_tools=[one]), request(function_tools=[other])) == []
    assert changed(request(output_object=form[0]), request(output_object=form[1])) == []
    cat, dog = replace(TOOL, name="final_result_Cat"), replace(TOOL, name="final_result_Dog")
    assert changed(request(output_tools=[cat, dog]), request(output_tools=[dog, cat])) == []


def test_records_of_earlier_versions_are_compared_as_they_were_written() -> None:
    """A deploy replaces the workers one by one: each reads what others record and parks no unchanged step."""
    today = Digests().of_request(request(), model_name="m")
    earlier = {name: value for name, value in today.items() if "/" not in name}
    otherwise = Digests().of_request(request(function_tools=[in_order("a")]), model_name="m")

    assert earlier == {  # pinned: what the version before recorded of the same request
        "model": "m", "tools": "a88ed5367744b459", "output": "55e65e776028e91e", "prompt": "4323768f228527ab",
        "tool descriptions": "f871cc26ba9ae79e", "settings": "7376b2cbfa0ad26e",
    }  # fmt: skip
    for recorded, current in [(earlier, today), (today, earlier)]:
        assert differences(recorded, current) == ([], [])
    assert differences(earlier, otherwise) == (["tools"], [])
    assert differences(otherwise, earlier) == (["tools"], [])


def test_every_word_of_a_fingerprint_reads_well_in_a_sentence() -> None:
    """A word may be singular or plural, so no sentence about it may have an article or a verb that fits only one."""
    words = [*Digests().of_request(request(asked("go")), model_name="m"), "arguments"]  # the last is a tool's

    assert words[:6] == ["model", "tools", "output", "prompt", "tool descriptions", "settings"]
    assert words[6:] == ["tools/2", "output/2", "arguments"]  # no sentence has what stands after a stroke
    words = [word for word in words if "/" not in word]
    assert [change_in([word]) for word in words] == [f"its {word} changed" for word in words]
    assert change_in(DECISIVE) == "its model, tools and output changed"
