"""How commands print and end."""

from __future__ import annotations

import io
import json
import os
import pty
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from datetime import UTC, datetime
from decimal import Decimal
from io import StringIO
from types import MappingProxyType, SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from paigeant_celery import Unreachable
from paigeant_celery.cli.output import (
    Command,
    Exit,
    Group,
    Refused,
    Table,
    command,
    say_first,
    shown,
    shown_json,
    shown_text,
    tell,
    tell_next,
)
from paigeant_celery.cli.terminal import ORDERS
from paigeant_celery.core.errors import ConfigurationError, InvalidInput, StoreRequired, UnknownWorkflow, WorkflowFailed
from paigeant_celery.core.wait_errors import SignalRefused, UnknownWait

HIDDEN = "\x1b[2K\u202eflipped\x9b1m\x7f"  # a terminal would erase a line, turn the text around and change colours


def call(function: Callable[[], object], *arguments: str, **options: Any) -> Result:
    """Call a function as a command that takes a number, if it wants one."""
    made = click.argument("number", type=int, required=False, expose_value=False)(function)
    return CliRunner().invoke(command("made")(made), arguments, **options)


def test_a_document_is_one_json_value_in_ascii() -> None:
    """Whatever reads it needs no encoding, and nothing that a model wrote can give an order to a terminal."""
    found = {"text": f"größe {HIDDEN}\ud800", "at": datetime(2026, 1, 2, tzinfo=UTC), "cost": Decimal("0.0125")}

    done = call(lambda: tell({**found, "more": MappingProxyType({"a": (1, 2)})}, ["never made"]), "--json")

    assert done.exit_code == 0
    assert done.stdout.isascii()
    assert done.stdout.replace("\n", "").isprintable()
    assert json.loads(done.stdout) == {
        "text": f"größe {HIDDEN}\ud800", "at": "2026-01-02T00:00:00Z", "cost": "0.0125", "more": {"a": [1, 2]},
    }  # fmt: skip


def test_the_lines_of_a_stream_are_json_each() -> None:
    """A reader handles each as it comes, and the error that ends the stream as well."""

    def stream() -> None:
        tell_next({"number": 1}, ["one"])
        tell_next({"number": 2}, ["two"])
        raise Unreachable("store", "redis://here", "gone")

    told, read = call(stream), call(stream, "--json")

    assert (told.stdout, told.exit_code, read.exit_code) == ("one\ntwo\n", 5, 5)
    *numbers, error = [json.loads(line) for line in read.stdout.splitlines()]
    assert numbers == [{"number": 1}, {"number": 2}]
    assert (error["error"]["code"], error["error"]["exit_code"], read.stderr) == ("unreachable", 5, "")


