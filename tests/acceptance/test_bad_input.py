"""What nobody should have sent, called or returned: each gets its outcome, and the worker goes on with the next.

`ROWS` says where each row of the list of bad inputs is tested, so that a removed test is noticed.
"""

from __future__ import annotations

import ast
import base64
import copy
import hashlib
import json
import re
import uuid
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery, signature
from hypothesis import given
from hypothesis import strategies as st

from paigeant_celery import (
    ActivitySpec,
    DeadLetters,
    FunctionSpec,
    PaigeantMessage,
    RoutingSlip,
    WorkflowDispatcher,
    WorkflowHandle,
    WorkflowParked,
    for_each,
    parallel,
    sleep_for,
    sleep_until,
    sub_workflow,
    wait_for,
)
from paigeant_celery.activities.registry import registry
from paigeant_celery.broker.port import Delivery
from paigeant_celery.broker.transport import CeleryTransport
from paigeant_celery.core.errors import InvalidInput, WorkflowConflict
from paigeant_celery.core.message import encode
from paigeant_celery.core.slip import BranchOf, Step, name_steps
from paigeant_celery.store.branch_port import HopReading
from paigeant_celery.store.port import DeadLetter, HopRecord, NewWorkflow
from tests.support.damage import damaged_items, drawn
from tests.support.logs import uncaught
from tests.support.processes import START_WITHIN, Deployment, Process, deployment, eventually
from tests.support.promptness import prompt_result
from tests.support.refused_dispatches import CASES as REFUSALS
from tests.support.refused_dispatches import SECRET as REFUSED_SECRET
from tests.support.refused_dispatches import agents
from tests.support.servers import RedisServer

SECRET = "hunter2"  # part of what is refused; must not appear in any log
WITHIN = 20.0
SAMPLE_SIZE = 2048  # characters of a refused message that a dead letter shows, with every value replaced

EXAMPLES = {"prefork": 60, "threads": 600}  # damaged messages of each size

DAY = timedelta(days=1)


@dataclass(frozen=True, kw_only=True)
class Forged:
    """A message as a stranger could put it onto our queue; `activity` names task and queue.

    `step` is what the envelope asks for, `change` edits its JSON, `text` makes what is sent. `readable`: it is sound
    in itself, so that the failure names its step. `unread`: not even the message around it is read.
    """

    reason: str
    says: str = ""
    readable: bool = False
    unread: bool = False
    activity: str = "draft"
    step: Step = field(default_factory=lambda: ActivitySpec("draft", SECRET))
    change: Callable[[dict[str, Any]], None] = lambda tree: None
    text: Callable[[str], Any] = lambda text: text
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


def blocks(levels: int) -> Step:
    """Return a step inside so many blocks."""
    step: Step = DRAFT
    for _ in range(levels):
        step = sub_workflow(step)
    return step


PROMPT = "slip.itinerary.0.prompt"
BRANCH = "slip.itinerary.0.branches.0"
DRAFT = ActivitySpec("draft", "x")
BLOCK = parallel({"a": DRAFT})
REVIEW = ActivitySpec("review", "x", {"style": SECRET})

