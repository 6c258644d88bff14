"""Hosts that use OpenTelemetry and Sentry: one trace for a workflow, and errors that say where but quote nothing."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from paigeant_celery import WorkflowDispatcher, WorkflowHandle, WorkflowParked
from tests.support.processes import Deployment, Process, deployment, eventually
from tests.support.starting import run

WITHIN = 30.0
STEPS = {"parked": "broken", "awaited": "awaited"}
SECRET = "-".join(["tiger", "42"])

pytestmark = pytest.mark.together("monitored")


@dataclass
class Monitored:
    """A worker whose module uses both, and what they got; workflows were dispatched by another such process."""

    made: Deployment
    worker: Process
    folder: Path

    def handle(self, correlation_id: str) -> WorkflowHandle:
        return WorkflowDispatcher().handle(correlation_id, self.made.transport())

    def kept(self, kind: str, *, wanted: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
        """Return the spans or events that are wanted; there may be more later."""
        file = self.folder / kind
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        return [line for line in map(json.loads, lines) if wanted(line)]

    def spans(self, correlation_id: str, name: str = "") -> list[dict[str, Any]]:
        """Return the ended spans of the workflow's trace in the order in which they began."""
        (request,) = self.kept("spans", wanted=lambda span: span["name"] == f"request {correlation_id}")
        return sorted(
            self.kept(
                "spans",
                wanted=lambda span: (
                    name in span["name"] and span["context"]["trace_id"] == request["context"]["trace_id"]
                ),
            ),
            key=lambda span: str(span["start_time"]),
        )

    def errors(self, hop_id: str) -> list[dict[str, Any]]:
        """Return Sentry's events about a hop."""
        return self.kept(
            "sentry",
            wanted=lambda event: event["type"] == "event" and event.get("tags", {}).get("celery_task_id") == hop_id,
        )


@pytest.fixture(scope="module", params=["prefork", pytest.param("threads", marks=pytest.mark.proof)])
def monitored(
    request: pytest.FixtureRequest, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Monitored]:
    folder = tmp_path_factory.mktemp("monitored")
    with deployment(redis_url, folder, paigeant_retry_backoff=0.1) as made:
        made.variables["MONITORED"] = str(folder)
        program = [sys.executable, "-m", "monitored"]
        done = run(program, cwd=made.configured("dispatching"), environment=made.environment(), within=WITHIN)
        assert done.returncode == 0, done.stderr
        yield Monitored(made, made.ready_worker("monitored", pool=request.param), folder)


def above(span: dict[str, Any], spans: list[dict[str, Any]]) -> list[str]:
    """Return the names of the spans around a span, the closest first."""
    parents = [other for other in spans if other["context"]["span_id"] == span["parent_id"]]
    return [parents[0]["name"], *above(parents[0], spans)] if parents else []


def test_a_workflow_is_one_trace_with_its_retries_and_its_agents_spans(monitored: Monitored) -> None:
    """Who opens the trace of a request sees all that it led to, each below what caused it."""
    assert monitored.handle("retried").result_sync(WITHIN).output == "said"
    prefix = monitored.made.prefix
    spoken = eventually(lambda: monitored.spans("retried", f"run/{prefix}.speaker"), within=WITHIN)

    spans = monitored.spans("retried")
    first, again = monitored.spans("retried", f"run/{prefix}.flaky")
    assert above(first, spans) == [f"apply_async/{prefix}.flaky", "dispatch workflow", "request retried"]
    assert "request retried" in above(again, spans)
    assert above(spoken[0], spans)[:2] == [f"apply_async/{prefix}.speaker", f"run/{prefix}.flaky"]
    (chat,) = monitored.spans("retried", "chat")
    assert f"run/{prefix}.speaker" in above(chat, spans)
    assert first["attributes"]["celery.retry.reason"]
    assert [link["context"]["span_id"] for link in again["links"]] == [first["context"]["span_id"]]
    assert [span["attributes"]["paigeant.outcome"] for span in (first, again)] == ["retrying", "completed"]
    assert not [span["name"] for span in spans if span["name"].startswith("process ")]  # no hop is there twice
    assert SECRET not in json.dumps([span for span in spans if span["name"].startswith(("run/", "apply_async/"))])


