"""The format of journal records, and how calls are told apart."""

from __future__ import annotations

import json

import pytest

from paigeant_celery.core.errors import NonDeterminismError
from paigeant_celery.journal.record import (
    CallKey,
    Record,
    RecordedError,
    change_in,
    differences,
    number_of,
    parse_key,
    parse_record,
)

KEY = CallKey(run="writer:0", step=2, kind="tool", name="search", call_id="call_1")


def read(text: str) -> Record:
    return parse_record(text, step_id="draft", key=KEY)


@pytest.mark.parametrize(
    "record",
    [
        Record(),
        Record(fingerprint={"model": "m", "prompt": "d1"}, result={"parts": [1, None, "ü"]}, usage={"requests": 2}),
        Record(fingerprint={"model": "m"}, failure=RecordedError(error_class="ModelHTTPError", args=(503, "m", None))),
        Record(result=1, number=7, open=('["writer:0", 1, "tool", "slow", "call_0", 0]',)),
        Record(result="a lone surrogate \ud800 and a \0"),
    ],
)
def test_a_record_is_read_as_it_was_written(record: Record) -> None:
    """What was paid for comes back whole, even broken text that models write."""
    text = record.encode()

    assert read(text) == record
    assert text.encode()


def test_the_format_of_a_record_is_pinned() -> None:
    """A worker of a later release reads what this one wrote; a different form needs a new version."""
    record = Record(fingerprint={"model": "m"}, result=[1], usage={"requests": 1})

    assert record.encode() == '{"v":1,"of":{"model":"m"},"result":[1],"usage":{"requests":1}}'
    assert Record(result=1, number=7, open=("k",)).encode() == '{"v":1,"n":7,"of":{},"result":1,"open":["k"]}'
    assert str(KEY) == '["writer:0", 2, "tool", "search", "call_1", 0]'


def test_the_number_of_a_record_is_known_without_reading_all_of_it() -> None:
    """A journal is put in order before any of it is replayed; records of earlier versions have no number."""
    assert number_of(Record(result=[{"v": 1, "n": 3}], number=12).encode()) == 12
    assert number_of(Record(result=[{"v": 1, "n": 3}]).encode()) is None
    assert number_of("damaged") is None


def test_what_is_no_json_is_not_written() -> None:
    """An unreadable record would park the hop in its next attempt."""
    with pytest.raises((TypeError, ValueError)):
        Record(result=object()).encode()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"v":2,"of":{}}', "format 2, but this version reads 1"),
        ('{"v":1}', "damaged"),
        ('{"v":1,"of":{},"failure":{"class":"E"}}', "damaged"),
        ("[1]", "damaged"),
        ("none", "damaged"),
    ],
)
def test_a_record_that_cannot_be_read_parks_the_hop(text: str, said: str) -> None:
    """A worker of an older release must not repeat a call that a newer one paid for."""
    with pytest.raises(NonDeterminismError, match=said) as caught:
        read(text)

    assert caught.value.step_id == "draft"
    assert "tool call 'search' in step 2 of run 'writer:0'" in str(caught.value)
    assert "discard_journal=True" in str(caught.value)


def test_a_key_is_read_as_it_was_written() -> None:
    """Names and ids may hold any character."""
    for key in (KEY, CallKey(run='a|b"c:0', step=0, kind="event", name="part,start", call_id="[1]", occurrence=3)):
        assert parse_key(str(key)) == key


@pytest.mark.parametrize("text", ["", "[]", '["r", 1, "dream", "", "", 0]', "{}", json.dumps([1] * 7), "3"])
def test_a_key_of_a_later_version_is_passed_over(text: str) -> None:
    """It may know kinds of calls that this one never makes."""
    assert parse_key(text) is None


def test_texts_may_drift_and_the_rest_may_not() -> None:
    """A reworded prompt is not a different program; a different model, tool set or output schema is."""
    recorded = {"model": "a", "tools": "t", "output": "o", "prompt": "p", "settings": "s", "gone": "g"}

    assert differences(recorded, dict(recorded)) == ([], [])
    assert differences(recorded, {**recorded, "prompt": "q", "settings": "r"}) == ([], ["prompt", "settings"])
    assert differences(recorded, {**recorded, "model": "b", "output": "x"}) == (["model", "output"], [])
    assert differences({}, recorded) == ([], [])


def test_what_is_digested_in_a_new_way_is_compared_in_the_last_that_both_have() -> None:
    """Versions run side by side: the older one is told of a change too, and what only it would call one is none."""
    older, newer = {"tools": "a", "prompt": "p"}, {"tools": "a", "prompt": "p", "tools/2": "x", "tools/3": "y"}

    assert differences(older, newer) == differences(newer, older) == ([], [])
    assert differences(newer, {**newer, "tools": "b", "tools/2": "z"}) == ([], [])
    assert differences(newer, {**newer, "tools/3": "z"}) == (["tools"], [])
    assert differences(newer, {**older, "tools": "b"}) == differences({**older, "tools": "b"}, newer) == (["tools"], [])


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["model"], "its model changed"),
        (["tools"], "its tools changed"),
        (["model", "tools"], "its model and tools changed"),
        (["prompt", "tool descriptions", "settings"], "its prompt, tool descriptions and settings changed"),
    ],
)
def test_what_changed_is_said_in_one_sentence(names: list[str], said: str) -> None:
    """The text is what a person reads who must decide between deploying old code and paying again."""
    assert change_in(names) == said
