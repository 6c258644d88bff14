"""Transports: what identifies a broker, which of a host's settings would change our tasks, which app is used."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import SimpleNamespace

import pytest
from celery import Celery, Task
from celery.worker.request import Request

from paigeant_celery import FunctionSpec, WorkflowDispatcher, activity, get_transport, install
from paigeant_celery.broker.transport import transport_of
from paigeant_celery.core.errors import UsageError
from paigeant_celery.worker.app_state import installation_of
from paigeant_celery.worker.request import HopRequest

SECRET = "hunter2-hunter2"


@pytest.fixture
def make_app() -> Iterator[Callable[..., Celery]]:
    """Make Celery apps that no other test sees."""
    with ExitStack() as stack:

        def make(name: str = "shop", *, broker: str = "memory://localhost//", **configuration: object) -> Celery:
            app = stack.enter_context(Celery(name, broker=broker, set_as_current=False))
            app.conf.update(configuration)
            return app

        yield make


@pytest.mark.parametrize(
    ("urls", "identity"),
    [
        (["redis://h", "redis://h/0", "redis://h:6379/0", f"redis://:{SECRET}@h:6379/0"], "redis://h:6379/0"),
        (["amqp://h//", "amqp://h", f"amqp://me:{SECRET}@h:5672//"], "amqp://h:5672/"),
        (["redis://h/1"], "redis://h:6379/1"),
        (["amqp://h/shop"], "amqp://h:5672/shop"),
    ],
)
def test_a_broker_is_the_same_however_its_url_is_written(
    make_app: Callable[..., Celery], urls: list[str], identity: str
) -> None:
    """Adding a password to a URL does not make a worker refuse to start."""
    assert {transport_of(make_app(broker=url)).broker_identity for url in urls} == {identity}


@pytest.mark.parametrize(
    ("hostname", "host"),
    [
        (f"postgresql://user:{SECRET}@db/x?password={SECRET}", "postgresql://user:@db/x"),
        (f"mongodb://user:{SECRET}@db:27017/x", "mongodb://user:@db:27017/x"),
    ],
)
def test_no_broker_is_remembered_with_its_password(
    make_app: Callable[..., Celery], monkeypatch: pytest.MonkeyPatch, hostname: str, host: str
) -> None:
    """The store keeps the identity and a worker prints it; Kombu takes some transports' whole URL as the host."""
    app = make_app(broker="memory://localhost//")
    found = SimpleNamespace(transport=None, virtual_host="/", transport_cls="sqla", hostname=hostname, port=None)
    monkeypatch.setattr(app, "connection_for_write", lambda: found)

    identity = transport_of(app).broker_identity

    assert identity == f"sqla://{host}:0/"
    assert SECRET not in identity


def test_an_annotation_that_names_one_of_our_tasks_is_an_error(make_app: Callable[..., Celery]) -> None:
    """It would have no effect, and its author would not know."""

    @activity
    def limited() -> None: ...

    app = make_app(task_annotations={"paigeant.limited": {"max_retries": 9}, "shop.mail": {"max_retries": 9}})

    mistakes = list(transport_of(app).mistakes())

    assert [mistake.partition(" (")[0] for mistake in mistakes] == [
        "`task_annotations` sets `max_retries` for 'paigeant.limited'"
    ]
    assert limited.name == "limited"


def test_an_annotation_of_all_tasks_is_named_once(make_app: Callable[..., Celery]) -> None:
    """The list of mistakes stays readable with a hundred agents loaded."""

    @activity
    def one() -> None: ...

    @activity
    def two() -> None: ...

    mistakes = list(transport_of(make_app(task_annotations={"*": {"max_retries": 9}})).mistakes())

    assert len(mistakes) == 1
    assert "'paigeant.*'" in mistakes[0]
    assert [one.name, two.name] == ["one", "two"]


def test_an_app_of_any_name_is_taken_where_we_are_installed(make_app: Callable[..., Celery]) -> None:
    """A host may give its application the same name as ours."""
    app = make_app("paigeant")
    install(app)

    assert get_transport().app is app


def test_a_queue_is_declared_with_the_priorities_of_its_host(make_app: Callable[..., Celery]) -> None:
    """RabbitMQ refuses a queue that worker and dispatcher declare differently."""
    app = make_app(task_queue_max_priority=7)
    publisher = transport_of(app).publisher

    assert publisher.declared("paigeant.writer").queue_arguments == {"x-max-priority": 7}
    assert "paigeant.writer" not in app.amqp.queues


def test_a_queue_tells_how_many_messages_wait(make_app: Callable[..., Celery]) -> None:
    """A hop is sent again if its queue is empty, and a queue that was never used is empty."""
    transport = transport_of(make_app(broker_url="memory://", paigeant_store_url="memory://"))
    dispatcher = WorkflowDispatcher()
    before = transport.publisher.waiting("waiting-for-nobody")
    for _ in range(2):
        step = FunctionSpec("anything", queue="waiting-for-nobody")
        dispatcher.dispatch_workflow_sync(transport, itinerary=[step])

    assert (before, transport.publisher.waiting("waiting-for-nobody")) == (0, 2)


