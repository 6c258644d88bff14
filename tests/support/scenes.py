"""A shop with real workers on a real server, in which a test makes what a situation of the runbook is about."""

from __future__ import annotations

import os
import re
import shlex
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from paigeant_celery import ActivitySpec, WorkflowDispatcher, WorkflowHandle
from paigeant_celery.broker.transport import CeleryTransport
from paigeant_celery.store.query_port import Serving
from tests.support.processes import PROGRAMS, START_WITHIN, Deployment, Process, eventually
from tests.support.runbook import Situation, difference, replaced, write_output
from tests.support.servers import RedisServer

__all__ = ["WITHIN", "Scene"]

WITHIN = 40.0  # seconds; others use the machine as well
PREFIX = "paigeant"  # the default, which names queues in the page
PLACEHOLDER = re.compile(r"(?<![\w-])[A-Z][A-Z_]{3,}(?![\w-])")
LOOK = tuple(f"paigeant {name}" for name in ("agents", "check", "list", "ready", "show"))  # and change nothing
TRIES = 3
WRITES = os.environ.get("RUNBOOK") in ("write", "all")
APP = '''"""The shop's app."""

from celery import Celery

app = Celery("shop")
app.config_from_object("celeryconfig")
app.conf.imports = ("paigeant_celery.tasks", "agents")
'''


class Scene:
    """One situation: the shop, and the commands of its section of the page, one after the other."""

    def __init__(self, situation: Situation, server: RedisServer, folder: Path) -> None:
        self.situation, self.server = situation, server
        self.made = Deployment(server.url, folder, paigeant_prefix=PREFIX)
        self.typed = 0  # how many of its commands were
        self.printed: list[str | None] = []  # what each printed, None if into a file
        self.differs = os.environ.get("RUNBOOK") == "all"  # whether the page has anything else
        self.folder = self.made.configured("shop")
        (self.folder / "shop.py").write_text(APP)
        self.names = {  # that the page has for those of this machine
            f"127.0.0.1:{server.port}": "localhost:6379",
            f"@{socket.gethostname()}": "@web-1",
            f" on {socket.gethostname()}": " on web-1",
            str(self.folder): "/srv/shop",
        }
        self.deploys()

    @property
    def transport(self) -> CeleryTransport:
        """That of the program that dispatches."""
        return self.made.transport()

    def deploys(self, *changes: tuple[str, str]) -> None:
        """Put the code of the agents in place, with some texts of it changed."""
        text = (PROGRAMS / "night_shop.py").read_text()
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new)
        (self.folder / "agents.py").write_text(text)

    def configures(self, **settings: object) -> None:
        """Change settings, as those of the next process are."""
        self.made.settings.update(settings)
        self.made.configured("shop")

    def has(self, file: str) -> Path:
        """Put a file into the folder of the agents, which they look for."""
        path = self.folder / file
        path.touch()
        return path

    def starts_worker(self, *options: str, name: str = "worker", pool: str = "threads", package: str = "") -> Process:
        """Start a worker of the shop, and wait until the store knows; `package` is the path to another version."""
        begun = self._serving().now
        worker = self.made.run(
            "-A", "shop", "worker", "-n", "celery@web-1", "-P", pool, "-c", "4", "-l", "INFO", "--without-mingle",
            "--without-gossip",
            *options, folder=self.folder, name=name, cold=bool(package),
            **({"PYTHONPATH": package} if package else {}),
        )  # fmt: skip
        worker.wait_for_log(" ready.", within=START_WITHIN)
        eventually(lambda: max(self._serving().queues.values(), default=begun) > begun, within=WITHIN)
        return worker

    def _serving(self) -> Serving:
        store = self.transport.store
        assert store is not None
        return store.serving()

    def dispatches(
        self, *steps: Any, correlation_id: str = "order-17", offers: Sequence[ActivitySpec] = (), **options: Any
    ) -> WorkflowHandle:
        """Begin a workflow, as the shop's website does. Its agents may insert what it `offers`."""
        dispatcher = WorkflowDispatcher()
        for step in offers:
            dispatcher.register(step)
        begun = dispatcher.dispatch_workflow_sync(
            self.transport, itinerary=list(steps), correlation_id=correlation_id, **options
        )
        return self.handle(begun)

    def handle(self, correlation_id: str) -> WorkflowHandle:
        """Return the handle of a workflow."""
        return WorkflowDispatcher().handle(correlation_id, self.transport)

    def edits(self, file: str, old: str, new: str) -> None:
        """Change a text in a file, as with an editor."""
        text = (self.folder / file).read_text()
        assert old in text, f"{old!r} is not in {file}:\n{text}"
        (self.folder / file).write_text(text.replace(old, new))

    def until(self, handle: WorkflowHandle, *states: str, step: str | None = None) -> None:
        """Wait until a workflow is in one of the states, at the step."""
        eventually(
            lambda: (found := handle.status_sync()).state in states and (step is None or found.step_id == step),
            within=WITHIN, what=f"{handle.correlation_id} is not {'/'.join(states)}",
        )  # fmt: skip

    def types(self, beginning: str, *, ends: int = 0, **named: str) -> str:
        """Type the next command of the page, and compare what it prints; return that. `ends` is its exit code.

        One that only looks is typed again if it differs: it gives workers a second, and those of tests may take longer.
        """
        command, _, file = self._next(f"celery -A shop {beginning}").partition(" > ")
        for left in reversed(range(TRIES if beginning.startswith(LOOK) else 1)):
            process = self._run(command, named)
            code, printed = process.ended(within=WITHIN), process.log()
            told = "" if file else replaced(printed, self.names)
            fault = f"it ends with {code}, and not {ends}:\n{told}" if code != ends else self._differs(told)
            if not fault:
                break
            assert left or (WRITES and code == ends), fault
            self.differs = self.differs or not left
        self.printed.append(None if file else told)
        if file:
            (self.folder / file).write_text(printed)
        return printed

    def _run(self, command: str, named: Mapping[str, str]) -> Process:
        for name, value in named.items():
            assert re.search(rf"(?<![\w-]){name}(?![\w-])", command), f"{command!r} has no placeholder {name}"
            command = re.sub(rf"(?<![\w-]){name}(?![\w-])", lambda _, value=value: value, command)
        left = PLACEHOLDER.findall(command)
        assert not left, f"the scene gives no value for {left} of {command!r}"
        if "|" in shlex.split(command):
            return self.made.shell(command, folder=self.folder, name="on-call")
        return self.made.run(*shlex.split(command)[1:], folder=self.folder, name="on-call")

    def _next(self, beginning: str) -> str:
        shown = self.situation.shown
        assert self.typed < len(shown), f"situation {self.situation.number} has no further command: {beginning}"
        found = shown[self.typed]
        assert found.command.startswith(beginning), f"line {found.line} has {found.command!r}, and not {beginning!r}"
        self.typed += 1
        return found.command

    def _differs(self, printed: str) -> str:
        """Return how what the last command printed differs from the page."""
        shown = self.situation.shown[self.typed - 1]
        differs = difference(shown.output, printed)
        return f"docs/runbook.md:{shown.line}: `{shown.command}`: {differs}" if differs else ""

    def is_over(self) -> None:
        """Check that all of the section was typed. If the page is to be written, write all of it: it is of one run."""
        left = [shown.command for shown in self.situation.shown[self.typed :]]
        assert not left, f"the scene of situation {self.situation.number} does not type {left}"
        if WRITES and self.differs:
            for index, printed in enumerate(self.printed):
                if printed is not None:
                    write_output(self.situation.number, index, printed)
