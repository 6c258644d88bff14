"""The command that says what is wrong with a deployment, before anybody waits for a workflow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import click

from paigeant_celery.cli.asking import include, load
from paigeant_celery.cli.findings import Finding, findings_of
from paigeant_celery.cli.output import Exit, Table, command, ended_with, tell
from paigeant_celery.cli.seconds import SECONDS

__all__ = ["check"]

ORDER = ("error", "warning", "fine")


@command()
@click.option(
    "-t",
    "--timeout",
    default=1.0,
    type=SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="Wait so long for workers to answer.",
)
@include
@click.pass_context
def check(context: click.Context, timeout: float, include: tuple[str, ...]) -> None:
    """Check settings, broker, store, what is installed, and the live workers; each finding has its remedy.

    Nothing is changed. The command fails if something is wrong.
    """
    from paigeant_celery.broker.transport import transport_of

    load(context, include)
    transport = transport_of(context.obj.app)
    findings = sorted(findings_of(transport, timeout=timeout), key=lambda found: ORDER.index(found.level))
    wrong = any(found.level == "error" for found in findings)
    tell({"ok": not wrong, "findings": findings}, _lines(findings))
    ended_with(Exit.FAILED if wrong else Exit.FINE)


def _lines(findings: Sequence[Finding]) -> Iterator[str | Table]:
    yield Table(("level", "about", "finding"), [(each.level, each.about, each.text) for each in findings])
