"""Messages that nobody should have sent: each is refused with its reason, and the worker goes on with the next."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
import redis
from celery import Celery, signature
from processes import Deployment, Process, deployment, eventually

from paigeant_celery import ActivitySpec, FunctionSpec, PaigeantMessage, RoutingSlip, WorkflowDispatcher, WorkflowParked
from paigeant_celery.message import encode
from paigeant_celery.ports import DeadLetter, HopRecord, NewWorkflow
from paigeant_celery.slip import name_steps
from paigeant_celery.transport import CeleryTransport

SECRET = "hunter2"  # stands in what is refused, and must stand in no log
GOOD_WITHIN = 2.0  # seconds until the next good workflow must have ended


@dataclass(frozen=True, kw_only=True)
class Forged:
    """A message as a stranger could put it onto our queue; `activity` names task and queue.

    `step` is what the envelope asks for, `change` edits its JSON, `text` what is sent of it. `readable`: it is
    sound in itself, so that the failure names its step.
    """

    reason: str
    says: str = ""
    readable: bool = False
    activity: str = "draft"
    step: ActivitySpec | FunctionSpec = field(default_factory=lambda: ActivitySpec("draft", SECRET))
    change: Callable[[dict[str, Any]], None] = lambda tree: None
    text: Callable[[str], str] = lambda text: text
    more_args: tuple[object, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)


def setting(path: str, value: object) -> Callable[[dict[str, Any]], None]:
    """Set the field at `path`, such as `slip.itinerary.0.prompt`."""

    def change(tree: dict[str, Any]) -> None:
        *parents, last = (int(part) if part.isdigit() else part for part in path.split("."))
        node: Any = tree
        for part in parents:
            node = node[part]
        node[last] = copy.deepcopy(value)

    return change


def replacing(old: str, new: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        assert old in text
        return text.replace(old, new, 1)

    return change


def executed(*places: str) -> list[dict[str, object]]:
    at = "2026-01-01T00:00:00Z"
    record = {"kind": "agent", "activity": "draft", "attempt": 1, "started_at": at, "finished_at": at}
    return [{**record, "step_id": f"ran-{place}", "place": place} for place in places]


def steps(count: int) -> list[dict[str, object]]:
    return [ActivitySpec("draft", "x", step_id=f"s{n}").model_dump(mode="json") for n in range(count)]


def nested(levels: int) -> object:
    value: object = 1
    for _ in range(levels):
        value = [value]
    return value


PROMPT = "slip.itinerary.0.prompt"
REVIEW = ActivitySpec("review", "x", {"style": SECRET})

CASES = {
    "07 two arguments": Forged(reason="bad_envelope", more_args=("another",)),
    "07 named arguments": Forged(reason="bad_envelope", options={"kwargs": {"extra": SECRET}}),
    "13 no version": Forged(
        reason="unsupported_version", says="this version reads 1.x", change=lambda tree: tree.pop("spec_version")
    ),
    "13 another major version": Forged(
        reason="unsupported_version", says="this version reads 1.x", change=setting("spec_version", "2.0")
    ),
    "13 a version that is a number": Forged(reason="unsupported_version", change=setting("spec_version", 1.0)),
    "13 an empty version": Forged(reason="unsupported_version", change=setting("spec_version", "")),
    "14 unknown field": Forged(reason="unknown_field", says="`surprise`", change=setting("surprise", SECRET)),
    "14 unknown field inside": Forged(
        reason="unknown_field",
        says="`slip.itinerary[0].surprise`",
        change=setting("slip.itinerary.0.surprise", SECRET),
    ),
    "14 a class of the old format": Forged(
        reason="unknown_field",
        says="`slip.itinerary[0].module`: this version does not know the field; it belongs to an older format",
        change=setting("slip.itinerary.0.module", "os"),
    ),
    "15 no JSON": Forged(reason="invalid_envelope", text=lambda text: text[:-1]),
    "15 a JSON list": Forged(reason="invalid_envelope", text=lambda text: f"[{text}]"),
    "15 itinerary is an object": Forged(
        reason="invalid_envelope", says="`slip.itinerary`", change=setting("slip.itinerary", {})
    ),
    "15 a step is null": Forged(reason="invalid_envelope", change=setting("slip.itinerary", [None])),
    "15 NaN": Forged(reason="invalid_envelope", change=setting("variables", {"x": float("nan")})),
    "15 Infinity": Forged(reason="invalid_envelope", change=setting("variables", {"x": float("-inf")})),
    "15 1e999": Forged(reason="invalid_envelope", text=replacing('"variables":{}', '"variables":{"x":1e999}')),
    "15 a key twice": Forged(reason="invalid_envelope", text=replacing("{", '{"deadline":null,')),
    "15 deeper than 32": Forged(reason="too_deep", change=setting("variables", {"x": nested(32)})),
    "15 far too deep": Forged(
        reason="too_deep", text=replacing('"variables":{}', f'"variables":{{"x":{"[" * 20000}{"]" * 20000}}}')
    ),
    "16 no step": Forged(reason="empty_itinerary", change=setting("slip.itinerary", [])),
    "17 unknown agent": Forged(
        reason="unknown_agent", readable=True, says="draft", activity="drafft", step=ActivitySpec("drafft", SECRET),
        options={"queue_of": "draft"},
    ),
    **{
        f"18 name {name!r:.20}": Forged(reason="bad_agent_name", change=setting("slip.itinerary.0.agent_name", name))
        for name in ("a b", "../draft", "draft\n", "a" * 129, "dr\u0430ft", "")
    },
    "19 deps of another type": Forged(
        reason="invalid_deps", readable=True, says="`deps.style`", activity="review", step=REVIEW,
        change=setting("slip.itinerary.0.deps", {"style": [SECRET]}),
    ),
    "19 deps with another field": Forged(
        reason="invalid_deps", readable=True, says="`deps.stile`", activity="review", step=REVIEW,
        change=setting("slip.itinerary.0.deps", {"stile": SECRET}),
    ),
    "19 deps for an agent without": Forged(
        reason="unexpected_deps", readable=True, change=setting("slip.itinerary.0.deps", {"style": SECRET})
    ),
    "19 arguments of another type": Forged(
        reason="invalid_arguments", readable=True, says="`arguments.letter`", activity="count_letters",
        step=FunctionSpec("count_letters", {"letter": 5}),
    ),
    "19 an agent step for a function": Forged(
        reason="invalid_envelope", readable=True, activity="count_letters", step=ActivitySpec("count_letters", SECRET)
    ),
    "20 10 MiB": Forged(reason="too_large", change=setting(PROMPT, "x" * 10 * 2**20)),
    "20 empty prompt": Forged(reason="empty_prompt", change=setting(PROMPT, "")),
    "21 257 steps": Forged(reason="too_many_steps", change=setting("slip.itinerary", steps(257))),
    "27 lone surrogate": Forged(reason="invalid_text", text=replacing(SECRET, "\\ud800")),
    "27 NUL": Forged(reason="invalid_text", text=replacing(SECRET, "\\u0000")),
    "27 NUL in a key": Forged(reason="invalid_text", change=setting("variables", {"a\0": 1})),
    "28 executed log longer than the hop number": Forged(
        reason="inconsistent_slip", change=setting("slip.executed", executed("0", "1"))
    ),
    "28 another hop number": Forged(
        reason="inconsistent_slip", text=lambda text: re.sub(r'("message_id":"[^"]*)\.0"', r'\1.1"', text)
    ),
    "28 another workflow": Forged(reason="inconsistent_slip", change=setting("correlation_id", "somebody-elses")),
    "28 another activity": Forged(reason="inconsistent_slip", activity="publish"),
    "35 a fence": Forged(reason="unknown_field", says="`fence`", change=setting("fence", 7)),
    "41 a callback": Forged(
        reason="bad_envelope", says="callbacks", options={"link": signature("canary.sing")}
    ),
    "41 an errback": Forged(
        reason="bad_envelope", says="errbacks", options={"link_error": signature("canary.sing")}
    ),
    "41 a chain": Forged(
        reason="bad_envelope", says="chain", options={"chain": [signature("canary.sing")]}
    ),
    "41 a chord": Forged(
        reason="bad_envelope", says="chord", options={"chord": signature("canary.sing")}
    ),
    "41 a time before which not to run": Forged(reason="bad_envelope", says="eta", options={"countdown": 0.1}),
    "41 a time after which not to run": Forged(reason="bad_envelope", says="expires", options={"expires": 60}),
}  # fmt: skip


@pytest.fixture(scope="module")
def made(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with deployment(redis_url, tmp_path_factory.mktemp("bad")) as made:
        yield made


@pytest.fixture(scope="module")
def worker(made: Deployment) -> Process:
    """One worker for all of them, which must outlive each."""
    return made.ready_worker("desk", "press", "canary", pool="prefork", slots=2)


def message_of(step: ActivitySpec | FunctionSpec) -> PaigeantMessage:
    """Return a good workflow of one step."""
    correlation_id, now = uuid.uuid4().hex, datetime.now(UTC)
    return PaigeantMessage(
        message_id=f"{correlation_id}.0",
        correlation_id=correlation_id,
        created_at=now,
        sent_at=now,
        slip=RoutingSlip(itinerary=name_steps([step])),
    )


def record(transport: CeleryTransport, message: PaigeantMessage, envelope: str) -> None:
    """Record an envelope as that of the workflow's first hop, and send nothing."""
    correlation_id = message.correlation_id
    digest = hashlib.sha256(envelope.encode()).hexdigest()
    hop = HopRecord(hop_id=message.message_id, queue="elsewhere", envelope=envelope, digest=digest)
    assert transport.store is not None
    assert transport.store.start(NewWorkflow(correlation_id=correlation_id, content="x", hop=hop)) == "started"


