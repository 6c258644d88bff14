"""What the README, the pages of docs and the examples' READMEs show runs as it is, and what they say is true."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import get_args, get_type_hints

import click
import pytest
import redis

from paigeant_celery import WorkflowStatus, get_transport
from paigeant_celery.broker.dead_letter_queue import MOST_LOOKED_AT
from paigeant_celery.cli import paigeant
from paigeant_celery.core import names
from paigeant_celery.core.hops import ResentReason
from paigeant_celery.core.policy import MAX_BACKOFF
from paigeant_celery.core.settings import Settings
from paigeant_celery.core.steps import AT_ONCE, MOST_AT_ONCE, MOST_DEEP
from paigeant_celery.hop.lease import RENEWALS_PER_LEASE
from paigeant_celery.journal.hop_journal import MAX_RECORD
from paigeant_celery.store.limits import LIMITS
from paigeant_celery.worker.deep_calls import FEW
from tests.support.processes import START_WITHIN, Process, run_script, script_environment
from tests.support.servers import RedisServer

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "paigeant_celery"
DOCUMENTS = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("examples/*/README.md"))]
CHECKED = [*DOCUMENTS, ROOT / "CHANGELOG.md"]

MOST_LINES = 250  # of the root README, which is read in one sitting
FILE = re.compile(r"`((?:[a-z_]+/)*[a-z_]+\.(?:py|lua))`")  # of the package
UNITS = {"s": 1, "days": 86400, "KiB": 1024, "MiB": 1024**2}  # in tables

# A part of each Python block that a test below runs.
QUICK_START = "# quickstart.py"
HOST_CONFIGURATION = "# celeryconfig.py of the host"
HOST_DISPATCH = "Thank order 17."
FASTAPI_VIEWS = "# web.py"
DJANGO_VIEW = "# views.py"
HARNESS_TEST = "test_the_facts_are_in_the_result"
IDEMPOTENT_TOOL = "cashier = "
HANDLED_PAUSE = "janitor = "
DESK = "# desk.py"
DESK_STEPS = "from desk import"
FLASK_CONTEXT = "# shop/surroundings.py"
DJANGO_CONTEXT = "# blog/surroundings.py"
TEAM = "# team.py"
DESK_TALK = "# desk_talk.py"
PICTURES = "# pictures.py"
LIBRARY = "# library.py"
TILL = "# till.py"
DISPATCHING = "# dispatching.py"
FOLLOWING = "# following.py"
LISTING = "workflows = Workflows(transport)"
ORDERS = "# orders.py"
FAN_OUT = "# fan_out.py"
VOTES = "# votes.py"
REFUNDS = "# refunds.py"
REFUNDS_TEST = "# test_refunds.py"
INBOX_PAGE = "# inbox_page.py"
SCREEN = "# screen.py"
OPENTELEMETRY = "CeleryInstrumentor().instrument()"
TELEMETRY = "def set_up() -> None:"
LOG_FORMAT = "worker_log_format = "
LOG_FILTER = "handler.addFilter(WorkflowLogFilter())"
FLOWER_CONFIGURATION = "# flowerconfig.py"
SCHEDULES = "# schedules.py"
SENTRY = "integrations=[CeleryIntegration()]"
EXAMPLE_DISPATCH = '("topic_finder", "joke_writer", "joke_judge")'
EXAMPLE_WATCH = ".events_sync()"
EXAMPLE_CONFIGURATION = '"examples.existing_celery_app.agents"'
RUN_BELOW = (
    QUICK_START,
    HOST_CONFIGURATION,
    HOST_DISPATCH,
    FASTAPI_VIEWS,
    DJANGO_VIEW,
    HARNESS_TEST,
    IDEMPOTENT_TOOL,
    HANDLED_PAUSE,
    DESK,
    DESK_STEPS,
    FLASK_CONTEXT,
    DJANGO_CONTEXT,
    PICTURES,
    TEAM,
    DESK_TALK,
    LIBRARY,
    TILL,
    DISPATCHING,
    FOLLOWING,
    LISTING,
    ORDERS,
    FAN_OUT,
    VOTES,
    REFUNDS,
    REFUNDS_TEST,
    INBOX_PAGE,
    SCREEN,
    OPENTELEMETRY,
    TELEMETRY,
    LOG_FORMAT,
    LOG_FILTER,
    FLOWER_CONFIGURATION,
    SCHEDULES,
    SENTRY,
    EXAMPLE_DISPATCH,
    EXAMPLE_WATCH,
    EXAMPLE_CONFIGURATION,
)

# Sentences with a number that the code has, too: {} stands for it.
SETTINGS = Settings()
FIGURES = [
    ("docs/operating.md", "The store keeps the newest {} of them.", LIMITS.max_letters),
    ("docs/operating.md", "an answer has more than {} MiB", LIMITS.max_answer / 1024**2),
    ("docs/operating.md", "or a signal more than {} KiB", LIMITS.max_signal / 1024),
    ("docs/operating.md", "a signal more than the {} that are kept", LIMITS.max_signals),
    ("docs/operating.md", "a step has {} waits that are open", LIMITS.max_waits),
    ("docs/operating.md", "The {} at the head of the queue are looked at.", MOST_LOOKED_AT),
    ("docs/operating.md", "About {} events of a workflow are kept,", LIMITS.max_events),
    ("docs/operating.md", "and the last {} of type `agent`.", LIMITS.max_streamed),
    ("docs/operating.md", "Its steps continue for `paigeant_shutdown_grace` ({} s).", SETTINGS.shutdown_grace),
    ("docs/operating.md", "the record of one call exceeds {} MiB", MAX_RECORD / 1024**2),
    ("docs/operating.md", "Up to {} MiB are kept", MAX_RECORD / 1024**2),
    ("docs/agents-and-functions.md", "The last {} of a workflow are kept.", LIMITS.max_streamed),
    ("docs/guarantees.md", "a call that needs more time than the shutdown grace of {} s", SETTINGS.shutdown_grace),
    ("docs/guarantees.md", "The record of one call holds at most {} MiB.", MAX_RECORD / 1024**2),
    ("docs/guarantees.md", "until the lease is over ({} s and the next sweep)", SETTINGS.lease),
    ("docs/guarantees.md", "That is {} s after it was sent", LIMITS.due_after / 1000),
    ("docs/guarantees.md", "then after twice the wait, up to {} s.", LIMITS.due_after_most / 1000),
    ("docs/guarantees.md", "Its steps continue for `paigeant_shutdown_grace` ({} s)", SETTINGS.shutdown_grace),
    ("docs/guarantees.md", "younger than `paigeant_max_message_age` ({} days)", SETTINGS.max_message_age / 86400),
    ("docs/guarantees.md", "It is tried again after {} s,", SETTINGS.retry_backoff),
    ("docs/guarantees.md", "(spread, up to {} min)", MAX_BACKOFF / 60),
    ("docs/guarantees.md", "`max_attempts` ({}) in all.", SETTINGS.max_attempts),
    ("docs/guarantees.md", "After it was begun `max_attempts` ({}) times,", SETTINGS.max_attempts),
    ("docs/guarantees.md", "which is every quarter of `paigeant_lease` ({} s)", SETTINGS.lease / RENEWALS_PER_LEASE),
    ("docs/blocks.md", "Blocks may stand in branches, up to {} deep.", MOST_DEEP),
    ("docs/blocks.md", "go on at the same time; {} by default.", AT_ONCE),
    ("docs/blocks.md", "{}, at most 100 for each block", AT_ONCE),
    ("docs/blocks.md", "20, at most {} for each block", MOST_AT_ONCE),
    ("docs/blocks.md", "`paigeant_max_branches` ({})", SETTINGS.max_branches),
    ("docs/blocks.md", "all branches together | {} |", LIMITS.max_hops),
    ("docs/limits.md", "hops of a workflow with blocks | {} |", LIMITS.max_hops),
    ("docs/limits.md", "blocks in each other | {} |", MOST_DEEP),
    ("docs/limits.md", "`max_at_once=` of a block | 1 to {} |", MOST_AT_ONCE),
    ("docs/operating.md", "would have more than {} hops", LIMITS.max_hops),
    ("docs/performance.md", "with more than {} task threads", FEW),
    ("docs/waiting.md", "A step has at most {} open waits,", LIMITS.max_waits),
    ("docs/waiting.md", "an answer at most {} MiB,", LIMITS.max_answer / 1024**2),
    ("docs/waiting.md", "a signal {} KiB,", LIMITS.max_signal / 1024),
    ("docs/waiting.md", "keeps at most {} signals for waits to come", LIMITS.max_signals),
    ("docs/waiting.md", "is sent by a sweep after {} s.", LIMITS.due_after / 1000),
    ("paigeant_celery/store/port.py", "A workflow keeps about the last {}.", LIMITS.max_streamed),
]

# What must stand in the files that docs/architecture.md names for a question, in the order in which it names them.
ANSWERS = {
    "Why was this workflow parked?": {
        "core/flow.py": ["def decide(", "return Park(", '"attempts_exhausted"', '"loop_limit"'],
        "core/policy.py": ["def attempt_of(", "def is_final("],
        "hop/run.py": ["def _failed(", "Diverged("],
    },
    "And why was this message refused?": {
        "core/names.py": ["REASONS: Mapping"],
        "hop/refuse.py": ["def refuse(", "flow.decide_refusal("],
    },
    "Where does a refused message go?": {
        "hop/refuse.py": ["def discard(", "self._store.bury(", "self._store.park("],
        "hop/letters.py": ["def letter_of("],
        "store/scripts/bury.lua": ["write_letter(", "'ZADD', letters"],
        "store/scripts/park.lua": ["keep_letter(", "'state', 'parked'"],
    },
    "And without a store?": {
        "hop/without_store.py": ["def refuse(", "self._letters.bury("],
        "hop/letters.py": ["def letter_of("],
        "broker/dead_letter_queue.py": ["def bury("],
    },
    "What does a Celery task see that runs as a step, and what becomes of its `retry`?": {
        "activities/celery_tasks.py": ["class TaskCall", "def _call_of("],
        "worker/celery_tasks.py": ["def _request(", "def _retrying(", "def _gave_up("],
        "core/policy.py": ["class Verdict", "def _judged("],
    },
    "Where is the delay before a retry chosen?": {
        "core/policy.py": ["def retry_delay(", "MAX_BACKOFF = "],
        "core/flow.py": ["def _retry_or_park(", "retry_delay(attempt)"],
        "core/settings.py": ["retry_backoff: float"],
    },
    "What is written on Redis for a hop?": {
        "store/scripts/common.lua": ["-- {prefix}:hop:{hop} ", "-- {prefix}:journal:{hop} "],
        "store/scripts/claim.lua": ["'HSET', hop_key(hop)"],
    },
    "What becomes of a hop's record when it is claimed, closed or swept?": {
        "core/hops.py": ["def claim(", "def close(", "def sweep("],
    },
    "What happens at SIGTERM?": {
        "worker/shutdown.py": ["From SIGTERM to", "worker_shutting_down.connect(", "def ask("],
        "worker/runtime.py": ["if self.shutdown.asked:", "run.given_up", "def _give_back("],
        "worker/waiting.py": ["class LookOut", ".over or run.at_rest()"],
        "journal/hop_journal.py": ["def making(", "def at_rest("],
        "store/scripts/release.lua": ["'state', 'queued'", "send_at("],
    },
    "Why was this message sent again?": {
        "core/hops.py": ["def sweep(", "def lapse(", "def is_overtaken("],
        "store/limits.py": ["due_after: int", "due_after_most: int"],
        "hop/sweeper.py": ["def sweep(", "is_gone("],
        "store/scripts/sweep.lua": ["local function send_again(", "local function send_waiting("],
        "hop/with_store.py": ["def _resend_successor("],
    },
    "What happens to a workflow that the store has lost?": {
        "hop/claims.py": ["def adopt(", "store_lost"],
        "hop/service.py": ["def regain("],
        "hop/with_store.py": ["def regain(", "def _adopted("],
        "worker/runtime.py": ["def _regain("],
    },
    "What does a fork begin with?": {
        "client/forks.py": ["def _steps("],
        "client/document_forks.py": ["def _number(", "def _placed("],
        "client/forking.py": ["class Original", "def number_before(", "class NewFork"],
        "client/copied.py": ["class StepsBefore", "def said_before("],
        "core/forks.py": ["def as_asked(", "def without_inserted(", "def unspent("],
        "store/scripts/start.lua": ["'type', 'forked'"],
    },
    "What is in the dump of a hop, and what does its replay do?": {
        "core/replays.py": ["class HopDump("],
        "client/hop_dumps.py": ["def dump_of("],
        "replay.py": ["class _Journal(", "def replay_sync("],
    },
    "Which text of an error may everybody read?": {
        "core/telling.py": ["def named(", "def without_texts("],
        "cli/redaction.py": ["def bare_status(", "def bare_outline("],
    },
    "Who ends a workflow that nobody runs by its deadline?": {
        "hop/lateness.py": ["def end("],
        "hop/sweeper.py": ["found.late"],
        "store/scripts/sweep.lua": ["local function look_at_deadline("],
    },
    "Who may write for a hop, and until when?": {
        "hop/lease.py": ["class Owner", "RENEWALS_PER_LEASE = ", "def renew("],
        "store/scripts/renew.lua": ["'ZADD', owners, int(now + lease), owner"],
        "store/scripts/common.lua": ["local function may_close("],
        "hop/toucher.py": ["def touch_until_closed("],
    },
    "How does the agent of a step become durable?": {
        "agents/step_runs.py": ["class StepRuns", "def durable("],
        "agents/run_context.py": ["def run_with(", "def durable_run("],
        "agents/durability.py": ["class CeleryDurability"],
    },
    "How is an agent's call recorded?": {
        "agents/recorded_calls.py": ["class _RecordedOperation", "async def recorded("],
        "journal/hop_journal.py": ["async def add(", "def find("],
        "store/scripts/record.lua": ["'HSET', journal_key(hop)"],
        "agents/recorded_tools.py": ["class RecordedToolset", "def _is_recorded("],
    },
    "Why was a step not replayed?": {
        "journal/hop_journal.py": ["def find("],
        "journal/course.py": ["def check_new(", "def check_end("],
        "journal/record.py": ["def differences("],
        "agents/fingerprints.py": ["def of_request("],
    },
    "Why was an operation of a capability made again?": {
        "agents/recorded_calls.py": ["class _RecordedOperation", "def _identity("],
        "journal/operations.py": ["class Operations", "def key("],
    },
    "In which order do calls end that run beside each other?": {
        "journal/turns.py": ["class Turns", "def take("],
    },
    "Why did a recorded error come back as another class?": {
        "agents/error_forms.py": ["def error_from(", "class _StandIn"],
        "agents/recorded_errors.py": ["def survived(", "def rebuilt("],
    },
    "Why does a step wait for its job again, or cancel it?": {
        "agents/waits.py": ["def recorded_sleep(", "def polled("],
        "journal/waits.py": ["class Wait", "def read_wait("],
        "journal/abandoned.py": ["class Abandoned"],
        "hop/jobs.py": ["class ProviderJobs", "def after("],
    },
    "Who cancels the job of a step that sleeps when its workflow is cancelled?": {
        "broker/called_off.py": ["def begin_calling_off("],
        "hop/left_jobs.py": ["class LeftJobs"],
        "agents/left_jobs.py": ["cancel_suspended_response("],
    },
    "What did a step see of its conversation?": {
        "core/conversations.py": ["def conversation_of("],
        "hop/claims.py": ["conversation=conversation_of("],
        "store/scripts/claim.lua": ["conversation_at("],
        "agents/conversations.py": ["def read_history("],
    },
    "What of an MCP server, or of a handler of deferred calls, is recorded?": {
        "agents/recorded_servers.py": ["class RecordedServer", "def get_tools("],
        "agents/recorded_answers.py": ["class RecordedAnswers"],
    },
    "What happens to a history that a function saves itself?": {
        "agents/own_messages.py": ["def give_back_own(", "def save_once("],
    },
    "Where is a file of a prompt or an output?": {
        "core/content.py": ["class StoredApart", "def stored_in("],
        "core/files.py": ["def with_files_apart("],
        "core/output_files.py": ["def files_in("],
        "agents/content.py": ["def prompt_of("],
    },
    "Why does a screen show this of an agent, or not?": {
        "agents/stream.py": ["def show_rest(", "def shown_run("],
        "journal/event_feed.py": ["class EventFeed"],
        "agents/agent_events.py": ["def agent_events("],
    },
    "What does this hop wait for, and why was it woken, or not?": {
        "core/waits.py": ["class Wait:", "def is_over("],
        "core/hops.py": ["def suspend(", "def wake("],
        "hop/with_store.py": ["def _suspend("],
        "store/scripts/suspend.lua": ["-- SUSPEND"],
        "store/scripts/resolve.lua": ["-- RESOLVE"],
        "store/scripts/sweep.lua": ["asleep"],
    },
    "What does a block do, and when does it go on?": {
        "core/blocks.py": ["def open_branches(", "def end_branch(", "def leave_window("],
        "hop/step_blocks.py": ["async def joined(", "async def _open(", "def _missed("],
        "store/scripts/hold.lua": ["-- HOLD"],
        "store/scripts/open_block.lua": ["-- OPEN_BLOCK"],
    },
    "What is the first message of a branch, and what does its first step get?": {
        "core/branches.py": ["def first_message("],
        "core/slip.py": ["class BranchOf(", "def previous("],
    },
    "How did a branch end, and who woke its block?": {
        "core/manifests.py": ["class BranchEnd(", "def succeeded_end("],
        "core/blocks.py": ["def end_branch(", "wakes=True"],
        "hop/effects.py": ["case Arrive():"],
        "hop/with_store.py": ["def _arrive("],
        "store/scripts/branches.lua": ["local function arrive(", "local function joined_of("],
    },
    "Why may this hop of a branch write nothing any more, and who closes it?": {
        "store/scripts/common.lua": ["local function is_cut_off("],
        "store/scripts/branches.lua": ["local function end_block(", "local function close_below("],
        "store/scripts/sweep.lua": ["'ZRANGE', ending"],
    },
    "Where is the output of a block, or of a step in a branch?": {
        "core/manifests.py": ["class Manifest(", "def assembled("],
        "store/outputs.py": ["def outputs_of("],
        "store/steps.py": ["def step_at("],
    },
    "Why was an attempt left, or not?": {
        "journal/hop_waits.py": ["IN_PEACE = ", "def _leave_if("],
        "hop/run.py": ["def _stands("],
    },
    "Who was asked, and what did the step get?": {
        "journal/waiting.py": ["def ended_wait(", "def _asked("],
        "hop/step_waits.py": ["class StepWaits"],
    },
    "What did an agent ask of people, and who was asked first?": {
        "agents/recorded_answers.py": ["def _handlers(", "answers_from_outside("],
        "agents/external_events.py": ["class _Waiter", "def asking_about("],
        "agents/asked_outside.py": ["def answers_from_outside("],
        "agents/answered_runs.py": ["def run_to_end("],
    },
    "Why is an answer refused, or does not count?": {
        "client/answering.py": ["def _find(", "def check_size("],
        "core/answers.py": ["def answers_of(", "def decisions_of("],
        "core/waits.py": ["def answer("],
    },
    "What does a step that waits do, and what does the step after it see?": {
        "core/flow_steps.py": ["class WaitSpec(", "class SleepSpec("],
        "activities/builtin.py": ["async def run("],
        "core/slip.py": ["def previous(", "def gives_output("],
    },
    "Which Redis is the store?": {
        "broker/connection.py": ["def store_of_broker("],
        "store/endpoint.py": ["def read_url("],
        "store/redis_client.py": ["def _pool("],
    },
    "Why does this worker serve this queue?": {
        "worker/serving.py": ["def served_activities(", "def queues_of("],
        "worker/bootsteps.py": ["def _serve("],
        "broker/publisher.py": ["def queue_for("],
    },
    "Which thread reads and writes an envelope?": {
        "worker/deep_calls.py": ["class DeepCalls", "FEW = "],
        "hop/service.py": ["class DeepCall", "self._deep("],
    },
    "Is this message ours to judge?": {
        "worker/our_queues.py": ["class OurQueues", "def __contains__("],
        "worker/intake.py": ["def judges("],
    },
    "Why is this broker not the store's?": {
        "broker/identity.py": ["def is_another(", "def look_at_broker("],
        "broker/binding.py": ["def check_dispatch(", "def check_worker(", "def _difference("],
    },
    "Which errors are not tried again?": {
        "core/policy.py": ["def is_final(", "FINAL_ERRORS = "],
    },
}

# What the documents take for granted: the host's package, with its app and its agents.
SHOP = {
    "__init__.py": "",
    "celery.py": """
