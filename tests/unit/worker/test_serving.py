"""What a worker checks before it serves, what it serves, and what it prints."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial

import pytest
from celery import Celery

from paigeant_celery import activity
from paigeant_celery.broker.transport import CeleryTransport, transport_of
from paigeant_celery.core.errors import ConfigurationError, OutdatedVersion
from paigeant_celery.store.limits import LIMITS
from paigeant_celery.store.memory import MemoryStore
from paigeant_celery.store.port import BoundBroker
from paigeant_celery.worker.selection import Selection
from paigeant_celery.worker.serving import (
    banner,
    is_to_serve,
    listing,
    printable,
    queues_of,
    served_activities,
    start_checks,
)

EVERYTHING = Selection()
FLOWS = ["paigeant._flow"]
FLOW = "  . _flow (flow) from paigeant._flow"


class Shared(MemoryStore):
    """A store that other processes see."""

    shared = True


def taking(*chosen: str) -> Selection:
    return Selection(frozenset(chosen))


@pytest.fixture
def transport_with() -> Iterator[Callable[..., CeleryTransport]]:
    """Make the transports of hosts with these settings."""
    with ExitStack() as stack:

        def make(**settings: object) -> CeleryTransport:
            app = stack.enter_context(Celery("shop", broker="redis://127.0.0.1:1/0", set_as_current=False))
            app.conf.update(settings)
            return transport_of(app)

        yield make


@pytest.mark.parametrize(
    ("settings", "selection", "said"),
    [
        ({"paigeant_consume": "no"}, EVERYTHING, ", as `paigeant_consume` says"),
        ({"paigeant_consume": "no"}, taking("mail"), ", as `paigeant_consume` says"),
        ({"paigeant_consume": ""}, EVERYTHING, ", as `paigeant_consume` says"),
        ({}, taking("mail"), ", as `-Q` or `-X` says; their queues are slow, paigeant.critic, paigeant.writer"),
        (
            {},
            Selection(None, frozenset({"paigeant.writer", "paigeant.critic", "slow"})),
            ", as `-Q` or `-X` says; their queues are slow, paigeant.critic, paigeant.writer",
        ),
    ],
)
def test_a_worker_that_serves_nothing_says_who_asked_for_that(
    transport_with: Callable[..., CeleryTransport], settings: dict[str, object], selection: Selection, said: str
) -> None:
    """To name modules of agents would be no remedy."""
    held = [activity(name="writer")(lambda: 1), activity(name="critic", queue="slow")(lambda: 1)]
    transport = transport_with(**settings)

    assert banner(transport, selection).splitlines()[1:] == [f"  . no activity is served{said}"]
    assert (served_activities(transport, selection), is_to_serve(transport, selection)) == ({}, False)
    assert len(held) == 2


@pytest.mark.parametrize(("consume", "which"), [("no", "none of them"), (("critic",), "_flow, critic alone")])
def test_a_shell_lists_what_is_loaded_although_its_own_settings_serve_less(
    transport_with: Callable[..., CeleryTransport], consume: object, which: str
) -> None:
    """The worker has its `paigeant_consume` from its own environment, which the shell of an operator has not."""
    held = [activity(name="writer")(lambda: 1), activity(name="critic", queue="slow")(lambda: 1)]

    assert listing(transport_with(paigeant_consume=consume)).splitlines()[1:] == [
        "  . critic (function) from slow",
        "  . writer (function) from paigeant.writer",
        FLOW,
        f"  . a worker with the settings of this shell serves {which}, as `paigeant_consume` says",
    ]
    assert len(held) == 2


def test_a_shell_whose_settings_serve_all_lists_what_a_worker_prints(
    transport_with: Callable[..., CeleryTransport],
) -> None:
    """There is nothing to add, and nothing is loaded that a module would have to be named for."""
    held = activity(name="writer")(lambda: 1)

    for settings in ({}, {"paigeant_consume": "only"}):
        assert listing(transport_with(**settings)) == banner(transport_with(**settings))
    assert held.name == "writer"


def test_a_worker_without_modules_is_told_to_name_some(transport_with: Callable[..., CeleryTransport]) -> None:
    """It was asked to serve what is loaded, and nothing is."""
    asked = transport_with(paigeant_consume="only")

    assert banner(transport_with()).endswith(
        "  . no activity is served; name the modules of your agents with `-I` or `imports`"
    )
    assert (is_to_serve(transport_with()), is_to_serve(asked)) == (False, True)


def test_a_queue_that_is_named_is_taken_alone(transport_with: Callable[..., CeleryTransport]) -> None:
    """An activity has its own queue and the default one; whoever names one of them means that one."""
    critic = activity(name="critic", queue="slow")(lambda: 1)
    transport = transport_with()

    for selection in (taking("mail", "slow"), Selection(None, frozenset({"paigeant.critic"}))):
        assert [queue.name for queue in queues_of(transport, [critic.name], selection)] == ["slow"]
        assert banner(transport, selection).splitlines()[1:] == ["  . critic (function) from slow", FLOW]
    assert banner(transport, taking("paigeant.critic")).splitlines()[1:] == [
        "  . critic (function) from paigeant.critic",
        FLOW,
    ]


@pytest.mark.parametrize(
    ("consume", "selection", "served", "queues"),
    [
        (None, EVERYTHING, ["critic", "writer", "_flow"], ["slow", "paigeant.critic", "paigeant.writer", *FLOWS]),
        ("only", EVERYTHING, ["critic", "writer", "_flow"], ["slow", "paigeant.critic", "paigeant.writer", *FLOWS]),
        (("writer",), EVERYTHING, ["writer", "_flow"], ["paigeant.writer", *FLOWS]),
        (("writer", "_flow"), EVERYTHING, ["writer", "_flow"], ["paigeant.writer", *FLOWS]),
        (("_flow",), EVERYTHING, ["_flow"], FLOWS),
        ("no", EVERYTHING, [], []),
        ("no", taking(*FLOWS), [], []),
        (None, taking("mail", "slow"), ["critic", "_flow"], ["slow", *FLOWS]),
        (None, taking("mail"), [], []),
        (None, taking(*FLOWS), ["_flow"], FLOWS),
        (None, Selection(None, frozenset(FLOWS)), ["critic", "writer"], ["slow", "paigeant.critic", "paigeant.writer"]),
        ("only", Selection(None, frozenset({"slow", "paigeant.critic", "paigeant.writer"})), [], []),
        (("_flow",), Selection(None, frozenset(FLOWS)), [], []),
    ],
)
def test_a_worker_that_serves_anything_serves_the_waits_of_workflows(
    transport_with: Callable[..., CeleryTransport],
    consume: object,
    selection: Selection,
    served: list[str],
    queues: list[str],
) -> None:
    """They need no code of anybody; a deployment in which nobody took them would stand still and not know why."""
    held = [activity(name="critic", queue="slow")(lambda: 1), activity(name="writer")(lambda: 1)]
    transport = transport_with(**({"paigeant_consume": consume} if consume is not None else {}))

    found = served_activities(transport, selection)

    assert sorted(found) == sorted(served)
    assert sorted(queue.name for queue in queues_of(transport, found, selection)) == sorted(queues)
    assert (FLOW in banner(transport, selection)) == ("_flow" in served)
    assert len(held) == 2


def test_the_queue_of_waits_is_where_no_route_of_the_host_can_move_it(
    transport_with: Callable[..., CeleryTransport],
) -> None:
    """On a queue of other activities, a worker that takes it only for the waits would take their messages as well."""
    held = activity(name="writer")(lambda: 1)
    transport = transport_with(task_routes={"paigeant.*": {"queue": "agents"}})

    assert transport.publisher.queue_for("writer", None) == "agents"
    assert transport.publisher.queue_for("_flow", None) == "paigeant._flow"
    assert [queue.name for queue in queues_of(transport, served_activities(transport))] == [
        "agents", "paigeant.writer", "paigeant._flow",
    ]  # fmt: skip
    assert held.name == "writer"


def test_an_annotation_that_would_change_the_waits_is_found(transport_with: Callable[..., CeleryTransport]) -> None:
    """As one of any other task of ours."""
    transport = transport_with(task_annotations={"paigeant._flow": {"acks_late": False}})

    assert any("paigeant._flow" in mistake for mistake in transport.mistakes())


@pytest.mark.parametrize(
    ("chosen", "excluded", "consumed", "expected"),
    [
        (None, set(), {"shop", "a", "b"}, Selection(None, frozenset())),
        (None, {"x"}, {"shop", "a"}, Selection(None, frozenset({"x", "b"}))),
        ({"shop"}, set(), {"shop", "c"}, Selection(frozenset({"shop", "c"}), frozenset({"a", "b"}))),
    ],
)
def test_what_a_host_or_a_command_changes_later_counts(
    chosen: set[str] | None, excluded: set[str], consumed: set[str], expected: Selection
) -> None:
    """Celery tells nobody that the queues of a worker have changed."""
    selection = Selection(None if chosen is None else frozenset(chosen), frozenset(excluded))

    assert selection.followed(added=frozenset("ab"), consumed=frozenset(consumed)) == expected


def test_a_worker_in_memory_is_told_how_to_run_other_tasks() -> None:
    """The tests of a host have one, which served its tasks before we were installed."""
    held = activity(name="writer")(lambda: 1)
    with Celery("shop", broker="memory://", set_as_current=False) as app, pytest.raises(ConfigurationError) as caught:
        start_checks(transport_of(app))

    assert caught.value.mistakes[0].endswith(
        "for other tasks alone, as in the tests of a host, needs `paigeant_consume = 'no'`"
    )
    assert held.name == "writer"


def test_a_task_of_the_host_under_the_name_of_an_activity_is_a_mistake(
    transport_with: Callable[..., CeleryTransport],
) -> None:
    """Celery has one task of a name: a hop would be run by the host's, or the host's messages by ours."""
    transport = transport_with()

    @transport.app.task(name="paigeant.shop.charge", shared=False)
    def charge() -> None: ...

    held = activity(name="shop.charge")(lambda: 1)

    with pytest.raises(ConfigurationError) as caught:
        start_checks(transport)

    assert caught.value.mistakes[0] == (
        "the hops of the activity 'shop.charge' are the Celery task 'paigeant.shop.charge', but the app has a task of "
        "its own under that name; rename one of them, or set `paigeant_prefix`"
    )
    assert held.name == "shop.charge"


def test_only_a_worker_that_serves_something_chooses_the_broker_of_a_store(
    transport_with: Callable[..., CeleryTransport],
) -> None:
    """A host's own worker, which may have a broker of its own, would keep those that serve steps from starting."""
    held = activity(name="writer")(lambda: 1)
    serving = taking("mail", f"paigeant.{held.name}")
    transport = transport_with(broker_url="filesystem://")
    store = Shared(lease=1, ttl=1, limits=LIMITS)
    transport = transport_of(transport.app, store=store)
    wrong = transport_with(broker_url="filesystem://", task_protocol=1)

    start_checks(transport, taking("mail"))
    with pytest.raises(ConfigurationError, match="`task_protocol` is 1"):
        start_checks(transport_of(wrong.app, store=store), serving)
    before = store.bound_broker()
    start_checks(transport, serving)

    assert (before, store.bound_broker()) == (None, BoundBroker(address="filesystem://localhost:0/"))


