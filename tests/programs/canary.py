"""Somebody else's task in the same worker, which no message of ours may start."""

from __future__ import annotations

import os

from celery import shared_task


@shared_task(name="canary.sing")
def sing(*_args: object) -> None:
    with open(os.environ["RUNS_FILE"], "a", encoding="utf-8") as runs:
        runs.write("sung\n")


@shared_task(name="canary.count")
def count(text: str) -> None:
    """Work like a host's task that shares a queue with activities."""
    with open(os.environ["RUNS_FILE"], "a", encoding="utf-8") as runs:
        runs.write(f"counted-{len(text)}\n")
