"""What the index of workflows on Redis does when records are damaged, or come from versions without one."""

from __future__ import annotations

import pytest

from tests.contract.store.bench import RedisBench
from tests.contract.store.given import FAILURE, claim, closing
from tests.contract.store.test_queries import start

NO_TIMES = ["abc", "", "inf", "nan", "-1e300", "1e15000"]


@pytest.mark.parametrize("text", NO_TIMES)
def test_a_damaged_time_stops_no_sweep(on_redis: RedisBench, text: str) -> None:
    """One record that nobody can read must not keep every other workflow from going on."""
    start(on_redis, "odd", "well")
    on_redis.client.hset(on_redis.key("wf", "odd"), "created_at", text)
    on_redis.client.zadd(on_redis.key("due"), {"well.0": on_redis.now() - 1 - 1e13})  # whatever its queue has

    found = on_redis.raw.sweep(host="there")

    assert [each.hop_id for each in found.overdue] == ["well.0"]


@pytest.mark.parametrize("text", NO_TIMES)
def test_a_damaged_time_keeps_no_hop_from_being_set_aside(on_redis: RedisBench, text: str) -> None:
    """The script has written before it asks the record for the list, and Redis takes nothing back."""
    start(on_redis, "odd")
    claimed = on_redis.raw.claim(claim("odd.0"))
    on_redis.client.hset(on_redis.key("wf", "odd"), "created_at", text)
    on_redis.client.hset(on_redis.key("hop", "odd.0"), "block:written", "0")

    assert on_redis.raw.park(closing(claimed, "odd.0"), FAILURE)
    assert on_redis.client.xrevrange(on_redis.key("events", "odd"))[0][1]["type"] == "parked"