import os
from celery import Celery
app = Celery("shop", broker=os.environ["SHOP_BROKER"])
app.config_from_object("celeryconfig")
""",
    "agents.py": """
from pydantic_ai.models.test import TestModel
from paigeant_celery import PaigeantAgent
researcher = PaigeantAgent(TestModel())
writer = PaigeantAgent(TestModel(custom_output_text="Thank you."))
""",
}


def read(name: str) -> str:
    """Return a document by its path from the root."""
    return (ROOT / name).read_text(encoding="utf-8")


def blocks() -> list[str]:
    """Return all fenced blocks of Python."""
    return [
        found
        for document in DOCUMENTS
        for found in re.findall(r"```python\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL)
    ]


def block(marker: str) -> str:
    """Return the block that contains `marker`."""
    return next(found for found in blocks() if marker in found)


def table(document: str, header: str) -> list[list[str]]:
    """Return the rows of the table of a document whose first column has this header."""
    lines = iter(read(document).splitlines())
    assert any(line.startswith(f"| {header} |") for line in lines), f"{document} has no such table"
    next(lines)
    rows = []
    while (line := next(lines, "")).startswith("|"):
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def words(rows: list[list[str]]) -> set[str]:
    """Return what is in backticks in the first column."""
    return {word for row in rows for word in re.findall(r"`([^`]+)`", row[0])}


def meant(cell: str) -> object:
    """Return the value that a table writes as `7 days` or `32 KiB`."""
    text = cell.partition(" (")[0].strip("`")
    if text == "none":
        return None
    number, _, unit = text.partition(" ")
    return ast.literal_eval(number) * UNITS[unit] if unit in UNITS else ast.literal_eval(text)


def links(document: Path) -> list[str]:
    """Return the targets of all links of a document that lead to other files or to its own headings."""
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]


def anchors(document: Path) -> set[str]:
    """Return the anchors of a document that a link may name: its headings, as GitHub writes them."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def is_broken(document: Path, target: str) -> bool:
    """Say whether a link leads nowhere."""
    name, _, anchor = target.partition("#")
    file = (document.parent / name).resolve() if name else document
    if not (file.exists() and file.is_relative_to(ROOT)):
        return True
    return bool(anchor) and anchor not in anchors(file)