def send(app: Celery, prefix: str, forged: Forged, envelope: object, hop_id: str) -> None:
    options = dict(forged.options)
    queue = options.pop("queue_of", forged.activity)
    for name in ("link", "link_error", "chord"):
        if name in options:
            options[name] = options[name].clone()
            options[name].options["queue"] = f"{prefix}.canary"
    if "chain" in options:
        options["chain"] = [one.clone() for one in options["chain"]]
    app.send_task(
        f"{prefix}.{forged.activity}",
        args=[envelope, *forged.more_args],
        task_id=hop_id,
        queue=f"{prefix}.{queue}",
        **options,
    )


def expect_good(transport: CeleryTransport) -> None:
    dispatcher = WorkflowDispatcher()
    steps = [ActivitySpec("draft", "good"), ActivitySpec("review", "good")]
    correlation_id = dispatcher.dispatch_workflow_sync(transport, itinerary=steps)
    assert dispatcher.handle(correlation_id, transport).result_sync(GOOD_WITHIN).status == "completed"


@pytest.mark.parametrize("forged", CASES.values(), ids=CASES.keys())
def test_a_bad_message_is_refused_with_its_reason_and_the_worker_goes_on(
    made: Deployment, worker: Process, forged: Forged
) -> None:
    """Nothing of it runs, its workflow is parked with the reason, and others do not even notice."""
    transport = made.transport()
    message = message_of(forged.step)
    tree = json.loads(encode(message))
    forged.change(tree)
    text = forged.text(json.dumps(tree, separators=(",", ":"), ensure_ascii=False))
    record(transport, message, text)

    send(transport.app, made.prefix, forged, text, message.message_id)

    with pytest.raises(WorkflowParked) as raised:
        WorkflowDispatcher().handle(message.correlation_id, transport).result_sync(10)
    assert raised.value.error_class == forged.reason
    assert forged.says in raised.value.text
    assert raised.value.step_id == (message.step.step_id if forged.readable else None)
    assert message.message_id not in made.runs()
    assert transport.store is not None
    letters = letters_of(transport, message)
    assert [found.reason for found in letters] == [forged.reason]
    assert SECRET not in letters[0].sample
    expect_good(transport)
    assert "sung" not in made.runs()
    line = f"message refused: {forged.reason}"
    refusals = [entry for entry in worker.log().splitlines() if line in entry and message.message_id in entry]
    assert len(refusals) == 1
    assert f"{len(text.encode())} bytes, sha256 {hashlib.sha256(text.encode()).hexdigest()}" in refusals[0]
    assert worker.running


