"""Which broker is the one that a store belongs to."""

from __future__ import annotations

import pytest

from paigeant_celery.broker.identity import KnownBy, SeenBroker, is_another
from paigeant_celery.store.port import BoundBroker

HERE, THERE = "redis://one:6379/0", "redis://two:6379/0"


def seen(address: str, known_by: KnownBy, id_: str | None = None) -> SeenBroker:
    return SeenBroker(address=address, plain=address.partition(" ")[0], known_by=known_by, id=id_)


BY_ID = BoundBroker(address=HERE, id="a")
BY_ADDRESS = BoundBroker(address=HERE)


@pytest.mark.parametrize(
    ("bound", "found"),
    [
        pytest.param(BY_ID, seen(HERE, "key", "a"), id="nothing has changed"),
        pytest.param(BY_ID, seen(THERE, "key", "a"), id="it moved with its data, or has a second name"),
        pytest.param(BY_ID, seen(HERE, "key"), id="it lost its data"),
        pytest.param(BY_ID, seen(HERE, "address"), id="this user may not read the id"),
        pytest.param(BY_ID, seen(THERE, "cluster", "a"), id="a cluster has many addresses"),
        pytest.param(BY_ID, seen(HERE, "cluster", "b"), id="a cluster is named after its first machine"),
        pytest.param(BY_ADDRESS, seen(HERE, "key"), id="an earlier version remembered it"),
        pytest.param(BY_ADDRESS, seen(f"{HERE} (global_keyprefix 'app:')", "key"), id="the same with a key prefix"),
        pytest.param(BY_ADDRESS, seen(HERE, "address"), id="it can have no id"),
    ],
)
def test_a_broker_is_known_again(bound: BoundBroker, found: SeenBroker) -> None:
    """What a night brings to a healthy deployment keeps no worker from starting."""
    assert not is_another(bound, found)


@pytest.mark.parametrize(
    ("bound", "found"),
    [
        pytest.param(BY_ID, seen(HERE, "key", "b"), id="another one has its address now"),
        pytest.param(BY_ID, seen(THERE, "key", "b"), id="another one"),
        pytest.param(BY_ID, seen(THERE, "key"), id="a new one"),
        pytest.param(BY_ID, seen(f"{HERE} (global_keyprefix 'app:')", "key"), id="others keys of the same database"),
        pytest.param(BY_ID, seen(THERE, "address"), id="this user may not read the id of another one"),
        pytest.param(BY_ID, seen(THERE, "cluster", "b"), id="another cluster or virtual host"),
        pytest.param(BY_ADDRESS, seen(THERE, "key", "a"), id="nobody knows whether it is"),
        pytest.param(BY_ADDRESS, seen(THERE, "address"), id="another file"),
    ],
)
def test_another_broker_is_told_apart(bound: BoundBroker, found: SeenBroker) -> None:
    """Messages on it would lie there for ever, or reach the workers of somebody else."""
    assert is_another(bound, found)


def test_a_process_knows_its_emptied_broker_by_each_of_its_names() -> None:
    """A worker that was connected under the second name gives it its id back."""
    assert is_another(BY_ID, seen(THERE, "key"), known_here="b")
    assert not is_another(BY_ID, seen(THERE, "key"), known_here="a")
    assert is_another(BY_ID, seen(THERE, "key", "b"), known_here="a")
