"""A wrong prompt, found at night: with real workers, a real server, and commands in processes of their own."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from paigeant_celery import DeadLetters, WorkflowHandle
from paigeant_celery.activities.registry import registry
from paigeant_celery.broker.outbox import Outbox
from tests.support.processes import START_WITHIN, Deployment, deployment, eventually
from tests.support.starting import run

WITHIN = 60.0  # seconds


def command(made: Deployment, *arguments: str) -> tuple[int, str, str]:
    """Call a command, and return its exit code and what it wrote."""
    done = run(
        [sys.executable, "-m", "celery", "-A", "paigeant_celery", "paigeant", *arguments],
        cwd=made.configured("called"), environment=made.environment(), within=WITHIN,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_a_wrong_prompt_is_corrected_and_an_old_copy_of_the_message_harms_nothing(
    redis_url: str, tmp_path: Path
) -> None:
    """Run, see it park, export, edit, import, retry: what ran is not run again, and the broker's copy is dropped."""
    with deployment(redis_url, tmp_path, paigeant_max_attempts=1) as made:
        worker = made.ready_worker("desk", "troubles", pool="threads", slots=2)
        steps = ("topic", "purring cats", "failing", "ValueError canary-4711", "publish", "Print it.")

        code, out, progress = command(made, "run", *steps, "--id", "night", "--wait", "--timeout", "50")

        assert (code, out) == (1, ""), progress
        assert "claimed topic" in progress
        assert "parked failing error=ValueError" in progress
        assert "retry night" in progress
        transport = made.transport()
        assert transport.store is not None
        before = transport.store.workflow("night")
        assert before is not None
        exported = command(made, "export", "night", "--json")[1]
        slip: dict[str, Any] = json.loads(exported)
        slip["itinerary"][1] |= {"agent": "topic", "prompt": "sleeping dogs", "queue": None}
        file = tmp_path / "slip.json"
        file.write_text(json.dumps(slip))

        assert command(made, "lint", str(file))[:2] == (0, "nothing is wrong with it\n")
        imported = command(made, "import", "night", str(file), "--by", "ann")
        assert imported[0] == 0, imported
        Outbox(transport.publisher, registry).begin(before).wait()  # the broker delivers the old message once more
        eventually(lambda: "superseded" in worker.log(), within=START_WITHIN, what="the copy is dropped")
        assert command(made, "retry", "night")[0] == 0
        result = WorkflowHandle("night", transport).result_sync(timeout=30)

        assert result.outputs["failing"] == {"title": "Sleeping Dogs", "words": 2}
        assert made.runs() == ["night.0", "night.1", "night.1", "night.2"]
        assert DeadLetters(transport).list(limit=9) == []
        assert command(made, "result", "night")[0] == 0
        events = [event for event in WorkflowHandle("night", transport).events_so_far() if event.type == "edited"]
        assert [event.fields["by"] for event in events] == ["ann"]
        assert "sleeping dogs" not in worker.log() + progress


def test_a_run_that_takes_too_long_says_so_and_goes_on(redis_url: str, tmp_path: Path) -> None:
    """Nobody serves it yet: the command ends, and the workflow is done later."""
    with deployment(redis_url, tmp_path) as made:
        code, _, told = command(made, "run", "topic", "purring cats", "--id", "later", "--wait", "--timeout", "1")

        assert code == 4
        assert "did not end within 1 s and goes on" in told
        made.ready_worker("desk", pool="threads", slots=2)
        done = command(made, "run", "topic", "purring cats", "--id", "later", "--wait", "--timeout", "50", "--json")
        assert done[0] == 0, done
        assert json.loads(done[1])["output"] == {"title": "Purring Cats", "words": 2}
