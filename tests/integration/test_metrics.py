"""Hosts that have an SDK of OpenTelemetry and no instrumentation of Celery: spans of our own, and metrics."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from paigeant_celery import WorkflowDispatcher, WorkflowHandle, WorkflowParked
from paigeant_celery.broker.metrics import METRICS
from paigeant_celery.broker.spans import ATTRIBUTES
from tests.support.processes import Deployment, deployment, eventually
from tests.support.starting import run

WITHIN = 60.0
SECRET = "-".join(["tiger", "42"])
WORKFLOWS = {"redriven", "resumed", "retried", "taken"}

pytestmark = pytest.mark.together("measured")


@dataclass
class Measured:
    """Workers whose module uses an SDK, and what it got; workflows were dispatched by another such process."""

    made: Deployment
    folder: Path

    def handle(self, correlation_id: str) -> WorkflowHandle:
        return WorkflowDispatcher().handle(correlation_id, self.made.transport())

    def lines(self, kind: str) -> list[dict[str, Any]]:
        file = self.folder / kind
        text = file.read_text(encoding="utf-8") if file.exists() else ""
        return [json.loads(line) for line in text.splitlines() if line.endswith("}")]

    def spans(self, correlation_id: str) -> list[dict[str, Any]]:
        """Return the ended spans of a workflow's trace in the order in which they began."""
        spans = self.lines("spans")
        (first,) = [
            span for span in spans
            if span["name"] == "dispatch workflow"
            and span["attributes"]["messaging.message.conversation_id"] == correlation_id
        ]  # fmt: skip
        of = first["context"]["trace_id"]
        return sorted(
            (span for span in spans if span["context"]["trace_id"] == of), key=lambda span: span["start_time"]
        )

    def hops(self, correlation_id: str, activity: str) -> list[dict[str, Any]]:
        """Return the spans of the attempts of an activity."""
        name = f"process {self.made.prefix}.{activity}"
        return [span for span in self.spans(correlation_id) if span["name"] == name]

    def counted(self, name: str, **wanted: str) -> float:
        """Return the sum of a metric over all processes, of the points that have these attributes (`_` for a dot)."""
        latest = {line["pid"]: line for line in self.lines("metrics") if line["name"] == name}
        asked = {key.replace("__", "."): value for key, value in wanted.items()}
        points = [point for line in latest.values() for point in line["data"]["data_points"]]
        return sum(
            point["value"] if "value" in point else point["count"]
            for point in points
            if asked.items() <= point["attributes"].items()
        )


@pytest.fixture(scope="module")
def measured(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Measured]:
    folder = tmp_path_factory.mktemp("measured")
    with deployment(redis_url, folder, paigeant_retry_backoff=0.1) as made:
        made.variables["MEASURED"] = str(folder)
        program = [sys.executable, "-m", "measured"]
        done = run(program, cwd=made.configured("dispatching"), environment=made.environment(), within=WITHIN)
        assert done.returncode == 0, done.stderr
        made.ready_worker("measured", pool="prefork")
        yield Measured(made, folder)


def linked(span: dict[str, Any]) -> list[str]:
    return [link["context"]["span_id"] for link in span["links"]]


def ids(spans: list[dict[str, Any]]) -> list[str]:
    return [span["context"]["span_id"] for span in spans]


def outcomes(spans: list[dict[str, Any]]) -> list[str]:
    return [span["attributes"].get("paigeant.outcome", "") for span in spans]


def test_a_workflow_is_one_trace_of_its_dispatch_its_attempts_and_its_agents(measured: Measured) -> None:
    """A script that dispatches has no request; what it began is found together all the same."""
    assert measured.handle("retried").result_sync(WITHIN).output == "said"
    eventually(lambda: measured.hops("retried", "speaker"), within=WITHIN)

    dispatched, *_ = measured.spans("retried")
    first, again = measured.hops("retried", "flaky")
    (speaker,) = measured.hops("retried", "speaker")
    assert [span["kind"] for span in (dispatched, first)] == ["SpanKind.PRODUCER", "SpanKind.CONSUMER"]
    assert first["parent_id"] == again["parent_id"] == dispatched["context"]["span_id"]
    assert speaker["parent_id"] == again["context"]["span_id"]
    (run_,) = [span for span in measured.spans("retried") if span["parent_id"] == speaker["context"]["span_id"]]
    assert "speaker" in run_["name"]
    (chat,) = [span for span in measured.spans("retried") if span["name"].startswith("chat")]
    assert chat["context"]["trace_id"] == dispatched["context"]["trace_id"]
    assert linked(again) == ids([first])
    assert outcomes([first, again, speaker]) == ["retrying", "completed", "workflow_completed"]
    assert (first["status"]["status_code"], first["status"]["description"]) == ("ERROR", "KeyError")
    assert ", in flaky" in first["events"][0]["attributes"]["exception.stacktrace"]
    own = [span for span in measured.lines("spans") if span["name"].startswith(("process", "dispatch"))]
    assert {name for span in own for name in span["attributes"]} <= {*ATTRIBUTES}
    assert SECRET not in json.dumps(own)


