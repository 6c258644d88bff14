"""Steps that wait for a provider's job, with real workers: what ends an attempt, and what ends the job."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from paigeant_celery import ActivitySpec, StepPolicy, WorkflowDispatcher, WorkflowHandle
from tests.support.processes import Deployment, Process, deployment, eventually

pytestmark = [pytest.mark.acceptance, pytest.mark.together]

WITHIN = 20.0


class Shop:
    """A deployment with one worker, and what its provider was asked."""

    def __init__(self, made: Deployment) -> None:
        self._made, self._file = made, made.folder / "jobs"
        made.variables["JOBS_FILE"] = str(self._file)
        self.worker = self._begin()

    def _begin(self) -> Process:
        return self._made.ready_worker("laundry", pool="threads", slots=4)

    def wash(self, prompt: str, *, timeout: float) -> WorkflowHandle:
        """Start a workflow; its jobs end unless they are to run for ever."""
        transport, dispatcher = self._made.transport(), WorkflowDispatcher()
        step = ActivitySpec("laundry", prompt, policy=StepPolicy(timeout=timeout, backoff=0, max_attempts=8))
        return dispatcher.handle(dispatcher.dispatch_workflow_sync(transport, itinerary=[step]), transport)

    def asked(self, handle: WorkflowHandle) -> list[str]:
        """Return what the provider was asked for a workflow, in order."""
        lines = Path(self._file).read_text().splitlines() if self._file.exists() else []
        found = [json.loads(line) for line in lines]
        return [line["what"] for line in found if line["workflow"] == handle.correlation_id]

    def wait_for_polls(self, handle: WorkflowHandle, more: int) -> None:
        """Wait until a job has been polled so many times more."""
        before = self.asked(handle).count("poll")
        eventually(lambda: self.asked(handle).count("poll") >= before + more, within=WITHIN, what="nobody polls on")

    @contextmanager
    def shown(self) -> Iterator[Callable[[WorkflowHandle, str], bool]]:
        """Listen to Celery's events in the block, as Flower does; what is yielded says whether a task was last so."""
        last: dict[str, str] = {}
        app = self._made.transport().app

        def note(event: Mapping[str, str]) -> None:
            if "uuid" in event:
                last[event["uuid"]] = event["type"]

        with app.connection_for_read() as given:
            receiver = app.events.Receiver(given, handlers={"*": note})
            with receiver.consumer_context() as (connection, *_):

                def is_last(handle: WorkflowHandle, event: str) -> bool:
                    with suppress(TimeoutError):
                        connection.drain_events(timeout=0.1)
                    return last.get(f"{handle.correlation_id}.0") == event

                with suppress(TimeoutError):  # Kombu subscribes only now, and what was sent before is not heard
                    connection.drain_events(timeout=0.5)
                yield is_last

    def revoke(self, handle: WorkflowHandle) -> None:
        """Do what Flower's button does."""
        self._made.transport().app.control.revoke(f"{handle.correlation_id}.0")

    def change_worker(self) -> None:
        """End the worker, as a deploy does, and start another one."""
        assert self.worker.terminate() == 0
        self.worker = self._begin()


@pytest.fixture(scope="module")
def shop(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with deployment(redis_url, tmp_path_factory.mktemp("shop"), paigeant_lease=1.0) as made:
        yield Shop(made)


def test_attempts_end_and_the_job_goes_on_until_its_workflow_is_cancelled(shop: Shop) -> None:
    """A step shorter than its job ends, a deploy in the middle costs nothing, and a cancel reaches the provider."""
    short = shop.wash("shirts", timeout=1.0)
    kept, unwanted = (shop.wash(f"{name}, for ever", timeout=600.0) for name in ("kept", "unwanted"))

    assert short.result_sync(WITHIN).output == "clean"
    asked = shop.asked(short)
    assert (asked[0], asked.count("submit"), asked.count("cancel")) == ("submit", 1, 0)
    assert asked.count("poll") >= 5
    assert [event.type for event in short.events_so_far() if event.type in ("retrying", "suspended")] == []
    assert [event.fields["attempt"] for event in short.events_so_far() if event.type == "claimed"] == ["1"]

    shop.change_worker()
    for handle in (kept, unwanted):
        shop.wait_for_polls(handle, 2)
    assert unwanted.cancel_sync()
    eventually(lambda: "cancel" in shop.asked(unwanted), within=WITHIN, what="the job was not cancelled")

    assert shop.asked(unwanted).count("cancel") == 1
    assert (shop.asked(kept).count("submit"), shop.asked(kept).count("cancel")) == (1, 0)
    assert kept.status_sync().attempt == 1
    kept.cancel_sync()


def test_more_steps_than_there_are_slots_wait_for_their_jobs(shop: Shop) -> None:
    """Between two polls no worker is held, nothing is written down for people, and no attempt is spent."""
    handles = [shop.wash(f"{name} by night, for ever", timeout=1.0) for name in "abcdef"]  # on four slots

    for handle in handles:
        shop.wait_for_polls(handle, 2)

    for handle in handles:
        assert [event.type for event in handle.events_so_far()] == ["started", "claimed"]
        assert (shop.asked(handle).count("submit"), shop.asked(handle).count("cancel")) == (1, 0)
        assert handle.cancel_sync()


@pytest.mark.parametrize("how", ["cancelled", "revoked"])
def test_a_workflow_that_ends_between_two_polls_has_its_job_cancelled(shop: Shop, how: str) -> None:
    """No run is there that would do it, and none is made: the provider is asked nothing else."""
    with shop.shown() as is_shown:
        handle = shop.wash("a tent, for weeks", timeout=600.0)
        eventually(lambda: handle.status_sync().state == "suspended", within=WITHIN)
        eventually(lambda: is_shown(handle, "task-retried"), within=WITHIN)

        if how == "cancelled":
            assert handle.cancel_sync()
        else:
            shop.revoke(handle)

        eventually(lambda: "cancel" in shop.asked(handle), within=WITHIN, what="the job was not cancelled")
        eventually(lambda: is_shown(handle, "task-revoked"), within=WITHIN, what="it is not shown as revoked")

    assert shop.asked(handle) == ["submit", "cancel"]
    assert handle.status_sync().state == "cancelled"
    assert "job_left" not in shop.worker.log()
