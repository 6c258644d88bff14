"""What a dead letter shows of a refused message, and what it never does."""

from __future__ import annotations

from paigeant_celery.dead_letters import DeadLetters, letter_of, redacted
from paigeant_celery.errors import MessageError
from paigeant_celery.store.memory import MemoryStore

FAULT = MessageError("unknown_field", "surprise", "this version does not know the field")


def test_a_sample_keeps_the_structure_and_no_value() -> None:
    """A dead letter is read by more people than may read its message."""
    content = '{"slip":{"prompt":"hunter2"},"hunter2":[42,true,null]}'

    assert redacted(content) == '{"slip":{"prompt":"<7 characters>"},"xxxxxx0#1":[0,true,null]}'


def test_a_sample_of_what_is_no_json_shows_its_shape() -> None:
    """Where a message was cut can be seen without reading it."""
    assert redacted('{"prompt": "hunter2\u05d0\n') == '{"xxxxxx": "xxxxxx0? '
    assert len(redacted("x" * 10000)) == 2048
    assert set(redacted("[" * 50000)) == {"["}


def test_a_message_refused_again_has_the_same_letter_id() -> None:
    """Redeliveries do not multiply letters."""
    first, second = (
        letter_of("{}", FAULT, hop_id="w.0", activity="draft", queue="q", worker=worker) for worker in ("ann", "ben")
    )

    assert first.letter_id == second.letter_id
    assert (first.hop_id, first.correlation_id) == ("w.0", "w")


def test_ids_that_are_none_are_left_out() -> None:
    """A header may hold anything."""
    found = letter_of("{}", FAULT, hop_id="hunter2!", activity=None, queue=None, worker="ann")

    assert (found.hop_id, found.correlation_id) == (None, None)
    assert "hunter2" not in repr(found)


def test_letters_are_listed_shown_and_dropped() -> None:
    """The service is what operators' tools call."""
    store = MemoryStore(lease=1, ttl=60)
    letters = DeadLetters(store)
    buried = letter_of("{}", FAULT, hop_id="w.0", activity="draft", queue="q", worker="ann")
    store.bury(buried)

    assert [found.letter_id for found in letters.list()] == [buried.letter_id]
    assert letters.show(buried.letter_id) is not None
    assert letters.drop(buried.letter_id)
    assert letters.show(buried.letter_id) is None
