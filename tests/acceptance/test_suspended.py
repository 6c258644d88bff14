"""What befalls a step while it waits without a worker: deploys, a broker that is away, a store that is emptied."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from paigeant_celery import FunctionSpec, Inbox, UnknownWait, UnknownWorkflow, WorkflowDispatcher, WorkflowHandle
from tests.proof.chaos.history import Asked, asked_in
from tests.support.hurrying import hurry
from tests.support.processes import Deployment, Process, deployment, eventually, run_script
from tests.support.servers import RedisServer, redis_server
from tests.support.versions import older_version

WITHIN = 30.0  # seconds for what takes about two, most of it the start of a worker
GRACE = 0.2  # seconds
PUBLISH_TIMEOUT = 1.0  # seconds

# What a person does who has the older version: it cancels a workflow.
OLD_CANCEL = """
import sys
from celery import Celery
from paigeant_celery import WorkflowHandle, get_transport

app = Celery("cancelling", set_as_current=False)
app.config_from_object("celeryconfig")
print(WorkflowHandle(sys.argv[1], get_transport(app=app)).cancel_sync())
"""

pytestmark = pytest.mark.together


class Waiting:
    """A deployment whose broker and store are two servers, and whose steps wait."""

    def __init__(self, made: Deployment, broker: RedisServer, store: RedisServer) -> None:
        self.made, self.broker, self.store = made, broker, store
        self.asked_file, self.gate = made.folder / "asked", made.folder / "gate"
        (made.folder / "failpoints").mkdir()
        (made.folder / "stumbles").mkdir()
        made.variables = {
            "ASKED_FILE": str(self.asked_file), "HEARD_FILE": str(made.folder / "heard"), "GATE": str(self.gate),
            "FAILPOINTS": str(made.folder / "failpoints"), "STUMBLES": str(made.folder / "stumbles"),
        }  # fmt: skip

    @property
    def inbox(self) -> Inbox:
        return Inbox(self.made.transport())

    def worker(self, name: str) -> Process:
        return self.made.ready_worker("failpoints", "heed", "hurried", name=name, pool="threads")

    def dispatch(self, correlation_id: str, way: str) -> WorkflowHandle:
        transport, dispatcher = self.made.transport(), WorkflowDispatcher()
        dispatcher.dispatch_workflow_sync(
            transport, itinerary=[FunctionSpec("heed", {"way": way})], correlation_id=correlation_id
        )
        return dispatcher.handle(correlation_id, transport)

    def suspended(self, correlation_id: str) -> tuple[WorkflowHandle, str]:
        """Let a workflow wait, and return its handle and token."""
        handle = self.dispatch(correlation_id, "asked")
        eventually(lambda: handle.status_sync().state == "suspended", within=WITHIN)
        return handle, self.asked(correlation_id)[0].token

    def asked(self, correlation_id: str) -> list[Asked]:
        """Return who was asked, once somebody was."""
        return eventually(
            lambda: [asked for asked in asked_in(self.asked_file) if asked.hop_id == f"{correlation_id}.0"],
            within=WITHIN,
        )


@pytest.fixture(scope="module")
def waiting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Waiting]:
    with deployed(tmp_path_factory.mktemp("suspended")) as waiting:
        yield waiting


@contextmanager
def deployed(folder: Path) -> Iterator[Waiting]:
    settings = {"paigeant_shutdown_grace": GRACE, "paigeant_publish_timeout": PUBLISH_TIMEOUT}
    with (
        pytest.MonkeyPatch.context() as patch, redis_server() as broker, redis_server() as store,
        deployment(broker.url, folder / "made", store=store.url, **settings) as made,
    ):  # fmt: skip
        hurry(patch)
        yield Waiting(made, broker, store)


@pytest.fixture(scope="module")
def worker(waiting: Waiting) -> Process:
    return waiting.worker("steady")


def test_a_deploy_replaces_all_workers_while_steps_wait_and_ask(waiting: Waiting) -> None:
    """Who was asked on Friday may answer on Monday, whatever was deployed in between."""
    first = waiting.worker("first")
    handle, token = waiting.suspended("waits")
    asking = waiting.dispatch("asks", "asked slowly")
    waiting.asked("asks")

    assert first.terminate() == 0
    assert waiting.inbox.resolve_sync(token, "yes", by="ann").outcome == "settled"
    second = waiting.worker("second")
    assert handle.result_sync(WITHIN).output == {"word": "yes"}
    eventually(lambda: len(waiting.asked("asks")) == 2, within=WITHIN)
    waiting.gate.touch()
    (again,) = {asked.token for asked in waiting.asked("asks")}
    assert waiting.inbox.resolve_sync(again, "later", by="ann").outcome == "settled"

    assert asking.result_sync(WITHIN).output == {"word": "later"}
    assert len(waiting.asked("waits")) == 1
    assert [event.fields["attempt"] for event in asking.events_so_far() if event.type == "claimed"][:2] == ["1", "1"]
    assert second.terminate() == 0


def test_an_answer_counts_while_the_broker_is_away_and_its_step_goes_on_afterwards(
    waiting: Waiting, worker: Process
) -> None:
    """Whoever clicks must not be told to click again because another server has a problem."""
    handle, token = waiting.suspended("cut-off")

    waiting.broker.stop()
    told = waiting.inbox.resolve_sync(token, "yes", by="ann")
    waiting.broker.start()

    assert told.outcome == "settled"
    assert handle.result_sync(WITHIN).output == {"word": "yes"}


def test_a_step_that_waits_is_gone_with_the_store_and_may_be_dispatched_again(
    waiting: Waiting, worker: Process
) -> None:
    """Nothing but the store knows of it, because it has no message; nobody may believe that an answer counted."""
    handle, token = waiting.suspended("emptied")

    with redis.Redis.from_url(waiting.store.url) as client:
        client.flushall()

    with pytest.raises(UnknownWait):
        waiting.inbox.resolve_sync(token, "yes", by="ann")
    with pytest.raises(UnknownWorkflow):
        handle.signal_sync("word", "yes")
    with pytest.raises(UnknownWorkflow):
        handle.status_sync()
    anew, _ = waiting.suspended("emptied")
    assert waiting.inbox.resolve_sync(waiting.asked("emptied")[-1].token, "yes", by="ann").outcome == "settled"
    assert anew.result_sync(WITHIN).output == {"word": "yes"}


@pytest.mark.proof
def test_an_older_worker_leaves_steps_that_wait_alone_and_its_cancel_leaves_nothing_for_good(
    tmp_path: Path,
) -> None:
    """In a deploy the old workers and commands know nothing of steps that wait, and must do them no harm."""
    older = older_version(tmp_path / "older")
    with deployed(tmp_path) as waiting:
        waiting.made.variables["PYTHONPATH"] = older
        old = waiting.made.start_worker("relay", "hurried", name="old", pool="threads", cold=True)
        del waiting.made.variables["PYTHONPATH"]
        old.wait_for_log(" ready.", within=WITHIN)
        new = waiting.worker("new")
        old.wait_for_log("this worker takes no more steps", within=WITHIN)
        cancelled, token = waiting.suspended("cancelled-by-old")
        handle, kept = waiting.suspended("kept")

        said = run_script(
            OLD_CANCEL, "cancelled-by-old", cwd=waiting.made.configured("old-command"), cold=True, PYTHONPATH=older
        )

        assert said.split() == ["True"]
        assert cancelled.status_sync().state == "cancelled"
        assert waiting.inbox.resolve_sync(token, "yes", by="ann").outcome == "late"
        assert [wait.token for wait in waiting.inbox.pending_sync()] == [kept]
        prefix, hop_id = waiting.made.prefix, "cancelled-by-old.0"
        with redis.Redis.from_url(waiting.store.url, decode_responses=True) as client:
            assert client.ttl(f"{prefix}:hop:{hop_id}") > 0
            assert client.zscore(f"{prefix}:asleep", hop_id) is not None
            client.zadd(f"{prefix}:asleep", {hop_id: 0})  # a day has passed
            eventually(lambda: client.zscore(f"{prefix}:asleep", hop_id) is None, within=WITHIN)
            assert client.zrange(f"{prefix}:asked", 0, -1) == [kept]
        assert waiting.inbox.resolve_sync(kept, "yes", by="ann").outcome == "settled"
        assert handle.result_sync(WITHIN).output == {"word": "yes"}
        assert old.terminate() == new.terminate() == 0
