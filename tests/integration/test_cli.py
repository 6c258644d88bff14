"""The commands `celery -A … paigeant …`."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import pytest
from celery import Celery
from click.testing import CliRunner, Result
from pydantic_ai.messages import ModelResponse, TextPart
from pydantic_ai.models.function import FunctionModel
from pydantic_ai.usage import RequestUsage

from paigeant_celery import PaigeantAgent, StepPolicy, activity, install
from paigeant_celery.activities.registry import registry
from paigeant_celery.cli import paigeant
from paigeant_celery.store.port import Closing, Store
from paigeant_celery.testing import WorkflowHarness, workflow_harness
from tests.support.processes import script_environment
from tests.support.starting import run

__all__ = ["workflow_harness"]


@pytest.fixture(autouse=True)
def own_registry() -> Iterator[None]:
    """Give each test an empty registry."""
    with registry.isolated():
        yield


def call(app: Celery, *arguments: str) -> Result:
    """Call a command as the `celery` program does."""
    return CliRunner().invoke(paigeant, arguments, obj=SimpleNamespace(app=app))


@pytest.fixture
def host() -> Iterator[Callable[..., Celery]]:
    """Make applications in which we are installed."""
    with ExitStack() as stack:

        def make(store: Store | None = None, **configuration: object) -> Celery:
            app = stack.enter_context(Celery("shop", broker="memory://localhost//", set_as_current=False))
            app.conf.update(configuration)
            install(app, store=store)
            return app

        yield make


def test_show_says_where_a_workflow_waits(host: Callable[..., Celery], workflow_harness: WorkflowHarness) -> None:
    """ "Where is it?" is the first question of an incident."""

    @activity
    def first() -> int:
        return 1

    @activity
    def second() -> int:
        return 2

    workflow_harness.dispatch([first.activity(), second.activity()], correlation_id="w")
    asyncio.run(workflow_harness.deliver(1))

    shown = call(host(workflow_harness.store), "show", "w")

    assert shown.exit_code == 0
    lines = [re.sub(r"\d[\d.:-]+( \d[\d:]+ UTC)?", "N", line) for line in shown.output.splitlines()]
    assert lines[:6] == [
        "workflow w: queued",
        "  created:   N, last changed: N",
        "  current:   second waits on queue paigeant.second for a worker (attempts spent: 0)",
        "  steps:",
        "    first: completed in N s",
        "    second: queued",
    ]
    assert [line.split()[2:4] for line in shown.output.splitlines()[6:]] == [
        ["started", "w.0"], ["claimed", "w.0"], ["completed", "w.0"],
    ]  # fmt: skip
    assert call(host(workflow_harness.store), "show", "w", "--no-events").output.count("\n") == 6


def test_show_says_what_a_workflow_used(host: Callable[..., Celery], workflow_harness: WorkflowHarness) -> None:
    """Someone who is asked why the bill is high looks here first."""
    usage = RequestUsage(input_tokens=10, output_tokens=5, cost=Decimal("0.0125"))
    model = FunctionModel(lambda messages, info: ModelResponse(parts=[TextPart("done")], usage=usage))
    talker = PaigeantAgent(model, name="talker")
    workflow_harness.dispatch([talker.activity("talk")], correlation_id="w")
    asyncio.run(workflow_harness.deliver())

    shown = call(host(workflow_harness.store), "show", "w", "--no-events").output

    assert "  used:      requests=1 tool_calls=0 input_tokens=10 output_tokens=5 cost=$0.0125\n" in shown


def test_show_keeps_what_an_agent_says_to_itself(
    host: Callable[..., Celery], workflow_harness: WorkflowHarness
) -> None:
    """A shell shows what happened; prompts and answers are not for its scrollback."""

    @activity
    def talk() -> int:
        closing = Closing(hop_id="w.0", owner="harness", fence=1)
        return int(workflow_harness.store.publish(closing, [{"event": "text", "data": "hunter2"}] * 200))

    workflow_harness.dispatch([talk.activity()], correlation_id="w")
    asyncio.run(workflow_harness.deliver())

    shown = call(host(workflow_harness.store), "show", "w").output

    assert [line.split()[2] for line in shown.splitlines()[4:]] == [
        "started", "claimed", "completed", "workflow_completed",
    ]  # fmt: skip
    assert "hunter2" not in shown


def test_show_says_why_a_workflow_failed(host: Callable[..., Celery], workflow_harness: WorkflowHarness) -> None:
    """Flower shows the class of an error; its text and the line that raised it are here."""

    @activity(policy=StepPolicy(max_attempts=1))
    def divide(by: int) -> float:
        return 1 / by

    workflow_harness.dispatch([divide.activity(by=0)], correlation_id="w")
    asyncio.run(workflow_harness.deliver(1))

    app = host(workflow_harness.store)
    shown = call(app, "show", "w", "--no-events", "--errors")

    line = divide.function.__code__.co_firstlineno + 2
    first, _, *lines = shown.output.splitlines(keepends=True)
    assert "".join([first, *lines]) == (
        "workflow w: parked\n"
        "  failed at: divide: ZeroDivisionError: division by zero\n"
        "    Traceback (most recent call last):\n"
        f'      File "{__file__}", line {line}, in {divide.__qualname__}\n'
        "    ZeroDivisionError: division by zero\n"
        "  steps:\n"
        "    divide: parked\n"
    )
    everybody_sees = call(app, "show", "w", "--no-events").output
    assert everybody_sees == re.sub(
        "(: | {4})ZeroDivisionError: division by zero", r"\1ZeroDivisionError", shown.output
    )


@pytest.mark.parametrize(
    ("charset", "text"),
    [
        ("latin-1", r"größe \u2192 \u732b \U0001f408"),
        ("cp1252", r"größe \u2192 \u732b \U0001f408"),
        ("shift_jis", r"gr\xf6\xdfe → 猫 \U0001f408"),
        ("utf-8", "größe → 猫 🐈"),
    ],
)
def test_every_command_goes_to_its_end_whatever_the_terminal_can_show(
    host: Callable[..., Celery], workflow_harness: WorkflowHarness, charset: str, text: str
) -> None:
    """An error quotes what users wrote, and a terminal or a pipe on a server may know only Western letters."""

    @activity(policy=StepPolicy(max_attempts=1), queue="größe→猫")
    def refuse() -> None:
        raise ValueError("größe → 猫 🐈")

    workflow_harness.dispatch([refuse.activity()], correlation_id="w")
    asyncio.run(workflow_harness.deliver(1))
    app, runner = host(workflow_harness.store), CliRunner(charset=charset)
    listed = runner.invoke(paigeant, ["letters", "list"], obj=SimpleNamespace(app=app)).output
    letter = listed.splitlines()[1].split()[0]

    shown = {
        arguments: runner.invoke(paigeant, arguments, obj=SimpleNamespace(app=app))
        for arguments in (("show", "w", "--errors"), ("letters", "list"), ("letters", "show", letter), ("activities",))
    }

    assert [(done.exit_code, done.exception) for done in shown.values()] == [(0, None)] * 4
    output = shown["show", "w", "--errors"].stdout_bytes.decode(charset)
    assert text in output
    assert " parked w.0" in output


def test_a_parked_workflow_is_retried_and_a_running_one_cancelled(
    host: Callable[..., Celery], workflow_harness: WorkflowHarness
) -> None:
    """A person on call at night needs no Python for it."""

    @activity(policy=StepPolicy(max_attempts=1))
    def divide(by: int) -> float:
        return 1 / by

    workflow_harness.dispatch([divide.activity(by=0)], correlation_id="w")
    asyncio.run(workflow_harness.deliver(1))

    def said(command: str) -> tuple[int, str]:
        called = call(host(workflow_harness.store), command, "w")
        return called.exit_code, called.output

    assert said("retry") == (0, "workflow w goes on\n")
    assert said("retry") == (1, "Error: workflow w is not parked\n")
    assert said("cancel") == (0, "workflow w is cancelled\n")
    assert said("cancel") == (0, "workflow w is cancelled\n")
    assert said("retry") == (1, "Error: workflow w is not parked\n")
    assert call(host(workflow_harness.store), "cancel", "v").exit_code == 3


@pytest.mark.parametrize("command", [("retry", "w"), ("letters", "redrive")])
def test_a_hop_begins_anew_where_its_journal_is_discarded(
    host: Callable[..., Celery], workflow_harness: WorkflowHarness, command: tuple[str, ...]
) -> None:
    """This is the way out if its code changed too much, and only on request, because it costs money."""

    @activity(policy=StepPolicy(max_attempts=1))
    def divide(by: int) -> float:
        closing = Closing(hop_id="w.0", owner="harness", fence=workflow_harness.store._records.hops["w.0"].hop.fence)
        workflow_harness.store.record(closing, {"call": "1"})
        return 1 / by

    workflow_harness.dispatch([divide.activity(by=0)], correlation_id="w")

    def journal_after(*options: str) -> Mapping[str, str]:
        asyncio.run(workflow_harness.deliver())
        (letter,) = workflow_harness.store.dead_letters(after=None, limit=9)
        which = (letter.letter_id,) if command[0] == "letters" else ()
        called = call(host(workflow_harness.store), *command, *which, *options)
        assert called.exit_code == 0, called.output
        workflow_harness.sweep()
        return workflow_harness.store.journal("w.0")

    assert journal_after() == {"call": "1"}
    assert journal_after("--discard-journal") == {}


def test_dead_letters_are_listed_shown_redriven_and_dropped(
    host: Callable[..., Celery], workflow_harness: WorkflowHarness
) -> None:
    """What waits for a person can be found and restarted from a shell, and nothing confidential is printed."""

    @activity(policy=StepPolicy(max_attempts=1))
    def divide(by: int) -> float:
        return 1 / by

    steps = [divide.activity(by=0)]
    for correlation_id in ("v", "w"):
        workflow_harness.dispatch(steps, correlation_id=correlation_id, variables={"secret": "hunter2"})
    asyncio.run(workflow_harness.deliver())
    newest, oldest = workflow_harness.store.dead_letters(after=None, limit=9)

    def said(*arguments: str) -> str:
        called = call(host(workflow_harness.store), "letters", *arguments)
        assert called.exit_code == 0, called.output
        return called.output

    head, *listed = said("list").splitlines()
    assert head.split() == ["letter", "at", "(UTC)", "reason", "about"]
    assert [line.split()[0::3] for line in listed] == [
        [newest.letter_id, "ZeroDivisionError"],
        [oldest.letter_id, "ZeroDivisionError"],
    ]
    shown = said("show", newest.letter_id)
    assert "hop_id     w.0\n" in shown
    assert f"\nat         {newest.at:%Y-%m-%d %H:%M:%S} UTC\n" in shown
    assert "\nqueue      -\n" in shown
    assert "None" not in shown
    assert f", in {divide.__qualname__}\n    ZeroDivisionError\n" in shown
    assert "hunter2" not in shown
    assert said("redrive", newest.letter_id) == f"the hop of dead letter {newest.letter_id} goes on\n"
    assert said("drop", oldest.letter_id) == f"dead letter {oldest.letter_id} is deleted\n"
    assert said("list") == "no dead letters\n"
    for command in ("show", "redrive", "drop"):
        assert call(host(workflow_harness.store), "letters", command, "x").exit_code == 3


@pytest.mark.parametrize(
    ("configuration", "exit_code", "said"),
    [
        ({"paigeant_store_url": "memory://"}, 3, "the store memory:// knows no workflow 'w'"),
        ({}, 2, "set `paigeant_store_url`"),
        ({"paigeant_store_url": "redis://127.0.0.1:1/0"}, 5, "cannot reach the store at redis://127.0.0.1:1/0"),
        ({"paigeant_leese": 3, "paigeant_store_url": "mysql://x"}, 2, "`paigeant_leese` is not a setting"),
        ({"paigeant_store_url": "mysql://x"}, 2, "mysql"),
    ],
    ids=["unknown", "no-store", "store-down", "wrong-settings", "wrong-url"],
)
def test_show_ends_with_one_sentence_where_it_can_show_nothing(
    host: Callable[..., Celery], configuration: dict[str, object], exit_code: int, said: str
) -> None:
    """The reader gets a remedy, not a traceback."""
    shown = call(host(**configuration), "show", "w")

    assert shown.exit_code == exit_code
    assert isinstance(shown.exception, SystemExit)
    assert shown.output.startswith("Error: ")
    assert said in shown.output


def test_activities_lists_what_is_loaded_and_what_it_is_told_to_load(
    host: Callable[..., Celery], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One can see which queue an agent has without starting a worker."""
    (tmp_path / "listed_agents.py").write_text(
        "from paigeant_celery import activity\n\n\n@activity(queue='slow')\ndef count() -> int:\n    return 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    app = host(paigeant_store_url="memory://")

    assert "no activity is served" in call(app, "activities").output
    listed = call(app, "activities", "-I", "listed_agents")

    assert (listed.exit_code, listed.output) == (
        0,
        "[paigeant_celery] mode: in-process, store: memory://\n  . count (function) from slow\n"
        "  . _flow (flow) from paigeant._flow\n",
    )  # fmt: skip
    sys.modules.pop("listed_agents")


def test_a_shell_lists_the_activities_of_the_stand_alone_app(tmp_path: Path) -> None:
    """Nothing is imported before, unlike in the tests above, and no server need run."""
    done = run(
        [sys.executable, "-m", "celery", "-A", "paigeant_celery", "paigeant", "activities", "-I", "press"],
        cwd=tmp_path, environment={**script_environment(), "PAIGEANT_REDIS_URL": "redis://127.0.0.1:1/0"}, within=40.0,
        cold=True,
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (0, "")
    first, *listed = done.stdout.splitlines()
    assert first == "[paigeant_celery] mode: durable, store: redis://127.0.0.1:1/0"
    assert "  . draft (agent) from paigeant.draft" in listed


def test_activities_tells_of_agents_that_nothing_names(host: Callable[..., Celery]) -> None:
    """A workflow for one of them would wait forever, and no log would say why."""
    team = {"writer": PaigeantAgent("test")}

    listed = call(host(), "activities").output

    assert f"an agent or a task made at {__file__}:" in listed
    assert "has no name and is not served; pass `name=` to it\n" in listed
    assert team["writer"].name is None


def test_activities_names_a_module_that_it_cannot_import(host: Callable[..., Celery]) -> None:
    """A misspelt module does not give a traceback."""
    listed = call(host(), "activities", "-I", "no_such_module")

    assert listed.exit_code == 2
    assert listed.output.startswith("Error: cannot import 'no_such_module': ")


def test_the_commands_are_found_by_celery() -> None:
    """The entry point brings them into the program that operators know."""
    from celery.bin.celery import celery

    assert celery.commands["paigeant"] is paigeant
