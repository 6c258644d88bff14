"""Message-only mode on real brokers: no store, but still nothing is dropped silently."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis
from kombu import Connection

from paigeant_celery import ActivitySpec, FunctionSpec, StepPolicy, StoreRequired, WorkflowDispatcher
from paigeant_celery.client.dead_letters import DeadLetters
from paigeant_celery.store.port import DeadLetter
from tests.support.processes import Deployment, deployment, eventually

WITHIN = 20.0

ACTIVITIES = ("draft", "flaky", "late", "too_large")


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("redis", marks=pytest.mark.xdist_group("message only")),
        pytest.param("rabbitmq", marks=pytest.mark.xdist_group("rabbitmq")),
    ],
)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """One worker without a store."""
    url = request.getfixturevalue("redis_url" if request.param == "redis" else "amqp_url")
    with ExitStack() as stack:
        made = stack.enter_context(
            deployment(url, tmp_path_factory.mktemp(request.param), store=None, paigeant_consume="only")
        )
        if request.param == "rabbitmq":
            stack.callback(remove_queues, url, made.prefix)
        made.ready_worker("press", "troubles", pool="threads")
        yield made


def remove_queues(url: str, prefix: str) -> None:
    with Connection(url) as connection:
        for name in (*(f"{prefix}.{activity}" for activity in ACTIVITIES), f"{prefix}-dead-letters"):
            connection.default_channel.queue_delete(name)


@pytest.fixture
def letters(made: Deployment) -> Iterator[DeadLetters]:
    """The dead letters; none are left for the next test."""
    letters = DeadLetters(made.transport())
    yield letters
    for letter in letters.list():
        assert letters.drop(letter.letter_id)
    assert letters.list() == []


def dispatch(made: Deployment, *steps: ActivitySpec | FunctionSpec) -> str:
    return WorkflowDispatcher().dispatch_workflow_sync(made.transport(), itinerary=steps)


def ran(made: Deployment, hop_id: str) -> None:
    eventually(lambda: hop_id in made.runs(), within=WITHIN, what=f"{hop_id} did not run")


def test_the_worker_says_its_mode_and_a_question_to_the_store_says_what_is_missing(made: Deployment) -> None:
    """Nobody should find out during an incident what this mode does not do."""
    handle = WorkflowDispatcher().handle("anything", made.transport())

    with pytest.raises(StoreRequired, match="paigeant_store_url"):
        handle.status_sync()
    with pytest.raises(StoreRequired):
        handle.cancel_sync()


def test_a_step_that_fails_in_passing_completes(made: Deployment, letters: DeadLetters, tmp_path: Path) -> None:
    """A retry is sent at once, and the workflow goes on after it."""
    calls = tmp_path / "calls"

    workflow = dispatch(made, FunctionSpec("flaky", {"path": str(calls), "times": 2}), ActivitySpec("draft", "then"))

    ran(made, f"{workflow}.1")
    assert calls.read_text().count("called") == 3
    assert letters.list() == []


def test_a_step_that_fails_to_the_last_is_set_aside_and_completes_when_it_is_redriven(
    made: Deployment, letters: DeadLetters, tmp_path: Path
) -> None:
    """The queue of dead letters holds the whole hop; looking at it removes nothing."""
    calls = tmp_path / "calls"
    failing = FunctionSpec("flaky", {"path": str(calls), "times": 2}, policy=StepPolicy(max_attempts=2))
    workflow = dispatch(made, failing, ActivitySpec("draft", "then"))
    (letter,) = eventually(letters.list, within=WITHIN)
    assert (letter.reason, letter.hop_id) == ("ConnectionError", f"{workflow}.0")
    assert letters.show(letter.letter_id) == letter
    assert letters.list() == [letter]

    assert letters.redrive(letter.letter_id)

    ran(made, f"{workflow}.1")
    assert letters.list() == []
    assert not letters.redrive(letter.letter_id)


def test_an_output_that_cannot_be_sent_on_leaves_a_letter_with_its_step(made: Deployment, letters: DeadLetters) -> None:
    """Nothing keeps the output, but the step is not lost: it runs again when somebody has raised the limit."""
    workflow = dispatch(made, FunctionSpec("too_large", {"characters": 17 * 2**20}), ActivitySpec("draft", "then"))

    for _ in range(2):
        (letter,) = eventually(letters.list, within=WITHIN)
        assert (letter.reason, letter.hop_id) == ("output_too_large", f"{workflow}.0")
        assert letters.redrive(letter.letter_id)
    eventually(letters.list, within=WITHIN)


def test_what_cannot_be_run_is_a_letter_and_the_worker_goes_on(made: Deployment, letters: DeadLetters) -> None:
    """Neither a message for an agent that is not loaded here nor garbage is dropped silently."""
    workflow = dispatch(made, ActivitySpec("late", "prompt", queue=f"{made.prefix}.draft"))
    garbage = uuid.uuid4().hex
    made.transport().app.send_task(f"{made.prefix}.draft", args=["{"], task_id=garbage, queue=f"{made.prefix}.draft")

    def both() -> list[DeadLetter]:
        found = list(letters.list())
        return found if len(found) == 2 else []

    found = eventually(both, within=WITHIN)

    assert {(letter.reason, letter.hop_id) for letter in found} == {
        ("unknown_agent", f"{workflow}.0"),
        ("invalid_envelope", None),
    }
    assert all(letter.worker and letter.at for letter in found)
    ran(made, f"{dispatch(made, ActivitySpec('draft', 'good'))}.0")


def test_a_message_of_a_dispatcher_without_a_store_is_adopted_by_a_worker_with_one(
    redis_url: str, tmp_path: Path
) -> None:
    """A web process without a store still gets its workflow run once, whatever is delivered twice."""
    with deployment(redis_url, tmp_path) as stored:
        bare = Deployment(redis_url, tmp_path / "bare", store=None, paigeant_prefix=stored.prefix)
        workflow = dispatch(bare, ActivitySpec("draft", "early"), ActivitySpec("draft", "again"))
        queue = f"{stored.prefix}.draft"
        with redis.Redis.from_url(redis_url) as broker:
            (item,) = broker.lrange(queue, 0, -1)
            broker.lpush(queue, item)
        stored.ready_worker("press")

        handle = WorkflowDispatcher().handle(workflow, stored.transport())
        result = eventually(lambda: stored.runs().count(f"{workflow}.1") and handle, within=WITHIN).result_sync(WITHIN)

        assert result.output == "draft(again|draft(early|))"
        assert stored.runs() == [f"{workflow}.0", f"{workflow}.1"]
        assert [event.type for event in handle.events_so_far()][:2] == ["adopted", "claimed"]
