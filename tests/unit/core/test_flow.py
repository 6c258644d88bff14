"""How a workflow moves: every event, every decision, and what no sequence of them can break."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paigeant_celery.core.errors import IllegalEvent
from paigeant_celery.core.flow import (
    Advance,
    Begun,
    Completed,
    CouldNotClose,
    Decision,
    Diverged,
    Event,
    Exhausted,
    Fail,
    Failed,
    Failure,
    Finish,
    Limits,
    Park,
    Retry,
    Run,
    TimedOut,
    Unrunnable,
    Unsendable,
    decide,
    decide_refusal,
)
from paigeant_celery.core.message import PaigeantMessage, encode, parse
from paigeant_celery.core.policy import Attempt
from paigeant_celery.core.slip import ActivitySpec, ExecutedStep, FunctionSpec, OutputRef, RoutingSlip, Step, name_steps

NOON = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
LATER = NOON + timedelta(seconds=5)
LIMITS = Limits(max_steps=40, max_message_size=2**20)

MakeMessage = Callable[..., PaigeantMessage]


def completed(place: str, **fields: object) -> Completed:
    return Completed(place=place, attempt=1, started_at=NOON, **{"output": None, **fields})


def test_a_begun_step_is_to_be_run_and_changes_nothing(make_message: MakeMessage) -> None:
    """A claim alone must leave no trace: the step may have to run again elsewhere."""
    message = make_message(ActivitySpec("a", "x"))

    decision = decide(message, Begun(place="0", attempt=3), now=LATER, limits=LIMITS)

    assert decision == Run(message=message)


@pytest.mark.parametrize("late", [timedelta(0), timedelta(days=1)])
def test_a_step_that_would_begin_after_the_deadline_fails_the_workflow(
    make_message: MakeMessage, late: timedelta
) -> None:
    """Nobody pays a model for an answer that nobody waits for."""
    message = make_message(ActivitySpec("a", "x"), deadline=NOON)

    decision = decide(message, Begun(place="0", attempt=1), now=NOON + late, limits=LIMITS)

    text = "the deadline 2026-01-02T12:00:00+00:00 passed before the step"
    assert decision == Fail(message=message, failure=Failure(step_id="a", error_class="deadline", text=text))


def test_a_step_that_begins_before_the_deadline_is_run(make_message: MakeMessage) -> None:
    """A deadline in the future changes nothing."""
    message = make_message(ActivitySpec("a", "x"), deadline=LATER)

    assert decide(message, Begun(place="0", attempt=1), now=NOON, limits=LIMITS) == Run(message=message)


def test_a_completed_step_is_recorded_and_the_next_one_asked_for(make_message: MakeMessage) -> None:
    """The whole state of the workflow is in the message that goes on."""
    message = make_message(ActivitySpec("a", "x", step_id="first"), FunctionSpec("b", {"n": 1}))
    event = Completed(
        place="0", attempt=2, started_at=NOON, output={"n": [1, None]}, usage={"requests": 3}, cost=Decimal("0.10")
    )

    decision = decide(message, event, now=LATER, limits=LIMITS)

    record = ExecutedStep(
        step_id="first",
        place="0",
        kind="agent",
        activity="a",
        attempt=2,
        started_at=NOON,
        finished_at=LATER,
        output={"n": [1, None]},
        usage={"requests": 3},
        cost=Decimal("0.10"),
    )
    slip = RoutingSlip(itinerary=message.slip.itinerary[1:], executed=(record,))
    assert decision == Advance(
        message=message.model_copy(update={"slip": slip, "message_id": "w-1.1", "sent_at": LATER})
    )


def test_the_last_step_finishes_the_workflow(make_message: MakeMessage) -> None:
    """A workflow ends without anything having to notice that it did."""
    message = make_message(FunctionSpec("a", {}), outputs=("before",))

    decision = decide(message, completed("1", output="done"), now=LATER, limits=LIMITS)

    assert isinstance(decision, Finish)
    assert [record.output for record in decision.message.slip.executed] == ["before", "done"]
    assert (decision.message.slip.itinerary, decision.message.message_id) == ((), "w-1.2")


def test_an_output_that_does_not_travel_is_recorded_by_reference(make_message: MakeMessage) -> None:
    """A message stays small however large an output is, and says how to recognize it."""
    reference = OutputRef(size=70_000, sha256="ab")

    decision = decide(make_message(), completed("0", output_ref=reference), now=LATER, limits=LIMITS)

    assert isinstance(decision, Finish)
    assert (decision.message.slip.executed[0].output, decision.message.slip.executed[0].output_ref) == (None, reference)


def test_inserted_steps_run_next_and_say_who_added_them(make_message: MakeMessage) -> None:
    """An operator sees which agent put a step there, and the steps of the dispatcher keep their order."""
    message = make_message(ActivitySpec("planner", "plan"), ActivitySpec("writer", "write"))
    inserted = (ActivitySpec("writer", "draft"), ActivitySpec("critic", "judge"))

    decision = decide(message, completed("0", inserted=inserted), now=LATER, limits=LIMITS)

    assert isinstance(decision, Advance)
    assert [(step.step_id, step.added_by) for step in decision.message.slip.itinerary] == [
        ("writer-0.1", "planner"),
        ("critic-0.2", "planner"),
        ("writer", None),
    ]


def test_who_added_a_step_stands_in_the_executed_log_too(make_message: MakeMessage) -> None:
    """Afterwards, the log alone explains why a step ran."""
    message = make_message(ActivitySpec("planner", "plan"))
    advanced = decide(message, completed("0", inserted=(ActivitySpec("b", "x"),)), now=LATER, limits=LIMITS)
    assert isinstance(advanced, Advance)

    finished = decide(advanced.message, completed("1"), now=LATER, limits=LIMITS)

    assert isinstance(finished, Finish)
    assert [(r.step_id, r.added_by) for r in finished.message.slip.executed] == [
        ("planner", None),
        ("b-0.1", "planner"),
    ]


def test_inserting_beyond_the_cap_parks_the_workflow(make_message: MakeMessage) -> None:
    """Agents that keep inserting each other end with a person looking, not with a large bill."""
    message = make_message(ActivitySpec("a", "x"), ActivitySpec("b", "x"))
    inserted = (ActivitySpec("a", "again"),)

    decision = decide(message, completed("0", inserted=inserted), now=LATER, limits=replace(LIMITS, max_steps=2))

    text = "with the inserted steps the workflow has more than 2 (`paigeant_max_steps`)"
    assert decision == Park(message=message, failure=Failure(step_id="a", error_class="loop_limit", text=text))


def test_an_inserted_id_that_is_taken_parks_the_workflow(make_message: MakeMessage) -> None:
    """Outputs are kept by step id; two steps of one id would hide each other's."""
    message = make_message(ActivitySpec("a", "x"), ActivitySpec("b", "x"))

    decision = decide(
        message, completed("0", inserted=(ActivitySpec("c", "x", step_id="b"),)), now=LATER, limits=LIMITS
    )

    text = "'b' is used twice in the workflow"
    assert decision == Park(message=message, failure=Failure(step_id="a", error_class="duplicate_step_id", text=text))