def test_only_a_worker_that_is_right_and_serves_something_stops_older_ones(
    transport_with: Callable[..., CeleryTransport], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newer worker that does not start, or has other work, would leave the steps to nobody."""
    held = activity(name="writer")(lambda: 1)
    right, wrong = (
        transport_with(paigeant_store_url="memory://", **more) for more in ({}, {"paigeant_around_step": "nowhere.at"})
    )
    raised: list[str] = []
    for name, transport in (("right", right), ("wrong", wrong)):
        monkeypatch.setattr(transport.store, "raise_format", partial(raised.append, name))

    with pytest.raises(ConfigurationError):
        start_checks(wrong, taking(f"paigeant.{held.name}"))
    start_checks(right, taking("mail"))
    before = list(raised)
    start_checks(right, taking(f"paigeant.{held.name}"))

    assert (before, raised) == ([], ["right"])


def test_a_worker_that_a_newer_one_overtakes_at_its_start_does_not_start(
    transport_with: Callable[..., CeleryTransport], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says what to do, as if the newer one had been there before."""
    held = activity(name="writer")(lambda: 1)
    transport = transport_with(paigeant_store_url="memory://")

    def overtaken() -> None:
        raise OutdatedVersion("redis://host/0", "p", 2, 1)

    monkeypatch.setattr(transport.store, "raise_format", overtaken)

    with pytest.raises(ConfigurationError, match="install that version here too"):
        start_checks(transport, taking(f"paigeant.{held.name}"))


def test_a_function_that_cannot_be_imported_is_told_with_all_other_mistakes() -> None:
    """Each start of a worker takes a deployment, so it should not take one for each mistake."""
    app = Celery("host", broker="redis://127.0.0.1:1/0", set_as_current=False)
    app.conf.update(paigeant_around_step="nowhere.around", paigeant_consume="nothing", task_protocol=1)

    with pytest.raises(ConfigurationError) as caught:
        start_checks(transport_of(app))

    assert [mistake.split("`")[1] for mistake in caught.value.mistakes] == [
        "task_protocol",
        "paigeant_consume",
        "paigeant_around_step",
    ]


def test_a_value_that_can_be_no_function_is_a_mistake() -> None:
    """It is found even in a process that only dispatches."""
    app = Celery("host", broker="redis://127.0.0.1:1/0", set_as_current=False)
    app.conf.paigeant_around_step = 3

    assert list(transport_of(app).mistakes()) == [
        "`paigeant_around_step`: must be a function, or the dotted path of one"
    ]


@pytest.mark.parametrize(
    ("encoding", "shown"), [("latin-1", r"größe \u2192"), ("ascii", r"gr\xf6\xdfe \u2192"), ("utf-8", "größe →")]
)
def test_a_banner_is_printed_whatever_the_terminal_can_show(
    encoding: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Queues and stores have the names that users gave them, and no name may keep a worker from starting."""
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))

    assert printable("größe →") == shown


def test_a_banner_may_go_to_something_that_is_no_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Celery puts an object that logs in the place of the standard output."""
    monkeypatch.setattr(sys, "stdout", object())

    assert printable("größe →") == "größe →"
