"""The registry: what a process can run, by names that each mean one thing."""

from __future__ import annotations

import gc
import importlib
import importlib.util
import io
import os
import runpy
import signal
import sys
import threading
import types
import unittest
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
from pydantic_ai import Agent

from paigeant_celery.activities.making import Making
from paigeant_celery.activities.registry import Registry, registry
from paigeant_celery.agents.agent import PaigeantAgent, register_agent
from paigeant_celery.core.errors import DuplicateActivity, UnknownActivity, UsageError
from paigeant_celery.core.policy import StepPolicy

AGENT = 'from paigeant_celery import PaigeantAgent\ntriage = PaigeantAgent("test", name="triage", queue=__name__)\n'
FUNCTION = "from paigeant_celery import activity\n\n@activity(queue=__name__)\ndef triage() -> None: ...\n"


@dataclass(eq=False)
class Kept:
    """An activity that is its own holder, like a function; each was made in a run of its own of the same module."""

    given: str | None
    origin: str = "shop.py:1"
    queue: str | None = None
    policy: StepPolicy | None = None

    def __post_init__(self) -> None:
        self.making = Making(subject=self, calls=(self.origin,), of=self.origin, run=(self,))

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


MAKE = {
    "an agent": 'PaigeantAgent("test", name="triage", queue=__name__)',
    "an agent of a subclass": "Own()",
    "a registered agent": "registered()",
    "a function": 'activity(name="triage", queue=__name__)(lambda: None)',
    "a decorated function": "decorated()",
}
MAKERS = """
import threading
from dataclasses import dataclass, field
from pydantic_ai import Agent
from pydantic_ai.agent import WrapperAgent
from paigeant_celery import PaigeantAgent, activity, register_agent

class Own(PaigeantAgent):
    def __init__(self):
        super().__init__("test", name="triage", queue=__name__)

def registered():
    agent = Agent("test", name="triage", defer_model_check=True)
    register_agent(agent, queue=__name__)
    return agent

def decorated():
    @activity(queue=__name__)
    def triage(): ...
    return triage

def make(): return {made}
"""
ONCE = {
    "a factory": "one = make()",
    "a loop": "one = [make() for _ in range(1)]",
    "a class": "class Team: triage = make()",
    "a dataclass": "@dataclass\nclass Team:\n    triage: object = field(default_factory=make)\none = Team()",
    "a nested factory": "def team(): return make()\none = team()",
}
TWICE = {
    "two lines": "one = make()\nother = make()",
    "one line": "one, other = make(), make()",
    "a loop": "both = []\nfor _ in range(2): both.append(make())",
    "a comprehension": "both = [make() for _ in range(2)]",
    "a nested factory": "def team(): return make()\none = team()\nother = team()",
    "classes": "def team():\n    class Team: triage = make()\n    return Team\none, other = team(), team()",
    "instances": "@dataclass\nclass Team:\n    triage: object = field(default_factory=make)\nboth = [Team(), Team()]",
    "threads": "both = []\nfor _ in range(2):\n    thread = threading.Thread(target=lambda: both.append(make()))\n"
    "    thread.start()\n    thread.join()",
}


@pytest.mark.parametrize("made", MAKE)
@pytest.mark.parametrize("twice", TWICE)
def test_two_of_one_place_cannot_share_a_name_either(
    made: str, twice: str, tmp_path: Path, no_new_modules: None
) -> None:
    """A factory makes different agents, and a step for one of them must not run the other."""
    path = tmp_path / "agents.py"
    path.write_text(MAKERS.format(made=MAKE[made]) + TWICE[twice])

    module = load(path, "shop_agents")

    with pytest.raises(DuplicateActivity, match=f"'triage'.*{path}"):
        registry.get("triage")
    with pytest.raises(DuplicateActivity):
        registry.activities()
    assert module.make