@pytest.mark.parametrize("name", ["parked", "awaited"])
def test_the_error_of_a_hop_is_reported_with_class_and_frames_alone(monitored: Monitored, name: str) -> None:
    """Monitors group by class and show the line, and are read by people who may not read prompts."""
    with pytest.raises(WorkflowParked):
        monitored.handle(name).result_sync(WITHIN)

    event = eventually(lambda: monitored.errors(f"{name}.0"), within=WITHIN)[0]
    (value,) = event["exception"]["values"]
    frames = value["stacktrace"]["frames"]
    assert value["type"] == "KeyError"
    assert value["value"].startswith(f"hop {name}.0 ")
    own = [frame for frame in frames if frame["filename"].endswith("monitored.py") and frame["lineno"]]
    assert [frame["function"] for frame in own] == [STEPS[name], "between", "culprit"]
    assert frames[-3:] == own
    assert not any(frame.get("vars") or frame.get("context_line") for frame in frames)
    assert SECRET not in json.dumps(event)
    span = eventually(lambda: monitored.spans(name, "run/"), within=WITHIN)[0]
    (reported,) = span["events"]
    assert reported["attributes"]["exception.type"].endswith(".KeyError")
    assert ", in culprit" in reported["attributes"]["exception.stacktrace"]
    assert SECRET not in json.dumps(span)
    log = monitored.worker.log()
    assert SECRET not in log
    assert f"[{name}.0] raised expected: KeyError(" in log
    assert ", in culprit" in log


def test_what_sentry_itself_reports_of_an_agent_quotes_nothing(monitored: Monitored) -> None:
    """Its integration of Pydantic AI sees the error before we do, with its text and its variables."""
    with pytest.raises(WorkflowParked):
        monitored.handle("agent").result_sync(WITHIN)

    events = eventually(
        lambda: [
            e for e in monitored.errors("agent.0") if e["exception"]["values"][-1]["mechanism"]["type"] == "celery"
        ],
        within=WITHIN,
    )
    assert len(events) == 1
    for event in monitored.errors("agent.0"):
        assert event["exception"]["values"][-1]["type"] == "KeyError"
        assert SECRET not in json.dumps({**event, "breadcrumbs": None})


def test_a_redriven_hop_and_a_repeated_dispatch_stay_in_the_trace_of_their_workflow(monitored: Monitored) -> None:
    """A day later nobody remembers which request it was."""
    with pytest.raises(WorkflowParked):
        monitored.handle("parked").result_sync(WITHIN)
    assert monitored.handle("parked").redrive_sync()
    eventually(lambda: len(monitored.errors("parked.0")) > 1, within=WITHIN)

    first, second = monitored.errors("parked.0")
    assert first["contexts"]["trace"]["trace_id"] == second["contexts"]["trace"]["trace_id"]
    eventually(lambda: len(monitored.spans("parked", "run/")) == 2, within=WITHIN)
    sent = monitored.kept("spans", wanted=lambda span: "elsewhere" in span["name"])
    assert {span["context"]["trace_id"] for span in sent} == {
        span["context"]["trace_id"] for span in monitored.spans("unknown", "request")
    }


def test_an_executor_in_memory_reports_alike(monitored: Monitored) -> None:
    """What is tried out at home behaves as in production."""
    (event,) = monitored.errors("m.0")

    assert event["exception"]["values"][-1]["type"] == "KeyError"
    assert event["exception"]["values"][-1]["stacktrace"]["frames"][-1]["function"] == "culprit"
    assert SECRET not in json.dumps(event)
