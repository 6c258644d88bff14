"""A slip as a document: what stands in one, how it is read and written, and what is wrong with its form."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from paigeant_celery import ActivitySpec, FunctionSpec, StepPolicy, TaskSpec
from paigeant_celery.core.block_steps import for_each, parallel, sub_workflow
from paigeant_celery.core.document_errors import Finding, InvalidDocument
from paigeant_celery.core.documents import (
    SlipDocument,
    document_schema,
    exported,
    form_faults,
    read_document,
    write_document,
)
from paigeant_celery.core.flow_steps import sleep_for, sleep_until, wait_for
from paigeant_celery.core.message import parse
from paigeant_celery.core.slip import name_steps

ROOT = Path(__file__).parents[3]
SAMPLES = ROOT / "tests" / "data" / "documents"
ONE = {"version": 1, "itinerary": [{"agent": "writer", "prompt": "write"}]}


def sample(name: str) -> str:
    return (SAMPLES / name).read_text(encoding="utf-8")


def with_(path: list[Any], value: object) -> dict[str, Any]:
    """Return the smallest document with something else at a path."""
    document: Any = copy.deepcopy(ONE)
    node = document
    for part in path[:-1]:
        node = node[part]
    node[path[-1]] = value
    return document


def test_the_pinned_document_is_read_as_it_was_written() -> None:
    """A document is kept for years, in a repository or in a scheduler's database."""
    document = read_document(sample("v1.yaml"))

    moment = document.start_at
    assert moment is not None
    first, readings, block, *rest = document.steps()
    assert first == ActivitySpec(
        "planner",
        "Name five sources on cats.\nOne line each.\n",
        {"tenant": 7, "tags": ["a", "b"]},
        "plan",
        StepPolicy(timeout=60, max_attempts=3, backoff=0.5, retry_on=["TimeoutError"], final_on=["ValueError"]),
        queue="slow",
        conversation="talk",
    )
    assert readings == for_each(
        [
            ActivitySpec("reader", "no", previous_output=False),
            sub_workflow(FunctionSpec("score", {"limit": 5}), timeout=30),
        ],
        over="plan#/sources",
        max_at_once=8,
        on_failure="collect",
        step_id="readings",
    )
    look = ["Look at this", {"kind": "image-url", "url": "https://example.org/cat.png"}]
    assert block == parallel(
        {
            "facts": [TaskSpec("shop.charge", [17, "eur"], {"dry": True}, immutable=True)],
            "style": [ActivitySpec("stylist", look, conversation_id="shared")],
        },
        join="any",
        timeout=600,
    )
    assert rest == [
        wait_for("approval", timeout=86400),
        sleep_for(30),
        sleep_until(moment.replace(hour=12)),
        ActivitySpec("writer", "Write it."),
    ]
    assert document.registered() == [(ActivitySpec("critic", "Judge it."), "finds weaknesses")]
    assert document.variables == {"language": "en", "retries": 3}
    limits = document.limits()
    assert limits is not None
    assert (limits.request_limit, str(limits.cost_limit)) == (50, "2.50".rstrip("0"))
    assert (document.stream, document.correlation_id) == (True, "sources-on-cats")


@pytest.mark.parametrize("name", ["v1.yaml", "exported_v1.json"])
@pytest.mark.parametrize("yaml", [True, False])
def test_a_document_is_written_and_read_back_equal(name: str, yaml: bool) -> None:
    """Whoever exports, looks and imports has changed nothing."""
    document = read_document(sample(name))

    assert read_document(write_document(document, yaml=yaml)) == document


def test_the_pinned_export_is_written_as_it_stands() -> None:
    """A diff between two exports shows what changed, and not how this version writes."""
    assert write_document(read_document(sample("exported_v1.json"))) == sample("exported_v1.json")


def test_the_schema_in_the_docs_is_that_of_the_code() -> None:
    """Editors complete and check documents with it. Write it anew with `python -m tests.support.document_schema`."""
    written = json.loads((ROOT / "docs" / "document.schema.json").read_text(encoding="utf-8"))

    assert written == document_schema()


def test_each_kind_of_step_of_a_slip_is_written_and_made_again() -> None:
    """What is exported can be run: nothing of a step is lost on the way."""
    text = (ROOT / "tests" / "data" / "wire" / "blocks.json").read_text(encoding="utf-8")
    samples = [parse(text, max_size=10**6, max_steps=256)]
    for name in ("talking", "tasks", "waiting", "first"):
        text = (ROOT / "tests" / "data" / "wire" / f"{name}.json").read_text(encoding="utf-8")
        samples.append(parse(text, max_size=10**6, max_steps=256))

    for message in samples:
        document = exported(message, state="running", revision="0")
        assert name_steps(document.steps()) == message.slip.itinerary


def test_steps_that_agents_inserted_are_not_planned_again() -> None:
    """Whoever runs an exported document again has them inserted again, and not twice."""
    document = read_document(sample("exported_v1.json"))

    assert [step.activity for step in document.steps()] == ["planner", "writer"]
    assert [(index, step.step_id) for index, step in document.remaining] == [(2, "writer")]