@pytest.mark.parametrize("made", MAKE)
@pytest.mark.parametrize("once", ONCE)
def test_what_a_factory_makes_once_may_be_imported_twice(
    made: str, once: str, tmp_path: Path, no_new_modules: None
) -> None:
    """The script and the module of the same file, or an executor that loads it by its path, do not conflict."""
    path = tmp_path / "agents.py"
    path.write_text(MAKERS.format(made=MAKE[made]) + ONCE[once])

    loaded = [load(path, name) for name in ("shop_main", "shop_agents")]

    assert registry.get("triage").queue == "shop_agents"
    assert len(loaded) == 2


@pytest.mark.parametrize("made", MAKE)
def test_a_reloaded_module_replaces_what_is_still_held(made: str, tmp_path: Path, no_new_modules: None) -> None:
    """Someone who imported the old agent keeps it alive, and that is no second agent."""
    path = tmp_path / "shop_agents.py"
    path.write_text(MAKERS.format(made=MAKE[made]) + "one = make()")
    sys.path.insert(0, str(tmp_path))
    try:
        module = importlib.import_module("shop_agents")
        held, old = module.one, registry.get("triage")
        importlib.reload(module)
    finally:
        sys.path.remove(str(tmp_path))

    assert registry.get("triage") is not old
    assert module.one is not held


def test_a_reloaded_module_replaces_what_is_held_although_its_lines_have_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_new_modules: None
) -> None:
    """A file is edited before it is reloaded, and other modules hold what they imported from it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    source = "from paigeant_celery import activity\n{}\n@activity\ndef edited():\n    return 1\n"
    file = tmp_path / "moving.py"
    file.write_text(source.format(""))
    with registry.isolated():
        module = importlib.import_module("moving")
        held = module.edited
        file.write_text(source.format("import os\n"))
        importlib.reload(module)

        assert registry.get("edited") is module.edited is not held


@pytest.mark.parametrize("other", ["link.py", "../{folder}/linked.py", "linked.py"])
def test_one_file_is_one_file_by_whatever_path(
    other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_new_modules: None
) -> None:
    """A deployment may be a link, and a script may be run by a path that begins in the working directory."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "linked.py"
    file.write_text("from paigeant_celery import activity\n@activity\ndef linked():\n    return 1\n")
    (tmp_path / "link.py").symlink_to(file)
    with registry.isolated():
        held = runpy.run_path(str(file))
        again = runpy.run_path(other.format(folder=tmp_path.name))

        assert registry.get("linked") is again["linked"] is not held["linked"]


def test_a_cell_that_runs_again_replaces_what_it_made(no_new_modules: None) -> None:
    """A notebook may hold the old agent in a list, and runs every cell in one namespace."""
    space: dict[str, object] = {"__name__": "__main__", "kept": []}
    cell = MAKERS.format(made=MAKE["an agent"]) + "kept.append(make())"
    for _ in range(2):
        exec(compile(cell, "cell-1", "exec"), space)
    again = registry.get("triage")

    exec(compile("kept.append(make())", "cell-2", "exec"), space)

    assert again.making.subject is space["kept"][1]  # type: ignore[index]
    with pytest.raises(DuplicateActivity, match=r"called at cell-1:.*called at cell-2:1"):
        registry.get("triage")


def test_a_factory_that_two_modules_call_makes_two(tmp_path: Path, no_new_modules: None) -> None:
    """The error names the calls, because both agents come from the same line."""
    factory, one, other = (tmp_path / f"{name}.py" for name in ("shop_factory", "one", "other"))
    factory.write_text(MAKERS.format(made=MAKE["an agent"]))
    for path in (one, other):
        path.write_text("from shop_factory import make\nagent = make()")
    load(factory, "shop_factory")
    loaded = [load(one, "shop_one")]
    first = registry.get("triage")
    loaded.append(load(one, "shop_one_again"))
    again = registry.get("triage")

    loaded.append(load(other, "shop_other"))

    assert again is not first
    with pytest.raises(DuplicateActivity, match=rf"called at {one}:2, another at .*called at {other}:2"):
        registry.get("triage")