CASES = {
    "05 an envelope over the limit": Forged(
        reason="too_large", says="`paigeant_max_message_size`", change=setting(PROMPT, "x" * 2**20)
    ),
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
    "15 stream is a word": Forged(
        reason="invalid_envelope", says="`stream`", change=setting("stream", SECRET)
    ),
    "15 a limit is a word": Forged(
        reason="invalid_envelope", says="`usage_limits.request_limit`",
        change=setting("usage_limits", {"request_limit": SECRET}),
    ),
    "15 NaN": Forged(reason="invalid_envelope", change=setting("variables", {"x": float("nan")})),
    "15 Infinity": Forged(reason="invalid_envelope", change=setting("variables", {"x": float("-inf")})),
    "15 1e999": Forged(reason="invalid_envelope", text=replacing('"variables":{}', '"variables":{"x":1e999}')),
    "15 a key twice": Forged(reason="invalid_envelope", text=replacing("{", '{"deadline":null,')),
    "15 deeper than 64": Forged(reason="too_deep", change=setting("variables", {"x": nested(64)})),
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
    "20 10 MiB": Forged(reason="too_large", unread=True, change=setting(PROMPT, "x" * 10 * 2**20)),
    "20 empty prompt": Forged(reason="empty_prompt", change=setting(PROMPT, "")),
    "20 no parts": Forged(reason="empty_prompt", change=setting(PROMPT, [])),
    "20 no part": Forged(reason="invalid_prompt", change=setting(PROMPT, ["x", {"secret": SECRET}])),
    "20 a part that no library takes": Forged(
        reason="invalid_prompt", readable=True, change=setting(PROMPT, ["x", {"kind": "picture", "secret": SECRET}])
    ),
    "21 257 steps": Forged(reason="too_many_steps", change=setting("slip.itinerary", steps(257))),
    "27 lone surrogate": Forged(reason="invalid_text", text=replacing(SECRET, "\\ud800")),
    "27 NUL in a queue": Forged(reason="invalid_text", change=setting("slip.itinerary.0.queue", "a\0")),
    "27 NUL in the name of a variable": Forged(reason="invalid_text", change=setting("variables", {"a\0": 1})),
    "28 executed log longer than the hop number": Forged(
        reason="inconsistent_slip", change=setting("slip.executed", executed("0", "1"))
    ),
    "28 another hop number": Forged(
        reason="inconsistent_slip", text=lambda text: re.sub(r'("message_id":"[^"]*)\.0"', r'\1.1"', text)
    ),
    "28 another workflow": Forged(reason="inconsistent_slip", change=setting("correlation_id", "somebody-elses")),
    **{
        f"35 {name}": Forged(reason="unknown_field", says=f"`{name}`", change=setting(name, 7))
        for name in ("fence", "attempt", "lease", "owner")
    },
    "43 a name that no wait can have": Forged(
        reason="invalid_wait", says="`slip.itinerary[0].name`", activity="_flow", step=wait_for("paid"),
        change=setting("slip.itinerary.0.name", f"{SECRET}\n"),
    ),
    "43 a timeout before its beginning": Forged(
        reason="invalid_envelope", says="`slip.itinerary[0].timeout`", activity="_flow", step=wait_for("paid"),
        change=setting("slip.itinerary.0.timeout", -1),
    ),
    "43 a wait on a queue of its own": Forged(
        reason="invalid_envelope", says="`slip.itinerary[0].queue`", activity="_flow", step=wait_for("paid"),
        change=setting("slip.itinerary.0.queue", "draft"),
    ),
    "43 a sleep with two ends": Forged(
        reason="invalid_wait", says="`slip.itinerary[0]`", activity="_flow", step=sleep_for(5),
        change=setting("slip.itinerary.0.until", "2099-01-01T00:00:00Z"),
    ),
    "43 an end without a zone": Forged(
        reason="invalid_envelope", says="`slip.itinerary[0].until`", activity="_flow",
        step=sleep_until(datetime(2099, 1, 1, tzinfo=UTC)),
        change=setting("slip.itinerary.0.until", "2099-01-01T00:00:00"),
    ),
    "43 an agent under the name of waits": Forged(
        reason="invalid_envelope", readable=True, activity="_flow", step=ActivitySpec("_flow", SECRET)
    ),
    "44 a branch without steps": Forged(
        reason="invalid_envelope", says="`slip.itinerary[0].branches[0].steps`", activity="_flow", step=BLOCK,
        change=setting(f"{BRANCH}.steps", []),
    ),
    "44 a branch that is a list": Forged(
        reason="invalid_envelope", says="`slip.itinerary[0].branches[0]`", activity="_flow", step=BLOCK,
        change=setting(BRANCH, [SECRET]),
    ),
    "44 a name that no branch can have": Forged(
        reason="invalid_block", says="`slip.itinerary[0].branches[0].name`", activity="_flow", step=BLOCK,
        change=setting(f"{BRANCH}.name", f"{SECRET}/1"),
    ),
    "44 a join of more than there are": Forged(
        reason="invalid_block", activity="_flow", step=parallel({"a": DRAFT}, join="any"),
        change=setting("slip.itinerary.0.join", 2),
    ),
    "44 a join that is a word": Forged(
        reason="invalid_envelope", says="`slip.itinerary[0].join.", activity="_flow", step=BLOCK,
        change=setting("slip.itinerary.0.join", SECRET),
    ),
    "44 more at once than any block has": Forged(
        reason="invalid_envelope", says="`slip.itinerary[0].max_at_once`", activity="_flow", step=BLOCK,
        change=setting("slip.itinerary.0.max_at_once", 101),
    ),
    "44 a form of its own": Forged(
        reason="invalid_envelope", says="`slip.itinerary[0].form`", activity="_flow", step=BLOCK,
        change=setting("slip.itinerary.0.form", SECRET),
    ),
    "44 items of what has none": Forged(
        reason="invalid_block", activity="_flow", step=BLOCK, change=setting("slip.itinerary.0.over", [SECRET])
    ),
    "44 a pointer that is none": Forged(
        reason="invalid_over", says="`slip.itinerary[0].over`", activity="_flow", step=for_each(DRAFT, over=[1]),
        change=setting("slip.itinerary.0.over", "draft#~7"),
    ),
    "44 a block on a queue of its own": Forged(
        reason="invalid_envelope", says="`slip.itinerary[0].queue`", activity="_flow", step=BLOCK,
        change=setting("slip.itinerary.0.queue", "draft"),
    ),
    "44 a step id twice in a branch": Forged(
        reason="inconsistent_slip", says="`slip.itinerary[0].branches[0].steps`", activity="_flow", step=BLOCK,
        change=setting(f"{BRANCH}.steps", steps(1) * 2),
    ),
    "44 257 steps in a branch": Forged(
        reason="too_many_steps", says="`slip.itinerary[0].branches[0].steps`", activity="_flow", step=BLOCK,
        change=setting(f"{BRANCH}.steps", steps(257)),
    ),
    "44 blocks nine deep": Forged(reason="too_many_blocks", activity="_flow", step=blocks(9)),
    "44 an unknown field in a branch": Forged(
        reason="unknown_field", says="`slip.itinerary[0].branches[0].surprise`", activity="_flow", step=BLOCK,
        change=setting(f"{BRANCH}.surprise", SECRET),
    ),
    "44 a branch that is none": Forged(
        reason="inconsistent_slip", says="`message_id`", change=setting("slip.branch", {"place": "0-0", "path": "a/0"})
    ),
}  # fmt: skip


def dumps(tree: object) -> str:
    return json.dumps(tree, separators=(",", ":"), ensure_ascii=False)