def commands(group: click.Group, *before: str) -> Iterator[str]:
    """Yield the commands of a group and of the groups in it, as one types them."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, *before, name)
        else:
            yield " ".join((*before, name))


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """Return the folder of a host application that is configured as the README shows."""
    for name, source in SHOP.items():
        file = tmp_path / "shop" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(source, encoding="utf-8")
    (tmp_path / "celeryconfig.py").write_text(block(HOST_CONFIGURATION), encoding="utf-8")
    return tmp_path


@contextmanager
def worker(folder: Path, *arguments: str, **environment: str) -> Iterator[None]:
    """Run `celery … worker` in a folder during the block, which begins when the worker takes messages."""
    process = Process(
        [sys.executable, "-m", "celery", *arguments, "--pool", "threads", "--loglevel", "INFO"],
        folder=folder, environment={**script_environment(), **environment}, name="worker",
    )  # fmt: skip
    try:
        process.wait_for_log(" ready.", within=START_WITHIN)
        yield
    finally:
        process.kill()


def run_quick_start(source: str, folder: Path, **environment: str) -> str:
    """Run the script of the README, which names its own file, and return what it printed."""
    script = folder / "quickstart.py"
    script.write_text(source, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**script_environment(), **environment}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_pytest(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the tests of a folder as its owner does, with warnings as errors."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider"],
        cwd=folder, env=script_environment(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_each_block_of_python_is_run_by_one_test() -> None:
    """A new block is not forgotten."""
    assert [found for found in blocks() if sum(marker in found for marker in RUN_BELOW) != 1] == []


def test_the_configuration_of_flower_adds_the_pages(tmp_path: Path) -> None:
    """One file is all that Flower needs; `acceptance/test_flower_pages.py` clicks through what it then shows."""
    (tmp_path / "flowerconfig.py").write_text(block(FLOWER_CONFIGURATION))
    source = """
