"""The envelope: what is written down is read back, and what cannot be run is refused by name."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from paigeant_celery.core.errors import MessageError, NewerMessage
from paigeant_celery.core.jsonable import dumps
from paigeant_celery.core.message import PaigeantMessage, content_digest, encode, parse, sha256
from paigeant_celery.core.names import SPEC_VERSION
from paigeant_celery.core.policy import StepPolicy
from paigeant_celery.core.slip import ActivitySpec, ExecutedStep, FunctionSpec, RoutingSlip, StepFields

WIRE = Path(__file__).parents[2] / "data" / "wire"
NOON = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
MAX_SIZE, MAX_STEPS = 1024 * 1024, 256


def sample(name: str) -> dict[str, Any]:
    return json.loads((WIRE / f"{name}.json").read_text(encoding="utf-8"))


def read(tree: object, *, max_size: int = MAX_SIZE, max_steps: int = MAX_STEPS) -> PaigeantMessage:
    text = tree if isinstance(tree, str) else json.dumps(tree)
    return parse(text, max_size=max_size, max_steps=max_steps)


def refusal(tree: object, **limits: int) -> tuple[str, str]:
    with pytest.raises(MessageError) as caught:
        read(tree, **limits)
    return caught.value.reason, caught.value.path


def changed(name: str, path: str, value: object) -> dict[str, Any]:
    """A sample with one field changed; `...` removes the field."""
    tree = sample(name)
    node: Any = tree
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    for part in parents:
        node = node[part]
    if value is ...:
        del node[last]
    else:
        node[last] = copy.deepcopy(value)
    return tree


@pytest.mark.parametrize("name", ["first", "underway", "content", "talking", "far", "waiting", "tasks", "newer_minor"])
def test_a_message_written_by_this_version_is_read_and_written_unchanged(name: str) -> None:
    """Messages wait in queues while workers are upgraded; the samples are what was promised."""
    message = read(sample(name))

    assert json.loads(encode(message)) == sample(name)


@pytest.mark.parametrize("version", ["1.0", "1.1", "1.2", "1.3"])
@pytest.mark.parametrize("name", ["first", "underway"])
def test_a_message_of_an_older_version_is_read_and_forwarded_as_one_of_this(name: str, version: str) -> None:
    """Messages wait in queues during an upgrade, and a worker that was not upgraded yet keeps fields that it does not
    know only if the version says that there may be some."""
    old, current = read(sample(f"{name}_{version.replace('.', '_')}")), read(sample(name))
    record = ExecutedStep(
        step_id="x", place=old.place, kind="agent", activity="x", attempt=1, started_at=NOON, finished_at=NOON
    )

    assert old.spec_version == version
    assert version in ("1.2", "1.3") or all(record.content == () for record in old.slip.executed)
    assert version != "1.0" or (old.stream, old.usage_limits) == (False, None)
    assert old.slip.itinerary == current.slip.itinerary
    moved = json.loads(encode(old.moved(old.slip.advanced(record, ()), now=NOON)))
    assert moved["spec_version"] == SPEC_VERSION
    assert read(moved).slip.executed[-1] == record


def test_a_message_of_a_new_workflow_is_written_as_the_sample() -> None:
    """Workers of older versions read what a dispatcher of this one writes."""
    writer = ActivitySpec(
        "writer",
        "Write about foxes.\nשלום",
        {"language": "en", "since": "2025-12-31"},
        "writer",
        StepPolicy(timeout=30, max_attempts=2, backoff=0.5, retry_on=[ConnectionError]),
        queue="gpu",
    )
    message = PaigeantMessage(
        message_id="order-17.0",
        correlation_id="order-17",
        created_at=NOON,
        sent_at=NOON,
        deadline=NOON.replace(hour=18),
        trace_context={"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
        variables={"customer": "Zoë 🦊", "limits": {"jokes": 3, "strict": True}},
        slip=RoutingSlip(itinerary=(writer, FunctionSpec("count_words", {"at_least": 5}, "count"))),
    )

    assert encode(message) == dumps(sample("first"))


def test_the_digest_of_what_was_asked_for_is_a_promise() -> None:
    """The store keeps it: if it were computed differently, every repeated dispatch would be a conflict."""
    for message in (read(sample("first")), read(sample("first_1_1")), read(sample("first_1_0"))):
        assert content_digest(message) == "c1efee8e4ba0ba0d79c0494f3b2996d78e590dfcd2f74ef2bcf31b871840b0c9"
    assert content_digest(read(sample("content"))) == "6408d1cd4deea9a02265f2d1942723089a998505881e09353714a05df7188241"


def test_the_digest_ignores_when_and_how_often_the_workflow_was_sent() -> None:
    """The same request an hour later is the same workflow; a different prompt is a different one."""
    first = read(sample("first"))
    later = read(changed("first", "created_at", "2026-03-04T00:00:00Z"))
    other = read(changed("first", "slip.itinerary.0.prompt", "Write about cats."))

    assert content_digest(later) == content_digest(first)
    assert content_digest(other) != content_digest(first)
    for path, value in (("stream", True), ("usage_limits", {"request_limit": 3})):
        assert content_digest(read(changed("first", path, value))) != content_digest(first)


def test_the_fields_of_a_newer_minor_version_survive_being_forwarded() -> None:
    """An old worker in the middle must not cut out what a newer one at the end needs."""
    message = read(sample("newer_minor"))
    record = ExecutedStep(
        step_id="writer", place="1", kind="agent", activity="writer", attempt=1, started_at=NOON, finished_at=NOON
    )

    moved = json.loads(encode(message.moved(message.slip.advanced(record, ()), now=NOON)))

    before = sample("newer_minor")
    assert moved["tenant"] == before["tenant"]
    assert moved["spec_version"] == "1.7"
    assert moved["slip"]["revision"] == 4
    assert moved["slip"]["executed"][0] == before["slip"]["executed"][0]
    assert moved["slip"]["itinerary"] == before["slip"]["itinerary"][1:]


def test_a_step_of_a_conversation_is_of_a_kind_that_earlier_versions_leave_to_newer_ones() -> None:
    """They keep a field that they do not know, and would run the step without its history."""
    steps = sample("talking")["slip"]["itinerary"]

    assert {step["kind"] for step in steps} == {"agent_1.2"}
    for field in ("conversation", "conversation_id"):
        assert encode(read(sample("first"))).count(f'"{field}"') == 0
    tree = sample("talking")
    tree["slip"]["itinerary"][0]["kind"] = "agent"
    assert refusal(tree) == ("invalid_envelope", "slip.itinerary[0]")
    assert refusal({**sample("talking"), "slip": {**sample("talking")["slip"], "itinerary": [
        {**steps[0], "conversation": "a\nb"}]}}) == ("bad_conversation", "slip.itinerary[0].conversation")  # fmt: skip


def test_the_digest_of_a_step_in_a_conversation_is_its_own() -> None:
    """Another conversation is another request, even under one correlation id."""
    digests = {
        content_digest(read(tree))
        for tree in (
            sample("talking"),
            changed("talking", "slip.itinerary.0.conversation", "billing"),
            changed("talking", "slip.itinerary.0.conversation_id", "support"),
        )
    }

    assert len(digests) == 3


NEW_KIND = {"step_id": "both", "kind": "edit", "rest": [{"name": "a", "steps": [{"kind": "agent"}]}]}


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("kind", ["edit", "Agent", "", 5, None, {"of": "block"}])
def test_a_kind_of_step_of_a_newer_minor_version_is_left_to_its_workers(place: int, kind: object) -> None:
    """A deploy has old workers beside new ones; wherever the new step stands, the workflow must not be parked."""
    tree = sample("newer_minor")
    tree["slip"]["itinerary"].insert(place, {**NEW_KIND, "kind": kind})

    with pytest.raises(NewerMessage) as found:
        read(tree)

    assert (found.value.reason, found.value.path) == ("newer_version", f"slip.itinerary[{place}]")
    for version in ("1.0", SPEC_VERSION):
        assert refusal({**tree, "spec_version": version}) == ("invalid_envelope", found.value.path)


def test_a_step_of_a_new_kind_that_agents_may_insert_is_left_to_newer_workers() -> None:
    """An agent that cannot be offered it all would take another way than its author meant."""
    tree = {**sample("underway"), "spec_version": "1.7"}
    tree["registered_activities"][0]["step"] = {**NEW_KIND, "agent_name": "critic", "prompt": "Judge."}

    with pytest.raises(NewerMessage) as found:
        read(tree)

    assert found.value.path == "registered_activities[0].step.kind"
    assert refusal({**tree, "spec_version": SPEC_VERSION})[0] == "invalid_envelope"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("message_id", "order-17.3-1.0"),  # the first step of a branch
        ("slip.executed", []),  # the store has the log
        ("slip.executed.0.place", "3-1.0"),
    ],
)
def test_a_place_that_only_a_newer_minor_version_can_tell_is_left_to_its_workers(path: str, value: object) -> None:
    """A newer version counts steps that are not in the message, or names places in another way."""
    tree = changed("newer_minor", path, value)

    with pytest.raises(NewerMessage):
        read(tree)

    bare = {**sample("underway"), **{name: tree[name] for name in ("message_id", "slip")}, "spec_version": SPEC_VERSION}
    assert refusal(bare)[0] in ("inconsistent_slip", "unknown_field")


@pytest.mark.parametrize("path", ["slip.itinerary.0.prompt", "slip.itinerary.0.kind", "correlation_id", "slip"])
def test_a_message_of_a_newer_minor_version_that_no_version_can_read_is_refused(path: str) -> None:
    """What is not there, or wrong in every version, would otherwise wait for a worker that never comes."""
    with pytest.raises(MessageError) as found:
        read(changed("newer_minor", path, ...))

    assert type(found.value) is MessageError


@pytest.mark.parametrize(
    "path",
    [
        "extra",
        "fence",
        "slip.owner",
        "slip.itinerary.0.type",
        "slip.itinerary.1.lease",
        "slip.itinerary.0.policy.retries",
        "registered_activities.0.hidden",
        "registered_activities.0.step.module",
        "slip.executed.0.attempts",
        "slip.executed.0.output_ref.url",
        "usage_limits.money",
    ],
)
def test_an_unknown_field_of_our_own_version_is_refused_with_its_path(path: str) -> None:
    """A misspelt or smuggled field is noticed instead of being carried along."""
    name = "first" if "itinerary" in path else "underway"
    where = "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in path.split(".")).lstrip(".")

    assert refusal(changed(name, path, "x")) == ("unknown_field", where)


def test_a_field_of_the_old_format_is_refused_with_the_way_out() -> None:
    """Messages that named classes and modules could load any code; they are never read again."""
    with pytest.raises(MessageError, match=r"older format that named classes and modules: dispatch the workflow again"):
        read(changed("first", "slip.itinerary.0.module", "os"))


@pytest.mark.parametrize(
    "version", [..., None, 1.0, "", "1", "1.", "2.0", "0.9", "one.two", "1.0.0", "1.-1", "²1.0", "9" * 80]
)
def test_a_version_that_cannot_be_read_is_refused_with_the_range_that_can(version: object) -> None:
    """The reader of the refusal knows which side to upgrade."""
    tree = changed("first", "spec_version", version)

    assert refusal(tree) == ("unsupported_version", "spec_version")
    with pytest.raises(MessageError, match=r"this version reads 1\.x"):
        read(tree)


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("slip.itinerary", {}, ("invalid_envelope", "slip.itinerary")),
        ("slip.itinerary.0", None, ("invalid_envelope", "slip.itinerary[0]")),
        ("slip.itinerary.0.kind", "shell", ("invalid_envelope", "slip.itinerary[0]")),
        ("slip.itinerary.0.prompt", 5, ("invalid_envelope", "slip.itinerary[0].prompt")),
        ("slip.itinerary.0.prompt", " \n", ("empty_prompt", "slip.itinerary[0].prompt")),
        ("slip.itinerary.0.queue", "a\0b", ("invalid_text", "slip.itinerary[0].queue")),
        ("slip.itinerary.0.queue", "", ("invalid_queue", "slip.itinerary[0].queue")),
        ("slip.itinerary.0.queue", "é" * 128, ("invalid_queue", "slip.itinerary[0].queue")),
        ("slip.itinerary.0.prompt", "\ud800", ("invalid_text", "slip.itinerary[0].prompt")),
        ("slip.itinerary.0.deps", {"a": ["\ud800"]}, ("invalid_text", "slip.itinerary[0].deps.a[0]")),
        ("variables", {"\0": 1}, ("invalid_text", "variables")),
        ("slip.itinerary.0.agent_name", "../etc", ("bad_agent_name", "slip.itinerary[0].agent_name")),
        ("slip.itinerary.1.function_name", "a b", ("bad_agent_name", "slip.itinerary[1].function_name")),
        ("slip.itinerary.0.step_id", "a b", ("bad_step_id", "slip.itinerary[0].step_id")),
        ("slip.itinerary.0.step_id", None, ("invalid_envelope", "slip.itinerary")),
        ("slip.itinerary.0.policy.timeout", -1, ("invalid_envelope", "slip.itinerary[0].policy.timeout")),
        ("correlation_id", "a b", ("bad_correlation_id", "correlation_id")),
        ("message_id", "order-17.1", ("inconsistent_slip", "message_id")),
        ("message_id", "order-18.0", ("inconsistent_slip", "message_id")),
        ("slip.itinerary.1.step_id", "writer", ("inconsistent_slip", "slip")),
        ("created_at", "2026-01-02T12:00:00", ("invalid_envelope", "created_at")),
        ("slip", ..., ("invalid_envelope", "slip")),
        ("stream", "yes", ("invalid_envelope", "stream")),
        ("stream", 1, ("invalid_envelope", "stream")),
        ("stream", None, ("invalid_envelope", "stream")),
        ("usage_limits", 50, ("invalid_envelope", "usage_limits")),
        ("usage_limits", {"request_limit": "3"}, ("invalid_envelope", "usage_limits.request_limit")),
        ("usage_limits", {"tool_calls_limit": True}, ("invalid_envelope", "usage_limits.tool_calls_limit")),
        ("usage_limits", {"total_tokens_limit": -1}, ("invalid_envelope", "usage_limits.total_tokens_limit")),
        ("usage_limits", {"cost_limit": "1E+99999999"}, ("invalid_envelope", "usage_limits.cost_limit")),
        ("usage_limits", {"cost_limit": "NaN"}, ("invalid_envelope", "usage_limits.cost_limit")),
        ("variables", {"x": [[]]}, None),
    ],
)
def test_a_field_that_cannot_be_right_is_refused_by_its_path(
    path: str, value: object, expected: tuple[str, str] | None
) -> None:
    """An operator finds the wrong field without seeing, or logging, what it held."""
    tree = changed("first", path, value)

    if expected is None:
        assert read(tree).variables == value
    else:
        assert refusal(tree) == expected


@pytest.mark.parametrize("cost", ["-1", "NaN", "Infinity", "1E+99999999", "much", True, []])
def test_a_cost_that_cannot_be_summed_is_refused(cost: object) -> None:
    """Every status of the workflow adds it up."""
    assert refusal(changed("underway", "slip.executed.0.cost", cost)) == (
        "invalid_envelope",
        "slip.executed[0].cost",
    )


def test_records_out_of_order_are_refused() -> None:
    """The executed log is evidence; a workflow whose log was tampered with does not go on."""
    assert refusal(changed("underway", "slip.executed.1.place", "0")) == (
        "inconsistent_slip",
        "slip.executed[1].place",
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ("invalid_envelope", "")),
        ("[]", ("invalid_envelope", "")),
        ('"x"', ("invalid_envelope", "")),
        ("{", ("invalid_envelope", "")),
        ('{"a": 1, "a": 2}', ("invalid_envelope", "")),
        ('{"a": NaN}', ("invalid_envelope", "")),
        ('{"a": -Infinity}', ("invalid_envelope", "")),
        ('{"a": 1e999}', ("invalid_envelope", "a")),
        ('{"a": ' + "9" * 5000 + "}", ("invalid_envelope", "")),
        ("[" * 65 + "]" * 65, ("too_deep", "[0]" * 64)),
        ("[" * 200_000, ("too_deep", "")),
    ],
    ids=lambda value: value[:12] if isinstance(value, str) else None,
)
def test_text_that_is_no_strict_json_is_refused(text: str, expected: tuple[str, str]) -> None:
    """Two readers of one envelope must never understand it differently."""
    assert refusal(text) == expected


def test_the_size_is_checked_in_bytes_and_before_anything_is_parsed() -> None:
    """A large message costs a worker nothing but reading it from the broker."""
    text = json.dumps(sample("first"), ensure_ascii=False)
    size = len(text.encode())

    assert read(text, max_size=size).correlation_id == "order-17"
    assert size > len(text)
    assert refusal(text, max_size=size - 1) == ("too_large", "")
    assert refusal("{" * 50, max_size=49) == ("too_large", "")


@pytest.mark.parametrize("envelope", [None, b"{}", 7, {}, ["{}"]])
def test_an_envelope_that_is_no_text_is_refused(envelope: object) -> None:
    """A serializer other than ours sent it."""
    with pytest.raises(MessageError) as caught:
        parse(envelope, max_size=MAX_SIZE, max_steps=MAX_STEPS)

    assert caught.value.reason == "bad_envelope"


def test_executed_and_remaining_steps_count_together() -> None:
    """Inserting steps forever is caught, however many of them have run."""
    assert read(sample("underway"), max_steps=4).place == "3"
    assert refusal(sample("underway"), max_steps=3) == ("too_many_steps", "slip")


def test_a_message_without_a_step_left_has_nothing_to_run() -> None:
    """The end of a slip is not a step; a message that asks for one is refused."""
    message = read(changed("underway", "slip.itinerary", []))

    with pytest.raises(MessageError) as caught:
        _ = message.step
    assert (caught.value.reason, caught.value.path) == ("empty_itinerary", "slip.itinerary")


def test_a_refusal_never_repeats_what_the_field_held() -> None:
    """Refusals are logged, and envelopes hold prompts and deps."""
    secret = "hunter2-hunter2"
    for path in ("slip.itinerary.0.agent_name", "created_at", "slip.itinerary.0.policy", "message_id", "slip.executed"):
        with pytest.raises(MessageError) as caught:
            read(changed("first", path, secret + " \n"))
        assert secret not in str(caught.value)


def test_moving_a_message_names_its_next_hop(make_message: Callable[..., PaigeantMessage]) -> None:
    """The id of the hop is its place in the workflow, so that copies of a message are recognized."""
    message = make_message(ActivitySpec("a", "x"), ActivitySpec("b", "y"))
    record = ExecutedStep(
        step_id="a", place="0", kind="agent", activity="a", attempt=1, started_at=NOON, finished_at=NOON
    )

    moved = message.moved(message.slip.advanced(record, ()), now=NOON.replace(hour=13))

    assert (moved.message_id, moved.place, moved.sent_at) == ("w-1.1", "1", NOON.replace(hour=13))
    assert moved.created_at == message.created_at


def test_digests_are_of_utf8_even_where_text_is_broken() -> None:
    """A refused message is logged with its digest, whatever it holds."""
    assert sha256("é") == "4a99557e4033c3539de2eb65472017cad5f9557f7a0625a09f1c3f6e2ba69c4c"
    assert len(sha256("\ud800")) == 64


def test_the_digest_ignores_what_a_process_adds_that_has_the_agents_loaded() -> None:
    """The same request from a web process and from a worker is the same workflow, even after a deployment."""
    first = read(sample("first"))
    steps = [
        step.model_copy(update={"queue": "slow", "policy": StepPolicy(timeout=3)}) for step in first.slip.itinerary
    ]
    others = tuple(reversed(first.registered_activities))

    loaded = first.model_copy(
        update={"slip": first.slip.model_copy(update={"itinerary": tuple(steps)}), "registered_activities": others}
    )

    assert content_digest(loaded) == content_digest(first)


class Both(StepFields):
    """A step made of steps, as a later version may bring it."""

    kind: str = "both"
    steps: tuple[Any, ...] = ()

    @property
    def activity(self) -> str:
        return "both"


def test_the_digest_recurses_into_steps_that_hold_steps() -> None:
    """What a process adds, and the notation of what a step is given, count no more inside a step than outside."""

    def asked(at: datetime, words: set[str], **added: Any) -> str:
        inner = FunctionSpec("f", {"at": at, "price": Decimal(len(words))}, **added)
        step = Both(steps=(Both(steps=(inner, ActivitySpec("a", "x", deps=words, **added))),))
        first = read(sample("first"))
        slip = first.slip.model_copy(update={"itinerary": (step,)})
        return content_digest(first.model_copy(update={"slip": slip}))

    east = NOON.astimezone(timezone(timedelta(hours=2)))

    assert asked(NOON, {"a", "b"}) == asked(east, {"b", "a"}, queue="slow", policy=StepPolicy(timeout=3))
    assert asked(NOON, {"a", "b"}) != asked(NOON, {"a", "c"})
    assert asked(NOON, {"a", "b"}) != asked(NOON.replace(hour=13), {"a", "b"})
