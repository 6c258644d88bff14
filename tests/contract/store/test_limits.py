"""The numbers of the protocol: one table for both stores and all scripts, and shorter waits for tests."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from importlib import resources
from typing import cast

import pytest

from paigeant_celery.hop import sweeper
from paigeant_celery.store import limits, open_store
from paigeant_celery.store.limits import LIMITS, StoreLimits, with_limits
from paigeant_celery.store.memory import MemoryStore
from paigeant_celery.store.port import HopRecord, NewWorkflow, Store
from paigeant_celery.store.redis import RedisStore
from tests.support.hurrying import hurry

LEASE, TTL = 10.0, 60.0
EPOCH, MILLISECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(milliseconds=1)

SCRIPTS = {
    file.name: re.sub(r"--.*", "", file.read_text("utf-8"))
    for file in resources.files("paigeant_celery.store").joinpath("scripts").iterdir()
}
CHECKED_BEFORE = ("MAX_SIGNAL", "MAX_ANSWER")  # a store is never asked
NAMES = [field.name.upper() for field in fields(StoreLimits) if field.name.upper() not in CHECKED_BEFORE]


def test_the_scripts_have_the_numbers_of_the_limits() -> None:
    """What an operator reads in the table is what the server does."""
    limits = replace(LIMITS, due_after=5000, due_after_most=80000)

    text = with_limits("now + math.min(DUE_AFTER * 2, DUE_AFTER_MOST) -- NOT_DUE_AFTER, AHEAD", limits)

    assert text == "now + math.min(5000 * 2, 80000) -- NOT_DUE_AFTER, AHEAD"


@pytest.mark.parametrize("name", NAMES)
def test_each_limit_is_used_by_a_script_and_set_by_none(name: str) -> None:
    """A number in two places would be changed in only one of them."""
    used = {script for script, text in SCRIPTS.items() if re.search(rf"\b{name}\b", text)}
    set_again = {script for script in used if re.search(rf"\blocal {name}\b|\b{name} =[^=]", SCRIPTS[script])}

    assert used
    assert not set_again


def test_no_script_has_a_number_of_its_own() -> None:
    """The only other numbers are the milliseconds in a second, and small ones that count arguments and fields."""
    numbers = {
        (script, number)
        for script, text in SCRIPTS.items()
        for number in re.findall(r"(?<![\w.])\d[\w.]*", text)
        if not number.isdigit() or int(number) > 12
    }

    assert numbers == {("common.lua", "1000"), ("common.lua", "1e13")}


def patience(store: Store) -> timedelta:
    """Return how long a store waits for the first message of a workflow."""
    hop = HopRecord(hop_id="w.0", queue="q", envelope="{}", digest="d")
    assert store.start(NewWorkflow(correlation_id="w", content="c", hop=hop)) == "started"
    found = store.workflow("w")
    assert found is not None
    if isinstance(store, MemoryStore):
        return store._records.due["w.0"] - found.created_at
    assert isinstance(store, RedisStore)
    due = cast("float", store._server.connected().redis.zscore(f"{store._prefix}:due", "w.0"))
    return EPOCH + round(due) * MILLISECOND - found.created_at


@pytest.mark.parametrize("kind", ["memory", "redis"])
@pytest.mark.parametrize(("in_a_hurry", "seconds"), [(False, 5.0), (True, 0.5)])
def test_a_deployment_under_test_waits_a_tenth_of_the_time(
    kind: str, in_a_hurry: bool, seconds: float, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """A test of a lost message need not wait as long as users do. Any other deployment waits as documented."""
    if in_a_hurry:
        hurry(monkeypatch)
    url, prefix = "memory://", "p"
    if kind == "redis":
        database = request.getfixturevalue("redis_db")
        url, prefix = database.url, database.prefix

    store = open_store(url, prefix=prefix, lease=LEASE, ttl=TTL)

    assert patience(store) == timedelta(seconds=seconds)
    store.close()


def test_a_deployment_under_test_waits_less_but_keeps_as_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only waits are shorter, and the sweeps that end them are more frequent to the same degree."""
    before = sweeper.EVERY

    hurry(monkeypatch)

    found = limits.LIMITS
    assert found == replace(StoreLimits(), due_after=500, due_after_most=8_000, long_unswept=250, pass_every=90)
    assert tuple(10 * each for each in sweeper.EVERY) == pytest.approx(before)