def test_a_failed_step_fails_the_workflow_with_its_class_and_text(make_message: MakeMessage) -> None:
    """Those who wait for the result learn which step failed, and why."""
    message = make_message(ActivitySpec("a", "x"), ActivitySpec("b", "x"))

    decision = decide(message, Failed(place="0", error_class="ValueError", text="no"), now=LATER, limits=LIMITS)

    assert decision == Fail(message=message, failure=Failure(step_id="a", error_class="ValueError", text="no"))


def test_a_step_that_never_ends_parks_the_workflow(make_message: MakeMessage) -> None:
    """A step that kills its worker each time does not go round forever."""
    message = make_message(ActivitySpec("a", "x"))

    decision = decide(message, Exhausted(place="0", attempts=5), now=LATER, limits=LIMITS)

    text = "begun 5 times and never ended; its worker died or lost its lease each time"
    failure = Failure(step_id="a", error_class="attempts_exhausted", text=text)
    assert decision == Park(message=message, failure=failure)


def test_an_envelope_that_outgrows_the_limit_parks_the_step_that_made_it(make_message: MakeMessage) -> None:
    """The next worker would refuse it, and its step is not to blame; the last output travels no further."""
    message = make_message(ActivitySpec("a", "x"), ActivitySpec("b", "x"))
    moved = decide(message, completed("0", output="long"), now=LATER, limits=LIMITS)
    assert isinstance(moved, Advance)
    size = len(encode(moved.message).encode())

    def within(size: int) -> Decision:
        limits = replace(LIMITS, max_message_size=size)
        return decide(message, completed("0", output="long"), now=LATER, limits=limits)

    assert within(size) == moved
    text = f"with this step's output the envelope has {size} bytes; raise `paigeant_max_message_size` ({size - 1})"
    assert within(size - 1) == Park(message=message, failure=Failure(step_id="a", error_class="too_large", text=text))
    last = make_message(ActivitySpec("a", "x"))
    assert isinstance(decide(last, completed("0"), now=LATER, limits=replace(LIMITS, max_message_size=1)), Finish)