@pytest.mark.parametrize(
    ("reason", "forge"),
    [
        ("inconsistent_slip", lambda text: text.replace(f'"prompt":"{SECRET}"', f'"prompt":"{SECRET}!"')),
        ("invalid_envelope", lambda text: text[:-1]),
        ("bad_envelope", json.loads),
    ],
    ids=["28 another prompt than was recorded", "15 torn", "07 an envelope that is no text"],
)
def test_what_only_bears_the_id_of_a_hop_is_a_dead_letter_and_the_hop_runs(
    made: Deployment, worker: Process, reason: str, forge: Callable[[str], object]
) -> None:
    """Whoever guesses an id, or tears a message, ends nobody's workflow."""
    transport = made.transport()
    message = message_of(ActivitySpec("draft", SECRET))
    record(transport, message, encode(message))
    forged = Forged(reason=reason)
    before = WorkflowDispatcher().handle(message.correlation_id, transport).status_sync()

    send(transport.app, made.prefix, forged, forge(encode(message)), message.message_id)

    letters = eventually(lambda: letters_of(transport, message))
    assert [found.reason for found in letters] == [reason]
    assert SECRET not in letters[0].sample
    handle = WorkflowDispatcher().handle(message.correlation_id, transport)
    assert handle.status_sync() == before
    send(transport.app, made.prefix, forged, encode(message), message.message_id)
    assert handle.result_sync(10).status == "completed"
    assert made.runs().count(message.message_id) == 1
    assert worker.running


