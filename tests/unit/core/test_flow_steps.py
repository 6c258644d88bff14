"""Steps that wait: how they are made and refused, what they are called, and what they leave of the output before."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from paigeant_celery.core.errors import InvalidInput, MessageError, NewerMessage
from paigeant_celery.core.far import folded
from paigeant_celery.core.flow_steps import SleepSpec, WaitSpec, sleep_for, sleep_until, start_step, wait_for
from paigeant_celery.core.message import PaigeantMessage, content_digest, encode, parse
from paigeant_celery.core.slip import ActivitySpec, ExecutedStep, OutputRef, RoutingSlip, Step, name_steps

WIRE = Path(__file__).parents[2] / "data" / "wire"
NOON = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
TEN_YEARS = "must be from 0 to 316224000 seconds, which is ten years"
NAME = "it has 1 to 128 characters, not only spaces, and no control characters"


def read(tree: object) -> PaigeantMessage:
    return parse(json.dumps(tree), max_size=2**20, max_steps=256)


def waiting(*path: str | int, value: object = ...) -> dict[str, Any]:
    """The sample, with one field of it changed or added."""
    tree: dict[str, Any] = json.loads((WIRE / "waiting.json").read_text(encoding="utf-8"))
    node: Any = tree
    for part in path[:-1]:
        node = node[part]
    if path:
        node[path[-1]] = value
    return tree


def ran(*kinds: str) -> RoutingSlip:
    """A slip after steps of these kinds, each of which but the sleeps gave its place as output."""
    records = [
        ExecutedStep(
            step_id=f"s-{place}",
            place=str(place),
            kind=kind,
            activity=kind,
            attempt=1,
            started_at=NOON,
            finished_at=NOON,
            output=None if kind == "sleep" else place,
        )
        for place, kind in enumerate(kinds)
    ]
    return RoutingSlip(itinerary=name_steps([ActivitySpec("last", "x")]), executed=tuple(records))


def test_a_wait_is_named_after_what_it_waits_for_and_a_sleep_after_itself() -> None:
    """`outputs["wait-paid"]` is what one expects."""
    steps = [
        wait_for("paid"), sleep_for(5), wait_for("paid"), sleep_until(NOON), wait_for("Zoë's answer!"),
        wait_for("支払"), wait_for("paid", step_id="money"), sleep_for(timedelta(days=1), step_id="night"),
    ]  # fmt: skip

    assert [step.step_id for step in name_steps(steps)] == [
        "wait-paid", "sleep", "wait-paid-2", "sleep-2", "wait-Zo-s-answer", "wait", "money", "night",
    ]  # fmt: skip
    assert {step.activity for step in steps} == {"_flow"}


def test_the_step_that_starts_a_workflow_leaves_the_other_ids_as_they_are() -> None:
    """A caller who adds a start finds the outputs where they were."""
    assert start_step(NOON, taken=["writer"]).step_id == "start"
    assert start_step(NOON, taken=["start", "start-2"]).step_id == "start-3"


WRONG: list[tuple[Callable[[], object], str, str, str]] = [
    (lambda: wait_for(""), "invalid_wait", "name", f"it is empty or too long; {NAME}"),
    (lambda: wait_for(" "), "invalid_wait", "name", f"it is empty or too long; {NAME}"),
    (lambda: wait_for("x" * 129), "invalid_wait", "name", f"it is empty or too long; {NAME}"),
    (lambda: wait_for("a\nb"), "invalid_wait", "name", f"it has a character that no name can have; {NAME}"),
    (lambda: wait_for("\ud800"), "invalid_wait", "name", f"it has a character that no name can have; {NAME}"),
    (lambda: wait_for(5), "invalid_wait", "name", "must be a text, not a int"),  # type: ignore[arg-type]
    (lambda: wait_for("a", step_id="a b"), "bad_step_id", "step_id", "a step id has 1 to 128 of A-Z, a-z, 0-9,"),
    (lambda: wait_for("a", timeout="5"), "invalid_wait", "timeout", "not a str"),  # type: ignore[arg-type]
    (lambda: wait_for("a", timeout=True), "invalid_wait", "timeout", "must be seconds or a `timedelta`, not a bool"),
    (lambda: sleep_for(True), "invalid_wait", "seconds", "must be seconds or a `timedelta`, not a bool"),
    (lambda: sleep_for(None), "invalid_wait", "", "a sleep has either `seconds` or `until`"),  # type: ignore[arg-type]
    (lambda: sleep_until(5), "invalid_wait", "when", "must be a `datetime`, not a int"),  # type: ignore[arg-type]
    (lambda: sleep_until(date(2099, 1, 1)), "invalid_wait", "when", "not a date"),  # type: ignore[arg-type]
    (lambda: sleep_until(datetime(2099, 1, 1)), "naive_datetime", "when", "give it a time zone"),
    (
        lambda: sleep_until(datetime.max.replace(tzinfo=timezone(timedelta(hours=-1)))),
        "invalid_wait", "until", "it is beyond what a calendar can tell in UTC",
    ),
    *[
        (make, "invalid_wait", path, TEN_YEARS)
        for seconds in (-1, -0.001, float("nan"), float("inf"), -float("inf"), 1e300, 10**400, timedelta.max)
        for make, path in [
            (lambda given=seconds: wait_for("a", timeout=given), "timeout"),
            (lambda given=seconds: sleep_for(given), "seconds"),
        ]
    ],
]  # fmt: skip


@pytest.mark.parametrize(("make", "reason", "path", "text"), WRONG)
def test_a_step_that_could_never_wait_as_it_says_is_refused_where_it_is_made(
    make: Callable[[], object], reason: str, path: str, text: str
) -> None:
    """The mistake is in the caller's own line; a dead letter days later would tell nobody."""
    with pytest.raises(InvalidInput) as refused:
        make()

    assert (refused.value.reason, refused.value.path) == (reason, path)
    assert text in refused.value.text


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (("name",), "", ("invalid_wait", "slip.itinerary[0].name")),
        (("name",), "a\x00b", ("invalid_wait", "slip.itinerary[0].name")),
        (("name",), 5, ("invalid_envelope", "slip.itinerary[0].name")),
        (("timeout",), -1, ("invalid_envelope", "slip.itinerary[0].timeout")),
        (("timeout",), "5", ("invalid_envelope", "slip.itinerary[0].timeout")),
        (("timeout",), True, ("invalid_envelope", "slip.itinerary[0].timeout")),
        (("timeout",), 1e12, ("invalid_envelope", "slip.itinerary[0].timeout")),
        (("queue",), "elsewhere", ("invalid_envelope", "slip.itinerary[0].queue")),
        (("prompt",), "x", ("unknown_field", "slip.itinerary[0].prompt")),
        (("kind",), "sleep", ("invalid_wait", "slip.itinerary[0]")),
        (("kind",), "waits", ("invalid_envelope", "slip.itinerary[0]")),
    ],
)
def test_a_forged_wait_is_refused_by_name(path: tuple[str, ...], value: object, expected: tuple[str, str]) -> None:
    """Nothing else checks what a message from elsewhere asks for."""
    with pytest.raises(MessageError) as refused:
        read(waiting("slip", "itinerary", 0, *path, value=value))

    assert (refused.value.reason, refused.value.path) == expected


