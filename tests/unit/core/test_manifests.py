"""How branches ended, and what their block gives: written down once, put together by whoever reads it."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from paigeant_celery.core.block_steps import for_each, parallel, sub_workflow
from paigeant_celery.core.jsonable import dumps
from paigeant_celery.core.manifests import (
    BranchEnd,
    Manifest,
    assembled,
    content_in,
    failed_end,
    manifest_in,
    manifest_of,
    name_of_branch,
    name_of_slip,
    read_end,
    succeeded_end,
)
from paigeant_celery.core.message import sha256
from paigeant_celery.core.slip import ActivitySpec, BranchOf, ExecutedStep, OutputRef, RoutingSlip
from tests.support.block_samples import NOON

SAMPLE = Path(__file__).parents[2] / "data" / "manifests" / "v1.json"
A = ActivitySpec("a", "x")
REF = OutputRef(size=9, sha256=sha256('"nothing"'), name="1-0:a")
GAVE = BranchEnd(state="succeeded", output=REF, size=9, content=("", "/a"), usage={"requests": 2}, cost=Decimal("0.5"))
FAILED = BranchEnd(state="failed", step="both/b/a", error_class="ValueError", text="no such topic")
BOTH = parallel({"a~b": A, "b": A}, step_id="both")


def sample() -> dict[str, Any]:
    tree: dict[str, Any] = json.loads(SAMPLE.read_text(encoding="utf-8"))
    return tree


def ran(output: JsonValue, *, kind: str = "agent", **more: object) -> ExecutedStep:
    return ExecutedStep(
        step_id=f"s-{kind}", place="1-0.0", kind=kind, activity="a", attempt=1, started_at=NOON, finished_at=NOON,
        output=output, usage={"requests": 1}, **more,
    )  # type: ignore[arg-type]  # fmt: skip


def slip_after(*records: ExecutedStep) -> RoutingSlip:
    return RoutingSlip(executed=records, branch=BranchOf(place="1-0", path="both/a"))


def test_a_manifest_is_written_and_read_as_the_sample() -> None:
    """It is the recorded output of a step, and outlives the version that wrote it."""
    made = manifest_of(BOTH, "1", {0: GAVE, 1: FAILED})

    assert made.as_json() == sample()
    assert manifest_in(sample()) == made
    assert json.loads(dumps(made.as_json())) == sample()


def test_the_end_of_a_branch_is_read_back_as_it_was_written() -> None:
    """The store keeps it as a text that it does not read."""
    assert [read_end(end.encode()) for end in (GAVE, FAILED)] == [GAVE, FAILED]
    assert FAILED.encode() == ('{"state":"failed","step":"both/b/a","error_class":"ValueError","text":"no such topic"}')


@pytest.mark.parametrize("text", ["", "[]", "{", '{"state":"over"}', '{"state":"failed","size":-1}', "null"])
def test_a_damaged_end_is_noticed(text: str) -> None:
    """A block that made its output of it would give what no branch gave."""
    with pytest.raises(ValueError, match="the record of how a branch ended is damaged"):
        read_end(text)


@pytest.mark.parametrize(
    ("tree", "text"),
    [
        (None, "damaged"), ([], "damaged"), ({"form": "race", "branches": []}, "damaged"),
        ({"form": "parallel"}, "damaged"),
        ({"form": "parallel", "branches": [{"state": "failed"}]}, "damaged"),
        ({"form": "parallel", "branches": [], "format": 0}, "damaged"),
        ({"form": "parallel", "branches": [], "format": 2}, "newer version"),
    ],
)  # fmt: skip
def test_a_manifest_that_cannot_be_read_is_told_apart(tree: JsonValue, text: str) -> None:
    """A damaged record is an operator's business; a newer one waits for a newer worker."""
    with pytest.raises(ValueError, match=text):
        manifest_in(tree)


def test_a_branch_that_succeeded_writes_its_last_output_once_under_a_name_of_its_own() -> None:
    """Whoever reads the output of the block finds it there, and the slip for what was inside."""
    end, stored = succeeded_end(slip_after(ran("first"), ran({"n": 1}, kind="function", content=("/n",))))

    assert end == BranchEnd(
        state="succeeded",
        output=OutputRef(size=7, sha256=sha256('{"n":1}'), name="1-0:s-function"),
        size=7,
        content=("/n",),
        usage={"requests": 2},
    )
    assert set(stored) == {"1-0::slip", "1-0:s-function"}
    assert stored["1-0:s-function"] == '{"n":1}'
    assert RoutingSlip.model_validate_json(stored["1-0::slip"]).executed[1].output == {"n": 1}
    assert name_of_slip(slip_after()) == "1-0::slip"


def test_an_output_that_is_in_the_store_is_not_written_again() -> None:
    """A large output is moved by nobody."""
    end, stored = succeeded_end(slip_after(ran(None, output_ref=REF)))

    assert (end.output, end.size, set(stored)) == (REF, 9, {"1-0::slip"})