def letters_of(transport: CeleryTransport, message: PaigeantMessage) -> list[DeadLetter]:
    assert transport.store is not None
    found = transport.store.dead_letters(after=None, limit=1000)
    return [letter for letter in found if letter.hop_id == message.message_id]


def kombu_message(hop_id: str, task: str, queue: str, **change: Any) -> dict[str, Any]:
    """What Kombu writes into a Redis list for a task, with changes; `...` takes a field away."""
    message: dict[str, Any] = {
        "body": base64.b64encode(json.dumps([[hop_id], {}, {}]).encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"lang": "py", "task": task, "id": hop_id, "root_id": hop_id, "parent_id": None, "group": None},
        "properties": {
            "correlation_id": hop_id,
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": uuid.uuid4().hex,
        },
    }
    for name, value in change.items():
        node, _, key = name.rpartition("__")
        target = message[node] if node else message
        if value is ...:
            del target[key.replace("_", "-") if key.startswith("content") else key]
        else:
            target[key.replace("_", "-") if key.startswith("content") else key] = value
    return message


def body(content: bytes) -> str:
    return base64.b64encode(content).decode()


RAW: dict[str, tuple[str, object]] = {
    "01 not JSON": ("malformed", f"{{{SECRET}"),
    "01 a JSON list": ("malformed", [SECRET]),
    "01 a JSON number": ("malformed", 17),
    "01 a JSON string": ("malformed", SECRET),
    "02 no properties": ("malformed", {"properties": ...}),
    "02 no id": ("malformed", {"headers__id": ...}),
    "02 headers null": ("malformed", {"headers": None}),
    "02 headers absent": ("malformed", {"headers": ...}),
    "02 body null": ("malformed", {"body": None}),
    "02 body absent": ("malformed", {"body": ...}),
    "02 bad base64": ("malformed", {"body": "%%%"}),
    "02 a body that is an object": ("malformed", {"body": body(b'{"x": "hunter2"}')}),
    "02 a body of two": ("malformed", {"body": body(b'[["hunter2"], {}]')}),
    "03 invalid JSON": ("undecodable", {"body": body(b'[["hunter2"], {}')}),
    "03 invalid UTF-8": ("undecodable", {"body": body(b'[["\xff\xfe"], {}, {}]')}),
    "03 corrupt compression": ("undecodable", {"headers__compression": "application/x-gzip"}),
    "04 pickle": (
        "content_disallowed", {"content_type": "application/x-python-serialize", "content_encoding": "binary"}
    ),
    "04 yaml": ("content_disallowed", {"content_type": "application/x-yaml"}),
    "04 unknown content": ("content_disallowed", {"content_type": "application/x-odd"}),
    "06 an unknown task": ("unknown_task", {"headers__task": "shop.send_mail"}),
    "07 arguments that are an object": ("bad_envelope", {"body": body(b'[{}, {}, {}]')}),
    "07 named arguments that are a list": ("bad_envelope", {"body": body(b'[["x"], [], {}]')}),
    "07 an id that is a number": ("bad_envelope", {"headers__id": 17}),
    "08 a bad time": ("invalid_task", {"headers__eta": "tomorrow"}),
}  # fmt: skip


