"""A conversation whose workers are killed between any two effects of a step: each turn is heard once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from paigeant_celery import ActivitySpec, WorkflowDispatcher
from tests.support.processes import Deployment, deployment, eventually

WITHIN = 60.0  # seconds for what takes about three
# Where the process of a step dies, or what reply is lost. Between two steps it is killed at `completed`.
POINTS = ("claimed", "ran", "completed", "soft.complete", "soft.claim")
BRIEF = ("completed",)

pytestmark = pytest.mark.skipif(not Path("/proc/self/ns/pid").exists(), reason="needs /proc to see processes die")


@pytest.fixture(scope="module")
def talking(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with deployment(redis_url, tmp_path_factory.mktemp("talking")) as made:
        points = made.folder / "points"
        points.mkdir()
        made.variables.update(FAILPOINTS=str(points), HITS_FILE=str(made.folder / "hits"))
        made.ready_worker("failpoints", "talkers")
        yield made


@pytest.mark.parametrize(
    "point", [pytest.param(point, marks=() if point in BRIEF else pytest.mark.proof) for point in POINTS]
)
def test_a_killed_worker_leaves_each_turn_in_the_history_once(talking: Deployment, point: str) -> None:
    """The next step hears what the one before has said, whoever had to finish it."""
    dispatcher, transport = WorkflowDispatcher(), talking.transport()
    steps = [
        ActivitySpec("talker", prompt, step_id=prompt, conversation=None if prompt == "c" else "talk",
                     conversation_id=f"talk {point}" if prompt == "c" else None)
        for prompt in ("a", "b", "c", "d")
    ]  # fmt: skip

    (talking.folder / "points" / point).touch()
    correlation_id = dispatcher.dispatch_workflow_sync(transport, itinerary=steps)
    handle = dispatcher.handle(correlation_id, transport)
    result = handle.result_sync(timeout=WITHIN)

    eventually(lambda: not (talking.folder / "points" / point).exists(), what="nobody was hit")
    assert {step: text.partition("\n")[0] for step, text in result.outputs.items()} == {
        "a": "a", "b": "a b", "c": "c", "d": "a b d",
    }  # fmt: skip
    assert len(handle.conversation_sync("talk")) == 6
    assert len(handle.conversation_sync(conversation_id=f"talk {point}")) == 2
    asked = Counter(hop_id for hop_id in talking.runs() if hop_id.startswith(correlation_id))
    first = asked.pop(f"{correlation_id}.0")
    assert first == 1 or (first == 2 and point == "ran")  # its answer may still have been in flight, see guarantees.md
    assert asked == {f"{correlation_id}.{place}": 1 for place in (1, 2, 3)}
