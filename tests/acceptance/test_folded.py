"""Workflows whose records leave the message, on real workers: killed, retried, redriven, cancelled, late and robbed."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis

from paigeant_celery import (
    ActivitySpec,
    DeadLetters,
    FunctionSpec,
    StepPolicy,
    UnknownWorkflow,
    WorkflowCancelled,
    WorkflowDispatcher,
    WorkflowFailed,
    WorkflowHandle,
    WorkflowParked,
)
from paigeant_celery.core.message import parse
from tests.support.processes import Deployment, deployment, eventually

WITHIN = 60.0  # seconds for what takes about three
# Where the process of the step dies that ends next, and which reply is lost: before, in and after its completion.
POINTS = ("ran", "completed", "soft.complete", "hard.complete", "published")
BRIEF = ("ran", "completed")
ONCE = StepPolicy(max_attempts=1)

pytestmark = [
    pytest.mark.together,
    pytest.mark.skipif(not Path("/proc/self/ns/pid").exists(), reason="needs /proc to see processes die"),
]


@pytest.fixture(scope="module")
def made(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A worker for all tests here, which folds each slip of more than one step."""
    brief = {"paigeant_inline_log_size": 0, "paigeant_retry_backoff": 0.0}
    with deployment(redis_url, tmp_path_factory.mktemp("folded"), **brief) as made:
        points = made.folder / "points"
        points.mkdir()
        made.variables.update(FAILPOINTS=str(points), HITS_FILE=str(made.folder / "hits"))
        made.ready_worker("failpoints", "desk", "press", "troubles", slots=2)
        yield made


@pytest.fixture
def raw(made: Deployment) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(made.url, decode_responses=True) as client:
        yield client


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """The file that the step `gated` waits for; it appears when the test ends, if not before."""
    gate = tmp_path / "gate"
    yield gate
    gate.touch()


def dispatch(made: Deployment, *steps: ActivitySpec | FunctionSpec, **more: Any) -> WorkflowHandle:
    dispatcher, transport = WorkflowDispatcher(), made.transport()
    dispatcher.register(ActivitySpec("draft", "default"))
    dispatcher.register(ActivitySpec("review", "check it", {"style": "kind"}))
    return dispatcher.handle(dispatcher.dispatch_workflow_sync(transport, itinerary=steps, **more), transport)


def drafts(*prompts: str) -> list[ActivitySpec]:
    return [ActivitySpec("draft", prompt, step_id=prompt, previous_output=False) for prompt in prompts]


def stands_at(handle: WorkflowHandle, step_id: str) -> None:
    """Wait until a worker runs the step."""
    eventually(
        lambda: (status := handle.status_sync()).running and status.step_id == step_id, within=WITHIN, what=step_id
    )


def left_slip(made: Deployment, raw: redis.Redis, handle: WorkflowHandle) -> dict[str, str]:
    """Return what is in the store of the slip: by place the step that ran there."""
    kept = raw.hgetall(f"{made.prefix}:blob:{handle.correlation_id}")
    records = {name: json.loads(text)["step_id"] for name, text in kept.items() if name.startswith("executed:")}
    notes = {name for name in kept if name.startswith("at:")}
    assert notes == {f"at:{step_id}" for step_id in records.values()}
    return {name.removeprefix("executed:"): step_id for name, step_id in records.items()}


def kept_for(made: Deployment, raw: redis.Redis, handle: WorkflowHandle) -> set[int]:
    """Return when the keys of a workflow expire, or -1 for those that do not."""
    return {
        raw.execute_command("PEXPIRETIME", key) for key in raw.scan_iter(f"{made.prefix}:*{handle.correlation_id}*")
    }


@pytest.mark.parametrize(
    "point", [pytest.param(point, marks=() if point in BRIEF else pytest.mark.proof) for point in POINTS]
)
def test_a_worker_that_dies_around_a_completion_that_folds_loses_and_doubles_no_step(
    made: Deployment, raw: redis.Redis, gate: Path, point: str
) -> None:
    """Records leave the message in the completion itself: they are in one place or the other, and never in none."""
    large = FunctionSpec("long_text", {"kilobytes": 40}, step_id="large")
    handle = dispatch(
        made, *drafts("a", "b"), large, ActivitySpec("planner", "plan"), ActivitySpec("gated", str(gate)),
        FunctionSpec("flaky", {"path": str(gate.with_suffix(".tries")), "times": 1}),
        FunctionSpec("digest_of", {"step_id": "a"}, step_id="early"),
        FunctionSpec("digest_of", {"step_id": "flaky"}, step_id="late"),
        FunctionSpec("digest_of", {"step_id": "large"}, step_id="big"),
    )  # fmt: skip
    names = ["a", "b", "large", "planner", "draft-3.1", "review-3.2", "gated", "flaky", "early", "late", "big"]
    stands_at(handle, "gated")
    assert list(handle.status_sync().executed) == names[:6]
    assert left_slip(made, raw, handle) == {str(place): name for place, name in enumerate(names[:5])}

    (made.folder / "points" / point).touch()
    gate.touch()
    result = handle.result_sync(WITHIN)

    assert not (made.folder / "points" / point).exists(), "nobody was hit"
    assert [step.step_id for step in result.steps] == list(handle.status_sync().executed) == names
    text = {name: hashlib.sha256(str(output).encode()).hexdigest() for name, output in result.outputs.items()}
    assert (result.outputs["early"][1], result.outputs["late"][1]) == (text["a"], text["flaky"])
    assert result.output == [text["late"], text["large"]]
    hops = [f"{handle.correlation_id}.{place}" for place in range(len(names))]
    assert [event.hop_id for event in handle.events_so_far() if event.type == "completed"] == hops
    runs = Counter(hop for hop in made.runs() if hop in hops)
    runs.pop(hops[6])  # the step that was hit: if its answer was younger than 20 ms, it was asked for again
    assert set(runs.values()) == {1}
    assert left_slip(made, raw, handle) == {str(place): name for place, name in enumerate(names[:-1])}
    (ends,) = kept_for(made, raw, handle)
    assert ends > 0