def with_block(tree: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON of a message whose steps are in a block now."""
    (step,) = name_steps([BLOCK])
    tree["slip"]["itinerary"] = [step.model_dump(mode="json")]
    return tree


# What has the id of a recorded hop but is not its message: another envelope, or the same one sent differently.
AROUND = {
    "28 another prompt than was recorded": Forged(
        reason="inconsistent_slip", text=replacing(f'"prompt":"{SECRET}"', f'"prompt":"{SECRET}!"')
    ),
    "15 torn": Forged(reason="invalid_envelope", text=lambda text: text[:-1]),
    "07 an envelope that is no text": Forged(reason="bad_envelope", text=json.loads),
    "07 two arguments": Forged(reason="bad_envelope", more_args=("another",)),
    "07 named arguments": Forged(reason="bad_envelope", options={"kwargs": {"extra": SECRET}}),
    "28 another activity": Forged(reason="inconsistent_slip", activity="publish"),
    "44 a block instead of a step": Forged(
        reason="inconsistent_slip", text=lambda text: dumps(with_block(json.loads(text)))
    ),
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
    "41 a group": Forged(reason="bad_envelope", says="group", options={"group_id": "somebody-elses"}),
    "41 a time before which not to run": Forged(reason="bad_envelope", says="eta", options={"countdown": 0.1}),
    "41 a time after which not to run": Forged(reason="bad_envelope", says="expires", options={"expires": 60}),
    "41 a time after which not to run, long past": Forged(
        reason="bad_envelope", says="expires", options={"expires": datetime(2001, 1, 1, tzinfo=UTC)}
    ),
    "41 a time before which not to run, far away": Forged(
        reason="bad_envelope", says="eta", options={"eta": datetime(2099, 1, 1, tzinfo=UTC)}
    ),
}  # fmt: skip


pytestmark = pytest.mark.together("pool")


@pytest.fixture(scope="module", params=["prefork", pytest.param("threads", marks=pytest.mark.proof)])
def pool(request: pytest.FixtureRequest) -> str:
    """Messages are refused before a pool has any part in it, so one shows every row."""
    return str(request.param)


@pytest.fixture(scope="module")
def made(redis_url: str, pool: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with deployment(redis_url, tmp_path_factory.mktemp("bad")) as made:
        yield made


@pytest.fixture(scope="module")
def worker(made: Deployment, pool: str) -> Process:
    """One worker for all tests, which must survive each of them."""
    return made.ready_worker("desk", "press", "canary", pool=pool, slots=2)


def message_of(step: Step) -> PaigeantMessage:
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
    """Record an envelope as that of the workflow's first hop, without sending anything."""
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


def dispatched(transport: CeleryTransport, *steps: Step) -> WorkflowHandle:
    dispatcher = WorkflowDispatcher()
    return dispatcher.handle(dispatcher.dispatch_workflow_sync(transport, itinerary=steps), transport)


def expect_good(transport: CeleryTransport) -> None:
    handle = dispatched(transport, ActivitySpec("draft", "good"), ActivitySpec("review", "good"))
    assert prompt_result(handle).status == "completed"


@pytest.mark.parametrize("forged", CASES.values(), ids=CASES.keys())
def test_a_bad_message_is_refused_with_its_reason_and_the_worker_goes_on(
    made: Deployment, worker: Process, forged: Forged
) -> None:
    """Nothing of it runs, its workflow is parked with the reason, and others are not affected."""
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
    expect_whole(letters[0], None if forged.unread else text.encode(errors="surrogatepass"))
    expect_good(transport)
    line = f"message refused: {forged.reason}"
    refusals = [entry for entry in worker.log().splitlines() if line in entry and message.message_id in entry]
    assert len(refusals) == 1
    assert f"{letters[0].size} bytes, sha256 {letters[0].sha256}" in refusals[0]
    assert worker.running


@pytest.mark.parametrize("forged", AROUND.values(), ids=AROUND.keys())
def test_what_only_bears_the_id_of_a_hop_is_a_dead_letter_and_the_hop_runs(
    made: Deployment, worker: Process, forged: Forged
) -> None:
    """Guessing an id or corrupting a message ends nobody's workflow."""
    transport = made.transport()
    message = message_of(forged.step)
    envelope = encode(message)
    record(transport, message, envelope)
    handle = WorkflowDispatcher().handle(message.correlation_id, transport)
    before = handle.status_sync()

    send(transport.app, made.prefix, forged, forged.text(envelope), message.message_id)

    letters = eventually(lambda: letters_of(transport, message), what=f"no letter:\n{worker.log()[-2000:]}")
    assert [found.reason for found in letters] == [forged.reason]
    assert forged.says in letters[0].text
    expect_whole(letters[0], None)
    assert handle.status_sync() == before
    send(transport.app, made.prefix, Forged(reason=""), envelope, message.message_id)
    assert handle.result_sync(10).status == "completed"
    assert made.runs().count(message.message_id) == 1
    assert "sung" not in made.runs()
    assert worker.running


def letters_of(transport: CeleryTransport, message: PaigeantMessage) -> list[DeadLetter]:
    assert transport.store is not None
    found = transport.store.dead_letters(after=None, limit=1000)
    return [letter for letter in found if letter.hop_id == message.message_id]


def expect_whole(letter: DeadLetter, content: bytes | None) -> None:
    """A letter says everything that a person needs and nothing confidential; `content` is what arrived."""
    assert letter.text
    assert letter.worker
    assert letter.at is not None
    assert abs(datetime.now(UTC) - letter.at) < timedelta(minutes=1)
    assert re.fullmatch("[0-9a-f]{64}", letter.sha256)
    assert (letter.size == 0) == (letter.sha256 == hashlib.sha256(b"").hexdigest())
    assert bool(letter.size) <= len(letter.sample) <= SAMPLE_SIZE
    assert SECRET not in f"{letter}"
    if content is not None:
        assert (letter.size, letter.sha256) == (len(content), hashlib.sha256(content).hexdigest())


def kombu_message(hop_id: str, task: str, queue: str, **change: Any) -> dict[str, Any]:
    """What Kombu writes into a Redis list for a task, with changes; `...` removes a field."""
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


@cache
def longer() -> str:
    """A valid body that is compressed, and unpacks to a few times what an envelope may have."""
    return body(zlib.compress(json.dumps([["a few words " * 500_000], {}, {}]).encode()))


GZIP = {"headers__compression": "application/x-gzip"}

RAW: dict[str, tuple[str, dict[str, Any]]] = {
    "03 a body that is not compressed as it says": ("undecodable", GZIP),
    "04 pickle": ("content_disallowed", {"content_type": "application/x-python-serialize"}),
    "04 yaml": ("content_disallowed", {"content_type": "application/x-yaml"}),
    "04 msgpack": ("content_disallowed", {"content_type": "application/x-msgpack"}),
    "04 text": ("content_disallowed", {"content_type": "text/plain", "body": body(b"hunter2")}),
    "04 unknown content": ("content_disallowed", {"content_type": "application/x-odd"}),
    "05 a compressed body over the limit": ("too_large", {**GZIP, "body": longer}),
    "05 the same for an unknown task": ("too_large", {**GZIP, "body": longer, "headers__task": "shop.send_mail"}),
    "05 another compression": ("content_disallowed", {"headers__compression": "application/x-bz2"}),
    "06 a task whose name no store can write": ("unknown_task", {"headers__task": "\ud800"}),
    "06 an activity whose name no store can write": ("invalid_envelope", {"headers__task": "PREFIX.\ud800"}),
    "06 an unknown task": ("unknown_task", {"headers__task": "shop.send_mail"}),
    "07 arguments that are an object": ("bad_envelope", {"body": body(b'[{}, {}, {}]')}),
    "07 an id that is a number": ("bad_envelope", {"headers__id": 17}),
    "08 a bad time": ("invalid_task", {"headers__eta": "tomorrow"}),
}  # fmt: skip


@pytest.mark.parametrize(("reason", "change"), RAW.values(), ids=RAW.keys())
def test_what_is_not_sent_as_we_send_becomes_a_dead_letter_with_its_reason(
    made: Deployment, worker: Process, reason: str, change: dict[str, Any]
) -> None:
    """What each kind of message gets is told by its code, whatever it says."""
    queue, hop_id = f"{made.prefix}.draft", f"{uuid.uuid4().hex}.0"
    changed = {name: value() if callable(value) else value for name, value in change.items()}
    if "headers__task" in changed:
        changed["headers__task"] = changed["headers__task"].replace("PREFIX", made.prefix)
    item = kombu_message(hop_id, queue, queue, **changed)

    letter = letter_for(made.transport(), worker, json.dumps(item), queue)

    assert (letter.reason, letter.queue) == (reason, queue)
    named = hop_id if item["headers"]["id"] == hop_id else None
    assert (letter.hop_id, letter.correlation_id) == (named, named and named.partition(".")[0])
    content = (hop_id.encode(), repr(item["body"]).encode(), base64.b64decode(item["body"]))
    assert letter.sha256 in {hashlib.sha256(one).hexdigest() for one in content}
    expect_good(made.transport())
    assert hop_id not in made.runs()
    assert SECRET not in worker.log()


@pytest.mark.parametrize("size", [10, 10_000], ids=["as it is", "compressed"])
def test_a_damaged_message_becomes_a_dead_letter_and_the_worker_goes_on(
    made: Deployment, worker: Process, pool: str, size: int
) -> None:
    """Whatever part is missing, of another type or cut: nothing is lost silently, and nothing else notices."""
    transport, queue, reached = made.transport(), f"{made.prefix}.draft", set[str]()

    @drawn(EXAMPLES[pool])
    @given(st.data())
    def refused(data: st.DataObject) -> None:
        item = sent_item(transport, queue, SECRET + "x" * size)
        letter = letter_for(transport, worker, data.draw(damaged_items(item)), queue)
        assert DeadLetters(transport).drop(letter.letter_id)  # the same damage once more is no new letter
        reached.add(letter.reason)

    refused()

    assert reached >= {"malformed", "undecodable", "bad_envelope", "invalid_envelope"}
    expect_good(transport)
    assert unfinished(transport, queue) == []
    assert not [run for run in made.runs() if run == "sung"]
    assert SECRET not in worker.log()


SLOW = """
import os
from paigeant_celery import activity

@activity(queue=os.environ["SLOW"])
def slow() -> str:
    return "slow"
"""


@pytest.mark.together("way")
@pytest.mark.parametrize("way", ["-Q", "task_queues", "add_consumer"])
def test_a_queue_of_ours_is_guarded_however_a_worker_comes_to_read_it(redis_url: str, tmp_path: Path, way: str) -> None:
    """It serves no activity, so nobody would look for damaged messages there; sound ones it runs as before."""
    with deployment(redis_url, tmp_path, paigeant_consume="no") as made:
        queues = [f"{made.prefix}{name}" for name in (".draft", ".ghost", "-slow")]
        made.variables["SLOW"] = queues[2]
        (made.configured("aside") / "slow.py").write_text(SLOW)
        if way == "task_queues":
            with (made.folder / "aside" / "celeryconfig.py").open("a") as settings:
                settings.write(f"from kombu import Queue\ntask_queues = [Queue(name) for name in {queues}]\n")
        chosen = {"-Q": queues, "task_queues": [], "add_consumer": [f"{made.prefix}-mail"]}[way]
        worker = made.run(
            "-A", "paigeant_celery", "worker", "-n", f"aside@{made.prefix}", "-c", "1", "-l", "INFO",
            "--without-mingle", "--without-gossip", "-I", "press,slow", *(["-Q", ",".join(chosen)] if chosen else []),
            folder=made.folder / "aside", name="aside",
        )  # fmt: skip
        worker.wait_for_log(" ready.", within=START_WITHIN)
        transport, refused = made.transport(), set[str]()
        if way == "add_consumer":
            for queue in queues:
                # Repeated until it is heard: a worker that is ready may not listen yet.
                add = partial(
                    transport.app.control.add_consumer, queue, destination=[f"aside@{made.prefix}"], reply=True,
                    timeout=0.3, limit=1,
                )  # fmt: skip
                eventually(add)

        @drawn(8)
        @given(st.data())
        def guarded(data: st.DataObject) -> None:
            for queue in queues:
                item = data.draw(damaged_items(sent_item(transport, queue, SECRET)))
                letter = letter_for(transport, worker, item, queue)
                assert DeadLetters(transport).drop(letter.letter_id)
                refused.add(f"{letter.queue}")

        guarded()

        assert refused == set(queues)
        assert prompt_result(dispatched(transport, ActivitySpec("draft", "good"))).output == "draft(good|)"
        if way == "add_consumer":  # which makes a worker serve what any does that serves something
            assert (
                prompt_result(dispatched(transport, sleep_for(0), ActivitySpec("draft", "good"))).status == "completed"
            )
        assert SECRET not in worker.log()


def sent_item(transport: CeleryTransport, queue: str, envelope: str) -> str:
    """What our publisher puts on a queue for a hop, whose envelope is none."""
    hop_id, unserved = f"{uuid.uuid4().hex}.0", f"{transport.names.prefix}-unserved"
    transport.publisher.begin(
        Delivery(
            activity="draft", hop_id=hop_id, root_id=hop_id, parent_id=None, queue=unserved, envelope=envelope,
            summary="damaged", timeout=None,
        )
    ).wait()  # fmt: skip
    with redis.Redis.from_url(transport.broker) as broker:
        item = broker.rpop(unserved)
    assert isinstance(item, bytes)
    return item.decode().replace(unserved, queue)


def letter_for(transport: CeleryTransport, worker: Process, item: str, queue: str) -> DeadLetter:
    """Put an item on a queue that a worker reads, and return the one letter that comes of it."""
    store = transport.store
    assert store is not None
    before = [letter.letter_id for letter in store.dead_letters(after=None, limit=1)]

    with redis.Redis.from_url(transport.broker) as broker:
        broker.lpush(queue, item)

    def newest() -> Sequence[DeadLetter]:
        found = store.dead_letters(after=None, limit=2)
        return found if [letter.letter_id for letter in found[:1]] != before else []

    letters = eventually(newest, what=f"no letter for {item[:3000]}")
    assert [letter.letter_id for letter in letters[1:2]] == before
    assert worker.running
    expect_whole(letters[0], None)
    return letters[0]


def unfinished(transport: CeleryTransport, queue: str) -> list[bytes]:
    """What still lies on a queue, or was taken from it and not acknowledged."""
    with redis.Redis.from_url(transport.broker) as broker:
        taken = [item for item in broker.hvals("unacked") if queue.encode() in item]
        return [*broker.lrange(queue, 0, -1), *taken]


def test_a_message_of_no_recorded_workflow_is_taken_off_its_queue(made: Deployment, worker: Process) -> None:
    """A stranger's message, or one whose record is long gone, runs nothing and is not redelivered."""
    transport, hop_id = made.transport(), f"{uuid.uuid4().hex}.0"

    send(transport.app, made.prefix, Forged(reason=""), "{}", hop_id)

    eventually(lambda: hop_id in worker.log() and "message refused: unsupported_version" in worker.log())
    expect_good(transport)
    assert worker.log().count(f"draft[{hop_id}] received") == 1


def test_a_refused_copy_of_a_finished_hop_changes_nothing(made: Deployment, worker: Process) -> None:
    """A late forgery cannot turn a success into a failure."""
    transport, dispatcher = made.transport(), WorkflowDispatcher()
    correlation_id = dispatcher.dispatch_workflow_sync(transport, itinerary=[ActivitySpec("draft", "done")])
    handle = dispatcher.handle(correlation_id, transport)
    before = handle.result_sync(10)

    send(transport.app, made.prefix, Forged(reason=""), "{}", f"{correlation_id}.0")

    eventually(lambda: worker.log().count(f"draft[{correlation_id}.0] received") == 2)
    expect_good(transport)
    assert handle.result_sync() == before


def test_a_task_of_the_host_on_our_queue_is_none_of_our_business(made: Deployment, worker: Process) -> None:
    """A host may route its own tasks to the queue of an activity; our limits and our compression are not theirs."""
    size, queue = 5 * 2**20, f"{made.prefix}.draft"
    before = made.runs().count(f"counted-{size}")

    for compression in ("gzip", "bzip2", None):
        made.transport().app.send_task("canary.count", args=["x" * size], queue=queue, compression=compression)

    eventually(lambda: made.runs().count(f"counted-{size}") == before + 3, within=WITHIN)


def test_a_copy_of_a_finished_hop_is_dropped_and_noted(made: Deployment, worker: Process) -> None:
    """Replaying a recorded message runs nothing and does not fill a list that people read."""
    transport, dispatcher = made.transport(), WorkflowDispatcher()
    message = message_of(ActivitySpec("draft", "once"))
    record(transport, message, encode(message))
    handle = dispatcher.handle(message.correlation_id, transport)
    for copies in range(1, 4):
        send(transport.app, made.prefix, Forged(reason=""), encode(message), message.message_id)
        before = handle.result_sync(WITHIN)
        eventually(lambda copies=copies: dropped(worker, message) == copies - 1)  # type: ignore[misc]

    expect_good(transport)
    assert handle.result_sync() == before
    assert made.runs().count(message.message_id) == 1
    assert letters_of(transport, message) == []


def dropped(worker: Process, message: PaigeantMessage) -> int:
    """How many deliveries the log calls copies of a finished hop."""
    ignored = f"[{message.message_id}] ignored"
    return min(worker.log().count(ignored), worker.log().count("delivery dropped: finished"))


@pytest.mark.parametrize(("age", "expired"), [(4 * DAY, True), (2 * DAY, False), (-DAY, False)])
def test_a_message_of_an_unknown_workflow_is_run_only_while_it_is_young(
    made: Deployment, worker: Process, age: timedelta, expired: bool
) -> None:
    """A message that was held back until its records were gone does not run a second time."""
    transport = made.transport()
    message = message_of(ActivitySpec("draft", "old")).model_copy(update={"sent_at": datetime.now(UTC) - age})

    send(transport.app, made.prefix, Forged(reason=""), encode(message), message.message_id)

    assert transport.store is not None
    if not expired:
        handle = WorkflowDispatcher().handle(message.correlation_id, transport)
        eventually(lambda: transport.store.workflow(message.correlation_id))  # type: ignore[union-attr]
        assert handle.result_sync(WITHIN).status == "completed"
        return
    letters = eventually(lambda: letters_of(transport, message), within=WITHIN)
    assert [letter.reason for letter in letters] == ["expired"]
    expect_whole(letters[0], encode(message).encode())
    expect_good(transport)
    assert transport.store.workflow(message.correlation_id) is None
    assert message.message_id not in made.runs()


@pytest.mark.parametrize(("off", "said"), [(DAY, "86400 s ahead"), (-DAY, "86400 s behind")])
def test_a_sender_whose_clock_is_a_day_off_is_served_and_named(
    made: Deployment, worker: Process, off: timedelta, said: str
) -> None:
    """A virtual machine with a wrong clock costs nobody a workflow; only the store's clock counts."""
    transport, now = made.transport(), datetime.now(UTC) + off
    message = message_of(ActivitySpec("draft", "late")).model_copy(update={"created_at": now, "sent_at": now})
    record(transport, message, encode(message))

    send(transport.app, made.prefix, Forged(reason=""), encode(message), message.message_id)

    handle = WorkflowDispatcher().handle(message.correlation_id, transport)
    assert handle.result_sync(WITHIN).status == "completed"
    assert f"the clock of the process that sent workflow {message.correlation_id} is {said}" in worker.log()
    assert transport.store is not None
    kept = transport.store.workflow(message.correlation_id)
    assert kept is not None
    for at in (kept.created_at, kept.updated_at, *(event.at for event in handle.events_so_far())):
        assert abs(at - datetime.now(UTC)) < timedelta(minutes=1)


@pytest.mark.parametrize("text", ["🦊🦊", "שלום עולם", "𝄞 𠮷野家", "a\u202eb", "line\r\n\ttab \u2028", "\0nul\0"])
def test_unusual_text_passes_unchanged(made: Deployment, worker: Process, text: str) -> None:
    """People write in every script there is."""
    transport, dispatcher = made.transport(), WorkflowDispatcher()
    steps = [ActivitySpec("draft", text), ActivitySpec("publish", text)]
    variables = {text.replace("\0", ""): text}  # only names may have no NUL
    correlation_id = dispatcher.dispatch_workflow_sync(transport, itinerary=steps, variables=variables)

    result = dispatcher.handle(correlation_id, transport).result_sync(10)

    assert result.output == f"publish({text}|draft({text}|))"


def test_no_log_holds_what_was_refused(made: Deployment, worker: Process) -> None:
    """What is refused is as confidential as what runs; the log also covers all tests before this one."""
    transport, forged = made.transport(), CASES["14 unknown field"]
    message = message_of(forged.step)
    tree = json.loads(encode(message))
    forged.change(tree)

    send(transport.app, made.prefix, forged, json.dumps(tree), message.message_id)

    lines = (f"message refused: {forged.reason}", message.message_id)
    eventually(lambda: any(all(part in line for part in lines) for line in worker.log().splitlines()))
    assert SECRET in json.dumps(tree)
    assert SECRET not in worker.log()
    assert uncaught(worker.log()) == []


# What agents do to the itinerary.


@pytest.fixture(scope="module")
def edited(redis_url: str, pool: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A worker with low limits on what agents may insert."""
    limits = {"paigeant_max_steps": 7, "paigeant_max_visits": 4, "paigeant_inline_log_size": 0}
    with deployment(redis_url, tmp_path_factory.mktemp("edited"), **limits) as made:
        made.ready_worker("editors", "press", "desk", pool=pool, slots=2)
        yield made


def dispatch_edited(made: Deployment, *steps: ActivitySpec) -> WorkflowHandle:
    """Start a workflow whose agents may insert everything loaded except `review`, and also `ghost`."""
    transport, dispatcher = made.transport(), WorkflowDispatcher()
    for name in ("draft", "editor", "review", "ping", "pong"):
        dispatcher.register(ActivitySpec(name, "inserted"))
    return dispatcher.handle(dispatcher.dispatch_workflow_sync(transport, itinerary=steps), transport)


def test_agents_that_insert_each_other_without_end_are_parked(edited: Deployment) -> None:
    """A loop ends with a person looking, not with the budget spent."""
    handle = dispatch_edited(edited, ActivitySpec("ping", "begin"))

    with pytest.raises(WorkflowParked) as raised:
        handle.result_sync(WITHIN)

    assert raised.value.error_class == "loop_limit"
    assert "`paigeant_max_steps`" in raised.value.text
    assert handle.status_sync().executed == ("ping", "pong-0.1", "ping-1.1", "pong-2.1", "ping-3.1", "pong-4.1")
    assert len([run for run in edited.runs() if run.startswith(handle.correlation_id)]) == 7
    store = edited.transport().store
    assert store is not None
    letters = [one for one in store.dead_letters(after=None, limit=100) if one.correlation_id == handle.correlation_id]
    assert [(letter.reason, letter.hop_id) for letter in letters] == [("loop_limit", f"{handle.correlation_id}.6")]
    expect_good(edited.transport())


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (["draft", "ghost"], "activity_not_allowed"),
        (["draft", "review"], "activity_not_allowed"),
        (["draft", "draft", "draft", "draft"], "too_many_added_steps"),
        (["editor", "editor"], "too_many_visits"),
    ],
    ids=["unknown", "forbidden", "too many", "itself too often"],
)
def test_an_edit_that_is_not_allowed_is_refused_whole_and_the_workflow_goes_on(
    edited: Deployment, wanted: list[str], reason: str
) -> None:
    """The model is told and may do something else; none of the steps are inserted."""
    editors = [ActivitySpec("draft", "first"), ActivitySpec("editor", json.dumps(wanted))]
    again = [ActivitySpec("editor", "[]", step_id=f"again-{n}") for n in range(2)]
    handle = dispatch_edited(edited, *editors, *again)

    result = handle.result_sync(WITHIN)

    assert list(result.outputs) == ["draft", "editor", "again-0", "again-1"]
    assert str(result.outputs["editor"]).startswith(f"Nothing was inserted. {reason}")
    refused = [event.fields["reason"] for event in handle.events_so_far() if event.type == "edit_refused"]
    assert refused == [reason]
    expect_good(edited.transport())


# Branches.


def branch_of(message: PaigeantMessage, place: str = "0-0") -> PaigeantMessage:
    """Return a message as that of the first step of a branch of the workflow, with the same steps."""
    slip = message.slip.model_copy(update={"branch": BranchOf(place=place, path="parallel/a")})
    return message.moved(slip, now=datetime.now(UTC))


@pytest.mark.parametrize(
    ("reason", "is_known", "renamed"),
    [("inconsistent_slip", True, False), ("store_lost", False, False), ("inconsistent_slip", True, True)],
    ids=["a branch that nobody opened", "a branch of no workflow", "another workflow's branch"],
)
def test_a_message_of_a_branch_that_is_not_there_runs_nothing(
    made: Deployment, worker: Process, reason: str, is_known: bool, renamed: bool
) -> None:
    """Whoever can write to a queue opens no branch, and no workflow is recorded from a part of it."""
    transport = made.transport()
    assert transport.store is not None
    message = message_of(ActivitySpec("draft", SECRET))
    if is_known:
        record(transport, message, encode(message))
    before = transport.store.workflow(message.correlation_id)
    branch = branch_of(message)
    if renamed:  # that of one workflow under the id of a hop of another
        branch = branch.model_copy(update={"correlation_id": uuid.uuid4().hex})

    send(transport.app, made.prefix, Forged(reason=""), encode(branch), branch.message_id)

    letters = eventually(lambda: letters_of(transport, branch), within=WITHIN)
    assert [letter.reason for letter in letters] == [reason]
    expect_whole(letters[0], None)
    assert transport.store.workflow(message.correlation_id) == before
    assert transport.store.hop(branch.message_id) is None
    expect_good(transport)
    assert branch.message_id not in made.runs()
    assert worker.running


def test_a_copy_of_the_message_of_a_closed_branch_runs_nothing(made: Deployment, worker: Process) -> None:
    """The block has its output; nobody pays for a model once more, and nothing is a dead letter."""
    transport = made.transport()
    assert transport.store is not None
    before = len(transport.store.dead_letters(after=None, limit=1000))
    block = parallel({"a": [wait_for("never"), DRAFT], "b": [wait_for("go"), DRAFT]}, join="any")
    handle = dispatched(transport, block)
    loser = f"{handle.correlation_id}.0-0.0"
    waiting = eventually(lambda: suspended(transport, loser), within=WITHIN)
    handle.signal_sync("go", "x")
    assert prompt_result(handle).output == {"b": "draft(x|x)"}
    seen = len(worker.log())

    send(transport.app, made.prefix, Forged(reason="", activity="_flow"), waiting.envelope, loser)

    eventually(lambda: "delivery dropped: cancelled" in worker.log()[seen:], within=WITHIN)
    expect_good(transport)
    assert f"{handle.correlation_id}.0-0.1" not in made.runs()
    assert len(transport.store.dead_letters(after=None, limit=1000)) == before


def suspended(transport: CeleryTransport, hop_id: str) -> HopReading | None:
    """Return where a hop stands once it waits."""
    assert transport.store is not None
    hop = transport.store.hop(hop_id)
    return hop if hop is not None and hop.state == "suspended" else None


# A store that is not as it should be.


@dataclass(frozen=True, kw_only=True)
class Apart:
    """A worker whose store has its own server, and a workflow that waits for its message."""

    made: Deployment
    worker: Process
    store: RedisServer
    message: PaigeantMessage

    def send(self) -> WorkflowHandle:
        """Send the message."""
        transport = self.made.transport()
        send(transport.app, self.made.prefix, Forged(reason=""), encode(self.message), self.message.message_id)
        return WorkflowDispatcher().handle(self.message.correlation_id, transport)


@pytest.fixture
def apart(redis_url: str, own_redis: Callable[..., RedisServer], tmp_path: Path) -> Iterator[Apart]:
    server = own_redis("--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction")
    with deployment(redis_url, tmp_path, store=server.url) as made:
        worker = made.ready_worker("desk", "press")
        message = message_of(ActivitySpec("draft", SECRET))
        record(made.transport(), message, encode(message))
        yield Apart(made=made, worker=worker, store=server, message=message)


@pytest.mark.parametrize("key", ["hop:{}.0", "wf:{}"])
def test_a_record_of_another_type_is_a_dead_letter(apart: Apart, key: str) -> None:
    """Another program overwrote a key; other workflows are not affected."""
    prefix, transport = apart.made.prefix, apart.made.transport()
    with redis.Redis.from_url(apart.store.url) as client:
        name = f"{prefix}:{key.format(apart.message.correlation_id)}"
        assert client.delete(name) == 1
        client.rpush(name, SECRET)

    apart.send()

    letters = eventually(lambda: letters_of(transport, apart.message), within=WITHIN)
    assert [letter.reason for letter in letters] == ["store_corrupt"]
    expect_whole(letters[0], encode(apart.message).encode())
    expect_good(transport)
    assert apart.worker.running
    assert apart.made.runs().count(apart.message.message_id) == 0
    assert SECRET not in apart.worker.log()


def test_a_step_waits_for_a_store_that_is_full(apart: Apart) -> None:
    """Once memory is added, the workflow goes on by itself."""
    with redis.Redis.from_url(apart.store.url) as client:
        client.config_set("maxmemory", "1")
        handle = apart.send()
        apart.worker.wait_for_log("waiting: ", within=WITHIN)
        assert "full" in apart.worker.log()
        client.config_set("maxmemory", "0")

    assert handle.result_sync(WITHIN).status == "completed"
    expect_good(apart.made.transport())
    assert apart.made.runs().count(apart.message.message_id) == 1
    assert apart.worker.running


def test_a_step_waits_for_a_store_that_cannot_be_reached(apart: Apart) -> None:
    """The store's server restarts; workers wait, say so and go on."""
    apart.store.stop()
    handle = apart.send()
    apart.worker.wait_for_log("waiting: cannot reach the store", within=WITHIN)
    apart.store.start()

    assert handle.result_sync(WITHIN).status == "completed"
    expect_good(apart.made.transport())
    assert apart.made.runs().count(apart.message.message_id) == 1
    assert apart.worker.running


# What a dispatching process is refused leaves no trace on the server.


@pytest.fixture(scope="module")
def unserved(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A prefix that no worker serves, so that everything that is sent stays where it is."""
    with deployment(redis_url, tmp_path_factory.mktemp("unserved")) as made:
        yield made


def keys_of(made: Deployment) -> set[bytes]:
    """Everything of ours on the server: records, queues and their bindings."""
    with redis.Redis.from_url(made.url) as client:
        return set(client.scan_iter(f"*{made.prefix}*", count=1000))


@pytest.mark.parametrize(("call", "reason", "path", "text"), REFUSALS)
def test_a_refused_dispatch_records_and_enqueues_nothing(
    unserved: Deployment, call: Callable[[], dict[str, Any]], reason: str, path: str, text: str
) -> None:
    """A caller that gets an error may fix the call and repeat it."""
    with registry.isolated():
        _held = agents()

        with pytest.raises(InvalidInput) as caught:
            WorkflowDispatcher().dispatch_workflow_sync(unserved.transport(), **call())

    assert (caught.value.reason, caught.value.path) == (reason, path)
    assert REFUSED_SECRET not in str(caught.value)
    assert keys_of(unserved) == set()


def test_a_correlation_id_that_is_used_again_sends_nothing_more(redis_url: str, tmp_path: Path) -> None:
    """The id is the caller's key: the same content is the same workflow, different content is an error."""
    with deployment(redis_url, tmp_path) as made, redis.Redis.from_url(redis_url) as broker:

        def dispatch(prompt: str) -> str:
            steps, transport = [ActivitySpec("draft", prompt)], made.transport()
            return WorkflowDispatcher().dispatch_workflow_sync(transport, itinerary=steps, correlation_id="order-17")

        def enqueued() -> list[bytes]:
            return broker.lrange(f"{made.prefix}.draft", 0, -1)

        assert dispatch("x") == "order-17"
        (item,) = enqueued()
        hop = keys_of(made)

        assert dispatch("x") == "order-17"
        with pytest.raises(WorkflowConflict):
            dispatch("y")

        assert {json.loads(one)["headers"]["id"] for one in enqueued()} == {"order-17.0"}
        assert keys_of(made) == hop
        assert item in enqueued()


# Where each row is tested: a test by its file and name, and the number of cases that begin with the row's number.

HERE, UNIT, HOST = "acceptance/test_bad_input.py", "unit/test_bad_input.py", "integration/test_host.py"
WORKFLOWS, ITINERARY = "acceptance/test_workflows.py", "unit/agents/test_itinerary.py"
PROCESSES, RABBIT = "acceptance/test_processes.py", "integration/test_rabbitmq.py"
DAMAGED = f"{HERE}::test_a_damaged_message_becomes_a_dead_letter_and_the_worker_goes_on"
ON_RABBIT = f"{RABBIT}::test_what_cannot_be_digested_becomes_a_dead_letter_and_the_worker_goes_on"

ROWS: dict[int, tuple[str, ...]] = {
    1: (DAMAGED,),
    2: (DAMAGED, ON_RABBIT),
    3: ("RAW 1", DAMAGED, ON_RABBIT),
    4: ("RAW 5", ON_RABBIT),
    5: ("RAW 3", "CASES 1", ON_RABBIT),
    6: ("RAW 3", f"{HERE}::test_a_task_of_the_host_on_our_queue_is_none_of_our_business", ON_RABBIT),
    7: ("RAW 2", "AROUND 3", ON_RABBIT),
    8: ("RAW 1",),
    11: (f"{HERE}::test_a_copy_of_a_finished_hop_is_dropped_and_noted",),
    12: (f"{HERE}::test_a_message_of_an_unknown_workflow_is_run_only_while_it_is_young",),
    13: ("CASES 4",),
    14: ("CASES 3",),
    15: ("CASES 12", "AROUND 1"),
    16: ("CASES 1", "REFUSALS 4"),
    17: ("CASES 1", f"{UNIT}::test_row17_an_unknown_name_is_refused_where_the_registry_is_all_there_is"),
    18: ("CASES 6", "REFUSALS 9"),
    19: ("CASES 5", "REFUSALS 7"),
    20: ("CASES 5", "REFUSALS 9"),
    21: ("CASES 1", "REFUSALS 1"),
    22: ("REFUSALS 21",),
    23: ("REFUSALS 6",),
    24: (f"{WORKFLOWS}::test_a_deadline_that_passes_in_the_queue_costs_no_model_call",),
    25: (f"{HERE}::test_a_correlation_id_that_is_used_again_sends_nothing_more",),
    26: ("REFUSALS 8",),
    27: ("CASES 3", "REFUSALS 6", f"{HERE}::test_unusual_text_passes_unchanged"),
    28: ("CASES 3", "AROUND 2"),
    29: (f"{HERE}::test_agents_that_insert_each_other_without_end_are_parked",),
    30: (f"{HERE}::test_an_edit_that_is_not_allowed_is_refused_whole_and_the_workflow_goes_on",),
    31: (
        f"{WORKFLOWS}::test_an_output_that_cannot_be_recorded_parks_the_step",
        f"{WORKFLOWS}::test_a_large_output_reaches_the_other_worker_by_reference",
    ),
    32: ("REFUSALS 5",),
    33: (f"{WORKFLOWS}::test_an_error_that_would_end_a_process_fails_the_workflow_alone",),
    34: (f"{WORKFLOWS}::test_a_step_that_runs_too_long_is_tried_again_and_then_parked",),
    35: ("CASES 4",),
    36: (f"{HERE}::test_a_sender_whose_clock_is_a_day_off_is_served_and_named",),
    37: (
        f"{HERE}::test_a_record_of_another_type_is_a_dead_letter",
        f"{HERE}::test_a_step_waits_for_a_store_that_is_full",
        f"{HERE}::test_a_step_waits_for_a_store_that_cannot_be_reached",
    ),
    38: (
        f"{HOST}::test_a_worker_with_wrong_settings_stops_with_one_line_that_names_them_all",
        f"{UNIT}::test_row38_a_store_url_that_is_not_understood_is_refused_without_its_password",
    ),
    39: (f"{UNIT}::test_row39_an_executor_that_finds_nothing_says_what_it_searched",),
    40: (f"{UNIT}::test_row40_a_transport_that_does_not_exist_is_refused_with_those_that_do",),
    41: ("AROUND 9", ON_RABBIT),
    42: (
        f"{HOST}::test_a_worker_with_wrong_settings_stops_with_one_line_that_names_them_all",
        f"{UNIT}::test_row42_a_setting_of_the_host_that_would_reach_our_tasks_is_named",
        f"{PROCESSES}::test_a_store_that_may_evict_records_stops_a_worker_even_where_it_comes_later",
    ),
    43: ("CASES 6", "REFUSALS 23"),
    44: (
        "CASES 15",
        "AROUND 1",
        "REFUSALS 17",
        f"{HERE}::test_a_message_of_a_branch_that_is_not_there_runs_nothing",
        f"{HERE}::test_a_copy_of_the_message_of_a_closed_branch_runs_nothing",
    ),
}


def cases_of(row: int) -> set[str]:
    """Each table with cases of a row, and how many."""
    names = {
        "CASES": [key.partition(" ")[0] for key in CASES],
        "AROUND": [key.partition(" ")[0] for key in AROUND],
        "RAW": [key.partition(" ")[0] for key in RAW],
        "REFUSALS": [str(case.id).partition("-")[0].removeprefix("row") for case in REFUSALS],
    }
    counts = {table: sum(int(name) == row for name in found) for table, found in names.items()}
    return {f"{table} {count}" for table, count in counts.items() if count}


def test_every_row_of_the_list_is_tested() -> None:
    """Rows 9 and 10 are about signatures, which do not exist yet."""
    assert set(ROWS) == set(range(1, 45)) - {9, 10}


@pytest.mark.parametrize(("row", "tests"), ROWS.items())
def test_what_is_named_for_a_row_exists(row: int, tests: tuple[str, ...]) -> None:
    """A renamed or removed test, or a case dropped from its table, is noticed here."""
    named = {test for test in tests if "::" in test}

    assert set(tests) - named == cases_of(row)
    for file, _, name in (test.partition("::") for test in named):
        tree = ast.parse((Path(__file__).parents[1] / file).read_text())
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
