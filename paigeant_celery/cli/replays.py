"""The commands about replays of hops."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import click

from paigeant_celery.cli.asking import transport_of_app
from paigeant_celery.cli.output import Exit, Group, Refused, tell

if TYPE_CHECKING:
    from paigeant_celery.core.replays import HopDump

__all__ = ["replay"]

OURS = "paigeant_celery"

SCRIPT = '''\
"""Replays step {path} of workflow {workflow} on its recorded answers: without a server, a broker or a key.

Written by `celery paigeant replay dump`. It holds prompts, outputs and answers as they were; keep it accordingly.
Run it where the agent's code is: `python {name}`. No model is asked and no recorded tool is called. It prints what
the step gives and what differs from the record; the exit code is 0 if the step completes and nothing differs.
"""

from paigeant_celery.replay import run_script

MODULES = {modules}  # what defines the agent
DUMP = r\'\'\'
{dump}
\'\'\'

if __name__ == "__main__":
    # Add `deps=...` if the agent's `deps_factory` needs what is not here.
    raise SystemExit(run_script(DUMP, modules=MODULES))
'''


@click.group(cls=Group)
def replay() -> None:
    """Run a step of an agent again on its recorded answers, without a server."""


@replay.command(name="dump")
@click.argument("correlation_id")
@click.argument("path", required=False)
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False), help="Write the script to this file, which only you may read."
)
@click.option("-I", "--include", multiple=True, metavar="MODULE", help="The script imports this; may be repeated.")
@click.pass_context
def dump_hop(
    context: click.Context, correlation_id: str, path: str | None, output: str | None, include: tuple[str, ...]
) -> None:
    """Print a script that replays a step, with everything that it needs: prompts, answers and outputs.

    PATH is the id of a step, or leads to one in a branch that goes on, as in readings/3/reader. Without it, the current
    step is dumped or, if the workflow has completed, the last one.
    """
    from paigeant_celery.client.hop_dumps import dump_of
    from paigeant_celery.core.errors import StoreRequired

    transport = transport_of_app(context)
    if (store := transport.store) is None:
        raise StoreRequired("replay dump")
    dump = dump_of(store, correlation_id, path)
    modules = list(include) or _modules(context.obj.app, dump)
    document = {"correlation_id": correlation_id, "hop_id": dump.hop_id, "path": dump.path, "modules": modules}
    if output is None:
        encoded = json.loads(dump.encode())  # the form without tokens
        tell({**document, "dump": encoded}, [_script(dump, correlation_id, modules, name="replay.py").rstrip("\n")])
        return
    file = Path(output)
    try:
        _write(file, _script(dump, correlation_id, modules, name=file.name))
    except OSError as error:
        raise Refused(f"{output} cannot be written: {error}", code="not_written", ends=Exit.FAILED) from error
    what = f"step {dump.path} of workflow {correlation_id}"
    tell({**document, "file": output}, [f"{what}: run `python {output}` where the code of the agent is"])


def _write(file: Path, text: str) -> None:
    """Put the text into a file that nobody else may read, whoever could read what stood there before."""
    file = file.resolve()
    if file.exists() and not file.is_file():  # a pipe or a device keeps nothing, and must not be replaced
        file.write_text(text, encoding="utf-8")
        return
    fresh = file.with_name(f".{file.name}.{token_hex(8)}")
    try:
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as written:
            written.write(text)
        fresh.replace(file)
    finally:
        fresh.unlink(missing_ok=True)


def _script(dump: HopDump, workflow: str, modules: Sequence[str], *, name: str) -> str:
    # In JSON quotes of this kind stand in texts alone, where they may be written like this.
    text = dump.encode().replace("'", "\\u0027")
    path = dump.path.translate(str.maketrans("", "", '"\\'))  # it stands in the docstring; names may have anything
    return SCRIPT.format(path=path, workflow=workflow, modules=list(modules), dump=text, name=name)


def _modules(app: Any, dump: HopDump) -> list[str]:
    """Return the module that made the agent, or all that the app imports if that is not known."""
    from paigeant_celery.activities.registry import registry

    activity = registry.find(dump.activity)
    making = getattr(activity, "making", None)
    if making is not None and making.module not in (None, "__main__"):
        return [making.module]
    imported = [*app.conf.imports, *app.conf.include]
    return [module for module in dict.fromkeys(imported) if not re.match(rf"{OURS}(\.|$)", module)]