@pytest.mark.parametrize(
    ("document", "reason", "path", "remedy"),
    [
        ([1], "invalid_document", "", "begin with"),
        ({"itinerary": []}, "unsupported_version", "version", "add `version: 1`"),
        (with_(["version"], 2), "unsupported_version", "version", "install the version"),
        (with_(["version"], 1.0), "unsupported_version", "version", "write `version: 1`"),
        (with_(["version"], "1"), "unsupported_version", "version", "write `version: 1`"),
        (with_(["version"], True), "unsupported_version", "version", "write `version: 1`"),
        (with_(["itinerary"], []), "empty_itinerary", "itinerary", "add a step"),
        (with_(["itinerary"], {"agent": "a", "prompt": "b"}), "invalid_document", "itinerary", "write a list"),
        (with_(["itinery"], []), "unknown_field", "itinery", "did you mean `itinerary`?"),
        (with_(["zzz"], 1), "unknown_field", "zzz", "leave it out; there are version, "),
        (with_(["itinerary", 0, "promt"], "x"), "unknown_field", "itinerary[0].promt", "did you mean `prompt`?"),
        (with_(["itinerary", 0], {"kind": "agent"}), "invalid_document", "itinerary[0]", "see"),
        (with_(["itinerary", 0], None), "invalid_document", "itinerary[0]", "see"),
        (with_(["itinerary", 0, "prompt"], ""), "empty_prompt", "itinerary[0].prompt", "write what"),
        (with_(["itinerary", 0, "prompt"], False), "invalid_document", "itinerary[0].prompt", "see"),
        (with_(["itinerary", 0, "agent"], "a b"), "bad_agent_name", "itinerary[0].agent", "write the name"),
        (with_(["itinerary", 0, "agent"], 7), "invalid_document", "itinerary[0].agent", "put the text in quotes"),
        (with_(["itinerary", 0, "step_id"], "a b"), "bad_step_id", "itinerary[0].step_id", "see"),
        (with_(["itinerary", 0, "policy"], {"timeot": 1}), "unknown_field", "itinerary[0].policy.timeot", "`timeout`"),
        (with_(["itinerary", 0], {"sleep_until": 5}), "invalid_document", "itinerary[0].sleep_until", "as a text"),
        (
            with_(["itinerary", 0], {"sleep_until": "2030-01-01T08:00:00"}),
            *("naive_datetime", "itinerary[0].sleep_until", "2026-12-01T08:00:00Z"),
        ),
        (with_(["itinerary", 0], {"parallel": {}}), "invalid_block", "itinerary[0].parallel", "leave it out"),
        (with_(["itinerary", 0], {"parallel": {"a": []}}), "invalid_block", "itinerary[0].parallel.a", "leave it out"),
        (
            with_(["itinerary", 0], {"for_each": [{"agent": "a"}], "over": [1]}),
            *("invalid_document", "itinerary[0].for_each[0].prompt", "add it"),
        ),
        (with_(["deadline"], "soon"), "invalid_document", "deadline", "2026-12-01T08:00:00Z"),
        (with_(["stream"], "yes"), "invalid_document", "stream", "see"),
        (with_(["correlation_id"], "a b"), "bad_correlation_id", "correlation_id", "use other characters"),
        (with_(["variables"], []), "invalid_document", "variables", "see"),
        (with_(["usage_limits"], {"requests": 5}), "unknown_field", "usage_limits.requests", "`request_limit`"),
        (with_(["registered_activities"], [{"prompt": "x"}]), "invalid_document", "registered_activities[0].agent", ""),
    ],
)
def test_a_document_of_the_wrong_form_is_refused_with_path_and_remedy(
    document: object, reason: str, path: str, remedy: str
) -> None:
    """Whoever wrote it corrects it without reading this code."""
    text = json.dumps(document)
    with pytest.raises(InvalidDocument) as refused:
        read_document(text)

    found = refused.value.findings
    assert [(each.reason, each.path) for each in found] == [(reason, path)]
    assert remedy in found[0].remedy
    assert path in str(refused.value)


def test_all_mistakes_in_the_form_are_told_together() -> None:
    """Nobody corrects one after the other and asks ten times."""
    document = {
        "version": 1,
        "deadline": "soon",
        "itinerary": [{"agent": "a b", "prompt": ""}, {"parallel": {"x": [{"agent": "y"}]}}, {"nothing": 1}],
    }

    with pytest.raises(InvalidDocument) as refused:
        read_document(document)

    assert [finding.path for finding in refused.value.findings] == [
        "deadline",
        "itinerary[0].agent",
        "itinerary[0].prompt",
        "itinerary[1].parallel.x[0].prompt",
        "itinerary[2]",
    ]
    assert str(refused.value).startswith("the document has 5 mistakes:\n- `deadline`: ")


def test_the_error_survives_celery() -> None:
    """A scheduled document that is wrong tells all its mistakes in Flower."""
    error = InvalidDocument.of([Finding("invalid_document", "a", "is wrong", "mend it"), Finding("too_deep", "b", "c")])

    again = InvalidDocument(*json.loads(json.dumps(error.args)))

    assert (str(again), again.findings) == (str(error), error.findings)


@pytest.mark.parametrize("value", [float("nan"), object(), {1: 2}, b"x", (1,)])
def test_a_mapping_that_is_no_json_is_refused(value: object) -> None:
    """Code may build documents, too."""
    document, findings = form_faults({**ONE, "variables": {"a": value}})

    assert document is None
    assert [finding.reason for finding in findings] == ["invalid_document"]


def test_a_document_is_taken_as_it_is() -> None:
    """Whoever has read one passes it on."""
    document = read_document(ONE)

    assert read_document(document) is document
    assert isinstance(document, SlipDocument)


def test_no_value_stands_in_an_error() -> None:
    """An error goes into logs and into Flower; a prompt does not."""
    canary = "canary-4711"
    document = {
        "version": 1,
        "deadline": canary,
        "itinerary": [{"agent": "a", "prompt": [canary, 5], "deps": canary, "policy": canary, "step_id": 5}],
        "usage_limits": canary,
        "workflow": canary,
    }

    with pytest.raises(InvalidDocument) as refused:
        read_document(document)

    assert canary not in str(refused.value)
    assert canary not in repr(refused.value.args)