def test_a_step_ends_when_its_body_does_even_if_it_is_recorded_later(make_message: MakeMessage) -> None:
    """Days may pass until somebody redrives a parked hop; the message for the next step is then sent now."""
    message = make_message(ActivitySpec("a", "x"), ActivitySpec("b", "x"))
    days_later = LATER + timedelta(days=3)

    decision = decide(message, replace(completed("0"), ended_at=LATER), now=days_later, limits=LIMITS)

    assert isinstance(decision, Advance)
    assert decision.message.slip.executed[0].finished_at == LATER
    assert decision.message.sent_at == days_later


def test_what_is_sent_is_what_the_decision_says(make_message: MakeMessage) -> None:
    """The bytes that are measured, recorded and published are the same ones."""
    message = make_message(ActivitySpec("a", "x"), ActivitySpec("b", "x"))
    advance = decide(message, completed("0"), now=LATER, limits=LIMITS)
    assert isinstance(advance, Advance)
    finish = decide(advance.message, completed("1"), now=LATER, limits=LIMITS)
    assert isinstance(finish, Finish)

    assert [decision.envelope for decision in (advance, finish)] == [encode(advance.message), encode(finish.message)]


@pytest.mark.parametrize(
    ("event", "error_class", "text"),
    [
        (Unsendable(place="0", reason="invalid_text", text="no"), "invalid_text", "no"),
        (
            CouldNotClose(place="0", error_class="KeyError", text="no"),
            "KeyError",
            "after the step ran, its output could not be sent on: no",
        ),
    ],
)
def test_an_output_that_cannot_go_on_parks_the_workflow(
    make_message: MakeMessage, event: Event, error_class: str, text: str
) -> None:
    """Another attempt would be paid for and end in the same way; a person may raise a limit."""
    message = make_message(ActivitySpec("a", "x"), ActivitySpec("b", "x"))

    decision = decide(message, event, now=LATER, limits=LIMITS)

    assert decision == Park(message=message, failure=Failure(step_id="a", error_class=error_class, text=text))


