"""The commands that begin a workflow at a step of another one, and dump a hop."""

from __future__ import annotations

import asyncio
import json
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from celery import Celery
from click.testing import CliRunner, Result
from pydantic_ai.models.test import TestModel

from paigeant_celery import PaigeantAgent, activity, install
from paigeant_celery.activities.registry import registry
from paigeant_celery.cli import paigeant
from paigeant_celery.core.replays import read_dump
from paigeant_celery.core.waits import make_token
from paigeant_celery.testing import WorkflowHarness, workflow_harness
from tests.support.command_page import documented, same_shape
from tests.support.processes import script_environment
from tests.support.starting import run

__all__ = ["workflow_harness"]

Call = Callable[..., Result]


@pytest.fixture(autouse=True)
def own_registry() -> Iterator[None]:
    """Give each test an empty registry."""
    with registry.isolated():
        yield


@pytest.fixture
def call(workflow_harness: WorkflowHarness) -> Iterator[Call]:
    """Call a command as the `celery` program does."""
    with Celery("shop", broker="memory://localhost//", set_as_current=False) as app:
        install(app, store=workflow_harness.store)

        def called(*arguments: str, stdin: str | None = None) -> Result:
            return CliRunner().invoke(paigeant, arguments, obj=SimpleNamespace(app=app), input=stdin)

        yield called


@pytest.fixture
def writer(workflow_harness: WorkflowHarness) -> PaigeantAgent[None, str]:
    """An agent, and a workflow `w` of a function and two steps of the agent, which has completed."""

    @activity
    def first() -> str:
        return "one"

    writer: PaigeantAgent[None, str] = PaigeantAgent(TestModel(custom_output_text="it's said"), name="writer")
    steps = [first.activity(), writer.activity("a"), writer.activity("b")]
    workflow_harness.dispatch(steps, correlation_id="w")
    asyncio.run(workflow_harness.deliver())
    return writer


def test_a_fork_begins_where_it_is_told(
    workflow_harness: WorkflowHarness, writer: PaigeantAgent[None, str], call: Call
) -> None:
    """At night the second step had a wrong prompt; the first is not repeated."""
    done = call("fork", "w", "--from", "writer", "--prompt", "better", "--id", "f")
    again = json.loads(call("fork", "w", "--from", "writer", "--prompt", "better", "--id", "f", "--json").output)
    shown = call("show", "f", "--no-workers").output

    assert (done.exit_code, done.output) == (0, "workflow f begins at writer of w\n")
    assert again == {"correlation_id": "f", "from": {"correlation_id": "w", "step": "writer"}}
    assert "  fork of:   w, from writer on\n" in shown
    assert "    first: completed in " in shown
    assert "    writer: queued" in shown
    assert " forked f.1 step=writer from=w\n" in shown
    assert json.loads(call("show", "f", "--no-workers", "--json").output)["origin"]["step"] == "writer"


@pytest.mark.parametrize(
    ("arguments", "ends", "says"),
    [
        (("nobody", "--from", "a"), 3, "knows no workflow 'nobody'"),
        (("w", "--from", "wirter"), 3, "did you mean 'writer'"),
        (("w", "--from", "first", "--prompt", "x"), 2, "no step of an agent"),
        (("w", "--from", "writer", "--id", "w"), 1, "'w'"),
        (("w",), 2, "--from"),
    ],
)
def test_a_fork_that_cannot_begin_says_why(
    writer: PaigeantAgent[None, str], call: Call, arguments: tuple[str, ...], ends: int, says: str
) -> None:
    """A script tells a typing error from a workflow that is gone."""
    done = call("fork", *arguments)

    assert done.exit_code == ends
    assert says in done.output


def test_a_fork_runs_the_steps_of_a_document(
    workflow_harness: WorkflowHarness, writer: PaigeantAgent[None, str], call: Call, tmp_path: Path
) -> None:
    """Export, correct two lines, fork: the first step is not repeated, and what was changed is printed."""
    file = tmp_path / "w.json"
    exported = call("export", "w").stdout
    file.write_text(exported.replace('"a"', '"better"').replace('"b"', '"better too"'))

    done = call("fork", "w", "--from", "writer", "--document", str(file), "--id", "f")
    again, told = (
        call("fork", "w", "--from", "writer", "--document", "-", "--id", "f", "--json", *more, stdin=file.read_text())
        for more in ((), ("--values",))
    )
    workflow_harness.skip(60)  # the command sends to a broker that nobody reads
    asyncio.run(workflow_harness.deliver())

    assert (done.exit_code, done.output.splitlines()) == (
        0,
        [
            "~ itinerary.writer.prompt: changed",
            "~ itinerary.writer-2.prompt: changed",
            "workflow f begins at writer of w",
        ],
    )
    plain, by_document = documented("fork")
    assert same_shape(by_document, json.loads(again.stdout))
    assert [change["after"] for change in json.loads(told.stdout)["changes"]] == ["better", "better too"]
    assert same_shape(plain, json.loads(call("fork", "w", "--from", "writer", "--json").stdout))
    shown = json.loads(call("show", "f", "--no-workers", "--json").stdout)
    assert [step["state"] for step in shown["steps"]] == ["completed"] * 3
    assert shown["usage"]["requests"] == 2
    same = call("fork", "w", "--from", "writer", "--document", "-", stdin=exported).stdout.splitlines()
    assert same[0] == "the document changes nothing"