def test_nobody_sees_an_envelope_by_asking_a_worker_what_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """`celery inspect active` shows what Flower shows, and prompts and variables stay out of it."""
    asked: list[bool] = []
    monkeypatch.setattr(Request, "info", lambda self, safe=False: asked.append(safe) or {})

    HopRequest.info(object.__new__(HopRequest), safe=False)

    assert asked == [True]


def test_a_url_has_one_transport_in_a_process() -> None:
    """A web process that dispatches without passing a transport opens its connections once."""
    url = "redis://127.0.0.1:1/0"

    assert get_transport(url) is get_transport(url)
    assert get_transport(url) is not get_transport("redis://127.0.0.1:1/1")


def test_another_store_for_one_dispatch_leaves_the_app_its_own(make_app: Callable[..., Celery]) -> None:
    """The app's workers, banner and checks still use the store that its hops use."""
    app = make_app(paigeant_store_url="redis://127.0.0.1:1/0")
    installed = install(app)

    other = get_transport(app=app, store="memory://")

    assert (other.store_address, transport_of(app)) == ("memory://", installed)
    assert install(app, store="redis://127.0.0.1:1/0") is installed
    with pytest.raises(UsageError, match=r"already installed with the store redis://127.0.0.1:1/0, not memory://"):
        install(app, store="memory://")


def test_each_app_has_one_installation_of_its_own(make_app: Callable[..., Celery]) -> None:
    """Two apps of a process share no owner, no loop and no worker; installing again replaces nothing."""
    one, two = make_app("one"), make_app("two")
    dispatched_to = transport_of(one)
    found = [install(app) for app in (one, two)]

    first, second = installation_of(one), installation_of(two)
    install(one)

    assert found == [first.transport, second.transport]
    assert first.transport is dispatched_to
    assert first.runtime is not second.runtime
    assert first.embedded is not second.embedded
    assert installation_of(one) is first


def test_an_app_has_one_attribute_of_ours(make_app: Callable[..., Celery]) -> None:
    """What is kept on a host's object can be seen at a glance, and in one type."""
    app, untouched = make_app("shop"), make_app("untouched")

    install(app)

    added = [name for name in vars(app) if name not in vars(untouched) and not hasattr(Celery, name)]
    assert added == ["paigeant_attachment"]


def test_an_app_that_is_only_dispatched_to_is_no_installation(make_app: Callable[..., Celery]) -> None:
    """It has a transport, and nothing that could run a hop."""
    app = make_app("shop")
    transport_of(app)

    with pytest.raises(UsageError, match=r"not installed in the app 'shop'; call `install\(app\)` first"):
        installation_of(app)


def test_an_app_that_nobody_keeps_goes_away(make_app: Callable[..., Celery]) -> None:
    """Tests and scripts make many apps; what we add to one must not keep it alive."""
    app = Celery("short", broker="memory://localhost//", set_as_current=False)
    install(app)
    gone = weakref.ref(app)
    app.close()

    del app
    gc.collect()

    assert gone() is None


class Annotations:
    """Annotations as a class, which may want anything of a task."""

    def __init__(self, found: dict[str, object] | None = None, error: type[Exception] | None = None) -> None:
        self._found, self._error = found, error

    def annotate(self, task: type[Task]) -> dict[str, object] | None:
        """Look at the task as Celery's own would."""
        assert issubclass(task, Task)
        assert task.max_retries == 3
        if self._error is not None:
            raise self._error
        return self._found


@pytest.mark.parametrize(
    ("annotations", "attributes"),
    [
        ({"*": {"rate_limit": "1/m", "on_failure": print, "before_start": print, "after_return": print}}, []),
        ({"*": {"time_limit": 5, "soft_time_limit": 4, "default_retry_delay": 3, "of_the_host": True}}, []),
        ({"paigeant.*": {"acks_late": False}}, ["acks_late"]),
        ([{"shop.add": {"max_retries": 9}}, {"*": {"serializer": "yaml"}}], ["serializer"]),
        (Annotations({"run": print, "rate_limit": "1/m"}), ["run"]),
        ((Annotations(), Annotations({"__call__": print})), ["__call__"]),
        (Annotations(error=KeyError), []),
        ("tests.unit.broker.test_transport.Annotations", []),
        (None, []),
    ],
)
def test_annotations_of_what_our_tasks_do_not_use_are_no_error(
    make_app: Callable[..., Celery], annotations: object, attributes: list[str]
) -> None:
    """A host may limit and watch its own tasks in each way that Celery offers."""
    mistakes = list(transport_of(make_app(task_annotations=annotations)).mistakes())

    assert [mistake.split("`")[3] for mistake in mistakes] == attributes
