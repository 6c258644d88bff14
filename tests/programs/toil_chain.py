"""The same steps as plain Celery chains, with chords for blocks.

They are configured as Celery's documentation advises for important work.
"""

from __future__ import annotations

import os
import time

from celery import Celery
from celery.signals import task_success
from ledger import note, noted_run
from stumbles import InPassing, stumble

TIMEOUT = 3  # seconds until Kombu redelivers what was not acknowledged; more than three times the longest step

URL = os.environ["PAIGEANT_REDIS_URL"]

app = Celery("toil_chain", broker=URL, backend=URL, set_as_current=False)
app.conf.update(
    task_default_queue=os.environ["CHAIN_QUEUE"],
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
    broker_transport_options={
        "visibility_timeout": TIMEOUT,
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
    },
)


def toil(hop_id: str, seconds: float) -> None:
    with noted_run(hop_id):
        time.sleep(seconds)
        stumble(hop_id)


@app.task(name="toil.step", autoretry_for=(InPassing,), retry_backoff=True, max_retries=5)
def step(hop_id: str, seconds: float) -> None:
    toil(hop_id, seconds)


@app.task(name="toil.branch", autoretry_for=(InPassing,), retry_backoff=True, max_retries=5, ignore_result=False)
def branch(hop_id: str, seconds: float) -> None:
    """Do a step of a chord's header, whose results Celery counts."""
    toil(hop_id, seconds)


@app.task(name="toil.join")
def join(hop_id: str) -> None:
    """Come after all steps of a chord's header."""
    with noted_run(hop_id):
        pass


@task_success.connect
def done(sender: object = None, **_: object) -> None:
    """Record when Celery has already sent the next step."""
    hop_id = getattr(sender, "request").args[0]  # noqa: B009 - Celery ships no types
    note(os.environ["RUNS_FILE"], what="done", hop=hop_id)