@pytest.mark.parametrize(
    ("arguments", "old", "new", "ends", "code", "says"),
    [
        ((), '"step_id": "first"', '"step_id": "frist"', 2, "invalid_document", "or fork at 'frist'"),
        ((), '"correlation_id": "w"', '"correlation_id": "x"', 2, "invalid_document", "exported from workflow 'x'"),
        ((), '"itinerary"', '"itinery"', 2, "invalid_document", "did you mean `itinerary`?"),
        ((), '"step_id": "writer"', '"step_id": "author"', 2, "unknown_path", "put it back under this id"),
        ((), '"version": 1', '"version": ', 2, "invalid_document", ""),
        (("--from", "nobody"), "a", "a", 3, "unknown_path", "there is no step 'nobody'"),
        (("--prompt", "x"), "a", "a", 2, "usage", "leave `--prompt` out"),
        (("--document", "missing.json"), "a", "a", 2, "unreadable_file", "missing.json"),
    ],
)
def test_a_document_that_cannot_be_used_is_told_as_by_lint(
    writer: PaigeantAgent[None, str],
    call: Call,
    arguments: tuple[str, ...],
    old: str,
    new: str,
    ends: int,
    code: str,
    says: str,
) -> None:
    """With its path and what to do; nothing has begun."""
    text = call("export", "w").stdout.replace(old, new, 1)

    refused = call("fork", "w", "--from", "writer", "--document", "-", "--id", "f", *arguments, stdin=text)
    told = call("fork", "w", "--from", "writer", "--document", "-", "--json", *arguments, stdin=text)

    assert (refused.exit_code, told.exit_code) == (ends, ends)
    assert says in refused.stderr
    assert json.loads(told.stdout)["error"]["code"] == code
    assert ("findings" in json.loads(told.stdout)) == (ends == 2 and code not in ("usage", "unreadable_file"))
    assert call("show", "f").exit_code == 3


def test_a_dump_is_a_script_whatever_the_texts_in_it(
    writer: PaigeantAgent[None, str], call: Call, tmp_path: Path
) -> None:
    """Prompts and answers have quotes and backslashes, and the script has them in a text."""
    file = tmp_path / "step.py"

    written = call("replay", "dump", "w", "writer", "--output", str(file), "-I", "no.such.module")
    printed = call("replay", "dump", "w", "writer", "-I", "no.such.module").output

    assert written.output == f"step writer of workflow w: run `python {file}` where the code of the agent is\n"
    assert file.read_text().replace(file.name, "replay.py") == printed
    assert printed.isascii()
    assert "it\\u0027s said" in printed
    done = run([sys.executable, str(file)], cwd=tmp_path, environment=script_environment(), within=60.0, cold=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "cannot be replayed: No module named 'no'\n"
    refused = call("replay", "dump", "w", "writer", "--output", str(tmp_path / "no" / "step.py"))
    assert refused.exit_code == 1
    assert "cannot be written" in refused.output


def test_a_dump_answers_no_wait_in_either_form(
    writer: PaigeantAgent[None, str], workflow_harness: WorkflowHarness, call: Call, tmp_path: Path
) -> None:
    """A prompt may quote the link with which somebody approves; a dump goes to whoever mends the code."""
    token = make_token("w.0", "secret-of-the-wait")
    workflow_harness.dispatch([writer.activity(f"Send them https://shop.test/{token}")], correlation_id="told")
    asyncio.run(workflow_harness.deliver())
    file = tmp_path / "step.py"

    printed, read = call("replay", "dump", "told").output, call("replay", "dump", "told", "--json").output
    call("replay", "dump", "told", "--output", str(file))

    for text in (printed, read, file.read_text()):
        assert "shop.test/w.0~" in text
        assert "secret-of-the-wait" not in text
    assert read_dump(json.loads(read)["dump"]).path == "writer"


def test_a_dump_is_readable_for_nobody_else_also_in_the_place_of_another_file(
    writer: PaigeantAgent[None, str], call: Call, tmp_path: Path
) -> None:
    """It has what customers wrote; a file that was there before may be open for all."""
    target = tmp_path / "target.py"
    target.write_text("old")
    target.chmod(0o644)
    file = tmp_path / "step.py"
    file.symlink_to(target)

    with target.open() as opened_before:
        assert call("replay", "dump", "w", "writer", "--output", str(file)).exit_code == 0
        assert opened_before.read() == "old"

    assert "run_script" in file.read_text()
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert sorted(each.name for each in tmp_path.iterdir()) == ["step.py", "target.py"]
    assert call("replay", "dump", "w", "writer", "--output", "/dev/null").exit_code == 0
    assert Path("/dev/null").is_char_device()


def test_a_step_of_a_function_is_not_dumped(writer: PaigeantAgent[None, str], call: Call) -> None:
    """Its code would do for real what it does."""
    done = call("replay", "dump", "w", "first", "--json")

    assert done.exit_code == 2
    assert json.loads(done.output)["error"]["code"] == "not_recorded"
