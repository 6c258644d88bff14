"""A broker that Kombu cannot make, because a library is missing or the URL is wrong, met by a worker and a command."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.processes import deployment

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("broker", "said"),
    [
        (f"sqs://me:{SECRET}@", "the broker's transport 'sqs' cannot be loaded (ModuleNotFoundError: No module named"),
        ("kafka://h", "the broker's transport 'kafka' cannot be loaded (NameError: name 'KafkaException' is not def"),
        (f"valkey://:{SECRET}@h", "Kombu has no transport 'valkey' for the broker; write 'redis://…' instead"),
    ],
)
def test_a_worker_ends_with_one_line(tmp_path: Path, broker: str, said: str) -> None:
    """Celery would end it as well, after forty lines that name none of its user's settings."""
    with deployment(broker, tmp_path, store=None) as made:
        worker = made.start_worker("press")

        assert worker.ended(within=40) == 1
        lines = [line for line in worker.log().splitlines() if said in line]
        assert [line for line in lines if "CRITICAL" not in line] == [lines[-1]]  # it is logged as well as printed
        assert lines[-1].startswith(f"paigeant_celery: configuration: {said}")
        assert "Traceback" not in worker.log()
        assert SECRET not in worker.log()


def test_a_command_ends_with_one_line(tmp_path: Path) -> None:
    """Whoever looks for a workflow is told why nothing can be read."""
    with deployment("sqs://", tmp_path, store=None) as made:
        command = made.run(
            "-A", "paigeant_celery", "paigeant", "show", "x", folder=made.configured("show"), name="show"
        )

        assert command.ended(within=40) == 2
        assert "the broker's transport 'sqs' cannot be loaded" in command.log()
        assert "Traceback" not in command.log()
