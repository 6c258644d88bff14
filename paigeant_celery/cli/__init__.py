"""`celery -A … paigeant …`: activities and workflows from a shell."""

from __future__ import annotations

import io
import sys

import click

from paigeant_celery.cli.acting import cancel, retry
from paigeant_celery.cli.agents import agents
from paigeant_celery.cli.answering import answer, approve, deny, inbox, signal
from paigeant_celery.cli.brokers import rebind
from paigeant_celery.cli.checking import check
from paigeant_celery.cli.documents import diff, export, import_, lint
from paigeant_celery.cli.forks import fork
from paigeant_celery.cli.letters import letters
from paigeant_celery.cli.output import Group
from paigeant_celery.cli.queries import list_workflows, stats
from paigeant_celery.cli.ready import ready
from paigeant_celery.cli.replays import replay
from paigeant_celery.cli.results import result
from paigeant_celery.cli.running import run
from paigeant_celery.cli.serving import activities
from paigeant_celery.cli.showing import graph, show
from paigeant_celery.cli.watching import watch

__all__ = ["paigeant"]


@click.group(name="paigeant", cls=Group)
def paigeant() -> None:
    """Look at paigeant_celery's activities and workflows, answer what they wait for, cancel them or let them go on."""
    # Otherwise a character that the terminal's encoding lacks, in an error's text for example, would end the output.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


_commands = (
    *(list_workflows, stats, activities, show, watch, graph, result),
    *(inbox, approve, deny, answer, signal),
    *(run, cancel, retry, fork, replay),
    *(export, lint, diff, import_),
    *(letters, agents, ready, check, rebind),
)
for _command in _commands:
    paigeant.add_command(_command)
