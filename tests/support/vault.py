"""A deployment with a workflow in each state, whose content is canaries that say where they were."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from celery import Celery

from paigeant_celery import (
    ActivitySpec,
    FunctionSpec,
    WorkflowDispatcher,
    WorkflowHandle,
    for_each,
    install,
    schedule_entry,
)
from paigeant_celery.activities.registry import registry
from paigeant_celery.cli import paigeant
from tests.support.event_messages import Messages, watching
from tests.support.processes import Deployment, Process, deployment, eventually

__all__ = ["WITHIN", "Vault", "command_names", "filled_vault"]

WITHIN = 60.0  # seconds


class Vault:
    """A deployment with a workflow in each state, and what was seen of it."""

    def __init__(self, made: Deployment, seen: Path, events: Messages, canary: str) -> None:
        self.made, self.seen, self.events, self._canary = made, seen, events, canary
        self.transport = made.transport()
        self.worker: Process = made.ready_worker("vault", pool="prefork", slots=4, level="DEBUG")
        self.workflows: dict[str, WorkflowHandle] = {}

    def canary(self, where: str) -> str:
        return f"{self._canary}-{where}"

    def found_in(self, text: str) -> list[str]:
        """The canaries in a text, by where they were; `token` is one that would answer a wait."""
        found = set(re.findall(rf"{self._canary}-([a-z]+)", text))
        if any(token.partition("~")[2] in text for token in self.tokens()):
            found.add("token")
        return sorted(found)

    def tokens(self) -> list[str]:
        file = Path(f"{self.seen}.tokens")
        return file.read_text().split() if file.exists() else []

    def dispatch(self, name: str, *steps: Any, state: str, **options: Any) -> WorkflowHandle:
        dispatcher, variables = WorkflowDispatcher(), {"house": self.canary("variable")}
        sent = dispatcher.dispatch_workflow_sync(self.transport, itinerary=steps, variables=variables, **options)
        return self.follow(name, dispatcher.handle(sent, self.transport), state=state)

    def follow(self, name: str, handle: WorkflowHandle, *, state: str) -> WorkflowHandle:
        self.workflows[name] = handle
        eventually(lambda: handle.status_sync().state == state, within=WITHIN, what=f"{name} is not {state}")
        return handle

    def agent(self, name: str) -> ActivitySpec:
        return ActivitySpec(name, self.canary("prompt"), {"note": self.canary("deps")})

    def fill(self) -> None:
        """Let there be a workflow in each state."""
        done = self.dispatch("done", self.agent("clerk"), self.agent("clerk"), state="completed", stream=True)
        self.dispatch("parked", self.agent("clerk"), self.agent("broken"), state="parked")
        fall = FunctionSpec("fall", {"text": self.canary("argument")})
        self.dispatch("failed", fall, state="failed")
        self.dispatch("retrying", FunctionSpec("stumble", {"text": self.canary("argument")}), state="retrying")
        self.dispatch("refused", FunctionSpec("typed"), state="parked")
        asking = FunctionSpec("confirm", {"about": self.canary("argument")})
        self.dispatch("asking", asking, state="suspended")
        self.dispatch("approving", self.agent("teller"), state="suspended")
        self.dispatch("linked", self.agent("linker"), state="completed", stream=True)
        answered = self.dispatch("answered", asking, state="suspended")
        (wait,) = answered.pending_sync()
        answered.resolve_sync(wait.token, self.canary("payload"), by="ann")
        self.follow("answered", answered, state="completed")
        self.workflows["asking"].signal_sync("early", self.canary("signal"))
        items = [self.canary("item"), self.canary("other")]
        self.dispatch("collected", for_each(FunctionSpec("item"), over=items, on_failure="collect"), state="completed")
        self.dispatch("stopped", for_each(FunctionSpec("item"), over=items), state="failed")
        self.dispatch("missed", for_each(FunctionSpec("item"), over=items, join=2), state="failed")
        nested = for_each(FunctionSpec("stumble", {"text": self.canary("argument")}), over=items)
        self.dispatch("branches", nested, state="suspended")
        fork = done.fork_sync("clerk-2", prompt=self.canary("new"))
        self.follow("forked", WorkflowHandle(fork, self.transport), state="completed")
        self.schedule()

    def schedule(self) -> None:
        """Have a document dispatched, refused, and kept for later."""
        step = {"agent": "clerk", "prompt": self.canary("prompt"), "deps": {"note": self.canary("deps")}}
        entry = schedule_entry(
            {"version": 1, "correlation_id": self.made.prefix, "itinerary": [step]},
            schedule=86_400, queue=f"{self.made.prefix}-host", prefix=self.made.prefix,
        )  # fmt: skip
        changed = {**entry["kwargs"]["document"], "variables": {"a": self.canary("new")}}
        with Celery("scheduling", set_as_current=False) as app:
            self.made.configure(app)
            install(app)
            send = app.tasks[entry["task"]].apply_async
            done = send(kwargs=entry["kwargs"], **entry["options"]).id
            self.worker.wait_for_log(f"[{done}] succeeded", within=WITHIN)
            send(kwargs={**entry["kwargs"], "document": changed}, **entry["options"])
            self.worker.wait_for_log("WorkflowConflict", within=WITHIN)
            send(kwargs=entry["kwargs"], countdown=3600, **entry["options"])
        # A beat that does not load us has no task that would hide anything.
        sent = self.transport.app.send_task(entry["task"], kwargs=entry["kwargs"], countdown=3600, **entry["options"])
        self.foreign = sent.id
        self.worker.wait_for_log(f"[{sent.id}] received", within=WITHIN)


@contextmanager
def filled_vault(redis_url: str, folder: Path) -> Iterator[Vault]:
    """Yield a vault with a worker."""
    canary, seen = f"canary{uuid.uuid4().hex[:12]}", folder / "seen"
    # What other tests have loaded has other arguments under the same names.
    with registry.isolated(), deployment(redis_url, folder / "made") as made:
        made.settings |= {"task_default_queue": f"{made.prefix}-host", "result_extended": True}
        made.variables.update(CANARY=canary, SEEN=str(seen))
        with watching(made.transport().app) as events:
            vault = Vault(made, seen, events, canary)
            vault.fill()
            eventually(lambda: seen.exists() and "paigeant.hops" in seen.read_text(), within=WITHIN)
            yield vault


def command_names(group: click.Group = paigeant, before: str = "") -> Iterator[str]:
    """Yield the names of all commands."""
    for name, command in sorted(group.commands.items()):
        if isinstance(command, click.Group):
            yield from command_names(command, f"{before}{name} ")
        else:
            yield f"{before}{name}"