def test_an_attempt_after_a_wait_is_linked_to_the_one_before_it(measured: Measured) -> None:
    """Days may be between them."""
    eventually(lambda: measured.hops("resumed", "asker"), within=WITHIN)
    assert measured.handle("resumed").signal_sync("go", "yes").outcome == "settled"
    assert measured.handle("resumed").result_sync(WITHIN).output == "yes"
    eventually(lambda: outcomes(measured.hops("resumed", "asker"))[-1] == "workflow_completed", within=WITHIN)

    spans = measured.hops("resumed", "asker")
    assert len(spans) >= 2
    for number, span in enumerate(spans):
        assert linked(span) == ids(spans[:number])
    assert outcomes(spans)[0] == "suspended"


def test_a_redriven_attempt_is_linked_to_the_one_that_was_parked(measured: Measured) -> None:
    """Who redrives it wants to see what went wrong."""
    with pytest.raises(WorkflowParked):
        measured.handle("redriven").result_sync(WITHIN)
    assert measured.handle("redriven").redrive_sync()
    assert measured.handle("redriven").result_sync(WITHIN).output == "done"
    eventually(lambda: len(measured.hops("redriven", "broken")) == 2, within=WITHIN)

    parked, again = measured.hops("redriven", "broken")
    assert outcomes([parked, again]) == ["parked", "workflow_completed"]
    assert linked(again) == ids([parked])


def test_an_attempt_after_a_takeover_is_linked_to_the_one_that_was_lost(measured: Measured) -> None:
    """A process that is killed exports nothing; its span is known by the link alone."""
    assert measured.handle("taken").result_sync(WITHIN).output == "done"
    eventually(lambda: "workflow_completed" in outcomes(measured.hops("taken", "deadly")), within=WITHIN)

    last = measured.hops("taken", "deadly")[-1]
    assert len(linked(last)) == 1


def test_what_happened_is_counted_once(measured: Measured) -> None:
    """Alerts hang on these numbers. Processes that were killed take theirs along."""
    for name in WORKFLOWS:
        eventually(lambda name=name: measured.handle(name).status_sync().state == "completed", within=WITHIN)

    def counts() -> dict[str, float]:
        return {
            "retried": measured.counted("paigeant.hops", paigeant__outcome="retrying", paigeant__activity="flaky"),
            "said": measured.counted("paigeant.hops", paigeant__activity="speaker"),
            "parked": measured.counted("paigeant.letters", error__type="ValueError"),
            "taken": measured.counted("paigeant.takeovers"),
            "opened": measured.counted("paigeant.waits.opened", paigeant__activity="asker"),
            "settled": measured.counted("paigeant.waits.ended", paigeant__wait__state="settled"),
            "timed_out": measured.counted("paigeant.waits.ended", paigeant__wait__state="timed_out"),
            "waited": measured.counted("paigeant.wait.duration"),
            "queued": measured.counted("paigeant.queue.duration", paigeant__activity="speaker"),
            "ran": measured.counted("messaging.process.duration", paigeant__activity="speaker"),
        }

    wanted = {
        "retried": 1, "said": 1, "parked": 1, "taken": 1, "opened": 2, "settled": 1, "timed_out": 1, "waited": 2,
        "queued": 1, "ran": 1,
    }  # fmt: skip
    eventually(lambda: not (counts().items() - wanted.items()), within=WITHIN)
    tokens = {
        kind: measured.counted("paigeant.tokens", gen_ai__token__type=kind, paigeant__activity="speaker")
        for kind in ("input", "output")
    }
    used = measured.handle("retried").result_sync(WITHIN).usage
    assert tokens == {"input": used["input_tokens"], "output": used["output_tokens"]}


def test_no_metric_has_another_name_unit_or_attribute_than_the_table_says(measured: Measured) -> None:
    """The page shows the table, and dashboards are made from the page. No attribute is an id."""
    seen: dict[str, set[str]] = {}
    for line in measured.lines("metrics"):
        assert METRICS[line["name"]].unit == line["unit"]
        for point in line["data"]["data_points"]:
            seen.setdefault(line["name"], set()).update(point["attributes"])
            assert not {"retried", "redriven", "resumed", "taken"} & {
                str(each) for each in point["attributes"].values()
            }

    assert all(attributes <= {*METRICS[name].attributes} for name, attributes in seen.items())
    assert Counter(seen.keys() & {"paigeant.hops", "paigeant.attempts"}).total() == 2