from flower.command import apply_options
from flower.options import options
from flower.urls import handlers

apply_options("flower", [])
print(handlers[0].name, options.basic_auth)
"""

    assert run_script(source, cwd=tmp_path, cold=True) == "workflows ['ann:a long password']\n"


def test_the_schedule_of_the_page_sends_its_document() -> None:
    """It is copied into a configuration; `acceptance/test_schedules.py` lets beats send such entries."""
    source = """
import json
print(json.dumps({"task": entry["task"], **entry["kwargs"]}) if (entry := beat_schedule["report"]) else "")
"""

    shown = json.loads(run_script(block(SCHEDULES) + source))

    assert (shown["task"], shown["deadline_after"]) == ("paigeant.dispatch", 3600.0)
    assert shown["schedule"]["crontab"]["hour"] == 8
    assert shown["document"]["itinerary"] == [{"agent": "writer", "prompt": "Write the report of yesterday."}]


def test_the_readme_can_be_read_at_one_sitting() -> None:
    """What only some readers need has its own page."""
    assert len(read("README.md").splitlines()) <= MOST_LINES


def test_the_readme_has_each_of_its_commands_once_on_a_line_of_its_own() -> None:
    """They are copied from there, even by the checks that run before a change lands."""
    lines = [line for line in read("README.md").splitlines() if line.startswith("pip install")]

    assert ["examples/three_agents" in line for line in lines] == [True, False]
    assert ["pytest" in line for line in lines] == [False, True]


def test_every_link_between_documents_leads_somewhere() -> None:
    """The links to a page that moved must move too."""
    broken = [(str(document.relative_to(ROOT)), target) for document in CHECKED for target in links(document)
              if is_broken(document, target)]  # fmt: skip

    assert broken == []


def test_the_readme_leads_to_every_page_and_every_example() -> None:
    """A page without a link to it is not read."""
    pages = {str(document.relative_to(ROOT)) for document in CHECKED if document != ROOT / "README.md"}

    assert pages - {target.partition("#")[0] for target in links(ROOT / "README.md")} == set()


def test_the_quick_start_prints_the_outputs_of_both_agents(tmp_path: Path) -> None:
    """It is the first thing that anybody copies."""
    assert re.search(r"'researcher': .*'writer': ", run_quick_start(block(QUICK_START), tmp_path))


def test_the_order_that_waits_for_its_payment_is_shipped(tmp_path: Path) -> None:
    """Whoever copies it sees a signal arrive."""
    assert run_script(block(ORDERS), cwd=tmp_path, cold=True) == "shipped for 1700 cents\n"


def test_the_blocks_that_are_shown_give_what_their_page_says(tmp_path: Path) -> None:
    """A path that is wrong on the page is wrong in the code of its readers."""
    served = """
import asyncio, json
from paigeant_celery.testing import WorkflowHarness

async def main():
    harness = WorkflowHarness()
    result = await harness.run(itinerary)
    print(json.dumps(result.outputs))

asyncio.run(main())
"""

    outputs = json.loads(run_script(block(FAN_OUT) + served, cwd=tmp_path))

    assert outputs["readings"] == ["read cats 1", "read cats 2", "read cats 3"]
    assert outputs["checks"] == {
        "number": 3, "text": f"checks/text/sub-workflow/0/write: read cats 1; {outputs['readings']}",
    }  # fmt: skip
    assert outputs["write"] == f"write: read cats 1; {outputs['checks']}"


def test_the_joins_that_are_shown_give_what_their_page_says(tmp_path: Path) -> None:
    """People choose how much may fail from it."""
    served = """
