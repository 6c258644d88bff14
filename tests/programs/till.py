"""Celery tasks of a host, as they are without workflows, and registered as steps."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

from celery import Task, shared_task
from celery.exceptions import Ignore, Reject

from paigeant_celery import register_task


def note(path: str, task: Task) -> None:
    """Write down who runs, in which attempt, and when."""
    with Path(path).open("a") as calls:
        calls.write(f"{task.request.id} {task.request.retries} {time.time()} {os.getpid()}\n")


@shared_task(name="shop.told")
def told(*args: Any, **kwargs: Any) -> list[Any]:
    return [*args, kwargs]


@shared_task(name="shop.retrying", bind=True, max_retries=None)
def retrying(self: Task, path: str, times: int, countdown: float) -> str:
    note(path, self)
    if self.request.retries < times:
        raise self.retry(exc=ConnectionError("the bank is away"), countdown=countdown)
    return "charged"


@shared_task(name="shop.automatic", bind=True, autoretry_for=(ConnectionError,), max_retries=2, default_retry_delay=0.2)
def automatic(self: Task, path: str) -> str:
    note(path, self)
    raise ConnectionError("the bank is away")


@shared_task(name="shop.rejecting", bind=True)
def rejecting(self: Task, path: str) -> str:
    note(path, self)
    raise Reject("the card is stolen")


@shared_task(name="shop.ignoring")
def ignoring() -> str:
    raise Ignore


@shared_task(name="shop.held", bind=True)
def held(self: Task, path: str, gate: str) -> list[Any]:
    note(path, self)
    while not Path(gate).exists():
        threading.Event().wait(0.02)
    return [self.request.id, self.request.retries]


for task in (told, retrying, automatic, rejecting, ignoring, held):
    register_task(task)
