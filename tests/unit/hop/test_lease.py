"""The owner: one lease for everything that a process runs, and no run that goes on after its hop was lost."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from textwrap import dedent

import pytest

from paigeant_celery.core.errors import Unreachable
from paigeant_celery.hop.lease import Owner
from paigeant_celery.store.port import Closing, RenewAnswer

PATIENCE = 20.0  # seconds after which a test that waits has failed
NEVER = 10**6.0  # a lease whose thread renews nothing within a test, which renews by hand
NOW = 0.04  # a lease whose thread renews after 10 ms


class Renewals:
    """A store that knows RENEW: it records the calls and answers as it is told."""

    def __init__(self, answer: Callable[[Mapping[str, int]], frozenset[str]] = lambda hops: frozenset()) -> None:
        self.answer = answer
        self.calls: list[tuple[str, dict[str, int]]] = []
        self.touchable: list[float] = []
        self.changed = threading.Condition()

    def renew(self, owner: str, hops: Mapping[str, int], *, touchable: float = 0.0) -> RenewAnswer:
        with self.changed:
            self.calls.append((owner, dict(hops)))
            self.touchable.append(touchable)
            self.changed.notify_all()
        return RenewAnswer(lost=self.answer(hops))

    def wait_for(self, calls: int) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: len(self.calls) >= calls, PATIENCE)


class Strays(Renewals):
    """A store that lists hops as the owner's although the owner does not name them."""

    def __init__(self) -> None:
        super().__init__()
        self.stray: dict[str, int] = {}
        self.released: list[Closing] = []

    def renew(self, owner: str, hops: Mapping[str, int], *, touchable: float = 0.0) -> RenewAnswer:
        return RenewAnswer(lost=super().renew(owner, hops).lost, stray=dict(self.stray))

    def release(self, closing: Closing) -> bool:
        self.released.append(closing)
        return True


@pytest.fixture
def store_with_strays() -> Strays:
    return Strays()


def owner_of(store: Renewals, *, lease: float = NEVER) -> Owner:
    return Owner(store, lease=lease)  # type: ignore[arg-type]


def lease_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "paigeant-lease"}


def nothing() -> None:
    """A run that is never cancelled in this test."""


def test_all_hops_of_a_process_are_renewed_in_one_call() -> None:
    """A worker that runs a hundred agents asks the store as often as one that runs a single agent."""
    store = Renewals()
    owner = owner_of(store)
    hops = {f"w-{number}.0": number for number in range(100)}

    with ExitStack() as stack:
        for hop_id, fence in hops.items():
            stack.enter_context(owner.holding(hop_id, fence=fence, cancel=nothing))
        owner.renew()

    assert store.calls == [(owner.id, hops)]


def test_a_renewal_says_for_how_long_the_longest_step_may_still_run() -> None:
    """For so long the lease may be extended from outside; whoever hangs for longer loses its hops."""
    store = Renewals()
    owner, now = owner_of(store), time.monotonic()

    with owner.holding("v.0", fence=1, cancel=nothing, ends=now - 5):
        owner.renew()
        with (
            owner.holding("w.0", fence=1, cancel=nothing, ends=now + 600),
            owner.holding("x.0", fence=1, cancel=nothing, ends=now + 60),
        ):
            owner.renew()

    over, longest = store.touchable
    assert over == 0
    assert 600 - (time.monotonic() - now) <= longest <= 600


def test_a_hop_that_nobody_runs_at_two_renewals_is_given_back(store_with_strays: Strays) -> None:
    """The reply to its claim was lost; while the worker is busy, its lease would keep the hop forever."""
    store, owner = store_with_strays, owner_of(store_with_strays)

    with owner.holding("w.0", fence=1, cancel=nothing):
        store.stray = {"lost.0": 3}
        owner.renew()
        first = list(store.released)
        owner.renew()

    assert first == []
    assert store.released == [Closing(hop_id="lost.0", owner=owner.id, fence=3)]