import asyncio, json
from paigeant_celery.testing import WorkflowHarness
print(json.dumps(asyncio.run(WorkflowHarness().run([prices, quorum])).outputs))
"""

    outputs = json.loads(run_script(block(VOTES) + served, cwd=tmp_path))

    text = outputs["prices"][1].pop("text")
    assert outputs == {
        "prices": [12, {"failed": "ValueError"}, 9], "prices/0/price": 12, "prices/2/price": 9,
        "quorum": {"ann": "ann", "bob": "bob"}, "quorum/ann/judge": "ann", "quorum/bob/judge": "bob",
    }  # fmt: skip
    assert "unknown" in text


def test_the_quick_start_prints_the_same_on_redis(tmp_path: Path, own_redis: Callable[..., RedisServer]) -> None:
    """From trying it to having it recorded is one word."""
    in_memory, on_redis = "get_transport()", 'get_transport("redis")'
    assert f"write `{on_redis}`" in read("README.md")
    assert in_memory in block(QUICK_START)

    server = own_redis()
    printed = run_quick_start(block(QUICK_START).replace(in_memory, on_redis), tmp_path, PAIGEANT_REDIS_URL=server.url)

    assert re.search(r"'researcher': .*'writer': ", printed)
    with redis.Redis.from_url(server.url) as client:
        assert client.keys("paigeant:wf:*")


def test_a_host_that_is_configured_as_shown_runs_the_step_that_is_dispatched_as_shown(
    host: Path, own_redis: Callable[..., RedisServer]
) -> None:
    """People put these lines into their existing deployments."""
    url = own_redis().url

    with worker(host, "-A", "shop", "worker", PAIGEANT_CONSUME="only", SHOP_BROKER=url):
        printed = run_script(block(HOST_DISPATCH), cwd=host, SHOP_BROKER=url)

    assert printed == "Thank you.\n"


def test_the_views_of_a_web_application_answer_as_shown(host: Path, own_redis: Callable[..., RedisServer]) -> None:
    """Visitors get 404 for what is not there, and never 500."""
    asked = """
import asyncio, json, sys
async def ask(method, path, query=b""):
    sent = []
    async def receive(): return {"type": "http.request", "body": b"", "more_body": False}
    async def send(message): sent.append(message)
    scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": query,
             "headers": [], "http_version": "1.1", "scheme": "http", "server": ("shop", 80), "client": ("me", 1)}
    await web(scope, receive, send)
    return sent[0]["status"], json.loads(sent[1]["body"])

async def main():
    status, started = await ask("POST", "/letters", b"order=17")
    found = await ask("GET", f"/letters/{started['id']}")
    print(status, found, await ask("GET", "/letters/nobody"), await ask("GET", "/letters/a b"))
    return started["id"]

known = asyncio.run(main())
"""
    asked_of_django = """
import django
from django.conf import settings
settings.configure(DEFAULT_CHARSET="utf-8")
django.setup()
print(show(None, known).content.decode())
for unknown in ("nobody", "a b", "\\ud800"):
    try: show(None, unknown)
    except Http404 as error: print(error)
"""
    script = block(FASTAPI_VIEWS) + asked + block(DJANGO_VIEW) + asked_of_django

    printed = run_script(script, cwd=host, SHOP_BROKER=own_redis().url).splitlines()

    standing = {"state": "queued", "executed": []}
    assert printed == [
        f"202 (200, {standing}) (404, {{'detail': 'no such workflow'}}) (404, {{'detail': 'no such workflow'}})",
        '{"state": "queued", "executed": []}',
        *["no such workflow"] * 3,
    ]


def test_the_tests_of_the_test_kit_pass_as_they_are_shown(host: Path) -> None:
    """People learn it from these: outputs, an approval, a signal and a forgotten answer."""
    (host / "shop" / "refunds.py").write_text(block(REFUNDS), encoding="utf-8")
    (host / "conftest.py").write_text('pytest_plugins = ["paigeant_celery.testing"]\n', encoding="utf-8")
    (host / "test_shown.py").write_text(block(HARNESS_TEST), encoding="utf-8")
    (host / "test_refunds.py").write_text(block(REFUNDS_TEST), encoding="utf-8")

    done = run_pytest(host)

    assert re.search(r"^3 passed in ", done.stdout, re.MULTILINE), done


ANSWERED_ON_A_PAGE = """
import time
from starlette.testclient import TestClient
from paigeant_celery import ActivitySpec, FunctionSpec

correlation_id = dispatcher.dispatch_workflow_sync(
    transport, itinerary=[ActivitySpec("clerk", "Refund the sofa."), FunctionSpec("settle")]
)
handle = dispatcher.handle(correlation_id, transport)

def until_it_waits_for(name):
    end = time.monotonic() + 60
    while name not in str(status := handle.status_sync()):
        assert status.in_progress and time.monotonic() < end, status
        time.sleep(0.05)

with TestClient(web, follow_redirects=False) as browser:
    ann, bob = {"x-forwarded-user": "ann"}, {"x-forwarded-user": "bob"}
    payment = {"id": "17", "by": "bank"}

    def post(path="/inbox", as_=ann, **given):
        answer = browser.post(path, headers=as_, **given)
        return answer.status_code, answer.json()["detail"] if answer.status_code in (404, 409) else ""

    print(browser.get("/inbox").status_code, post(as_={}, data={})[0])
    until_it_waits_for("refund")
    page = browser.get("/inbox", headers=ann).text
    print(re.search("<p>(.*?), since", page)[1])
    form = dict(re.findall(r'name="(token|call)" value="([^"]+)"', page))
    print(post(data={**form, "token": "a~b", "answer": "yes"}), post(data={**form, "call": "b", "answer": "yes"})[0])
    print(post(data={**form, "answer": "yes"}), post(as_=bob, data={**form, "answer": "no"}))
    until_it_waits_for("paid")
    print(browser.get("/inbox", headers=ann).text, post("/payments/nobody", json=payment))
    print(post(f"/payments/{correlation_id}", json=payment), post(f"/payments/{correlation_id}", json=payment)[0])
    print(handle.result_sync(timeout=60).outputs)
    payments, late = f"/payments/{correlation_id}", payment | {"id": "18"}
    print(post(payments, json={}), post(payments, json=late))
print([(event.type, event.fields["by"]) for event in handle.events_sync() if event.type == "answered"])
"""


def test_a_page_lists_what_is_asked_and_its_answers_let_a_worker_go_on(
    host: Path, own_redis: Callable[..., RedisServer]
) -> None:
    """A web process that knows no agent answers for people, and a bank's message that comes twice counts once."""
    (host / "shop" / "refunds.py").write_text(block(REFUNDS), encoding="utf-8")
    (host / "shop" / "agents.py").write_text("from shop.refunds import clerk, settle", encoding="utf-8")
    url = own_redis().url

    with worker(host, "-A", "shop", "worker", PAIGEANT_CONSUME="only", SHOP_BROKER=url):
        printed = run_script(f"import re\n{block(INBOX_PAGE)}{ANSWERED_ON_A_PAGE}", cwd=host, SHOP_BROKER=url)

    assert printed.splitlines() == [
        "401 401",
        "refund {&quot;order&quot;: &quot;a&quot;, &quot;euros&quot;: 0.0}",
        "(404, 'no longer asked') 422",
        "(303, '') (409, 'ann was faster')",
        "Nobody is asked anything. (404, 'no longer asked')",
        "(202, '') 202",
        "{'clerk': '{\"refund\":\"refunded 0.0 for a\"}', 'settle': 'paid by bank'}",
        "(422, '') (409, 'the workflow has ended')",
        "[('answered', 'ann'), ('answered', 'bank')]",
    ]