@pytest.mark.parametrize("deadline", [None, LATER + timedelta(seconds=60), LATER])
def test_a_step_that_takes_too_long_is_tried_again_unless_the_deadline_ended_it(
    make_message: MakeMessage, deadline: datetime | None
) -> None:
    """A step that hangs once may do well the next time, and nobody waits past the deadline."""
    message = make_message(ActivitySpec("a", "x"), deadline=deadline)
    attempt = Attempt(number=1, max_attempts=4, backoff=3.0, jitter=1.0)

    decision = decide(message, TimedOut(place="0", timeout=2.5, attempt=attempt), now=LATER, limits=LIMITS)

    if deadline == LATER:
        text = "the deadline of the workflow passed in the step"
        assert decision == Fail(message=message, failure=Failure(step_id="a", error_class="deadline", text=text))
        return
    failure = Failure(step_id="a", error_class="TimeoutError", text="the step ran longer than 2.5 s")
    assert decision == Retry(message=message, failure=failure, delay=3.0)


@pytest.mark.parametrize("read", [True, False])
def test_a_message_that_cannot_be_run_parks_its_workflow(make_message: MakeMessage, read: bool) -> None:
    """No worker here can run it, whether or not one can read it; a person may fix that."""
    message = make_message(ActivitySpec("a", "x")) if read else None

    decision = decide_refusal(Unrunnable(message=message, reason="unknown_agent", text="no"))

    failure = Failure(step_id="a" if read else None, error_class="unknown_agent", text="no")
    assert decision == Park(message=message, failure=failure)


NO = Failure(step_id="a", error_class="ValueError", text="no")


def after(make_message: MakeMessage, *, deadline: datetime | None = None, **more: object) -> Decision:
    """What is decided after attempt 2 of 4 failed."""
    facts: dict[str, Any] = {"number": 2, "max_attempts": 4, "backoff": 3.0, "jitter": 1.0, **more}
    event = Failed(place="0", error_class="ValueError", text="no", attempt=Attempt(**facts))
    decision = decide(make_message(ActivitySpec("a", "x"), deadline=deadline), event, now=LATER, limits=LIMITS)
    assert getattr(decision, "failure", None) == NO
    return decision


def test_a_failed_attempt_is_tried_again_later(make_message: MakeMessage) -> None:
    """A provider that is down for a minute does not end a workflow of an hour."""
    decision = after(make_message)

    assert isinstance(decision, Retry)
    assert decision.delay == 6.0


def test_the_last_attempt_parks_the_workflow(make_message: MakeMessage) -> None:
    """What was done is not thrown away; somebody fixes the cause, and the workflow goes on."""
    assert isinstance(after(make_message, number=4), Park)


def test_an_error_that_another_attempt_cannot_fix_fails_the_workflow(make_message: MakeMessage) -> None:
    """A wrong prompt is not paid for five times."""
    assert isinstance(after(make_message, final=True), Fail)


def test_no_attempt_is_begun_behind_the_deadline(make_message: MakeMessage) -> None:
    """Those who wait learn at once that the result will not come, and why."""
    assert isinstance(after(make_message, deadline=LATER + timedelta(seconds=6)), Fail)
    assert isinstance(after(make_message, deadline=LATER + timedelta(seconds=7)), Retry)


ONCE = Attempt(number=1, max_attempts=1, backoff=0.0, jitter=0.0)
EVENTS = [
    lambda place: Begun(place=place, attempt=1),
    lambda place: completed(place),
    lambda place: Failed(place=place, error_class="E", text="t"),
    lambda place: Exhausted(place=place, attempts=2),
    lambda place: Diverged(place=place, text="t"),
    lambda place: TimedOut(place=place, timeout=1.0, attempt=ONCE),
    lambda place: Unsendable(place=place, reason="r", text="t"),
    lambda place: CouldNotClose(place=place, error_class="E", text="t"),
]


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("place", ["0", "2", "", "x"])
def test_an_event_of_another_place_is_illegal(
    make_message: MakeMessage, event: Callable[[str], Event], place: str
) -> None:
    """A late or repeated report cannot move a workflow that has gone on."""
    message = make_message(ActivitySpec("a", "x"), outputs=("done",))
    happened = event(place)

    with pytest.raises(IllegalEvent) as caught:
        decide(message, happened, now=LATER, limits=LIMITS)

    assert caught.value.args == (type(happened).__name__, place, "the workflow stands at place '1'")