def test_a_claim_that_is_under_way_at_a_renewal_is_kept(store_with_strays: Strays) -> None:
    """Its run begins a moment later; and the next claim of the hop is another one."""
    store, owner = store_with_strays, owner_of(store_with_strays)

    with owner.holding("w.0", fence=1, cancel=nothing):
        store.stray = {"new.0": 1, "again.0": 1}
        owner.renew()
        store.stray = {"again.0": 2}
        with owner.holding("new.0", fence=1, cancel=nothing):
            owner.renew()

    assert store.released == []


def test_a_process_that_holds_no_hop_makes_no_call() -> None:
    """A thousand idle workers cost the store nothing."""
    store = Renewals()
    owner = owner_of(store)

    owner.renew()
    with owner.holding("w.0", fence=1, cancel=nothing):
        pass
    owner.renew()
    with pytest.raises(ValueError, match="no"), owner.holding("w.0", fence=2, cancel=nothing):
        raise ValueError("no")
    owner.renew()

    assert store.calls == []


def test_the_lease_is_renewed_while_the_run_waits() -> None:
    """A run may last hours; nobody takes it over while its process lives."""
    store = Renewals()
    owner = owner_of(store, lease=NOW)

    with owner.holding("w.0", fence=1, cancel=nothing):
        assert store.wait_for(calls=3)

    assert store.calls[:3] == [(owner.id, {"w.0": 1})] * 3


def test_one_thread_renews_for_all_hops_and_begins_with_the_first() -> None:
    """A process that only dispatches has no thread of ours, and a busy one has one."""
    before = lease_threads()
    owner = owner_of(Renewals())
    idle = lease_threads() - before

    with owner.holding("v.0", fence=1, cancel=nothing), owner.holding("w.0", fence=1, cancel=nothing):
        pass
    with owner.holding("w.1", fence=1, cancel=nothing):
        busy = lease_threads() - before

    assert (len(idle), [thread.daemon for thread in busy]) == (0, [True])


def test_a_lost_hop_is_cancelled_once_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    """A worker that came back late stops paying for what another one does now."""
    store = Renewals(lambda hops: frozenset({"lost.0"} & hops.keys()))
    owner, cancelled = owner_of(store), []

    with (
        owner.holding("kept.0", fence=4, cancel=lambda: cancelled.append("kept.0")),
        owner.holding("lost.0", fence=2, cancel=lambda: cancelled.append("lost.0")),
    ):
        owner.renew()
        owner.renew()

    assert cancelled == ["lost.0"]
    assert [hops for _, hops in store.calls] == [{"kept.0": 4, "lost.0": 2}, {"kept.0": 4}]
    assert [(record.__dict__["action"], record.__dict__["hop"]) for record in caplog.records] == [
        ("hop_lost", "lost.0")
    ]


def test_nothing_is_said_of_a_hop_whose_run_has_ended(caplog: pytest.LogCaptureFixture) -> None:
    """A hop that was suspended just now has no owner any more; nobody else has it."""
    owner = owner_of(Renewals(lambda hops: frozenset(hops)))

    with owner.holding("suspended.0", fence=1, cancel=lambda: False):
        owner.renew()

    assert caplog.records == []