def test_a_branch_that_ends_in_a_sleep_gives_what_was_before_it() -> None:
    """Or nothing, if there was nothing."""
    after, _ = succeeded_end(slip_after(ran("x"), ran(None, kind="sleep")))
    only, stored = succeeded_end(slip_after(ran(None, kind="sleep")))

    assert (after.output and after.output.name, only.output, only.size, set(stored)) == (
        "1-0:s-agent", None, 0, {"1-0::slip"},
    )  # fmt: skip


def test_a_branch_that_ends_in_a_block_has_the_size_of_all_its_parts() -> None:
    """The limit of an output is that of the whole, however deep its parts are."""
    inner = manifest_of(sub_workflow(A, step_id="s"), "1-0.0", {0: GAVE})

    end, stored = succeeded_end(slip_after(ran(inner.as_json(), kind="block", whole_size=5000)))

    assert (end.block, end.size) == (True, 5000)
    assert json.loads(stored["1-0:s-block"]) == inner.as_json()
    assert manifest_of(BOTH, "1", {0: end}).size == 5000


def test_a_branch_that_failed_says_where_and_what_it_has_used() -> None:
    """Its cost counts, although it gave nothing."""
    end = failed_end(slip_after(ran("x", cost=Decimal("0.25"))), step="both/a/b", error_class="ValueError", text="no")

    assert end.failure == {"failed": "ValueError", "text": "no"}
    assert (end.step, end.usage, end.cost, end.output) == ("both/a/b", {"requests": 1}, Decimal("0.25"), None)
    assert failed_end(None, step=None, error_class="E", text="").usage == {}


@pytest.mark.parametrize(
    ("block", "ends", "value"),
    [
        (parallel({"x": A, "y": A}, step_id="b"), {0: GAVE, 1: GAVE}, {"x": "one", "y": "two"}),
        (parallel({"x": A, "y": A}, join=1, step_id="b"), {1: GAVE}, {"y": "two"}),
        (parallel({"x": A, "y": A}, on_failure="collect", step_id="b"), {0: FAILED, 1: GAVE},
         {"x": FAILED.failure, "y": "two"}),
        (for_each(A, over="a", step_id="b"), {1: GAVE, 0: GAVE}, ["one", "two"]),
        (for_each(A, over="a", join=1, step_id="b"), {1: GAVE}, ["two"]),
        (for_each(A, over="a", step_id="b"), {}, []),
        (sub_workflow(A, step_id="b"), {0: GAVE}, "one"),
    ],
)  # fmt: skip
def test_the_output_of_a_block_is_put_together_from_those_of_its_branches(
    block: Any, ends: dict[int, BranchEnd], value: JsonValue
) -> None:
    """A mapping by name, a list in the order of the items, or the output itself; a failure stands for itself."""
    assert assembled(manifest_of(block, "3", ends), {"3-0": "one", "3-1": "two"}) == value


def test_a_branch_that_gave_nothing_gives_null() -> None:
    """Nothing is left out of a list whose order says which item was meant."""
    ends = {0: BranchEnd(state="succeeded"), 1: GAVE}

    assert assembled(manifest_of(for_each(A, over="a", step_id="b"), "3", ends), {"3-1": "two"}) == [None, "two"]


def test_files_in_the_output_of_a_block_are_found_behind_the_branch_that_gave_them() -> None:
    """The step after the block gets them as files, as after any other step."""
    ends = {0: GAVE, 1: FAILED}
    named = parallel({"a~b": A, "c": A}, on_failure="collect", step_id="b")

    assert content_in(manifest_of(named, "3", ends)) == ("/a~0b", "/a~0b/a")
    assert content_in(manifest_of(for_each(A, over="a", join=1, step_id="b"), "3", {4: GAVE})) == ("/0", "/0/a")
    assert content_in(manifest_of(sub_workflow(A, step_id="b"), "3", {0: GAVE})) == ("", "/a")


def test_branches_are_named_as_in_their_block_or_by_their_number() -> None:
    """These names stand in paths."""
    assert [name_of_branch(BOTH, number) for number in (0, 1)] == ["a~b", "b"]
    assert name_of_branch(for_each(A, over="a"), 17) == "17"


texts = st.text(max_size=8)


@given(
    st.builds(
        BranchEnd,
        state=st.sampled_from(["succeeded", "failed"]),
        output=st.none() | st.builds(OutputRef, size=st.integers(0, 9), sha256=texts, name=st.none() | texts),
        block=st.booleans(),
        size=st.integers(0, 10**9),
        content=st.lists(texts, max_size=3).map(tuple),
        step=st.none() | texts,
        error_class=texts,
        text=texts,
        usage=st.dictionaries(texts, st.integers(0, 10**12), max_size=3),
        cost=st.none() | st.decimals(0, 10**6, places=10),
    )
)
def test_every_end_of_a_branch_survives_the_store_and_the_manifest(end: BranchEnd) -> None:
    """Whatever is left out because it is the default comes back as it was."""
    manifest = manifest_of(BOTH, "0", {1: end})

    assert read_end(end.encode()) == end
    assert manifest_in(json.loads(dumps(manifest.as_json()))) == manifest
    assert isinstance(manifest, Manifest)
