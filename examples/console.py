"""What the examples share around their workflow: command line, workers in the same process, screen, exit code."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import sys
import textwrap
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime

import click

from paigeant_celery import (
    ActivityExecutor,
    ActivitySpec,
    BlockSpec,
    FunctionSpec,
    PaigeantError,
    WorkflowEvent,
    WorkflowResult,
)
from paigeant_celery.broker.transport import CeleryTransport

__all__ = [
    "INTERRUPTED",
    "Unexpected",
    "checked_model",
    "command_line",
    "expect",
    "given_text",
    "parse",
    "reporting",
    "run",
    "serving",
    "show_fields",
    "show_outputs",
    "show_slip",
]

WIDTH = 100  # characters per line on the screen
INTERRUPTED = 130  # what a shell calls the end by Ctrl-C


class Unexpected(Exception):
    """The example ran but did not end as it promises."""


def expect(condition: object, sentence: str) -> None:
    """Raise `Unexpected` with what is wrong, unless `condition` holds."""
    if not condition:
        raise Unexpected(sentence)


def command_line(doc: str | None, example: str) -> ArgumentParser:
    """Return a parser for the user's text and `--model`; an example adds its own flags and calls `parse`."""
    parser = ArgumentParser(description=doc, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("text", nargs="*", default=[example], help="your own text, or '-' to read it from stdin")
    parser.add_argument(
        "--model", metavar="PROVIDER:NAME", help="a real model, such as 'openai:gpt-5'; without it, a local function"
    )
    return parser


def parse(parser: ArgumentParser) -> Namespace:
    """Read the command line: flags may come between the words of the text; everything after `--` is text."""
    before, behind = sys.argv[1:], []
    if "--" in before:
        end = before.index("--")
        before, behind = before[:end], before[end + 1 :]
    arguments = parser.parse_intermixed_args(before)
    if behind:
        given = [] if arguments.text == parser.get_default("text") else arguments.text
        arguments.text = [*given, *behind]
    return arguments


def given_text(words: list[str]) -> str:
    """Return the text of the command line; end the program if there is none."""
    try:
        text = sys.stdin.buffer.read().decode() if words == ["-"] else " ".join(words)
        text.encode()  # other bytes on the command line become lone surrogates
    except UnicodeError:
        sys.exit("the text is not UTF-8")
    if not any(character.isalpha() for character in text):
        sys.exit("please give a text that has at least one word")
    return text.strip()


def checked_model(name: str) -> str:
    """Return the name of a model if there is such a one; raises `Unexpected` with what is wrong with name or key."""
    from pydantic_ai.exceptions import UserError  # an example that only dispatches needs no agent library
    from pydantic_ai.models import infer_model

    try:
        infer_model(name)
    except (UserError, ValueError, ImportError) as error:
        raise Unexpected(str(error)) from error
    return name


@asynccontextmanager
async def serving(transport: CeleryTransport, *activities: str) -> AsyncIterator[None]:
    """Serve activities in this process, side by side, while the block runs."""
    executors = [asyncio.create_task(ActivityExecutor(transport, name).start()) for name in activities]
    try:
        yield
    finally:
        for executor in executors:
            executor.cancel()
        for outcome in await asyncio.gather(*executors, return_exceptions=True):
            if isinstance(outcome, Exception):  # it could not serve; cancellation is not such an error
                raise outcome


def run(main: Coroutine[None, None, None]) -> None:
    """Run an example; a failure becomes one sentence and exit code 1."""
    with reporting():
        asyncio.run(main)


@contextmanager
def reporting() -> Iterator[None]:
    """Turn what goes wrong inside the block into one sentence and exit code 1."""
    # The example reports a failed step itself; the worker's log would repeat it.
    logging.disable(logging.ERROR)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(
            errors="backslashreplace"
        )  # a text may have characters that the terminal's encoding lacks
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())  # otherwise the flush at exit fails again
        os.dup2(nowhere, sys.stderr.fileno())  # nor need they hear that the workflow has not ended
        sys.exit(1)
    except KeyboardInterrupt:
        click.echo("\ninterrupted", err=True)
        sys.exit(INTERRUPTED)
    except (Unexpected, PaigeantError, TimeoutError) as error:
        click.echo(f"{type(error).__name__}: {error}", err=True)
        sys.exit(1)


def show_slip(steps: Iterable[ActivitySpec | FunctionSpec | BlockSpec], correlation_id: str) -> None:
    """Print the routing slip as dispatched."""
    click.echo(f"{'slip':10}" + " -> ".join(click.style(_named(step), bold=True) for step in steps))
    click.echo(f"{'workflow':10}{click.style(correlation_id, dim=True)}")


def show_outputs(result: WorkflowResult, events: Iterable[WorkflowEvent], transport: CeleryTransport) -> None:
    """Print each executed step: the queue it ran on, how long it took, and the fields of its output."""
    for number, (step, seconds) in enumerate(zip(result.steps, _durations(events), strict=True), 1):
        queue = transport.names.queue(step.activity)
        head = click.style(f"{number}  {step.activity}", bold=True)
        where = click.style(f"ran on queue {queue}, {seconds * 1000:.0f} ms", dim=True)
        click.echo(f"\n{head}  {where}")
        show_fields(step.output_as(dict[str, object]))


def _named(step: ActivitySpec | FunctionSpec | BlockSpec) -> str:
    return (step.step_id or step.form) if isinstance(step, BlockSpec) else step.activity


def _durations(events: Iterable[WorkflowEvent]) -> Iterator[float]:
    """Yield the seconds that each step took, from its claim to its record."""
    claimed: dict[str, datetime] = {}
    for event in events:
        if event.type == "claimed":
            claimed[event.hop_id] = event.at
        elif event.type == "completed":
            yield (event.at - claimed[event.hop_id]).total_seconds()


def show_fields(output: Mapping[str, object]) -> None:
    """Print the fields of an output, each with its name."""
    indent = 3 + max(map(len, output)) + 2
    for name, value in output.items():
        for index, line in enumerate(_lines(value)):
            label = f"   {name if index == 0 else ''}".ljust(indent)
            click.echo(textwrap.fill(label + line, WIDTH, subsequent_indent=" " * indent))


def _lines(value: object) -> list[str]:
    if isinstance(value, list) and not any(" " in str(item) for item in value):
        return [", ".join(map(str, value)) or "none"]
    if isinstance(value, list):
        return [f"{number}. {item}" for number, item in enumerate(value, 1)]
    if isinstance(value, Mapping):
        return [", ".join(f"{key} {item}" for key, item in value.items()) or "none"]
    return str(value).splitlines() or [""]
