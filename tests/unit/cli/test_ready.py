"""The exit code of `ready`, by which a probe decides."""

from __future__ import annotations

from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from paigeant_celery.cli import paigeant


def worker(name: str, *, ready: bool) -> dict[str, Any]:
    return {"worker": name, "ready": ready, "serves": [], "pid": 1, "findings": []}


@pytest.mark.parametrize(
    ("named", "answers", "ends"),
    [
        ("", {"a": True, "b": True}, 0),
        ("a", {"a": True}, 0),
        ("", {"a": True, "b": False}, 1),
        ("a,b", {"a": False}, 1),
        ("a,b", {"a": True}, 4),
        ("a,b", {}, 4),
        ("", {}, 4),
    ],
)
def test_the_code_tells_a_worker_that_is_not_ready_from_one_that_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, named: str, answers: dict[str, bool], ends: int
) -> None:
    """The first one needs a restart; the second may be busy, or away, and is asked again."""
    found = [worker(name, ready=ready) for name, ready in answers.items()]
    monkeypatch.setattr(import_module("paigeant_celery.cli.ready"), "_asked", lambda *_: found)

    done = CliRunner().invoke(paigeant, ["ready", *(["-d", named] if named else [])], obj=SimpleNamespace(app=None))

    assert done.exit_code == ends, done.output
