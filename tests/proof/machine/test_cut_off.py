"""Each script that asks whether a hop stands below one that has ended needs to: without that, a loser writes.

The machine of random calls has small trees, whose branches are closed with what ends them. Here sweeps close them one
by one, and nobody sweeps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import pytest

from paigeant_celery.store.limits import LIMITS
from tests.contract.store.bench import RedisBench
from tests.contract.store.test_branch_tree import INNER, check_what_is_cut_off
from tests.proof.machine.test_store_machine import altered
from tests.support.servers import RedisDatabase

ONE = replace(LIMITS, most_at_once=1)

# Who asks, with the text of the script and what it is without the question.
ASKERS: Mapping[str, tuple[str, str]] = {
    "whoever claims": ("if is_cut then return { 'cancelled' } end", ""),
    "whoever writes or closes": ("if is_cut or wrong then return nil, wrong or 0 end", ""),
    "whoever renews": ("LEASED[record[3]] and is_cut_off(record[5], hop)", "false"),
    "whoever redrives": ("if is_cut then return 'not_parked' end", ""),
    "whoever answers": ("is_cut_off(workflow, hop) then\n", "false then\n"),
    "whoever signals": ("and not is_cut_off(workflow, each)", ""),
    "whoever reads": ("if is_cut then state = 'cancelled' end", ""),
}
# What is asked about. The end of a workflow is one of its block, too, so that its own mark is only a shorter way.
MARKS: Mapping[str, tuple[str, str]] = {
    "of the blocks": ("is_cut, wrong = is_ended_at(hop_key(above))\n", ""),
    "of the outer block": ("while above and not is_cut and not wrong do", "if above and not is_cut and not wrong then"),
}


@pytest.fixture
def bench(redis_db: RedisDatabase) -> Iterator[RedisBench]:
    bench = RedisBench(redis_db.url, redis_db.prefix)
    yield bench
    bench.close()


def alter(bench: RedisBench, *replaced: tuple[str, str]) -> None:
    client = altered(bench.url, *replaced, limits=ONE)
    for store in bench.opened:
        store._server._client.value = client


@pytest.mark.parametrize("how", ["cancel", "go on"])
def test_the_scripts_as_they_are_let_nobody_write(bench: RedisBench, how: str) -> None:
    """Otherwise the tests below would prove nothing."""
    alter(bench)

    check_what_is_cut_off(bench, INNER, how)


@pytest.mark.parametrize("who", ASKERS)
def test_each_script_that_asks_whether_a_hop_is_cut_off_needs_to(bench: RedisBench, who: str) -> None:
    """A loser would write into what won."""
    alter(bench, ASKERS[who])

    with pytest.raises(AssertionError):
        check_what_is_cut_off(bench, INNER, "go on")


@pytest.mark.parametrize("which", MARKS)
def test_each_mark_above_a_hop_counts(bench: RedisBench, which: str) -> None:
    """That of its block, and of each block above that."""
    alter(bench, MARKS[which])

    with pytest.raises(AssertionError):
        check_what_is_cut_off(bench, INNER, "go on")