@pytest.mark.parametrize(("reason", "item"), RAW.values(), ids=RAW.keys())
def test_what_celery_cannot_digest_becomes_a_dead_letter_and_the_worker_goes_on(
    made: Deployment, worker: Process, reason: str, item: object
) -> None:
    """One malformed message ends a plain Celery worker, and the next one that gets it."""
    transport, queue, hop_id = made.transport(), f"{made.prefix}.draft", f"{uuid.uuid4().hex}.0"
    store = transport.store
    assert store is not None
    if isinstance(item, dict):
        item = kombu_message(hop_id, f"{made.prefix}.draft", queue, **item)
    raw = item if isinstance(item, str) and item.startswith("{") else json.dumps(item)
    before = {letter.letter_id for letter in store.dead_letters(after=None, limit=1000)}

    with redis.Redis.from_url(made.url) as broker:
        broker.lpush(queue, raw)

    def new() -> list[DeadLetter]:
        return [letter for letter in store.dead_letters(after=None, limit=1000) if letter.letter_id not in before]

    letters = eventually(new, what=f"no letter; the log ends with\n{worker.log()[-2000:]}")
    assert [(letter.reason, letter.queue) for letter in letters] == [(reason, queue)]
    assert SECRET not in letters[0].sample
    expect_good(transport)
    assert worker.running
    assert SECRET not in worker.log()


def test_a_message_of_no_recorded_workflow_is_taken_off_its_queue(made: Deployment, worker: Process) -> None:
    """A stranger's message, or one whose record is long gone, runs nothing and does not come back."""
    transport, hop_id = made.transport(), f"{uuid.uuid4().hex}.0"

    send(transport.app, made.prefix, Forged(reason=""), "{}", hop_id)

    eventually(lambda: hop_id in worker.log() and "message refused: unsupported_version" in worker.log())
    expect_good(transport)
    assert worker.log().count(f"draft[{hop_id}] received") == 1


def test_a_refused_copy_of_a_finished_hop_changes_nothing(made: Deployment, worker: Process) -> None:
    """A late forgery cannot make a failure of what has succeeded."""
    transport, dispatcher = made.transport(), WorkflowDispatcher()
    correlation_id = dispatcher.dispatch_workflow_sync(transport, itinerary=[ActivitySpec("draft", "done")])
    handle = dispatcher.handle(correlation_id, transport)
    before = handle.result_sync(10)

    send(transport.app, made.prefix, Forged(reason=""), "{}", f"{correlation_id}.0")

    eventually(lambda: worker.log().count(f"draft[{correlation_id}.0] received") == 2)
    expect_good(transport)
    assert handle.result_sync() == before


@pytest.mark.parametrize("text", ["🦊🦊", "שלום עולם", "𝄞 𠮷野家", "a\u202eb", "line\r\n\ttab \u2028"])
def test_unusual_text_passes_unchanged(made: Deployment, worker: Process, text: str) -> None:
    """People write in every script there is."""
    transport, dispatcher = made.transport(), WorkflowDispatcher()
    steps = [ActivitySpec("draft", text), ActivitySpec("publish", text)]
    correlation_id = dispatcher.dispatch_workflow_sync(transport, itinerary=steps, variables={text: text})

    result = dispatcher.handle(correlation_id, transport).result_sync(10)

    assert result.output == f"publish({text}|draft({text}|))"


def test_no_log_holds_what_was_refused(made: Deployment, worker: Process) -> None:
    """What is refused is as confidential as what is run; the log is that of all tests before this one, too."""
    transport, forged = made.transport(), CASES["14 unknown field"]
    message = message_of(forged.step)
    tree = json.loads(encode(message))
    forged.change(tree)

    send(transport.app, made.prefix, forged, json.dumps(tree), message.message_id)

    lines = (f"message refused: {forged.reason}", message.message_id)
    eventually(lambda: any(all(part in line for part in lines) for line in worker.log().splitlines()))
    assert SECRET in json.dumps(tree)
    assert SECRET not in worker.log()
    assert "Traceback" not in worker.log()