@pytest.mark.parametrize(
    "fields",
    [
        {"seconds": 5},
        {"until": None},
        {"until": "2026-02-01T00:00:00"},
        {"until": "9999-12-31T23:59:59-12:00"},
        {"until": "soon"},
    ],
)
def test_a_forged_sleep_is_refused_by_name(fields: dict[str, object]) -> None:
    """A sleep has one end, which each worker understands in the same way."""
    tree = waiting()
    tree["slip"]["itinerary"][1].update(fields)

    with pytest.raises(MessageError) as refused:
        read(tree)

    assert refused.value.reason in ("invalid_envelope", "invalid_wait")
    assert refused.value.path.startswith("slip.itinerary[1]")


def test_equal_waits_have_equal_digests_however_they_are_written() -> None:
    """The same request once more, from a program in another time zone, is the same workflow."""

    def digest(*steps: Step) -> str:
        return content_digest(read(waiting()).model_copy(update={"slip": RoutingSlip(itinerary=name_steps(steps))}))

    there = timezone(timedelta(hours=5, minutes=30))
    assert digest(sleep_until(NOON)) == digest(sleep_until(NOON.astimezone(there)))
    assert digest(sleep_for(90)) == digest(sleep_for(timedelta(minutes=1.5))) == digest(sleep_for(90.0))
    assert digest(wait_for("a", timeout=60)) == digest(wait_for("a", timeout=timedelta(minutes=1)))
    others = [sleep_until(NOON), sleep_for(90), sleep_for(91), wait_for("a"), wait_for("a", timeout=90), wait_for("b")]
    assert len({digest(step.identified("x")) for step in others}) == len(others)