@pytest.mark.parametrize(
    ("error", "code", "exit_code"),
    [
        (UnknownWorkflow("w", "redis://here"), "unknown_workflow", 3),
        (UnknownWait("redis://here"), "unknown_wait", 3),
        (InvalidInput("unknown_path", "path", "leads nowhere"), "unknown_path", 3),
        (InvalidInput("bad_cursor", "after", "is none"), "bad_cursor", 2),
        (ConfigurationError(["`a` is wrong", "`b` too"]), "configuration_error", 2),
        (StoreRequired("show"), "store_required", 2),
        (SignalRefused("workflow_ended", "w", "it ended"), "workflow_ended", 1),
        (WorkflowFailed("w", "step", "ValueError", "no"), "workflow_failed", 1),
        (Unreachable("store", "redis://here", "gone"), "unreachable", 5),
        (TimeoutError("not yet"), "timeout", 4),
        (Refused("as things stand", code="not_parked"), "not_parked", 1),
        (click.UsageError("typed wrongly"), "usage", 2),
        (click.ClickException("said by a library"), "refused", 1),
        (click.Abort(), "aborted", 1),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_an_error_is_one_line_or_a_document_and_has_the_code_of_its_kind(
    error: Exception, code: str, exit_code: int
) -> None:
    """A script needs to read no text to know whether to try again, to correct itself or to wake somebody."""

    def fail() -> None:
        raise error

    told, read = call(fail), call(fail, "--json")

    assert (told.exit_code, read.exit_code, told.stdout, read.stderr) == (exit_code, exit_code, "", "")
    assert told.stderr.splitlines()[-1].startswith(("Error: ", "Aborted"))
    document = json.loads(read.stdout)
    assert document == {"error": {"code": code, "text": document["error"]["text"], "exit_code": exit_code}}


@pytest.mark.parametrize("typed", [["--json", "five"], ["five", "--json"], ["--json", "--no-such-option"]])
def test_what_is_typed_wrongly_is_told_in_json_too(typed: list[str]) -> None:
    """The one error that comes before the command runs is no exception."""
    done = call(lambda: None, *typed)

    assert (done.exit_code, done.stderr, json.loads(done.stdout)["error"]["code"]) == (2, "", "usage")


def test_what_was_refused_may_have_more_to_say() -> None:
    """Who was faster, for example."""

    def fail() -> None:
        raise Refused("somebody was faster", code="answered", more={"first": {"by": "bob"}})

    assert json.loads(call(fail, "--json").stdout)["first"] == {"by": "bob"}


def test_an_interrupted_command_ends_as_shells_expect() -> None:
    """Whoever watches a workflow ends it with Ctrl-C, and no script takes that for the end of the workflow."""

    def wait() -> None:
        raise KeyboardInterrupt

    assert call(wait).exit_code == Exit.INTERRUPTED == 130


def test_a_question_does_not_stand_in_the_document() -> None:
    """It goes to the standard error, where a person sees it."""

    def ask() -> None:
        say_first(["this will happen"])
        tell({"done": True}, ["done"])

    told, read = call(ask), call(ask, "--json")

    assert (told.stdout, told.stderr) == ("this will happen\ndone\n", "")
    assert (json.loads(read.stdout), read.stderr) == ({"done": True}, "this will happen\n")


def test_a_table_is_plain_where_there_is_no_terminal() -> None:
    """`grep` and `awk` read it."""
    table = Table(("name", "state"), [("first", "queued"), (f"[red]{HIDDEN}", "done")])

    escaped = "[red]\\x1b[2K\\u202eflipped\\x9b1m\\x7f"
    assert call(lambda: tell({}, [table])).stdout.splitlines() == [
        f"{'name'.ljust(len(escaped))}  state",
        f"{'first'.ljust(len(escaped))}  queued",
        f"{escaped}  done",
    ]


@pytest.mark.parametrize("rich_is_there", [True, False])
def test_a_table_on_a_terminal_is_drawn_by_rich_if_it_is_there(
    rich_is_there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing in it is markup or an order to the terminal; without rich, it is plain."""
    if not rich_is_there:
        for name in [*filter(lambda name: name.partition(".")[0] == "rich", sys.modules), "rich.console"]:
            monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setenv("TERM", "xterm")
    theirs, ours = pty.openpty()

    @command()
    def made() -> None:
        tell({}, [Table(("name", "state"), [(f"[red]{HIDDEN}", "done")])])

    with os.fdopen(ours, "w") as terminal, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", terminal)
        made.main([], standalone_mode=False, obj=SimpleNamespace(no_color=True))
        terminal.flush()
        printed = ""
        while "done" not in printed:
            printed += os.read(theirs, 10_000).decode()
    os.close(theirs)

    assert "[red]\\x1b[2K\\u202eflipped\\x9b1m\\x7f" in printed
    assert "\x1b[2K" not in printed
    assert ("──" in printed) is rich_is_there


ANY = "Prêt\u00a0?\t東京\u3000駅 👩\u200d💻 می\u200cخواهم  "  # blanks, joiners and accents of languages


@pytest.mark.parametrize("text", [ANY, HIDDEN, f"{ANY}\n{HIDDEN}\r\n\n"])
def test_a_text_that_is_piped_stays_as_it_is(text: str) -> None:
    """A script that writes it to a file gets what the workflow gave, and not what is good for a screen."""
    done = call(lambda: tell({}, [shown_text(text)]))

    assert done.stdout_bytes.decode() == f"{text}\n"


def test_a_text_on_a_terminal_keeps_all_but_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read in its own language, and moves no cursor."""
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(isatty=lambda: True))

    assert shown_text(f"{ANY}\n{ANY}") == f"{ANY}\n{ANY}"
    assert shown_text(HIDDEN) == "\\x1b[2K\\u202eflipped\\x9b1m\\x7f"
    assert shown("a\nb\tc\u2028d\ud800") == "a\\nb\\tc\\u2028d\\ud800"


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1", "UTF8"])
def test_a_value_is_json_whatever_is_in_it_and_whatever_the_encoding(
    monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    """`jq` reads it, and a terminal shows it."""
    written = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="backslashreplace")
    monkeypatch.setattr(sys, "stdout", written)
    value = {"any": ANY, "hidden": f"{HIDDEN}\ud800", "lines": ["a\nb", 1, None]}

    for indent in (None, 2):
        text = shown_json(value, indent=indent)
        assert json.loads(text.encode(encoding, errors="backslashreplace").decode(encoding)) == value
        assert ORDERS.sub("", text.replace("\n", "")) == text.replace("\n", "")
        assert (ANY.replace("\t", "\\t") in text) is encoding.lower().startswith("utf")


ROW = ("3b2f6a54-0d6c-4c3e-9a35-0b8f8a6f7c11", "running", "draft", "1", "2026-11-29 20:46:43", "waits " * 20)
COLUMNS = ("workflow", "state", "step", "attempt", "recorded (UTC)", "about")


@pytest.mark.parametrize("width", [20, 80, 115, 120, 400])
def test_ids_stand_in_one_line_however_narrow_a_terminal_is(width: int) -> None:
    """Whoever is on call copies them, and a terminal has 80 columns."""
    written = StringIO()
    console = Console(file=written, width=width, no_color=True)

    with redirect_stdout(written):
        Table(COLUMNS, [ROW, ("order-17", *ROW[1:])]).print_on(console)

    lines = [line.split() for line in written.getvalue().splitlines()]
    (whole,) = [line for line in lines if line and line[0] == ROW[0]]
    assert whole[:6] == [*ROW[:4], *ROW[4].split()]
    assert sum(line.count("waits") for line in lines) == 40
    longest = max(map(len, written.getvalue().splitlines()))
    assert longest <= width or width < 115, "a table that fits is folded, and another is plain"


def test_a_group_makes_such_commands() -> None:
    """A command that is added to a group of them takes `--json` like the others."""

    @click.group(cls=Group)
    def outer() -> None:
        """Group."""

    @outer.group()
    def inner() -> None:
        """Group in a group."""

    @inner.command()
    def say() -> None:
        """Say."""
        tell({"said": 1})

    assert isinstance(say, Command)
    assert json.loads(CliRunner().invoke(outer, ["inner", "say", "--json"]).stdout) == {"said": 1}
