"""A host: a Celery app with its own habits, with or without paigeant_celery.

`SHOP_WITH` is empty, `imports` or `install`; `SHOP_SETTINGS` is a dict of further settings.
"""

from __future__ import annotations

import ast
import os
from typing import Any

from celery import Celery, Task, shared_task
from celery.signals import before_task_publish

WITH = os.environ.get("SHOP_WITH", "")


class ShopTask(Task):
    """The base class of all of the host's tasks."""

    abstract = True
    rate_limit = "100/s"

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        assert self.name.startswith(("shop.", "celery.")), f"{self.name} is no task of the host"


app = Celery("shop", broker=os.environ.get("SHOP_BROKER", "memory://localhost//"), task_cls=ShopTask)
app.conf.update(
    task_routes={"shop.add": {"queue": "orders"}, "paigeant.*": {"queue": "agents"}},
    task_default_queue="shop",
    task_serializer="pickle",
    accept_content=["json", "pickle"],
    task_compression="bzip2",
    task_time_limit=1,
    task_soft_time_limit=0.9,
    task_default_rate_limit="1/h",
    task_default_priority=9,
    task_default_delivery_mode="transient",
    task_acks_late=False,
    task_acks_on_failure_or_timeout=False,
    task_reject_on_worker_lost=False,
    task_track_started=True,
    task_ignore_result=False,
    task_store_errors_even_if_ignored=True,
    task_inherit_parent_priority=True,
    task_publish_retry=False,
    task_send_sent_event=True,
    task_create_missing_queues=True,
    result_extended=True,
    broker_connection_retry_on_startup=True,
)
app.conf.update(ast.literal_eval(os.environ.get("SHOP_SETTINGS", "{}")))
if WITH == "imports":
    app.conf.imports = ("paigeant_celery.tasks", "desk", "press", "troubles")


@app.task(name="shop.add")
def add(x: int, y: int) -> int:
    return x + y


@shared_task(name="shop.shared")
def shared() -> str:
    return "shared"


@before_task_publish.connect
def trace(headers: dict[str, Any] | None = None, **_: Any) -> None:
    """Add a header to each message, as Sentry and tracers do."""
    if headers is not None:
        headers["sentry-trace"] = "0123-4567-1"


if WITH == "install":
    import desk  # noqa: F401
    import press  # noqa: F401
    import troubles  # noqa: F401

    from paigeant_celery import install

    install(app)
