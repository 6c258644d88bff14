"""Names that other processes, versions and monitors read: made in only one way, and read back or refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paigeant_celery.core.names import (
    CORRELATION_ID,
    DISPATCH,
    FIRST_PLACE,
    Names,
    block_of,
    blocks_above,
    hop_id,
    is_activity_name,
    next_place,
    number_of,
    split_hop_id,
)

ids = st.from_regex(CORRELATION_ID, fullmatch=True)
numbers = st.integers(0, 10**9 - 1)


@given(correlation_id=ids, place=st.integers(0, 10**9 - 1))
def test_a_hop_id_is_read_back_as_it_was_made(correlation_id: str, place: int) -> None:
    """The id of a Celery task alone leads an operator to the workflow and its step."""
    assert split_hop_id(hop_id(correlation_id, str(place))) == (correlation_id, str(place))


@pytest.mark.parametrize(
    "text",
    ["", "w", "w.", ".0", "w.00", "w.01", "w.-1", "w.+1", "w.1.2", "w.0\n", "w.²", "w.0x", "w w.0", "w.1234567890"],
)
def test_a_task_id_that_is_no_hop_id_is_told_apart(text: str) -> None:
    """Two spellings of one place would be two hops, and a host's own task ids are not hop ids."""
    assert split_hop_id(text) is None


@given(correlation_id=ids, first=numbers, branches=st.lists(st.tuples(numbers, numbers), max_size=8))
def test_the_id_of_a_hop_in_a_branch_leads_to_all_blocks_above_it(
    correlation_id: str, first: int, branches: list[tuple[int, int]]
) -> None:
    """Whoever closes it must find the block that counts it, whatever the workflow is called."""
    place, hops = str(first), [hop_id(correlation_id, str(first))]
    for branch, step in branches:
        place = f"{place}-{branch}.{step}"
        hops.append(hop_id(correlation_id, place))

    assert number_of(place) == (branches[-1][1] if branches else first)
    if len(hops[-1]) <= 255:
        assert split_hop_id(hops[-1]) == (correlation_id, place)
    assert list(blocks_above(hops[-1])) == hops[-2::-1]
    assert block_of(hops[-1]) == ((hops[-2], branches[-1][0]) if branches else None)


@pytest.mark.parametrize("text", ["w-1.0", "a-b-c.12", "w-1", "w", "", "-", "order-17.3"])
def test_a_hop_of_the_workflows_own_slip_is_below_no_block(text: str) -> None:
    """The ids of workflows have dashes and digits as well."""
    assert block_of(text) is None
    assert list(blocks_above(text)) == []


@pytest.mark.parametrize(
    "text",
    [
        "w.0-1", "w.0-.0", "w.0-1.", "w.-1.0", "w.0-01.0", "w.0-1.00", "w.0-1.0-", "w.0-1.0.0", "w.0--1.0", "w.0-².0",
        "w.0" + "-0.0" * 9, f"w.0-{10**9}.0", f"w.0-0.{10**9}",
    ],
)  # fmt: skip
def test_an_id_that_names_no_place_in_a_branch_is_told_apart(text: str) -> None:
    """Two spellings of one place would be two hops, and blocks stand eight deep at most."""
    assert split_hop_id(text) is None


def test_places_count_the_steps_that_ran_in_their_own_branch() -> None:
    """The second step of a branch follows its first one."""
    assert [next_place(place) for place in ("9", "3-1.0", "3-1.9-0.41")] == ["10", "3-1.1", "3-1.9-0.42"]


def test_places_count_the_steps_that_ran() -> None:
    """They are numbers, so that the tenth hop follows the ninth."""
    places = [FIRST_PLACE]
    for _ in range(10):
        places.append(next_place(places[-1]))

    assert places == ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10"]


@pytest.mark.parametrize("name", ["a", "_a", "A-9", "shop.triage", "a.1", "a.-b", "a" * 128])
def test_an_activity_may_be_named_in_parts(name: str) -> None:
    """Teams that share a broker put their own prefix before the dot."""
    assert is_activity_name(name)


@pytest.mark.parametrize("prefix", ["paigeant", "shop.agents"])
def test_a_task_is_named_by_its_activity_below_the_prefix(prefix: str) -> None:
    """Routes and monitors of the host match these names, and two deployments share a broker by their prefixes."""
    names = Names(prefix)

    assert (names.task("shop.triage"), names.queue("shop.triage")) == (f"{prefix}.shop.triage",) * 2
    assert names.activity(names.task("shop.triage")) == "shop.triage"
    assert [names.activity(task) for task in ("mail", f"{prefix}s.mail", f"x{prefix}.mail")] == [None, None, None]
    assert names.activity(names.task(DISPATCH)) is None  # its messages have no envelope, and may have an `eta`


def test_the_default_prefix_is_a_promise() -> None:
    """Workers of different versions meet on these queues."""
    assert Names() == Names("paigeant")