def test_one_agent_that_is_registered_twice_is_one(tmp_path: Path, no_new_modules: None) -> None:
    """Registering an agent again only changes its options."""
    agent = Agent("test", name="triage", defer_model_check=True)
    register_agent(agent)
    register_agent(agent, queue="slow")

    assert registry.get("triage").queue == "slow"


def test_one_that_nobody_holds_any_more_is_no_second_one() -> None:
    """Tests and handlers make an agent in each call of a function."""

    def handle() -> object:
        agent = PaigeantAgent("test", name="triage")
        assert registry.get("triage").making.subject is agent
        return agent

    for _ in range(3):
        handle()
    kept = [handle()]
    with pytest.raises(DuplicateActivity):
        handle()
    kept.clear()
    handle()


TESTS = """
import asyncio, unittest
import pytest
from paigeant_celery import activity
from paigeant_celery.core.errors import DuplicateActivity
from paigeant_celery.testing import WorkflowHarness

def make():
    @activity
    def triage(): return "done"
    return triage

def passes(step):
    return asyncio.run(WorkflowHarness().run([step.activity()])).output == "done"

@pytest.fixture
def triage():
    return make()

kept = []

@pytest.mark.parametrize("number", range(3))
def test_with_a_fixture(triage, number):
    kept.append(triage)
    assert passes(triage)

class TestWithInstances:
    def setup_method(self):
        self.triage = make()

    @pytest.mark.parametrize("number", range(3))
    def test_it(self, number):
        kept.append(self)
        assert passes(self.triage)

class Inside(unittest.TestCase):
    def setUp(self):
        kept.append(self)
        self.triage = make()

    def test_one(self):
        assert passes(self.triage)

    def test_other(self):
        assert passes(self.triage)

    def test_two_of_one_test(self):
        other = [make() for _ in range(2)]
        with pytest.raises(DuplicateActivity):
            passes(self.triage)

class Base(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        kept.append(cls)
        cls.triage = make()

class FirstOfBase(Base):
    def test_it(self):
        assert passes(self.triage)

class SecondOfBase(Base):
    def test_it(self):
        assert passes(self.triage)
"""


@pytest.mark.parametrize("group", ["test_with_a_fixture", "TestWithInstances", "Inside", "OfBase"])
def test_what_an_earlier_test_made_is_no_second_one_though_it_is_kept(group: str, pytester: pytest.Pytester) -> None:
    """Runners keep the instances of test classes; if they counted, each test after a failed one would fail."""
    pytester.makepyfile(TESTS)

    result = pytester.runpytest_inprocess("-p", "no:xdist", "-p", "no:cacheprovider", "-k", group)

    assert result.ret == pytest.ExitCode.OK


@pytest.mark.parametrize("group", [["Inside"], ["FirstOfBase", "SecondOfBase"]])
def test_the_same_holds_for_tests_that_python_runs(group: list[str]) -> None:
    """Django runs the tests of its projects with `unittest`."""
    module = types.ModuleType("tests_of_python")
    exec(TESTS, vars(module))
    cases = [unittest.defaultTestLoader.loadTestsFromTestCase(vars(module)[name]) for name in group]

    result = unittest.TextTestRunner(stream=io.StringIO()).run(unittest.TestSuite(cases))

    assert (result.testsRun > 1, result.errors, result.failures) == (True, [], [])


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
    with pytest.raises(UnknownActivity, match=r"; agents or tasks without a name, .*, were made at shop.py:7; did you"):
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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_fork_while_another_thread_looks_something_up_leaves_the_child_free() -> None:
    """A preloaded web server forks while it dispatches."""
    made, held, ended = Registry(), threading.Event(), threading.Event()

    def hold() -> None:
        with made._lock:
            held.set()
            ended.wait(20)

    holding = threading.Thread(target=hold)
    holding.start()
    held.wait(20)
    pid = os.fork()
    if pid == 0:
        signal.alarm(10)
        os._exit(0 if made.names() == [] else 1)
    ended.set()
    holding.join()

    assert os.waitpid(pid, 0)[1] == 0
