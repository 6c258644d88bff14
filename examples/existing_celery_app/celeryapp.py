"""The Celery app of a small shop, plus the lines that add paigeant_celery to it."""

from __future__ import annotations

import os

from celery import Celery

__all__ = ["app"]

REDIS_URL = os.environ.get("PAIGEANT_REDIS_URL", "redis://localhost:6379/0")

app = Celery("shop")
app.conf.update(
    broker_url=REDIS_URL,
    result_backend=REDIS_URL,
    broker_connection_retry_on_startup=True,
    task_default_queue="shop",
    imports=(
        "examples.existing_celery_app.tasks",
        # New: the tasks of paigeant_celery, and the module that makes the shop's agents.
        "paigeant_celery.tasks",
        "examples.existing_celery_app.agents",
    ),
    # New: workflows are recorded in the broker's own Redis.
    paigeant_store_url="broker",
)