def test_the_digest_of_waits_is_a_promise() -> None:
    """The store keeps it: if it were computed differently, every repeated dispatch would be a conflict."""
    assert content_digest(read(waiting())) == "28217232a3b0310b1c889a871e482a6be403273fa16c6e0c54d4f68a22584b19"


def test_a_version_that_knows_no_waits_leaves_them_to_newer_workers_and_refuses_them_in_its_own_messages() -> None:
    """To this version a wait is what `block` will be to it: a kind that a newer one has."""
    tree = waiting("spec_version", value="1.9")
    for place in range(4):
        tree["slip"]["itinerary"][place]["kind"] += "_1.9"

    with pytest.raises(NewerMessage, match=r"slip.itinerary\[0\]"):
        read(tree)


def test_the_previous_output_is_the_last_that_a_step_gave() -> None:
    """A pause between two agents changes nothing of what the second reads."""
    for kinds, expected in [
        ((), None),
        (("sleep",), None),
        (("sleep", "sleep"), None),
        (("agent",), "s-0"),
        (("agent", "sleep"), "s-0"),
        (("agent", "sleep", "sleep"), "s-0"),
        (("agent", "wait"), "s-1"),
        (("agent", "wait", "sleep"), "s-1"),
        (("agent", "sleep", "function"), "s-2"),
    ]:
        previous = ran(*kinds).previous
        assert (previous.step_id if previous is not None else None) == expected, kinds


def test_a_folded_slip_keeps_what_the_next_step_gets() -> None:
    """However long the slip and however often it slept: the output before the sleeps travels."""
    for kinds, staying in [
        (["agent"] * 9, 1),
        (["agent"] * 8 + ["sleep"], 2),
        (["agent"] * 6 + ["sleep"] * 3, 4),
        (["sleep"] * 9, 1),
        (["sleep"] * 8 + ["wait"], 1),
    ]:
        slip = ran(*kinds)
        short, stored = folded(slip, most=0)

        assert len(short.executed) == staying
        assert (short.previous, short.place, short.visits) == (slip.previous, slip.place, slip.visits)
        assert len(stored) == 2 * (9 - staying)
        assert folded(short, most=0)[0] == short


def test_a_slip_whose_last_output_was_cut_out_is_refused() -> None:
    """Its next step would run on nothing."""
    message = read(waiting())
    slip, _ = folded(ran("agent", "function", "sleep"), most=0)
    slip = slip.model_copy(update={"itinerary": message.slip.itinerary})
    tree = json.loads(encode(message.model_copy(update={"slip": slip})))
    assert read(tree).slip.previous is not None
    tree["slip"]["executed"] = tree["slip"]["executed"][1:]
    tree["slip"]["earlier"]["count"] += 1
    tree["slip"]["earlier"]["visits"]["function"] = 1

    with pytest.raises(MessageError, match="the record of the last output is missing"):
        read(tree)


def test_what_a_sleep_passes_on_may_be_in_the_store() -> None:
    """Its reference and the places of its files are those of the step that gave it."""
    slip = ran("agent", "sleep")
    far = slip.executed[0].model_copy(
        update={"output": None, "output_ref": OutputRef(size=5000, sha256="0" * 64), "content": ("/cover",)}
    )

    assert slip.model_copy(update={"executed": (far, slip.executed[1])}).previous == far


def test_the_specs_can_be_made_without_the_functions() -> None:
    """They stand in the signatures of public functions."""
    assert WaitSpec("paid", timeout=5) == wait_for("paid", timeout=5)
    assert SleepSpec(seconds=5) == sleep_for(5)
    assert SleepSpec(until=NOON, step_id="x") == sleep_until(NOON, step_id="x")
