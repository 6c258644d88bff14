"""The registry: what a process can run, by names that each mean one thing."""

from __future__ import annotations

import gc
import importlib.util
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from paigeant_celery.activities.registry import Registry, registry
from paigeant_celery.core.errors import DuplicateActivity, UnknownActivity, UsageError
from paigeant_celery.core.policy import StepPolicy

AGENT = 'from paigeant_celery import PaigeantAgent\ntriage = PaigeantAgent("test", name="triage", queue=__name__)\n'
FUNCTION = "from paigeant_celery import activity\n\n@activity(queue=__name__)\ndef triage() -> None: ...\n"


@dataclass(eq=False)
class Kept:
    """An activity that is its own holder, like a function."""

    given: str | None
    origin: str = "shop.py:1"
    queue: str | None = None
    policy: StepPolicy | None = None

    @property
    def name(self) -> str:
        if self.given is None:
            raise UsageError("has no name yet")
        return self.given


def add(to: Registry, *activities: Kept) -> None:
    for activity in activities:
        to.add(activity, holder=activity)  # type: ignore[arg-type]


@pytest.fixture
def no_new_modules() -> Iterator[None]:
    """Forget the modules that the test imports."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("shop_"):
            del sys.modules[name]


def load(path: Path, name: str) -> ModuleType:
    """Import a file under a name, as a worker, a script or a test may."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("source", [AGENT, FUNCTION], ids=["agent", "function"])
def test_two_files_cannot_share_a_name(source: str, tmp_path: Path, no_new_modules: None) -> None:
    """Which of the two runs must not depend on what was imported first."""
    one, other = tmp_path / "one.py", tmp_path / "other.py"
    for path in (one, other):
        path.write_text(source)

    loaded = [load(one, "shop_one"), load(other, "shop_other")]

    line = 2 if source == AGENT else 3
    with pytest.raises(DuplicateActivity) as caught:
        registry.get("triage")
    assert caught.value.args == ("triage", f"{one}:{line}", f"{other}:{line}")
    assert len(loaded) == 2


@pytest.mark.parametrize("source", [AGENT, FUNCTION], ids=["agent", "function"])
def test_a_file_that_is_imported_twice_has_its_newest_activities(
    source: str, tmp_path: Path, no_new_modules: None
) -> None:
    """`__main__` and the module of the same script, or a reloaded module, do not conflict."""
    path = tmp_path / "agents.py"
    path.write_text(source)

    first = load(path, "shop_main")
    second = load(path, "shop_agents")

    found = {name: activity.queue for name, activity in registry.activities().items()}
    assert found == {"triage": "shop_agents"}
    assert first is not second


def test_of_two_copies_the_one_that_is_still_held_is_served() -> None:
    """A module that fails halfway through a reload leaves what was there before."""
    own = Registry()
    old, new = Kept("a"), Kept("a")
    add(own, old, new)

    del new
    gc.collect()

    assert own.find("a") is old


def test_an_activity_that_nobody_holds_is_no_longer_served() -> None:
    """Activities made inside a function or a test do not haunt the process."""
    own = Registry()
    kept, dropped = Kept("kept"), Kept("dropped")
    add(own, kept, dropped)

    del dropped
    gc.collect()

    assert own.activities() == {"kept": kept}
    assert own.find("dropped") is None


def test_an_activity_without_a_name_waits_for_it() -> None:
    """A global variable is bound only after the constructor has returned."""
    own = Registry()
    early = Kept(None)
    add(own, early)
    before = own.activities()

    early.given = "early"

    assert (before, own.activities()) == ({}, {"early": early})


def test_each_addition_is_told_though_its_name_may_come_later() -> None:
    """A worker that already consumes learns about activities that are loaded later."""
    own = Registry()
    told: list[list[str]] = []
    add(own, first := Kept("first"))
    own.subscribe(lambda: told.append(sorted(own.activities())))
    own.subscribe(lambda: told.append(["the other subscriber"]))

    add(own, second := Kept("second"), unnamed := Kept(None))

    other = ["the other subscriber"]
    assert told == [["first", "second"], other, ["first", "second"], other]
    assert len({first, second, unnamed}) == 3


def test_an_unknown_name_is_answered_with_what_there_is() -> None:
    """A worker's log shows at once whether a module is missing or a name misspelt; long lists are cut short."""
    own = Registry()
    many = [Kept(f"agent_{number:02}") for number in range(25)]
    add(own, *many)

    with pytest.raises(UnknownActivity) as caught:
        own.get("agent_1O")
    with pytest.raises(UnknownActivity, match=r"^no activity 'x' is loaded; searched 0 loaded: none$"):
        Registry().get("x")

    add(own, nameless := Kept(None, origin="shop.py:7"))
    with pytest.raises(UnknownActivity, match=r"; agents without a name, .*, were made at shop.py:7; did you"):
        own.get("agent_1O")

    assert nameless.given is None
    assert caught.value.searched == f"25 loaded: {', '.join(f'agent_{number:02}' for number in range(20))}"
    assert len(caught.value.close) == 3


def test_an_isolated_block_begins_empty_and_leaves_everything_as_it_was() -> None:
    """Tests in one process do not see each other's activities, even if they fail."""
    own = Registry()
    add(own, outside := Kept("outside"))
    inside = Kept("inside")

    def fail() -> None:
        with own.isolated():
            add(own, inside)
            assert own.activities() == {"inside": inside}
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()

    assert own.activities() == {"outside": outside}


def test_activities_may_be_added_while_others_are_looked_up() -> None:
    """Threads of a worker import modules and run steps at the same time."""
    own, kept = Registry(), [Kept(f"a{number}", f"shop.py:{number}") for number in range(200)]
    start, errors = threading.Barrier(3), []

    def adds(part: list[Kept]) -> None:
        start.wait()
        add(own, *part)

    def reads() -> None:
        start.wait()
        try:
            while len(own.activities()) < len(kept) and any(thread.is_alive() for thread in adders):
                pass
        except Exception as error:
            errors.append(error)

    adders = [threading.Thread(target=adds, args=(part,)) for part in (kept[:100], kept[100:])]
    reader = threading.Thread(target=reads)
    for thread in (*adders, reader):
        thread.start()
    for thread in (*adders, reader):
        thread.join(20)

    assert errors == []
    assert set(own.activities().values()) == set(kept)


def test_two_of_one_name_are_an_error_for_that_name_alone() -> None:
    """An agent built twice in a request handler does not stop the others of its process."""
    own = Registry()
    twice, again, good = Kept("twice", "shop.py:1"), Kept("twice", "shop.py:9"), Kept("good")
    add(own, twice, again, good)

    assert own.get("good") is good
    assert own.find("missing") is None
    assert sorted(own.names()) == ["good", "twice"]
    with pytest.raises(DuplicateActivity):
        own.get("twice")
    with pytest.raises(DuplicateActivity):
        own.activities()


def test_an_activity_that_was_replaced_counts_no_more_though_it_is_not_collected_yet() -> None:
    """A notebook cell that is run again makes the agent again, at a different line."""
    own = Registry()
    add(own, Kept("a", "cell:1"))
    gc.disable()
    try:
        add(own, replaced := Kept("a", "cell:2"))

        assert own.get("a") is replaced
    finally:
        gc.enable()