def test_the_harness_stops_half_way_as_its_page_says(host: Path) -> None:
    """`dispatch` is a plain call, `deliver` is awaited."""
    shown = block(HARNESS_TEST)
    calls = ["workflow_harness.dispatch([…])", "await workflow_harness.deliver(2)"]
    half_way = """
async def test_half_way(workflow_harness):
    steps = [writer.activity("one"), writer.activity("two"), writer.activity("three")]
    handle = workflow_harness.dispatch(steps)
    assert handle.status_sync().executed == ()
    assert await workflow_harness.deliver(2) == ["completed", "completed"]
    assert len(handle.status_sync().executed) == 2
"""
    (host / "conftest.py").write_text('pytest_plugins = ["paigeant_celery.testing"]\n', encoding="utf-8")
    (host / "test_shown.py").write_text(shown + half_way, encoding="utf-8")

    done = run_pytest(host)

    assert [call for call in calls if call not in read("docs/testing.md")] == []
    assert re.search(r"^2 passed in ", done.stdout, re.MULTILINE), done


def test_the_tool_that_is_shown_gets_a_key(tmp_path: Path) -> None:
    """People who copy it pass the key to a service that moves money."""
    served = """
import asyncio
from paigeant_celery.testing import WorkflowHarness
print(asyncio.run(WorkflowHarness().run([cashier.activity("Refund it.")])).output)
"""

    printed = run_script(block(IDEMPOTENT_TOOL) + served, cwd=tmp_path)

    assert re.search(r"order 0: 0 cents, [0-9a-f-]{36}", printed)


def test_the_agent_with_the_handler_that_is_shown_ends_with_an_answer(tmp_path: Path) -> None:
    """The test model calls the tool, which needs an approval, and the handler refuses it."""
    served = """
import asyncio
from paigeant_celery.testing import WorkflowHarness
print(asyncio.run(WorkflowHarness().run([janitor.activity("Clean up.")])).output)
"""

    printed = run_script(block(HANDLED_PAUSE) + served, cwd=tmp_path)

    assert "The tool call was denied." in printed


def test_the_agent_and_the_function_that_are_shown_run_as_the_steps_that_are_shown(tmp_path: Path) -> None:
    """The tool gets its deps, and the function the output of the step before it, typed."""
    served = """
import asyncio
from paigeant_celery.testing import WorkflowHarness
print(asyncio.run(WorkflowHarness().run(steps)).outputs)
"""
    (tmp_path / "desk.py").write_text(block(DESK), encoding="utf-8")

    printed = run_script(block(DESK_STEPS) + served, cwd=tmp_path)

    assert printed == "{'writer': {'text': 'Dear customer …'}, 'shorten': 'Dear'}\n"


AROUND_STEPS = """
import asyncio
from paigeant_celery import PaigeantAgent, activity
from paigeant_celery.testing import WorkflowHarness
from pydantic_ai.models.test import TestModel

seen = []

@activity
def sync_step() -> None:
    seen.append(look())

@activity
async def async_step() -> None:
    seen.append(look())

agent = PaigeantAgent(TestModel(), name="agent")

@agent.tool_plain
def sync_tool() -> None:
    seen.append(look())

@agent.tool_plain
async def async_tool() -> None:
    seen.append(look())

harness = WorkflowHarness(around_step=around)
steps = [sync_step.activity(), async_step.activity(), agent.activity("go")]
asyncio.run(harness.run(steps, variables={"language": "de"}))
print(*seen)
"""


def write_module(folder: Path, name: str, source: str) -> None:
    """Write a module of a package."""
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).with_name("__init__.py").touch()
    (folder / name).write_text(source, encoding="utf-8")


def test_the_context_of_flask_that_is_shown_surrounds_all_code_of_steps(tmp_path: Path) -> None:
    """Its extensions look for the application in it."""
    write_module(tmp_path, "shop/web.py", "from flask import Flask\napp = Flask('shop')\n")
    write_module(tmp_path, "shop/surroundings.py", block(FLASK_CONTEXT))
    given = """
from flask import current_app
from shop.surroundings import in_app_context as around
look = lambda: current_app.name
"""

    assert run_script(given + AROUND_STEPS, cwd=tmp_path) == "shop shop shop shop\n"


def test_the_context_of_django_that_is_shown_surrounds_all_code_of_steps(tmp_path: Path) -> None:
    """Django keeps the language for each thread of sync code."""
    write_module(tmp_path, "blog/surroundings.py", block(DJANGO_CONTEXT))
    given = """
import django
from django.conf import settings
settings.configure(USE_I18N=True)
django.setup()
import django.db
from django.utils.translation import get_language as look
from blog.surroundings import in_language as around
"""

    assert run_script(given + AROUND_STEPS, cwd=tmp_path) == "de de de de\n"


def test_an_agent_that_one_already_has_runs_as_shown(tmp_path: Path) -> None:
    """People have agents before they have workflows."""
    served = """
import asyncio
from paigeant_celery.testing import WorkflowHarness
print(asyncio.run(WorkflowHarness().run([step])).outputs)
"""

    assert run_script(block(TEAM) + served, cwd=tmp_path) == "{'team.helper': 'Done.'}\n"


def test_the_celery_tasks_that_are_shown_run_as_steps(tmp_path: Path) -> None:
    """Whoever has tasks copies this around them."""
    served = """
import asyncio

from celery import Celery, signature

from paigeant_celery import TaskSpec
from paigeant_celery.testing import WorkflowHarness

app = Celery("shop")
named = [TaskSpec("shop.charge", [], {"order": 17}, step_id="payment"), signature("shop.receipt", args=("en",))]
for steps in (itinerary, named):
    print(asyncio.run(WorkflowHarness().run(steps, correlation_id="order-17")).outputs)
"""

    assert run_script(block(TILL) + served, cwd=tmp_path).splitlines() == [
        "{'shop.charge': {'order': 17, 'key': 'order-17.0'}, 'shop.receipt': 'de: order 17 is paid'}",
        "{'payment': {'order': 17, 'key': 'order-17.0'}, 'shop.receipt': 'en: order 17 is paid'}",
    ]


def test_the_conversations_of_the_page_are_kept_as_it_says(tmp_path: Path) -> None:
    """Two steps of a name are one history, and an id is another."""
    shown = """
import asyncio
from paigeant_celery.testing import WorkflowHarness

async def main():
    harness = WorkflowHarness()
    handle = harness.dispatch(itinerary)
    await harness.deliver()
    lamp, customer = await handle.conversation("lamp"), await handle.conversation(conversation_id="customer-7")
    print([len(lamp), len(customer), lamp[2]["parts"][0]["content"]])

asyncio.run(main())
"""

    assert run_script(block(DESK_TALK) + shown, cwd=tmp_path) == "[4, 2, 'Sum up what I told you.']\n"