def test_a_parked_workflow_goes_on_with_all_that_it_had(made: Deployment, raw: redis.Redis, gate: Path) -> None:
    """Its records wait in the store as long as it does, and a redrive begins where it stood."""
    tries = {"path": str(gate.with_suffix(".tries")), "times": 1}
    handle = dispatch(
        made, *drafts("a", "b"), FunctionSpec("flaky", tries, policy=ONCE), FunctionSpec("digest_of", {"step_id": "a"})
    )
    with pytest.raises(WorkflowParked):
        handle.result_sync(WITHIN)
    assert handle.status_sync().executed == ("a", "b")
    assert kept_for(made, raw, handle) == {-1}

    assert handle.redrive_sync()
    result = handle.result_sync(WITHIN)

    assert list(result.outputs) == ["a", "b", "flaky", "digest_of"]
    assert result.output[1] == hashlib.sha256(str(result.outputs["a"]).encode()).hexdigest()


@pytest.mark.parametrize(
    ("ends", "state", "error"),
    [
        pytest.param(lambda handle: handle.cancel_sync(), "cancelled", WorkflowCancelled, id="cancelled"),
        pytest.param(lambda handle: None, "failed", WorkflowFailed, id="late"),
    ],
)
def test_what_was_folded_is_kept_as_long_as_the_rest_of_a_workflow_that_ended_early(
    made: Deployment, raw: redis.Redis, gate: Path, ends: Callable[[WorkflowHandle], object], state: str, error: type
) -> None:
    """Nothing is left behind when it expires, and until then its status has all steps that ran."""
    deadline = datetime.now(UTC) + timedelta(seconds=3) if state == "failed" else None
    handle = dispatch(made, *drafts("a", "b", "c"), ActivitySpec("gated", str(gate)), deadline=deadline)
    stands_at(handle, "gated")

    ends(handle)
    with pytest.raises(error):
        handle.result_sync(WITHIN)

    status = handle.status_sync()
    assert (status.state, status.executed) == (state, ("a", "b", "c"))
    assert left_slip(made, raw, handle) == {"0": "a", "1": "b"}
    (expires,) = kept_for(made, raw, handle)
    assert expires > 0


def test_a_workflow_whose_records_the_store_has_lost_becomes_a_dead_letter(
    made: Deployment, raw: redis.Redis, gate: Path
) -> None:
    """The message has not all that ran. Its step is not begun again, and nobody gets a result that lacks steps."""
    handle = dispatch(made, *drafts("a", "b", "c"), ActivitySpec("gated", str(gate)), *drafts("d"))
    stands_at(handle, "gated")

    for key in raw.scan_iter(f"{made.prefix}:*{handle.correlation_id}*"):
        raw.delete(key)
    gate.touch()
    found = eventually(
        lambda: [each for each in DeadLetters(made.transport()).list() if each.correlation_id == handle.correlation_id],
        within=WITHIN,
    )

    assert [(letter.reason, letter.hop_id) for letter in found] == [("store_lost", f"{handle.correlation_id}.3")]
    with pytest.raises(UnknownWorkflow):
        handle.status_sync()
    assert Counter(made.runs())[f"{handle.correlation_id}.3"] == 1
    assert list(raw.scan_iter(f"{made.prefix}:*:{handle.correlation_id}*")) == []


def test_a_message_does_not_grow_with_each_step(made: Deployment, raw: redis.Redis, gate: Path) -> None:
    """What travels of the steps that ran are their sums and the last record."""
    sizes = []
    for count in (3, 9):
        own = gate.with_suffix(f".{count}")
        handle = dispatch(made, *drafts(*(f"{n:03}" for n in range(count))), ActivitySpec("gated", str(own)))
        stands_at(handle, "gated")
        envelope = raw.hget(f"{made.prefix}:hop:{handle.correlation_id}.{count}", "envelope")
        slip = parse(envelope, max_size=2**20, max_steps=20).slip
        assert (slip.earlier.count if slip.earlier else 0, len(slip.executed)) == (count - 1, 1)
        sizes.append(len(envelope))
        own.touch()
        handle.result_sync(WITHIN)

    assert sizes[1] < sizes[0] + 10
