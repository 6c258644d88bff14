"""The commands that take or write a workflow as a document: checked, compared, exported and edited."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from paigeant_celery.cli.answering import by
from paigeant_celery.cli.asking import transport_of_app
from paigeant_celery.cli.output import Exit, Refused, command, shown, shown_json, tell

if TYPE_CHECKING:
    from paigeant_celery.core.document_changes import DocumentChange
    from paigeant_celery.core.document_errors import Finding
    from paigeant_celery.core.slip_document import SlipDocument

__all__ = [
    *("changed", "diff", "export", "import_", "lint", "named", "of_document", "text_of", "told_changes", "with_values"),
]

T = TypeVar("T")

SIGNS = {"added": "+", "removed": "-", "changed": "~", "moved": ">"}
MOST_SHOWN = 200  # characters of a value in a line; `--json` has all of it

with_values = click.option(
    "--values", is_flag=True, help="Also print the values, such as prompts; they may be confidential."
)


@command()
@click.argument("correlation_id")
@click.option("--yaml", is_flag=True, help="Write YAML; it needs PyYAML.")
@click.option("--outputs/--no-outputs", default=True, help="Leave out what steps gave.")
@click.pass_context
def export(context: click.Context, correlation_id: str, yaml: bool, outputs: bool) -> None:
    """Print a workflow as a document: all its steps, and how they ran. It may be confidential."""
    from paigeant_celery.client.documents import export_document_sync
    from paigeant_celery.core.documents import write_document

    document = export_document_sync(correlation_id, transport_of_app(context), outputs=outputs)
    tell(document.tree(), [write_document(document, yaml=yaml).removesuffix("\n")])


@command()
@click.argument("file")
@click.pass_context
def lint(context: click.Context, file: str) -> None:
    """Say what is wrong with a document: FILE, or - for the standard input.

    If the app loads activities, those that are not among them are unknown.
    """
    from paigeant_celery.client.documents import lint_document

    found = lint_document(text_of(file), transport_of_app(context))
    end = Exit.FAILED if found else Exit.FINE
    tell({"findings": found}, _findings(found) if found else ["nothing is wrong with it"], end=end)


@command()
@click.argument("before")
@click.argument("after")
@with_values
@click.pass_context
def diff(context: click.Context, before: str, after: str, values: bool) -> None:
    """Say where two documents differ; each is a file, - for the standard input, or the id of a workflow."""
    from paigeant_celery.client.documents import diff_documents

    old, new = (of_document(partial(_document_at, context, each), about=named(each)) for each in (before, after))
    changes = diff_documents(old, new)
    end = Exit.FAILED if changes else Exit.FINE
    tell(
        {"changes": told_changes(changes, values=values)},
        changed(changes, values=values) or ["nothing differs"],
        end=end,
    )


@command("import")
@click.argument("correlation_id")
@click.argument("file")
@with_values
@by
@click.pass_context
def import_(context: click.Context, correlation_id: str, file: str, values: bool, by: str) -> None:
    """Replace the steps to come of a parked or suspended workflow by those of a document that was exported from it.

    FILE is the document, or - for the standard input. The workflow stays where it is: retry or answer it then.
    """
    from paigeant_celery.client.edits import edit_workflow_sync

    text, transport = text_of(file), transport_of_app(context)
    done = of_document(lambda: edit_workflow_sync(correlation_id, text, transport, by=by), about=named(file))
    lines = [
        *changed(done.changes, values=values),
        f"workflow {correlation_id} has these steps to come now; retry it, or answer what it waits for",
    ]
    if done.restarts:
        lines.append("its current step begins anew: what its attempts had recorded is discarded")
    document = {
        "correlation_id": done.correlation_id,
        "revision": done.revision,
        "restarts": done.restarts,
        "changes": told_changes(done.changes, values=values),
    }
    tell(document, lines if done.changes else ["the document changes nothing"])


def text_of(file: str) -> str:
    """Return the text of a file, or of the standard input."""
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise Refused(f"cannot read {shown(file)}: {why}", code="unreadable_file", ends=Exit.USAGE) from error


def named(file: str) -> str:
    """Return how to call a document in a text."""
    return shown(file) if file != "-" else "the document on the standard input"


def of_document(ask: Callable[[], T], *, about: str, told: Callable[[Sequence[Finding]], list[str]] | None = None) -> T:
    """Return what is asked for; what is wrong with a document ends the command with all findings.

    `about` is what the text for people calls it, and `told` makes the lines of that.
    """
    from paigeant_celery.core.document_errors import InvalidDocument

    try:
        return ask()
    except InvalidDocument as error:
        text = "\n".join([f"{about} cannot be used:", *(told or _findings)(error.findings)])
        raise Refused(text, code=error.reason, ends=Exit.USAGE, more={"findings": error.findings}) from error


def _document_at(context: click.Context, where: str) -> SlipDocument:
    from paigeant_celery.client.documents import export_document_sync
    from paigeant_celery.core.documents import read_document
    from paigeant_celery.core.names import is_correlation_id

    if where == "-" or Path(where).exists() or not is_correlation_id(where):
        return read_document(text_of(where))
    return export_document_sync(where, transport_of_app(context), outputs=False)


def _findings(findings: Sequence[Finding]) -> list[str]:
    return [shown(str(finding)) for finding in findings]


def told_changes(changes: Sequence[DocumentChange], *, values: bool) -> list[dict[str, object]]:
    """Return changes as JSON has them."""
    told: list[dict[str, object]] = [{"kind": change.kind, "path": change.path} for change in changes]
    if values:
        for each, change in zip(told, changes, strict=True):
            each.update(before=change.before, after=change.after)
    return told


def changed(changes: Sequence[DocumentChange], *, values: bool) -> list[str]:
    """Return a line for each change of a document."""
    return [_line(change, values) for change in changes]


def _line(change: DocumentChange, values: bool) -> str:
    begin = f"{SIGNS[change.kind]} {shown(change.path)}"
    if not values:
        return f"{begin}: {change.kind}"
    if change.kind in ("changed", "moved"):
        return f"{begin}: {_value(change.before)} -> {_value(change.after)}"
    return f"{begin}: {_value(change.after if change.kind == 'added' else change.before)}"


def _value(value: object) -> str:
    text = shown_json(value)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…"