def test_a_prompt_with_files_runs_as_shown(tmp_path: Path) -> None:
    """The model gets the parts as they stand there."""
    served = """
import asyncio
from paigeant_celery.testing import WorkflowHarness
from pydantic_ai import capture_run_messages

with capture_run_messages() as messages:
    asyncio.run(WorkflowHarness().run([step]))
print([getattr(part, "media_type", part) for part in messages[0].parts[0].content])
"""

    assert run_script(block(PICTURES) + served, cwd=tmp_path) == "['What differs?', 'image/png', 'image/png']\n"


def test_a_process_that_loads_no_agents_dispatches_as_shown(tmp_path: Path) -> None:
    """The step gets its deps and arguments, and reads the variables; the web process loads no agent library."""
    served = """
import asyncio, sys
print("pydantic_ai" in sys.modules, dispatcher.handle(correlation_id, transport).status_sync().remaining)
from paigeant_celery import ActivityExecutor

async def main():
    executors = [asyncio.create_task(ActivityExecutor(transport, n, "desk").start()) for n in ("writer", "shorten")]
    print((await dispatcher.handle(correlation_id, transport).result(timeout=30)).output)
    for executor in executors: executor.cancel()
    await asyncio.gather(*executors, return_exceptions=True)

asyncio.run(main())
"""
    (tmp_path / "desk.py").write_text(block(DESK), encoding="utf-8")

    printed = run_script(block(DISPATCHING) + served, cwd=tmp_path, cold=True).splitlines()

    assert printed == ["False ('writer', 'shorten')", "Dear…"]


def test_the_events_that_a_browser_reads_are_the_json_that_is_shown(tmp_path: Path) -> None:
    """Those who write the page have only the example to go by."""
    followed = """
import asyncio
from pydantic import TypeAdapter
from paigeant_celery import WorkflowResult, WorkflowStatus, activity
from paigeant_celery.testing import WorkflowHarness

@activity
def writer() -> str: return "a"

async def main():
    harness = WorkflowHarness()
    result = await harness.run([writer.activity(), writer.activity()], correlation_id="order-17")
    handle = harness.dispatch([writer.activity(), writer.activity()], correlation_id="order-17")
    lines = [line async for line in follow(handle)]
    rest = [line async for line in follow(handle, lines[1].split()[1])]
    print("".join(lines), end="")
    assert rest == lines[2:], rest
    TypeAdapter(WorkflowStatus).dump_json(handle.status_sync()), TypeAdapter(WorkflowResult).dump_json(result)

asyncio.run(main())
"""
    shown = json.loads(re.findall(r"```json\n(.*?)```", read("docs/operating.md"), re.DOTALL)[0])

    lines = run_script(block(FOLLOWING) + followed, cwd=tmp_path).split("\n\n")
    events = [json.loads(line.partition("data: ")[2]) for line in lines if line]

    assert [event["type"] for event in events] == [
        "started", "claimed", "completed", "claimed", "completed", "workflow_completed",
    ]  # fmt: skip
    assert {**events[2], "cursor": shown["cursor"], "at": shown["at"]} == shown
    assert list(events[2]) == list(shown)
    assert re.fullmatch(r"[\d-]+T[\d:.]+Z", events[2]["at"])


def test_workflows_are_listed_and_counted_as_shown() -> None:
    """The calls are copied into a program that looks for failed ones."""
    shown = "".join(f"    {line}\n" for line in block(LISTING).splitlines())
    source = f"""
import asyncio
from paigeant_celery import StepPolicy, WorkflowFailed, Workflows, activity
from paigeant_celery.testing import WorkflowHarness

@activity(policy=StepPolicy(final_on=[RuntimeError]))
def draft() -> str: raise RuntimeError("no ink")

async def main():
    harness = WorkflowHarness()
    for _ in range(60):
        try: await harness.run([draft.activity()])
        except WorkflowFailed: pass
    transport = harness.transport
{shown}
    print(len(page.items), page.next, dict(counts.states))

asyncio.run(main())
"""
    assert run_script(source) == "10 None {'failed': 60}\n"


def test_a_workflow_is_shown_on_a_screen_as_shown(tmp_path: Path) -> None:
    """A frontend that reads AG-UI needs no more than the example."""
    watched = """
import asyncio
from paigeant_celery import PaigeantAgent
from paigeant_celery.testing import WorkflowHarness

writer = PaigeantAgent("test", name="writer")

async def main():
    harness = WorkflowHarness()
    handle = harness.dispatch([writer.activity("Write.")], stream=True)
    await harness.deliver()
    async for line in screen(handle):
        print(line, end="")

asyncio.run(main())
"""
    lines = run_script(block(SCREEN) + watched, cwd=tmp_path).split("\n\n")
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line]

    assert [events[0]["type"], events[-1]["type"]] == ["RUN_STARTED", "RUN_FINISHED"]
    text = "".join(event["delta"] for event in events if event["type"] == "TEXT_MESSAGE_CONTENT")
    assert text == "success (no tool calls)"


def test_monitors_are_set_up_as_shown(tmp_path: Path) -> None:
    """The names are those of other packages, and a host copies them."""
    run_script(block(OPENTELEMETRY) + block(SENTRY), cwd=tmp_path)


def test_an_sdk_and_a_log_that_are_set_up_as_shown_say_what_happened_in_a_hop(tmp_path: Path) -> None:
    """What is copied from the page is all that it takes."""
    measured = """
import asyncio
import sys

from paigeant_celery import ActivityExecutor, WorkflowDispatcher, activity, get_transport

@activity
def draft() -> str:
    logging.getLogger("a.library").warning("a line")
    return "drafted"

async def main():
    transport, dispatcher = get_transport("inmemory"), WorkflowDispatcher()
    ran = await dispatcher.dispatch_workflow(transport, itinerary=[draft.activity()], correlation_id="w")
    executor = asyncio.create_task(ActivityExecutor(transport, "draft", __name__).start())
    await dispatcher.handle(ran, transport).result(20)
    executor.cancel()
    await asyncio.gather(executor, return_exceptions=True)

set_up()
handler.setFormatter(logging.Formatter(worker_log_format))
handler.setStream(sys.stdout)
logging.getLogger("a.library").addHandler(handler)
asyncio.run(main())
trace.get_tracer_provider().shutdown()
metrics.get_meter_provider().shutdown()
"""
    printed = run_script(block(TELEMETRY) + block(LOG_FORMAT) + block(LOG_FILTER) + measured, cwd=tmp_path)

    assert "WARNING/MainProcess] [w.0 draft] a line" in printed
    for name in ("dispatch workflow", "process paigeant.draft", "paigeant.hops", "messaging.process.duration"):
        assert f'"name": "{name}"' in printed


