"""Each line that keeps the list of workflows right is needed: without it, the list and the records differ.

The machine of random calls compares them after each call, the index itself as well as what readers are told.
"""

from __future__ import annotations

import pytest
from hypothesis import Phase, settings

from tests.proof.machine.test_store_machine import (
    CHECKS,
    OWNERS,
    SETTINGS,
    Machine,
    Mutant,
    Pairs,
    new_pairs,
    run,
    started,
    suspended,
)

__all__ = ["new_pairs"]


def complete_all(machine: Machine) -> None:
    for hop_id in ("w.1", "w.2"):
        machine.complete(back=0)
        machine.claim(hop_id, OWNERS[0])
    machine.complete(back=0)


def die_between_passes(machine: Machine) -> None:
    """A pass looks at some of what is listed, and would put it right."""
    machine.sweep(dies=None, empty=None, host="here")
    machine.sweep(dies=0, empty=None, host="here", after=0.5)


def cancel_and_count_later(machine: Machine) -> None:
    machine.cancel("w", meant=True)
    machine.end_passes(meant=True)
    machine.check(machine.last)
    machine.pair.read()


def cancel_and_begin_anew(machine: Machine) -> None:
    machine.cancel("w", meant=True)
    machine.end_passes(meant=True)
    machine.start("w")


def park_and_edit(machine: Machine) -> None:
    machine.park(back=0)
    machine.edit("w", restarts=True, stale=False)


def answer(machine: Machine) -> None:
    suspended(machine, "ask")
    machine.resolve("w", "ask")


def let_a_block_sleep_whose_branches_are_parked(machine: Machine) -> None:
    machine.hold(0, first=0, size=1)
    machine.open_block(0, window=1, join="all")
    machine.claim("w.0-0.0", OWNERS[1])
    machine.park(back=0)
    machine.sleep_on_branches(back=1)


def look_for_what_is_parked(machine: Machine) -> None:
    machine.start("v")
    machine.park(back=0)
    machine.look_at_lists({"states": {"parked"}, "prefix": ""}, limit=3)


def turn_pages(machine: Machine) -> None:
    machine.start("v")
    machine.look_at_lists({}, limit=1)


def lose_the_list(machine: Machine) -> None:
    machine.list_is_lost(meant=True)


