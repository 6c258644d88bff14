"""JSON Pointers, with the examples of RFC 6901."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from paigeant_celery.core.pointers import pointed_at, pointer_fault

# Section 5 of the RFC.
DOCUMENT: JsonValue = {
    "foo": ["bar", "baz"], "": 0, "a/b": 1, "c%d": 2, "e^f": 3, "g|h": 4, "i\\j": 5, 'k"l': 6, " ": 7, "m~n": 8,
}  # fmt: skip
EXAMPLES: list[tuple[str, JsonValue]] = [
    ("", DOCUMENT), ("/foo", ["bar", "baz"]), ("/foo/0", "bar"), ("/", 0), ("/a~1b", 1), ("/c%d", 2), ("/e^f", 3),
    ("/g|h", 4), ("/i\\j", 5), ('/k"l', 6), ("/ ", 7), ("/m~0n", 8),
]  # fmt: skip

values = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=3), lambda inner: st.lists(
    inner, max_size=3) | st.dictionaries(st.text("a/~01é", max_size=4), inner, max_size=3), max_leaves=12)  # fmt: skip


@pytest.mark.parametrize(("pointer", "value"), EXAMPLES)
def test_the_examples_of_the_rfc_point_where_it_says(pointer: str, value: JsonValue) -> None:
    """What another library wrote means the same here."""
    assert pointer_fault(pointer) == ""
    assert pointed_at(DOCUMENT, pointer) == value


def test_an_escaped_tilde_is_no_slash() -> None:
    """`~01` is the name `~1`, as section 4 of the RFC warns."""
    assert pointed_at({"~1": "tilde", "/": "slash"}, "/~01") == "tilde"


@pytest.mark.parametrize("pointer", ["foo", "#/foo", "/~", "/a~2b", "/a~", "/~~0"])
def test_a_text_that_is_no_pointer_is_told_apart(pointer: str) -> None:
    """It is refused at dispatch, not after the step before has been paid for."""
    assert "is no JSON Pointer" in pointer_fault(pointer)


@pytest.mark.parametrize(
    ("pointer", "part"),
    [
        ("/bar", "/bar"), ("/foo/2", "/foo/2"), ("/foo/-", "/foo/-"), ("/foo/00", "/foo/00"), ("/foo/01", "/foo/01"),
        ("/foo/-1", "/foo/-1"), ("/foo/+1", "/foo/+1"), ("/foo/1e0", "/foo/1e0"), ("/foo/²", "/foo/²"),
        ("/foo/٠", "/foo/٠"), ("/foo/0/x/y", "/foo/0/x"), ("//x", "//x"), ("/foo/", "/foo/"),
        (f"/foo/{'9' * 5000}", f"/foo/{'9' * 5000}"),
    ],
)  # fmt: skip
def test_a_pointer_that_leads_nowhere_says_from_which_part_on(pointer: str, part: str) -> None:
    """Only the numbers that the RFC allows count in a list: two spellings of one place would be two."""
    with pytest.raises(LookupError) as found:
        pointed_at(DOCUMENT, pointer)

    assert found.value.args == (part,)


@given(values)
def test_every_value_in_a_document_has_a_pointer(document: JsonValue) -> None:
    """Whatever its name contains."""
    for pointer, value in _within(document, ""):
        assert pointer_fault(pointer) == ""
        assert pointed_at(document, pointer) is value


def _within(value: JsonValue, pointer: str) -> list[tuple[str, JsonValue]]:
    found = [(pointer, value)]
    parts: list[tuple[object, JsonValue]] = []
    if isinstance(value, dict):
        parts = [(name.replace("~", "~0").replace("/", "~1"), inner) for name, inner in value.items()]
    if isinstance(value, list):
        parts = list(enumerate(value))
    for name, inner in parts:
        found += _within(inner, f"{pointer}/{name}")
    return found
