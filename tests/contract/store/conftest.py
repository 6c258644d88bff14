"""The stores that the tests run on: each of them, or only the one on Redis."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.contract.store.bench import Bench, MemoryBench, RedisBench
from tests.support.servers import RedisDatabase


@pytest.fixture(params=["memory", "redis"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    if request.param == "memory":
        yield MemoryBench()
        return
    yield from request.getfixturevalue("redis_bench_maker")()


@pytest.fixture
def redis_bench_maker(redis_db: RedisDatabase) -> Callable[[], Iterator[RedisBench]]:
    def make() -> Iterator[RedisBench]:
        bench = RedisBench(redis_db.url, redis_db.prefix)
        yield bench
        bench.close()

    return make


@pytest.fixture
def on_redis(redis_bench_maker: Callable[[], Iterator[RedisBench]]) -> Iterator[RedisBench]:
    yield from redis_bench_maker()
