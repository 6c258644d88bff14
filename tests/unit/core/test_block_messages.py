"""Blocks and branches on the wire: the samples are what was promised, and what is forged is refused by its path."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from paigeant_celery.core.block_steps import parallel, sub_workflow
from paigeant_celery.core.branches import first_message
from paigeant_celery.core.errors import InvalidInput, MessageError, NewerMessage
from paigeant_celery.core.jsonable import dumps
from paigeant_celery.core.message import PaigeantMessage, content_digest, encode, parse
from paigeant_celery.core.names import SPEC_VERSION
from paigeant_celery.core.slip import ActivitySpec, ExecutedStep, RoutingSlip, Step, name_steps
from paigeant_celery.core.steps import MOST_DEEP
from tests.support.block_samples import NOON, blocks_message

WIRE = Path(__file__).parents[2] / "data" / "wire"


def sample(name: str) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads((WIRE / f"{name}.json").read_text(encoding="utf-8"))
    return tree


def read(tree: object, *, max_steps: int = 256) -> PaigeantMessage:
    return parse(json.dumps(tree), max_size=2**20, max_steps=max_steps)


def refusal(tree: object, **limits: int) -> tuple[str, str]:
    with pytest.raises(MessageError) as caught:
        read(tree, **limits)
    return caught.value.reason, caught.value.path


def changed(name: str, path: str, value: object) -> dict[str, Any]:
    """A sample with one field changed or added; `...` removes the field."""
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


@pytest.mark.parametrize("name", ["blocks", "branch"])
def test_a_message_with_blocks_is_read_and_written_unchanged(name: str) -> None:
    """Messages wait in queues while workers are upgraded."""
    assert json.loads(encode(read(sample(name)))) == sample(name)


def test_blocks_are_written_as_the_sample() -> None:
    """Workers of this version read what later dispatchers write, and the other way round."""
    assert encode(blocks_message()) == dumps(sample("blocks"))


def test_the_first_message_of_a_branch_is_written_as_the_sample() -> None:
    """A block writes it in its first attempt, and nobody after it."""
    message = blocks_message()

    branch, item = first_message(message, message.step, 1, item="x" * 20, inline=10, now=NOON)  # type: ignore[arg-type]

    assert encode(branch) == dumps(sample("branch"))
    assert item == f'"{"x" * 20}"'


def test_the_digest_of_blocks_is_a_promise() -> None:
    """The store keeps it: if it were computed differently, every repeated dispatch would be a conflict."""
    digest = content_digest(read(sample("blocks")))

    assert digest == "0af7905748a5147ba22f281919d5f94287d26971ce7ec4a51c3e6b2c6f171896"
    for path, value in [
        ("slip.itinerary.0.branches.0.steps.0.prompt", "Read on."),
        ("slip.itinerary.0.over", "planner#/others"),
        ("slip.itinerary.2.join", 3),
        ("slip.itinerary.0.max_at_once", 9),
        ("slip.itinerary.1.branches.0.name", "form"),
        ("slip.itinerary.3.branches.0.steps.1.over.0", "y"),
    ]:
        assert content_digest(read(changed("blocks", path, value))) != digest, path
    queued = changed("blocks", "slip.itinerary.0.branches.0.steps.0.queue", "slow")
    assert content_digest(read(queued)) == digest


def test_the_hops_of_a_branch_are_named_behind_the_place_of_their_block() -> None:
    """Ids, journals and letters of all hops of a workflow differ, and their paths are what a person reads."""
    branch = read(sample("branch"))
    record = ExecutedStep(
        step_id="reader", place="1-1.0", kind="agent", activity="reader", attempt=1, started_at=NOON, finished_at=NOON
    )

    moved = branch.moved(branch.slip.advanced(record, ()), now=NOON)

    assert (branch.place, branch.path) == ("1-1.0", "readings/1/reader")
    assert (moved.message_id, moved.place, moved.path) == ("order-17.1-1.1", "1-1.1", "readings/1/score")
    assert read(json.loads(encode(moved))) == moved
    assert branch.slip.name_in_store("reader") == "1-1:reader"
    assert (read(sample("blocks")).path, read(sample("blocks")).slip.name_in_store("planner")) == (
        "readings", "planner",
    )  # fmt: skip


def test_a_branch_gets_what_was_given_to_it_until_it_has_an_output_of_its_own() -> None:
    """A branch of a `for_each` gets its item, as a step gets the output before it."""
    branch = read(sample("branch"))
    given, record = branch.slip.branch.given, None  # type: ignore[union-attr]
    record = ExecutedStep(
        step_id="reader", place="1-1.0", kind="agent", activity="reader", attempt=1, started_at=NOON, finished_at=NOON
    )
    sleep = record.model_copy(update={"kind": "sleep"})

    assert given is not None
    assert (branch.slip.previous, given.output_name) == (given, "1-1::item")
    assert branch.slip.advanced(sleep, ()).previous == given
    assert branch.slip.advanced(record, ()).previous == record


def test_the_message_of_a_branch_carries_nothing_of_the_slip_around_it() -> None:
    """A thousand branches do not copy the log a thousand times."""
    assert sample("branch")["slip"]["executed"] == []
    assert "planner" not in json.dumps(sample("branch")["slip"])
    assert sample("branch")["variables"] == sample("blocks")["variables"]


FORGED: list[tuple[str, object, str, str]] = [
    ("form", "race", "invalid_envelope", "form"),
    ("form", ..., "invalid_envelope", "form"),
    ("form", "parallel", "invalid_block", ""),  # with `over`
    ("branches", ..., "invalid_envelope", "branches"),
    ("branches", [], "invalid_envelope", "branches"),
    ("branches", {}, "invalid_envelope", "branches"),
    ("branches", [{"name": str(n), "steps": [{"kind": "function", "function_name": "f", "step_id": "f"}]}
                  for n in range(2)], "invalid_block", ""),
    ("branches.0", None, "invalid_envelope", "branches[0]"),
    ("branches.0.name", "", "invalid_block", "branches[0].name"),
    ("branches.0.name", "a/b", "invalid_block", "branches[0].name"),
    ("branches.0.name", 5, "invalid_envelope", "branches[0].name"),
    ("branches.0.place", "1-0", "unknown_field", "branches[0].place"),
    ("branches.0.steps", [], "invalid_envelope", "branches[0].steps"),
    ("branches.0.steps.0.kind", "shell", "invalid_envelope", "branches[0].steps[0]"),
    ("branches.0.steps.0.prompt", " ", "empty_prompt", "branches[0].steps[0].prompt"),
    ("branches.0.steps.0.module", "os", "unknown_field", "branches[0].steps[0].module"),
    ("branches.0.steps.0.step_id", None, "invalid_envelope", "branches[0].steps"),
    ("branches.0.steps.0.step_id", "score", "inconsistent_slip", "branches[0].steps"),
    ("over", None, "invalid_block", ""),
    ("over", 5, "invalid_envelope", "over.str"),
    ("over", "a b", "invalid_over", "over"),
    ("over", "planner#sources", "invalid_over", "over"),
    ("join", 0, "invalid_envelope", "join"),
    ("join", "any", "invalid_envelope", "join"),
    ("join", True, "invalid_envelope", "join"),
    ("join", 1, "invalid_block", ""),  # and `fail`
    ("on_failure", "stop", "invalid_envelope", "on_failure"),
    ("max_at_once", 0, "invalid_envelope", "max_at_once"),
    ("max_at_once", 101, "invalid_envelope", "max_at_once"),
    ("max_at_once", "8", "invalid_envelope", "max_at_once"),
    ("max_at_once", True, "invalid_envelope", "max_at_once"),
    ("timeout", -1, "invalid_envelope", "timeout"),
    ("timeout", "60", "invalid_envelope", "timeout"),
    ("queue", "elsewhere", "invalid_envelope", "queue"),
    ("prompt", "x", "unknown_field", "prompt"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "reason", "where"), FORGED)
def test_a_forged_block_is_refused_by_its_path(path: str, value: object, reason: str, where: str) -> None:
    """Nothing is opened of a block that nobody could have made."""
    found = refusal(changed("blocks", f"slip.itinerary.0.{path}", value))

    assert found[0] == reason
    assert found[1].startswith(f"slip.itinerary[0]{'.' if where else ''}{where}")


def test_branches_of_one_name_are_refused() -> None:
    """Their outputs would be one."""
    tree = changed("blocks", "slip.itinerary.1.branches.1.name", "style")

    assert refusal(tree) == ("invalid_block", "slip.itinerary[1]")
    assert refusal(changed("blocks", "slip.itinerary.2.join", 4)) == ("invalid_block", "slip.itinerary[2]")


def test_steps_of_one_id_are_refused_wherever_they_stand_in_a_slip() -> None:
    """The outputs of a branch are told apart by them; those of other branches may be called the same."""
    deep = "slip.itinerary.3.branches.0.steps.1"

    assert refusal(changed("blocks", f"{deep}.step_id", "parallel")) == (
        "inconsistent_slip", "slip.itinerary[3].branches[0].steps",
    )  # fmt: skip
    assert read(changed("blocks", f"{deep}.branches.0.steps.0.step_id", "writer"))
    with pytest.raises(InvalidInput) as refused:
        name_steps([parallel({"a": [ActivitySpec("a", "x", step_id="one"), ActivitySpec("b", "x", step_id="one")]})])
    assert refused.value.reason == "duplicate_step_id"


FORGED_BRANCH: list[tuple[str, object, str, str]] = [
    ("message_id", "order-17.1-0.0", "inconsistent_slip", "message_id"),
    ("message_id", "order-17.0", "inconsistent_slip", "message_id"),
    ("message_id", "order-18.1-1.0", "inconsistent_slip", "message_id"),
    ("slip.branch.place", "1-0", "inconsistent_slip", "message_id"),
    ("slip.branch.place", "1", "inconsistent_slip", "message_id"),
    ("slip.branch.place", "../1-1", "inconsistent_slip", "message_id"),
    ("slip.branch.place", 5, "invalid_envelope", "slip.branch.place"),
    ("slip.branch.place", ..., "invalid_envelope", "slip.branch.place"),
    ("slip.branch.path", "readings", "inconsistent_slip", "slip.branch.path"),
    ("slip.branch.path", "readings/1/reader", "inconsistent_slip", "slip.branch.path"),
    ("slip.branch.path", "a/b/c/d", "inconsistent_slip", "slip.branch.path"),
    ("slip.branch.path", "read ings/1", "inconsistent_slip", "slip.branch.path"),
    ("slip.branch.path", "/", "inconsistent_slip", "slip.branch.path"),
    ("slip.branch.path", "", "invalid_envelope", "slip.branch.path"),
    ("slip.branch.fence", 1, "unknown_field", "slip.branch.fence"),
    ("slip.branch.given.place", 1, "invalid_envelope", "slip.branch.given.place"),
    ("slip.branch.given.output_ref.size", -1, "invalid_envelope", "slip.branch.given.output_ref.size"),
    ("slip.branch.given.output_ref.url", "x", "unknown_field", "slip.branch.given.output_ref.url"),
    ("slip.branch", ..., "inconsistent_slip", "message_id"),
    ("slip.branch", None, "inconsistent_slip", "message_id"),
]


@pytest.mark.parametrize(("path", "value", "reason", "where"), FORGED_BRANCH)
def test_a_forged_branch_is_refused_by_its_path(path: str, value: object, reason: str, where: str) -> None:
    """A message cannot claim to be another hop of a workflow than its slip says."""
    assert refusal(changed("branch", path, value)) == (reason, where)


def nested(deep: int, *, inside: int = 0) -> PaigeantMessage:
    """The message of a step in so many blocks; `inside` of them are above the slip."""
    step: Step = ActivitySpec("a", "x", step_id="a")
    for _ in range(deep - inside):
        step = sub_workflow(step, step_id="s")
    message = PaigeantMessage(
        message_id="w.0", correlation_id="w", created_at=NOON, sent_at=NOON,
        slip=RoutingSlip(itinerary=(sub_workflow(ActivitySpec("a", "x", step_id="a"), step_id="s"),)),
    )  # fmt: skip
    for _ in range(inside):
        message, _ = first_message(message, message.step, 0, inline=10, now=NOON)  # type: ignore[arg-type]
        block = sub_workflow(ActivitySpec("a", "x", step_id="a"), step_id="s")
        message = message.model_copy(update={"slip": message.slip.model_copy(update={"itinerary": (block,)})})
    return message.model_copy(update={"slip": message.slip.model_copy(update={"itinerary": (step,)})})


@pytest.mark.parametrize("inside", [0, 1, 7, 8])
def test_blocks_stand_in_each_other_as_often_as_may_be(inside: int) -> None:
    """Whether they are on the slip or above it. The id of the deepest hop is still one."""
    deepest = read(json.loads(encode(nested(MOST_DEEP, inside=inside))))

    assert deepest.place.count("-") == inside
    reason, path = refusal(json.loads(encode(nested(MOST_DEEP + 1, inside=inside))))
    assert reason == "too_many_blocks"
    assert path == "slip.itinerary[0]" + ".branches[0].steps[0]" * (MOST_DEEP - inside)


def test_a_branch_that_is_in_more_blocks_than_may_be_is_refused() -> None:
    """No store has a hop of such an id."""
    assert refusal(json.loads(encode(nested(MOST_DEEP + 1, inside=MOST_DEEP + 1)))) == (
        "inconsistent_slip", "message_id",
    )  # fmt: skip


def test_the_steps_of_each_slip_are_counted_by_themselves() -> None:
    """`paigeant_max_steps` is of one slip, wherever it is."""
    three = name_steps([parallel({"a": [ActivitySpec("a", "x")] * 3, "b": [ActivitySpec("a", "x")] * 3})])
    tree = json.loads(encode(nested(0).model_copy(update={"slip": RoutingSlip(itinerary=three)})))

    assert read(tree, max_steps=3).slip.length == 1
    assert refusal(tree, max_steps=2) == ("too_many_steps", "slip.itinerary[0].branches[0].steps")


def test_a_parallel_has_at_most_a_thousand_branches() -> None:
    """Whatever the settings of the worker that reads it."""
    branch = sample("blocks")["slip"]["itinerary"][1]["branches"][0]
    many = [{**branch, "name": str(number)} for number in range(1001)]

    assert len(read(changed("blocks", "slip.itinerary.1.branches", many[:1000])).slip.itinerary[1].branches) == 1000  # type: ignore[union-attr]
    assert refusal(changed("blocks", "slip.itinerary.1.branches", many)) == (
        "invalid_envelope", "slip.itinerary[1].branches",
    )  # fmt: skip


@pytest.mark.parametrize("place", [0, 1])
def test_a_kind_of_step_of_a_newer_version_inside_a_block_is_left_to_its_workers(place: int) -> None:
    """A worker that opened the block would write branches that it cannot read."""
    tree = {**sample("blocks"), "spec_version": "1.9"}
    tree["slip"]["itinerary"][0]["branches"][0]["steps"].insert(place, {"step_id": "new", "kind": "edit"})

    with pytest.raises(NewerMessage) as found:
        read(tree)

    assert found.value.path == f"slip.itinerary[0].branches[0].steps[{place}]"
    assert refusal({**tree, "spec_version": SPEC_VERSION}) == ("invalid_envelope", found.value.path)


def test_the_fields_of_blocks_of_a_newer_version_survive_being_read() -> None:
    """A branch is written with what the newer version has put into its steps."""
    tree = changed("blocks", "slip.itinerary.0.branches.0.steps.0.tenant", "x")
    tree["slip"]["itinerary"][0]["branches"][0]["weight"] = 5
    message = read({**tree, "spec_version": "1.9"})

    branch, _ = first_message(message, message.step, 0, item=1, inline=10, now=NOON)  # type: ignore[arg-type]

    assert json.loads(encode(message)) == {**tree, "spec_version": "1.9"}
    assert json.loads(encode(branch))["slip"]["itinerary"][0]["tenant"] == "x"
    assert branch.spec_version == "1.9"