MUTANTS = {
    "a workflow stays where it was listed": Mutant(
        old="in_lots('ZREM', index, gone)\n  in_lots('ZADD', index, come)",
        new="in_lots('ZADD', index, come)",
        calls=lambda machine: machine.complete(back=0),
        noticed="listing",
    ),
    "a step that is done leaves its workflow among those that run": Mutant(
        old="list(workflow, 'q', next_activity, next_step)\n",
        calls=lambda machine: machine.complete(back=0),
        noticed="listing",
    ),
    "a workflow seems to stand at the step before": Mutant(
        old="list(workflow, 'q', next_activity, next_step)",
        new="list(workflow, 'q')",
        calls=lambda machine: machine.complete(back=0),
        noticed="record",
    ),
    "a completed workflow counts as one that runs": Mutant(
        old="leave_at(workflow, 'c', expire(workflow, ttl))",
        new="expire(workflow, ttl)",
        calls=complete_all,
        noticed="listing",
    ),
    "a parked workflow counts as one that runs": Mutant(
        old="list(workflow, 'p')\n",
        calls=lambda machine: machine.park(back=0),
        noticed="listing",
    ),
    "a claim lists nothing": Mutant(
        old="list_hop(record.workflow, hop, 'r', activity, step)",
        new="local _",
        calls=lambda machine: None,
        noticed="listing",
    ),
    "a retry lists nothing": Mutant(
        old="list_hop(workflow, hop, 't')\n",
        calls=lambda machine: machine.retry_at(back=0),
        noticed="listing",
    ),
    "what a sweep sends again seems to run": Mutant(
        old="list_all(changes)\ndrop_gone()",
        new="drop_gone()",
        calls=die_between_passes,
        noticed="listing",
    ),
    "a revived hop seems to be queued": Mutant(
        old="list_all(revived)\n",
        calls=lambda machine: machine.lease_ends(which=0, then="come back"),
        noticed="listing",
    ),
    "a redriven workflow counts as parked": Mutant(
        old="'state', 'running', 'updated_at', int(now))\n  list(workflow, 'q')",
        new="'state', 'running', 'updated_at', int(now))",
        calls=lambda machine: (machine.park(back=0), machine.redrive("w")),
        noticed="listing",
    ),
    "a block whose branches are all parked counts as suspended": Mutant(
        old="if on_branches == '1' then relist(workflow) else list_hop(workflow, hop, over and 'q' or 's') end",
        new="list_hop(workflow, hop, over and 'q' or 's')",
        calls=let_a_block_sleep_whose_branches_are_parked,
        noticed="listing",
    ),
    "an edited step is listed as the one before": Mutant(
        old="if activity ~= '' and not block_of(hop) then relist(workflow, activity, step) end\n",
        calls=park_and_edit,
        noticed="record",
    ),
    "a workflow that has ended never leaves": Mutant(
        old="if listed then redis.pcall('ZADD', ended, at, listed) end",
        calls=lambda machine: machine.cancel("w", meant=True),
        noticed="listing",
    ),
    "an expired workflow stays in the list": Mutant(
        old="in_lots('ZREM', index, gone)\n  if redis.call('EXISTS', unpack(keys)) == 0",
        new="if redis.call('EXISTS', unpack(keys)) == 0",
        calls=cancel_and_count_later,
        noticed="answer",
    ),
    "an expired workflow is counted": Mutant(
        old="for _ = 1, 5 do",
        new="for _ = 1, 0 do",
        calls=cancel_and_count_later,
        noticed="answer",
    ),
    "the next workflow of an id leaves the list with the one before": Mutant(
        old="if OF_ENDED[before.state] then redis.pcall('ZREM', ended, before.text) end",
        calls=cancel_and_begin_anew,
        noticed="listing",
    ),
    "a wait is not listed": Mutant(
        old="list_wait(name, age, token)\nadd_event",
        new="add_event",
        calls=lambda machine: machine.wait(back=0, name="ask"),
        noticed="listing",
    ),
    "an answered wait stays in the list": Mutant(
        old="if not block_of(hop) then return unlist_waits(hop, tokens) end",
        new="if not block_of(hop) then return end",
        calls=answer,
        noticed="listing",
    ),
    "a page has workflows of other states": Mutant(
        old="(states == '' or states:find(entry.state, 1, true)) and",
        new="true and",
        calls=look_for_what_is_parked,
        noticed="list",
    ),
    "a page ends before its workflows do": Mutant(
        old="if i > most then return entries, last end",
        new="if i > most then return entries, '' end",
        calls=turn_pages,
        noticed="list",
    ),
    "what an older version recorded is listed without its step": Mutant(
        old="if not listed or (listed.activity ~= '' and not is_unsure) then return 0 end",
        new="if true then return 0 end",
        calls=lose_the_list,
        noticed="record",
    ),
    "what an older version's workflow waits for is not listed": Mutant(
        old="if listed then list_waits_of(listed) end\n",
        calls=lambda machine: (suspended(machine, "ask"), lose_the_list(machine)),
        noticed="listing",
    ),
    "what an older version ended never leaves": Mutant(
        old="leave_with(text)\n  local listed = listing_in(text)\n  if listed then",
        new="local listed = listing_in(text)\n  if listed then",
        calls=lambda machine: (machine.cancel("w", meant=True), lose_the_list(machine)),
        noticed="listing",
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_each_rule_of_the_list_has_calls_that_need_it(new_pairs: Pairs, name: str) -> None:
    """Whoever looks at a list sees each workflow where it stands, and none that is gone."""
    mutant = MUTANTS[name]
    sound, mutated = (make() for make in (new_pairs(), new_pairs(*mutant.replaced)))

    mutant.calls(started(sound, most=2))
    with pytest.raises(AssertionError, match=f"^{mutant.noticed}:"):
        mutant.calls(started(mutated, most=2))


# These take several calls in their order, or two sweeps within a second, and examples hardly ever have them.
HARDLY_MET = {
    "a completed workflow counts as one that runs", "a retry lists nothing", "what a sweep sends again seems to run",
    "a block whose branches are all parked counts as suspended",
    "the next workflow of an id leaves the list with the one before", "a page has workflows of other states",
    "a page ends before its workflows do", "what an older version ended never leaves",
    "what an older version's workflow waits for is not listed",
}  # fmt: skip


@pytest.mark.proof
@pytest.mark.parametrize("name", [name for name in MUTANTS if name not in HARDLY_MET])
def test_random_calls_find_each_rule_of_the_list_that_is_missing(new_pairs: Pairs, name: str) -> None:
    """The examples go through all that changes where a workflow stands."""
    mutant = MUTANTS[name]
    how = settings(SETTINGS, phases=[Phase.generate], report_multiple_bugs=False, derandomize=True, max_examples=600)

    with pytest.raises(AssertionError, match=f"^({'|'.join(CHECKS)}):") as caught:
        run(new_pairs(*mutant.replaced), how)

    print(f"{name}: {caught.value}"[:300])