@pytest.mark.parametrize("event", EVENTS)
def test_a_workflow_that_ended_takes_no_event(make_message: MakeMessage, event: Callable[[str], Event]) -> None:
    """A workflow that has ended stays ended."""
    message = make_message(ActivitySpec("a", "x"))
    finished = decide(message, completed("0"), now=LATER, limits=LIMITS)
    assert isinstance(finished, Finish)

    with pytest.raises(IllegalEvent):
        decide(finished.message, event("1"), now=LATER, limits=LIMITS)


# Properties over generated itineraries.

names = st.sampled_from(["a", "b", "c", "long.name-x"])
prompts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | prompts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(prompts, inner, max_size=3),
    max_leaves=6,
)
agent_steps = st.builds(ActivitySpec, names, prompts, deps=json_values, previous_output=st.booleans())
function_steps = st.builds(FunctionSpec, names, arguments=st.dictionaries(names, json_values, max_size=2))
steps = agent_steps | function_steps
itineraries = st.lists(steps, min_size=1, max_size=5)
completions = st.tuples(json_values, st.lists(steps, max_size=2), st.integers(1, 5))


def message_of(itinerary: list[Step]) -> PaigeantMessage:
    slip = RoutingSlip(itinerary=name_steps(itinerary))
    return PaigeantMessage(message_id="w.0", correlation_id="w", created_at=NOON, sent_at=NOON, slip=slip)


@given(itinerary=itineraries, plan=st.lists(completions, max_size=12))
def test_a_workflow_only_moves_forward_and_loses_no_step(
    itinerary: list[Step], plan: list[tuple[object, list[Step], int]]
) -> None:
    """Whatever agents insert: each step runs once, in order, and what ran is never rewritten."""
    message, total = message_of(itinerary), len(itinerary)
    for place, (output, inserted, attempt) in enumerate(plan):
        event = Completed(
            place=str(place),
            attempt=attempt,
            started_at=NOON,
            output=output,
            inserted=tuple(inserted),  # type: ignore[arg-type]
        )
        before = encode(message)

        decision = decide(message, event, now=LATER, limits=LIMITS)

        assert encode(message) == before
        if isinstance(decision, Fail):
            assert total + len(inserted) > LIMITS.max_steps
            return
        assert isinstance(decision, (Advance, Finish))
        moved, total = decision.message, total + len(inserted)
        ran = moved.slip.executed
        assert ran[:-1] == message.slip.executed
        assert (ran[-1].step_id, ran[-1].output, ran[-1].attempt) == (message.step.step_id, output, attempt)
        assert [record.place for record in ran] == [str(n) for n in range(place + 1)]
        assert len(ran) + len(moved.slip.itinerary) == total == len(set(moved.slip.step_ids()))
        assert moved.slip.itinerary[len(inserted) :] == message.slip.itinerary[1:]
        assert isinstance(decision, Finish) == (moved.slip.itinerary == ())
        with pytest.raises(IllegalEvent):
            decide(moved, event, now=LATER, limits=LIMITS)
        if isinstance(decision, Finish):
            return
        assert parse(encode(moved), max_size=10**7, max_steps=LIMITS.max_steps) == moved
        message = moved


@given(itinerary=itineraries, output=json_values, inserted=st.lists(steps, max_size=3))
def test_the_same_event_gives_the_same_decision(itinerary: list[Step], output: object, inserted: list[Step]) -> None:
    """A worker that takes over after a crash writes the bytes that the dead one would have written."""
    message = message_of(itinerary)
    event = Completed(
        place="0",
        attempt=1,
        started_at=NOON,
        output=output,
        inserted=tuple(inserted),  # type: ignore[arg-type]
    )

    first, second = (decide(message, event, now=LATER, limits=LIMITS) for _ in range(2))

    assert encode(first.message) == encode(second.message)