def test_a_hop_of_which_the_store_has_no_record_is_cancelled_as_such(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody else runs it, as a log that speaks of another owner would say."""
    store = Renewals()
    store.renew = lambda _, hops, touchable: RenewAnswer(lost=frozenset(), unknown=frozenset(hops))  # type: ignore[method-assign]
    owner, cancelled = owner_of(store), []

    with owner.holding("w.0", fence=1, cancel=lambda: cancelled.append("w.0")):
        owner.renew()
        owner.renew()

    assert cancelled == ["w.0"]
    assert [(record.__dict__["action"], record.__dict__["hop"]) for record in caplog.records] == [
        ("hop_unknown", "w.0")
    ]


def test_a_lost_hop_is_cancelled_by_the_thread() -> None:
    """The task body itself only waits for its coroutine."""
    cancelled = threading.Event()
    owner = owner_of(Renewals(lambda hops: frozenset(hops)), lease=NOW)

    with owner.holding("w.0", fence=1, cancel=cancelled.set):
        assert cancelled.wait(PATIENCE)


def test_a_hop_that_ended_while_the_store_was_asked_is_not_cancelled() -> None:
    """The answer may be older than the end of the run, so there is nothing left to stop."""
    cancelled: list[str] = []
    with ExitStack() as run:

        def answer(hops: Mapping[str, int]) -> frozenset[str]:
            run.close()
            return frozenset(hops)

        owner = owner_of(Renewals(answer))
        run.enter_context(owner.holding("w.0", fence=1, cancel=lambda: cancelled.append("w.0")))
        owner.renew()

    assert cancelled == []


def test_a_hop_that_its_own_process_takes_over_replaces_the_earlier_run() -> None:
    """After a pause longer than the lease the copy runs here, and one run of the two is enough."""
    store, cancelled = Renewals(), []
    owner = owner_of(store)

    with ExitStack() as second:
        with owner.holding("w.0", fence=1, cancel=lambda: cancelled.append(1)):
            second.enter_context(owner.holding("w.0", fence=2, cancel=lambda: cancelled.append(2)))
        owner.renew()

    assert (cancelled, store.calls) == ([1], [(owner.id, {"w.0": 2})])


def test_an_answer_about_an_earlier_run_does_not_cancel_the_later_one() -> None:
    """The store was asked about the old fence; the run that holds the new one lost nothing."""
    cancelled: list[int] = []
    with ExitStack() as later:

        def answer(hops: Mapping[str, int]) -> frozenset[str]:
            if hops == {"w.0": 1}:
                later.enter_context(owner.holding("w.0", fence=2, cancel=lambda: cancelled.append(2)))
                return frozenset({"w.0"})
            return frozenset()

        store = Renewals(answer)
        owner = owner_of(store)
        with owner.holding("w.0", fence=1, cancel=lambda: cancelled.append(1)):
            owner.renew()
            owner.renew()

    assert (cancelled, store.calls[1:]) == ([1], [(owner.id, {"w.0": 2})])


def test_renewing_goes_on_after_the_store_was_away(caplog: pytest.LogCaptureFixture) -> None:
    """A restart of Redis, or an unexpected error, must not cost every run of the process."""
    errors: list[Exception] = [Unreachable("store", "redis://host", "ConnectionError"), RuntimeError("secret")]

    def answer(hops: Mapping[str, int]) -> frozenset[str]:
        if errors:
            raise errors.pop(0)
        return frozenset()

    store = Renewals(answer)
    with owner_of(store, lease=NOW).holding("w.0", fence=1, cancel=nothing):
        assert store.wait_for(calls=3)

    assert [record.__dict__["action"] for record in caplog.records] == ["renew_failed", "renew_failed"]
    assert [record.levelname for record in caplog.records] == ["WARNING", "ERROR"]
    assert "secret" not in caplog.text


def test_a_process_is_told_from_a_later_one_with_its_number() -> None:
    """Process ids are reused; a new process must not inherit the hops of a dead one."""
    one, other = owner_of(Renewals()), owner_of(Renewals())

    assert one.id == one.id
    assert one.id != other.id
    assert one.id.split(":")[1] == str(os.getpid())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_is_an_owner_of_its_own() -> None:
    """A child that renewed for its parent would keep the hops of a dead parent from everyone else."""
    code = """
        import os, signal, threading
        from paigeant_celery.hop.lease import Owner
        from paigeant_celery.store.port import RenewAnswer

        class Store:
            def __init__(self):
                self.calls, self.called = [], threading.Event()
            def renew(self, owner, hops, *, touchable=0.0):
                self.calls.append((owner, dict(hops)))
                self.called.set()
                return RenewAnswer(lost=frozenset())

        store = Store()
        owner = Owner(store, lease=0.04)
        parent = owner.id
        with owner.holding("parents.0", fence=1, cancel=lambda: None):
            child = os.fork()
            if child == 0:
                signal.alarm(20)
                store.__init__()
                owner.renew()
                right = [store.calls == [], owner.id != parent, str(os.getpid()) in owner.id]
                with owner.holding("childs.0", fence=7, cancel=lambda: None):
                    store.called.wait()
                right.append(store.calls[0] == (owner.id, {"childs.0": 7}))
                os._exit(right.count(False))
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), owner.id == parent)
    """

    done = subprocess.run([sys.executable, "-c", dedent(code)], capture_output=True, text=True, timeout=60, check=False)

    assert done.stdout.strip() == "0 True", done.stderr
