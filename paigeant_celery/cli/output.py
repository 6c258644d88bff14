"""How every command prints: text for people, with `--json` one JSON document, and an exit code that scripts can use.

`docs/commands.md` describes all of it. A command gives both forms to `tell`: the document, and the lines for people,
which are made only if they are printed. What it cannot do it says by raising `Refused`, or any error of this package.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from enum import IntEnum
from typing import IO, Any, Literal, TypeAlias

import click

from paigeant_celery.cli.terminal import Table, print_text, shown, shown_json, shown_lines, shown_text

__all__ = [
    "Command",
    "Exit",
    "Group",
    "Refused",
    "Table",
    "command",
    "ended_with",
    "refusal",
    "say_first",
    "shown",
    "shown_json",
    "shown_lines",
    "shown_text",
    "tell",
    "tell_next",
    "tell_piece",
]

ASKED_FOR = "paigeant_celery.json"  # where click keeps, for one call of a command, the form of JSON that is wanted

Form: TypeAlias = Literal["document", "line"]


class Exit(IntEnum):
    """What a command ends with."""

    FINE = 0
    FAILED = 1  # it could not be done as things stand; or what was looked at has failed, or something is wrong with it
    USAGE = 2  # what was typed, or the configuration, cannot work
    UNKNOWN = 3  # there is no such workflow, step, wait or letter
    TIMEOUT = 4  # it did not come about in the time that was given
    UNREACHABLE = 5  # the store or the broker is away; the same command may work later
    INTERRUPTED = 130  # Ctrl-C, as shells have it


class Refused(click.ClickException):
    """What ends a command that cannot do what it was asked: one line, or a document with `error`, and the exit code.

    `code` is a fixed word. `more` stands beside `error` in the document.
    """

    def __init__(
        self, text: str, *, code: str, ends: int = Exit.FAILED, more: Mapping[str, object] | None = None
    ) -> None:
        super().__init__(text)
        self.code, self.more = code, dict(more or {})
        self.exit_code = int(ends)  # type: ignore[misc]  # click reads it from the instance, as that of its own `Exit`
        self.form: Form | None = None

    def show(self, file: IO[Any] | None = None) -> None:
        """Print it: for a person to the standard error, as a document to where the document is expected."""
        if self.form is None:
            super().show(file)
            return
        error = {"code": self.code, "text": self.message, "exit_code": self.exit_code}
        click.echo(_json({"error": error, **self.more}, self.form))


class Command(click.Command):
    """A command that takes `--json`, and ends as `docs/commands.md` says whatever becomes of it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.params.append(
            click.Option(
                ["--json"],
                is_flag=True,
                expose_value=False,
                callback=_want_json,
                help="Print JSON, also for an error.",
            )
        )

    def make_context(self, info_name: str | None, args: list[str], *more: Any, **extra: Any) -> click.Context:
        """Read what was typed; what is wrong with it is told as every other error is."""
        form: Form | None = "document" if "--json" in args else None
        try:
            return super().make_context(info_name, args, *more, **extra)
        except click.UsageError as error:
            raise _told(error, form) from error

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an error ends it with its text, or a document, and the exit code of its kind."""
        from paigeant_celery.core.errors import PaigeantError

        try:
            return super().invoke(ctx)
        except (PaigeantError, TimeoutError) as error:
            raise _told(refusal(error), _form(ctx)) from error
        except click.ClickException as error:
            raise _told(error, _form(ctx)) from error
        except click.Abort as error:
            if _form(ctx) is None:
                raise
            raise _told(Refused("aborted", code="aborted"), _form(ctx)) from error
        except KeyboardInterrupt:
            ctx.exit(Exit.INTERRUPTED)


def _told(error: click.ClickException, form: Form | None) -> click.ClickException:
    """Return what ends a command so that it is told in a form; None is that of people."""
    if form is None:
        return error
    if not isinstance(error, Refused):
        code = "usage" if isinstance(error, click.UsageError) else "refused"
        error = Refused(error.format_message(), code=code, ends=error.exit_code)
    error.form = form
    return error


class Group(click.Group):
    """A group of such commands."""

    command_class = Command
    group_class = type


def command(name: str | None = None, **options: Any) -> Callable[[Callable[..., Any]], click.Command]:
    """Make a command of a function, as `click.command` does."""
    return click.command(name, cls=Command, **options)


def refusal(error: Exception) -> Refused:
    """Return what ends a command because of an error."""
    from paigeant_celery.core.errors import (
        ConfigurationError,
        InvalidInput,
        StoreRequired,
        TransientError,
        UnknownTransport,
        UnknownWorkflow,
    )
    from paigeant_celery.core.wait_errors import UnknownWait

    match error:
        case UnknownWorkflow() | UnknownWait() | InvalidInput(reason="unknown_path"):
            ends = Exit.UNKNOWN
        case TransientError():
            ends = Exit.UNREACHABLE
        case ConfigurationError() | InvalidInput() | StoreRequired() | UnknownTransport():
            ends = Exit.USAGE
        case TimeoutError():
            return Refused(shown(str(error)), code="timeout", ends=Exit.TIMEOUT)
        case _:
            ends = Exit.FAILED
    code = getattr(error, "reason", None) or _in_words(type(error).__name__)
    return Refused(shown(str(error)), code=code, ends=ends)


def tell(document: object, text: Iterable[str | Table] = (), *, end: Exit = Exit.FINE) -> None:
    """Print what a command did or found: the document with `--json`, and else the text, of which more may follow.

    Dataclasses, times and decimals may stand in a document. `end` is what the command ends with.
    """
    context = click.get_current_context()
    if (form := _form(context)) is not None:
        click.echo(_json(document, form))
    else:
        print_text(text, no_color=bool(getattr(context.obj, "no_color", False)))
    ended_with(end)


def tell_next(document: object, text: Iterable[str | Table] = ()) -> None:
    """Print the next of the lines of a stream: with `--json` a document in one line, and else its text."""
    context = click.get_current_context()
    if _form(context) is not None:
        context.meta[ASKED_FOR] = "line"
        click.echo(_json(document, "line"))
    else:
        print_text(text, no_color=bool(getattr(context.obj, "no_color", False)))
    sys.stdout.flush()


def tell_piece(document: object, piece: str) -> None:
    """Print the next piece of a stream: with `--json` a document in one line, and else text as it is."""
    context = click.get_current_context()
    if _form(context) is not None:
        tell_next(document)
    elif piece:
        click.echo(piece, nl=False, color=True)
        sys.stdout.flush()


def say_first(lines: Iterable[str]) -> bool:
    """Print lines before the answer: for people where that comes, with `--json` to the standard error; say if so."""
    aside = _form(click.get_current_context()) is not None
    for line in lines:
        click.echo(line, err=aside)
    return aside


def ended_with(end: Exit) -> None:
    """End the command here, without a further word, if `end` is not 0."""
    if end:
        click.get_current_context().exit(int(end))


def _json(document: object, form: Form) -> str:
    """Return a document as ASCII: any terminal and any pipe takes it, and nothing in it is an order to a terminal."""
    from pydantic_core import to_jsonable_python

    value = to_jsonable_python(document, fallback=_plain)
    if form == "line":
        return json.dumps(value, separators=(",", ":")).replace("\x7f", "\\u007f")
    return json.dumps(value, indent=2).replace("\x7f", "\\u007f")


def _plain(value: object) -> object:
    """Return a value that pydantic does not know as one that it knows."""
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a document holds a {type(value).__name__}, which has no JSON form")


def _form(context: click.Context) -> Form | None:
    form: Form | None = context.meta.get(ASKED_FOR)
    return form


def _want_json(context: click.Context, _option: click.Parameter, value: bool) -> None:
    context.meta[ASKED_FOR] = "document" if value else None


def _in_words(name: str) -> str:
    """Return the name of a class as a code: `UnknownWait` is `unknown_wait`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
