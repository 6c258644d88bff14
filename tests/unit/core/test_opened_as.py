"""What the store keeps of a block for whoever looks at its branches."""

from __future__ import annotations

import pytest

from paigeant_celery.core.block_steps import for_each, parallel, sub_workflow
from paigeant_celery.core.manifests import OpenedAs, name_of_opened, opened_as, read_opened
from paigeant_celery.core.slip import FunctionSpec
from paigeant_celery.core.steps import BlockSpec

STEP = FunctionSpec("read", {})


@pytest.mark.parametrize(
    ("block", "text"),
    [
        (for_each(STEP, over=[1, 2]), '{"form":"for_each","path":"a/1/b"}'),
        (parallel({"x": STEP, "y": [STEP, STEP]}), '{"form":"parallel","path":"a/1/b","names":["x","y"]}'),
        (sub_workflow([STEP, for_each(STEP, over=[1])]), '{"form":"sub_workflow","path":"a/1/b","deep":true}'),
    ],
)
def test_what_is_kept_of_a_block_is_read_by_every_version(block: BlockSpec, text: str) -> None:
    """A form that is written down is a promise: a reader of another version draws the same tree."""
    kept = opened_as(block, "a/1/b")

    assert kept.encode() == text
    assert read_opened(text) == kept
    assert name_of_opened("3-1.0") == "3-1.0::block"


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"form":"ring","path":"a"}', '{"form":"parallel"}'])
def test_what_cannot_be_read_is_nothing(text: str | None) -> None:
    """A damaged record hides branches from a status; it does not end it."""
    assert read_opened(text) is None


def test_a_field_of_a_later_version_changes_nothing() -> None:
    """Old readers meet new writers in every deploy."""
    found = read_opened('{"form":"parallel","path":"a","names":["x"],"later":1}')

    assert found is not None
    assert (found.form, found.path, found.names) == ("parallel", "a", ("x",))


def test_names_and_numbers_of_branches_fit_each_other() -> None:
    """A path leads to the branch that the tree shows under it."""
    named = OpenedAs(form="parallel", path="a", names=("x", "0"))
    assert [named.number_of(name) for name in ("x", "0", "1", "")] == [0, 1, None, None]
    assert [named.name_of(number) for number in (0, 1)] == ["x", "0"]
    numbered = OpenedAs(form="for_each", path="a")
    assert [numbered.number_of(name) for name in ("0", "17", "017", "-1", "\u0661", "1e3", "")] == [
        0, 17, None, None, None, None, None,
    ]  # fmt: skip
    assert numbered.name_of(17) == "17"
