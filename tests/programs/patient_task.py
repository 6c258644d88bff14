"""The same step as a plain Celery task, configured as Celery's documentation advises for important work."""

from __future__ import annotations

import os
import time
from pathlib import Path

from celery import Celery
from ledger import noted_run

HELD_AT_MOST = 120.0  # seconds; a benchmark that ended opens no gate
LOOK_EVERY = 0.02  # seconds

app = Celery("patient_task", broker=os.environ["PAIGEANT_REDIS_URL"], set_as_current=False)
app.conf.update(
    task_default_queue=os.environ["TASK_QUEUE"],
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
    broker_transport_options={
        "visibility_timeout": float(os.environ["VISIBILITY_TIMEOUT"]),
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
    },
)


@app.task(name="patient.hold")
def hold(hop_id: str, gate: str) -> None:
    with noted_run(hop_id):
        deadline = time.monotonic() + HELD_AT_MOST
        while not Path(gate).exists():
            if time.monotonic() > deadline:
                raise TimeoutError(gate)
            time.sleep(LOOK_EVERY)
