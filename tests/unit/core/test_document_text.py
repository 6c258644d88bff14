"""The text of a document: JSON as it is, YAML as JSON, and nothing that unfolds beyond its limits."""

from __future__ import annotations

import builtins
import json
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paigeant_celery.core.document_errors import InvalidDocument
from paigeant_celery.core.document_text import MOST_ALIASES, MOST_BYTES, MOST_YAML, read_text, write_json, write_yaml
from paigeant_celery.core.errors import UsageError

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20).filter(lambda text: text != "<<")
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
LOOKS_LIKE_OTHERS = st.sampled_from(
    [
        *("no", "yes", "on", "null", "~", "true", "1", "1.0", "1e3", "012", "1:30", "0x1f", "2026-12-01", "="),
        *(".inf", "- a", "a: b", "#", " x", "x\n", "a\n b\n", "\n", "!t", "&a", "*a", "1_000", "+1", "0o17", ""),
    ]
)
TREES = st.recursive(
    LEAVES | LOOKS_LIKE_OTHERS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS | LOOKS_LIKE_OTHERS, inner, max_size=3),
    max_leaves=8,
)


@given(tree=st.dictionaries(TEXTS, TREES, min_size=1, max_size=3))
def test_what_is_written_as_yaml_is_read_back_equal(tree: dict[str, Any]) -> None:
    """An export that is edited in one line changes nothing in the others."""
    assert json.dumps(read_text(write_yaml(tree))) == json.dumps(tree)
    assert json.dumps(read_text(write_json(tree))) == json.dumps(tree)
    for text in (write_yaml(tree), write_json(tree)):
        assert all(map(str.isprintable, text.split("\n")))  # a terminal shows it, and does nothing else with it


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("no", "no"), ("yes", "yes"), ("on", "on"), ("2026-12-01", "2026-12-01"), ("1:30", "1:30")),
        *(("true", True), ("~", None), ("null", None), ("", None), ("-7", -7), ("2.5", 2.5), ("012", "012")),
        *(("'true'", "true"), ('"a\\nb"', "a\nb"), ("|\n  a\n  b", "a\nb\n"), ("1e3", "1e3"), (".nan", ".nan")),
    ],
)
def test_yaml_has_the_values_of_json_and_no_others(text: str, value: object) -> None:
    """A prompt that says `no` is a text, and a date stays as it was written."""
    assert read_text(f"a: {text}\n") == {"a": value}


def test_an_anchor_stands_for_what_it_names() -> None:
    """Ten steps may share a policy that is written once."""
    assert read_text("a: &p {timeout: 5}\nb: *p\n") == {"a": {"timeout": 5}, "b": {"timeout": 5}}


def bomb(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "reason", "told"),
    [
        ("a: &a [*a]\n", "invalid_document", "inside itself"),
        (bomb(6), "too_large", "with its anchors it has more than 100000 values"),
        (f"a: &a 1\nb: [{', '.join(['*a'] * (MOST_ALIASES + 1))}]\n", "too_large", "uses anchors more than 100 times"),
        ("a: 1\na: 2\n", "invalid_document", "key 'a' appears twice, again in line 2"),
        ("a: 1\nb: {c: 1, c: 2}\n", "invalid_document", "key 'c' appears twice, again in line 2"),
        ("1: a\n", "invalid_document", "a key in line 1 is no text"),
        ("? [a]\n: b\n", "invalid_document", "a key in line 1 is no text"),
        ("a: &a {x: 1}\nb:\n  <<: *a\n", "invalid_document", "`<<` in line 3 merges mappings"),
        ("a: !!python/tuple [1]\n", "invalid_document", "has the tag"),
        ("a: !!binary aGk=\n", "invalid_document", "has the tag"),
        ("a: !secret x\n", "invalid_document", "has the tag"),
        ("a: 1\n---\nb: 2\n", "invalid_document", "a second document begins in line 2"),
        ("a: [1\nb: 2\n", "invalid_document", "in line 2, column 2"),
        ("a: *nobody\n", "invalid_document", "undefined alias"),
        ("", "invalid_document", "is empty"),
        ("a: '\x01'\n", "invalid_document", "is none that YAML can have"),
        ('a: "\\ud800"\n', "invalid_text", "lone surrogate"),
        ("a: " + "[" * 100 + "]" * 100, "too_deep", "more than 64 levels"),
        ("a: " + "[" * 10_000, "too_deep", "more than 64 levels"),
        ("a: x" + " " * MOST_YAML, "too_large", "more than 1048576 bytes"),
        ('{"a": "' + "x" * MOST_BYTES + '"}', "too_large", "more than 16777216 bytes"),
        ('{"a": 1, "a": 2}', "invalid_document", "key 'a' appears twice"),
        ('{"a": NaN}', "invalid_document", "NaN is not a JSON number"),
        ('{"a": ' + "[" * 100 + "]" * 100 + "}", "too_deep", "more than 64 levels"),
        ('{"a": 1', "invalid_document", "not JSON"),
        ("a: " + "9" * 5000, "invalid_document", "a number that is too long"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else None,
)
def test_what_is_no_document_is_refused_with_its_place_and_a_remedy(text: str, reason: str, told: str) -> None:
    """Whoever wrote it sees where; nothing in it is run, and nothing unfolds to more than its limit."""
    with pytest.raises(InvalidDocument) as refused:
        read_text(text)

    assert refused.value.reason == reason
    assert told in str(refused.value)
    assert refused.value.findings[0].remedy


def test_bytes_are_told_from_a_text() -> None:
    """The remedy is to read the file as text."""
    with pytest.raises(InvalidDocument, match="a document is a text, not a bytes"):
        read_text(b"a: 1")  # type: ignore[arg-type]


def test_without_pyyaml_json_is_read_and_yaml_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library is an extra: who writes JSON needs nothing more."""
    real = builtins.__import__

    def without(name: str, *arguments: Any, **named: Any) -> Any:
        if name == "yaml":
            raise ImportError(name)
        return real(name, *arguments, **named)

    monkeypatch.delitem(sys.modules, "yaml", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)

    assert read_text('{"a": 1}') == {"a": 1}
    for use in (lambda: read_text("a: 1\n"), lambda: write_yaml({"a": 1})):
        with pytest.raises(UsageError, match=r"pip install \"paigeant_celery\[yaml\]\"`; JSON needs nothing"):
            use()
