"""`celery -A … paigeant …`: activities and workflows from a shell."""

from __future__ import annotations

import io
import sys

import click

from paigeant_celery.cli.acting import cancel, retry
from paigeant_celery.cli.answering import answer, approve, deny, inbox, signal
from paigeant_celery.cli.brokers import rebind
from paigeant_celery.cli.forks import fork
from paigeant_celery.cli.letters import letters
from paigeant_celery.cli.output import Group
from paigeant_celery.cli.queries import list_workflows, stats
from paigeant_celery.cli.replays import replay
from paigeant_celery.cli.workflows import activities, graph, show

__all__ = ["paigeant"]


@click.group(name="paigeant", cls=Group)
def paigeant() -> None:
    """Look at paigeant_celery's activities and workflows, answer what they wait for, cancel them or let them go on."""
    # Otherwise a character that the terminal's encoding lacks, in an error's text for example, would end the output.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


for _command in (
    list_workflows,
    stats,
    activities,
    show,
    graph,
    inbox,
    approve,
    deny,
    answer,
    signal,
    cancel,
    retry,
    fork,
    replay,
    rebind,
    letters,
):
    paigeant.add_command(_command)