def test_a_process_without_agents_dispatches_the_three_agents_as_shown(
    tmp_path: Path, own_redis: Callable[..., RedisServer]
) -> None:
    """The example's README promises it for any process."""
    url = own_redis().url

    arguments = ("-A", "paigeant_celery", "worker", "-I", "examples.three_agents.agents")
    assert f"\ncelery {' '.join(arguments)}\n" in read("README.md")
    with worker(tmp_path, *arguments, PYTHONPATH=str(ROOT), PAIGEANT_REDIS_URL=url):
        printed = run_script(block(EXAMPLE_DISPATCH), cwd=tmp_path, PAIGEANT_REDIS_URL=url)

    assert re.match(r"\{'topic_finder': .*'joke_writer': .*'joke_judge': ", printed)


def test_any_process_may_watch_the_calls_of_an_examples_agent(
    tmp_path: Path, own_redis: Callable[..., RedisServer]
) -> None:
    """The events come from the worker's run, through the store."""
    there = {"PAIGEANT_REDIS_URL": own_redis().url, "RESEARCH_FOLDER": str(tmp_path)}

    arguments = ("-A", "paigeant_celery", "worker", "-I", "examples.durable_research.agents")
    with worker(tmp_path, *arguments, PYTHONPATH=str(ROOT), **there):
        printed = run_script(block(EXAMPLE_WATCH), cwd=tmp_path, **there).splitlines()

    assert printed[0].strip() == "started"
    assert printed[-1].strip() == "workflow_completed"
    assert sum(line == "agent call_made read" for line in printed) == 3
    assert len(list(tmp_path.glob("report-*.md"))) == 1


def test_the_configuration_that_an_example_shows_is_the_one_that_it_has() -> None:
    """A tuple in a tuple looks right, but no worker starts with it."""
    compared = """
from examples.existing_celery_app.celeryapp import app
assert (imports, paigeant_store_url) == (app.conf.imports, app.conf.paigeant_store_url), (imports, app.conf.imports)
"""

    run_script(block(EXAMPLE_CONFIGURATION) + compared, cwd=ROOT)


def test_every_setting_stands_in_its_page_with_its_default_and_in_the_configuration_file() -> None:
    """A setting that nobody can find might as well not exist, and a wrong default is worse."""
    fields = type(get_transport("inmemory").settings).model_fields
    defaults = {f"paigeant_{name}": field.default for name, field in fields.items()}
    shown = {name.strip("`"): meant(default) for name, default, _ in table("docs/settings.md", "key")}
    lines = re.findall(r"^(# )?(paigeant_\w+) = (.+)$", read("celeryconfig.py"), re.MULTILINE)
    unset = {name: ast.literal_eval(value) for comment, name, value in lines if comment}

    assert shown == defaults
    assert {name for _, name, _ in lines} == set(defaults)
    assert unset == {name: defaults[name] for name in unset}


def test_every_special_value_of_what_a_worker_serves_stands_in_its_table() -> None:
    """An undocumented one would be taken for the name of an activity."""
    special = get_args(get_args(type(get_transport("inmemory").settings).model_fields["consume"].annotation)[0])

    *rows, named = table("docs/hosts.md", "`paigeant_consume`")

    assert {meant(row[0]) for row in rows} == set(special)
    assert isinstance(meant(named[0]), tuple)


def test_every_state_of_a_workflow_stands_in_its_table() -> None:
    """Operators use it to decide what to do."""
    assert words(table("docs/operating.md", "state")) == set(get_args(get_type_hints(WorkflowStatus)["state"]))


def test_every_command_stands_in_its_table() -> None:
    """People look there for what they can do at night."""
    shown = {re.sub(r"( (--\w+ )?\[?[A-Z]+\]?)+$", "", word).removeprefix("celery -A shop paigeant ") for word in
             (row[0].strip("`") for row in table("docs/operating.md", "command"))}  # fmt: skip

    assert shown == set(commands(paigeant))


def test_every_type_of_event_stands_in_its_table() -> None:
    """Readers of events ask what they mean."""
    assert words(table("docs/operating.md", "type")) == set(names.EVENTS)
    assert words(table("docs/operating.md", "`why` of `resent`")) == set(get_args(ResentReason))


def test_every_reason_code_stands_in_a_table() -> None:
    """A dead letter or a failure tells a person only this word, which must not be mistaken for a class of errors."""
    headers = ("`failure.error_class`", "reason", "code", "code of a call")
    shown = set.union(*(words(table("docs/operating.md", header)) for header in headers))

    assert {word for word in shown if word.islower()} == set(names.REASONS)


def test_every_action_of_the_log_stands_in_its_table_with_its_meaning() -> None:
    """Alerts match on them."""
    assert {action.strip("`"): meaning for action, meaning in table("docs/operating.md", "action")} == names.ACTIONS


@pytest.mark.parametrize(("document", "sentence", "value"), FIGURES)
def test_a_figure_in_a_sentence_is_the_one_that_the_code_has(document: str, sentence: str, value: float) -> None:
    """Someone changes the number in one place, and believes the page in the other."""
    shown = f"{value:,g}".replace(",", " ") if value >= 10_000 else f"{value:g}"

    assert sentence.format(shown) in " ".join(read(document).split())


def test_the_page_on_the_architecture_names_each_wing_and_face_and_no_file_that_is_not_there() -> None:
    """Its readers know nothing else about the code."""
    page = read("docs/architecture.md")
    wings = {file.parent.name for file in PACKAGE.glob("*/__init__.py")} - {"cli", "flower"}
    faces = {file.name for file in PACKAGE.glob("*.py")} | {"cli/", "flower/"}

    assert words(table("docs/architecture.md", "wing")) == {f"{wing}/" for wing in wings}
    assert words(table("docs/architecture.md", "face")) == faces
    assert [name for name in FILE.findall(page) if not (PACKAGE / name).is_file()] == []


def test_each_question_at_night_says_how_many_files_answer_it() -> None:
    """Someone who was woken up wants to know how long it takes."""
    for question, files, number in table("docs/architecture.md", "question"):
        from_next_table = files.count("(#where-a-refusal-comes-from)")
        assert int(number.split()[-1]) == len(FILE.findall(files)) + from_next_table, question


def test_the_files_that_a_question_at_night_names_answer_it() -> None:
    """A file that was right before the code moved costs the time that the page is to save."""
    rows = {question: FILE.findall(files) for question, files, _ in table("docs/architecture.md", "question")}
    missing = [
        (question, file, text)
        for question, answers in ANSWERS.items()
        for file, texts in answers.items()
        for text in texts
        if text not in read(f"paigeant_celery/{file}")
    ]

    assert rows == {question: list(answers) for question, answers in ANSWERS.items()}
    assert missing == []


def test_each_refusal_comes_from_the_files_that_its_table_names() -> None:
    """A dead letter tells only the code; this leads from there to the line."""
    rows = [(re.findall(r"`(\w+)`", codes), FILE.findall(files)) for _, codes, files in
            table("docs/architecture.md", "what was looked at")]  # fmt: skip
    wrong = [
        (reason, files)
        for reasons, files in rows
        for reason in reasons
        if not any(f'"{reason}"' in read(f"paigeant_celery/{file}") for file in files)
    ]

    assert wrong == []
    assert {reason for reasons, _ in rows for reason in reasons} == words(table("docs/operating.md", "reason"))
