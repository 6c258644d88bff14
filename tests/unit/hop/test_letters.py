"""What a dead letter shows of a refused message, and what it never does."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from paigeant_celery.activities.functions import activity
from paigeant_celery.client.dead_letters import DeadLetters
from paigeant_celery.core.errors import MessageError
from paigeant_celery.core.policy import StepPolicy
from paigeant_celery.hop.guard import Arrival
from paigeant_celery.hop.letters import letter_of, redacted
from paigeant_celery.testing import WorkflowHarness

WIRE = Path(__file__).parents[2] / "data" / "wire"
ARRIVAL = Arrival(hop_id="w.0", activity="draft", envelope="{}", queue="q")
FAULT = MessageError("unknown_field", "surprise", "this version does not know the field")


def test_a_sample_keeps_the_structure_and_no_value() -> None:
    """A dead letter is read by more people than may read its message."""
    content = '{"slip":{"prompt":"hunter2","step_id":"x"},"hunter2":[42,true,null]}'

    assert redacted(content) == (
        '{"slip":{"prompt":"<7 characters>","step_id":"<1 characters>"},"xxxxxx0#1":[0,true,null]}'
    )


@pytest.mark.parametrize("name", ["first", "waiting", "tasks"])
def test_a_sample_names_the_fields_of_each_kind_of_step(name: str) -> None:
    """What is wrong with a step is seen by its fields; only the names inside of its values are its sender's."""
    slip = json.loads((WIRE / f"{name}.json").read_text(encoding="utf-8"))["slip"]

    shown = json.loads(redacted(json.dumps({"itinerary": slip["itinerary"][:1]})))

    assert shown["itinerary"][0].keys() == slip["itinerary"][0].keys()


def test_a_sample_of_what_is_no_json_shows_its_shape() -> None:
    """Where a message was cut off can be seen without reading it."""
    assert redacted('{"prompt": "hunter2\u05d0\n') == '{"xxxxxx": "xxxxxx0? '
    assert len(redacted("x" * 10000)) == 2048
    assert set(redacted("[" * 50000)) == {"["}


def test_a_message_refused_again_has_the_same_letter_id() -> None:
    """Redeliveries do not multiply letters."""
    first, second = (letter_of(ARRIVAL, FAULT, worker=worker) for worker in ("ann", "ben"))

    assert first.letter_id == second.letter_id
    assert (first.hop_id, first.correlation_id) == ("w.0", "w")


def test_ids_that_are_none_are_left_out() -> None:
    """A header may hold anything."""
    found = letter_of(Arrival(hop_id="hunter2!", activity="", envelope="{}"), FAULT, worker="ann")

    assert (found.hop_id, found.correlation_id, found.activity) == (None, None, None)
    assert "hunter2" not in repr(found)


def test_names_that_no_store_can_write_are_made_printable(workflow_harness: WorkflowHarness) -> None:
    """Anyone who can write to the broker chooses them, and must not be able to keep a letter from being stored."""
    found = letter_of(Arrival(hop_id="", activity="\ud800", envelope="{}", queue="q\ud800"), FAULT, worker="ann")

    assert (found.activity, found.queue) == ("?", "q?")
    assert workflow_harness.store.bury(found)


def test_the_letter_of_one_hop_sets_no_other_going(workflow_harness: WorkflowHarness) -> None:
    """Its workflow may be parked at a later step."""

    @activity
    def first() -> int:
        return 1

    @activity(policy=StepPolicy(max_attempts=1))
    def second() -> int:
        raise ConnectionError

    workflow_harness.dispatch([first.activity(), second.activity()], correlation_id="w")
    workflow_harness.store.bury(letter_of(ARRIVAL, FAULT, worker="ann"))
    asyncio.run(workflow_harness.deliver())
    letters = DeadLetters(workflow_harness.transport)
    of_second, of_first = (found.letter_id for found in letters.list())

    assert not letters.redrive(of_first)
    assert letters.redrive(of_second)


def test_letters_are_listed_shown_and_dropped(workflow_harness: WorkflowHarness) -> None:
    """Operators' tools call the service."""
    letters = DeadLetters(workflow_harness.transport)
    buried = letter_of(ARRIVAL, FAULT, worker="ann")
    workflow_harness.store.bury(buried)

    assert [found.letter_id for found in letters.list()] == [buried.letter_id]
    assert letters.show(buried.letter_id) is not None
    assert letters.drop(buried.letter_id)
    assert letters.show(buried.letter_id) is None
