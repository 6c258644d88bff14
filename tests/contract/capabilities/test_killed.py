"""Rows that are tried with a real worker, whose processes are killed before and after a record in the middle."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from paigeant_celery import FunctionSpec, WorkflowDispatcher, WorkflowHandle
from tests.contract.capabilities.lasting import LastingWorld
from tests.contract.capabilities.row import Row
from tests.contract.capabilities.rows import SECTIONS
from tests.contract.capabilities.trials import Death, Seen, Trial, in_a_hop
from tests.contract.capabilities.verdict import faults_of_kills
from tests.support.processes import Deployment, deployment

WITHIN = 180.0  # seconds for all rows together

ROWS = [row for rows in SECTIONS.values() for row in rows if row.killed and row.is_here]

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.proof,
    pytest.mark.together,
    pytest.mark.skipif(not Path("/proc/self/ns/pid").exists(), reason="needs /proc to see processes die"),
]


class Gallows:
    """A deployment that tries rows and kills the processes in which they run."""

    def __init__(self, made: Deployment) -> None:
        self._made, self._worlds = made, made.folder / "worlds"
        self._worlds.mkdir()
        self._begun: dict[tuple[str, Death | None], WorkflowHandle] = {}
        made.variables["WORLDS"] = str(self._worlds)
        made.ready_worker("tabled", slots=10)  # Celery holds the place of a killed process for ten seconds

    def begin(self, row: Row, death: Death | None) -> None:
        """Start a workflow whose process dies there."""
        id_ = f"row-{len(self._begun)}"
        world = self._world(id_, attempt=1)
        if death is not None:
            world.condemn(death)
        transport, dispatcher = self._made.transport(), WorkflowDispatcher()
        step = FunctionSpec("try_row", {"name": row.name})
        dispatcher.dispatch_workflow_sync(transport, itinerary=[step], correlation_id=id_)
        self._begun[row.name, death] = dispatcher.handle(id_, transport)

    def trial(self, row: Row, death: Death | None) -> Trial:
        """Wait until its workflow has ended; return what can be seen of it, under ids that are the same in each."""
        handle = self._begun[row.name, death]
        told = handle.result_sync(WITHIN).output
        text = json.dumps(told["seen"])
        for number, own in enumerate(told["seen"]["ids"] or ()):
            text = text.replace(own, f"own id {number}")
        world = self._world(handle.correlation_id, attempt=told["attempt"])
        return Trial(world, Seen(**json.loads(text.replace(handle.correlation_id, "w"))), made=told["made"])

    def _world(self, id_: str, *, attempt: int) -> LastingWorld:
        return LastingWorld(self._worlds / id_, attempt=attempt)


def deaths_of(row: Row) -> tuple[Death, Death]:
    """Return the two places in its middle at which a process of a row dies."""
    middle = (in_a_hop(row).made + 1) // 2
    return ("before", middle), ("after", middle)


@pytest.fixture(scope="module")
def gallows(
    request: pytest.FixtureRequest, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gallows]:
    """All rows that are asked for, begun at once."""
    items = [item for item in request.session.items if isinstance(item, pytest.Function)]
    with deployment(redis_url, tmp_path_factory.mktemp("gallows"), paigeant_retry_backoff=0.0) as made:
        gallows = Gallows(made)
        for item in items:
            if item.path == Path(__file__):
                row = item.callspec.params["row"]
                for death in (None, *deaths_of(row)):
                    gallows.begin(row, death)
        yield gallows


@pytest.mark.parametrize("row", [pytest.param(row, id=row.name) for row in ROWS])
def test_a_row_is_true_of_killed_processes(gallows: Gallows, row: Row) -> None:
    """What the trials in memory say of a crash holds for processes that are killed, and for what they leave behind."""
    hop = gallows.trial(row, None)
    killed = {death: gallows.trial(row, death) for death in deaths_of(row)}

    assert (hop.world.attempt, [trial.world.attempt for trial in killed.values()]) == (1, [2, 2])
    assert faults_of_kills(row, hop, killed) == []
