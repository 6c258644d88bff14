"""The first messages of branches: what each gets of the steps and items of its block."""

from __future__ import annotations

from typing import cast

import pytest
from pydantic import JsonValue

from paigeant_celery.core.block_steps import for_each, parallel, sub_workflow
from paigeant_celery.core.branches import first_message
from paigeant_celery.core.message import PaigeantMessage, encode, reread, sha256
from paigeant_celery.core.slip import ActivitySpec, BlockSpec, RoutingSlip, name_steps
from tests.support.block_samples import NOON, blocks_message

LATER = NOON.replace(hour=13)


def at(block: BlockSpec) -> tuple[PaigeantMessage, BlockSpec]:
    """A message that stands at a block behind a step whose output is `{"sources": …}`."""
    message = blocks_message()
    slip = message.slip.model_copy(update={"itinerary": name_steps([block, ActivitySpec("writer", "x")])})
    return message.model_copy(update={"slip": slip}), cast("BlockSpec", slip.itinerary[0])


def test_each_branch_of_a_parallel_gets_its_own_steps_and_the_output_before_the_block() -> None:
    """It goes on as if it stood in the block's place."""
    message, block = at(parallel({"facts": ActivitySpec("a", "x"), "style": [ActivitySpec("b", "x")] * 2}))

    made = [first_message(message, block, number, inline=10, now=LATER) for number in (0, 1)]

    assert [[step.step_id for step in found.slip.itinerary] for found, _ in made] == [["a"], ["b", "b-2"]]
    assert [found.message_id for found, _ in made] == ["order-17.1-0.0", "order-17.1-1.0"]
    assert [found.path for found, _ in made] == ["parallel/facts/a", "parallel/style/b"]
    assert [found.slip.previous for found, _ in made] == [message.slip.previous] * 2
    assert [stored for _, stored in made] == [None, None]
    assert {(found.sent_at, found.created_at) for found, _ in made} == {(LATER, NOON)}
    assert all(reread(encode(found)) == found for found, _ in made)


@pytest.mark.parametrize(
    ("item", "text"), [("x", '"x"'), ({"a": [1, None]}, '{"a":[1,null]}'), (None, "null"), ("é" * 3, '"ééé"')]
)
def test_each_branch_of_a_for_each_gets_its_item_as_if_the_block_had_given_it(item: JsonValue, text: str) -> None:
    """Small items travel; the size is that of its bytes."""
    message, block = at(for_each(ActivitySpec("a", "x"), over="planner#/sources", step_id="readings"))
    size = len(text.encode())

    travels, nothing = first_message(message, block, 12, item=item, inline=size, now=LATER)
    stays, stored = first_message(message, block, 12, item=item, inline=size - 1, now=LATER)

    given, left = travels.slip.previous, stays.slip.previous
    assert given is not None
    assert left is not None
    assert (given.step_id, given.place, given.output, given.output_ref, nothing) == ("readings", "1", item, None, None)
    assert (stored, left.output, left.output_name) == (text, None, "1-12::item")
    assert left.output_ref is not None
    assert (left.output_ref.size, left.output_ref.sha256) == (size, sha256(text))
    assert (travels.path, travels.message_id) == ("readings/12/a", "order-17.1-12.0")


def test_a_block_in_a_branch_names_its_branches_behind_its_own() -> None:
    """Every hop of the tree has an id of its own, and a path that a person can read."""
    message, outer = at(parallel({"x": sub_workflow(for_each(ActivitySpec("a", "x"), over=[1, 2]))}))

    first, _ = first_message(message, outer, 0, inline=10, now=LATER)
    second, _ = first_message(first, cast("BlockSpec", first.step), 0, inline=10, now=LATER)
    third, _ = first_message(second, cast("BlockSpec", second.step), 1, item=2, inline=10, now=LATER)

    assert third.message_id == "order-17.1-0.0-0.0-1.0"
    assert third.path == "parallel/x/sub-workflow/0/for-each/1/a"
    assert reread(encode(third)) == third


def test_a_branch_has_the_variables_and_limits_of_its_workflow_but_nothing_of_its_slip() -> None:
    """The log and the steps to come are not copied into each branch."""
    message, block = at(sub_workflow(ActivitySpec("a", "x")))
    message = message.model_copy(update={"stream": True, "deadline": LATER})

    branch, _ = first_message(message, block, 0, inline=10, now=NOON)

    for field in ("variables", "stream", "deadline", "usage_limits", "registered_activities", "correlation_id"):
        assert getattr(branch, field) == getattr(message, field)
    assert isinstance(branch.slip, RoutingSlip)
    assert (branch.slip.executed, branch.slip.earlier, branch.slip.later, branch.slip.length) == ((), None, None, 1)
