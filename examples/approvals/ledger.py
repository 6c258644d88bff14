"""What was decided and what was paid, written outside the workers: a line for each, which nothing takes back."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

__all__ = ["decide", "decisions", "pay", "payments"]


def decide(*, call: str, cents: int | None) -> None:
    """Note that a person let a call pay so much, or nothing at all."""
    _write("decisions", {"call": call, "cents": cents})


def pay(*, call: str, cents: int) -> None:
    """Pay, as far as an example can."""
    _write("payments", {"call": call, "cents": cents})


def decisions() -> list[tuple[str, int | None]]:
    """Return each decision: the call and what it may pay."""
    return [(line["call"], line["cents"]) for line in _lines("decisions")]


def payments() -> list[tuple[str, int]]:
    """Return each payment: the call and what it paid."""
    return [(line["call"], line["cents"]) for line in _lines("payments")]


def _write(name: str, line: dict[str, object]) -> None:
    with _file(name).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def _lines(name: str) -> list[dict[str, object]]:
    try:
        return [json.loads(line) for line in _file(name).read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        return []


def _file(name: str) -> Path:
    folder = Path(os.environ.get("APPROVALS_FOLDER") or Path(tempfile.gettempdir()) / "approvals")
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name
