"""The stand-alone app: `celery -A paigeant_celery worker -I your.agents`.

It reads `celeryconfig.py` in the working directory if there is one. Otherwise broker and store are the Redis of
`PAIGEANT_REDIS_URL`, or if that is not set, the Redis of this host.
"""

from __future__ import annotations

from importlib.util import find_spec

from celery import Celery

from paigeant_celery.broker.transport import default_redis_url
from paigeant_celery.worker.install import install

__all__ = ["app"]

DEFAULTS = {
    "broker_url": default_redis_url(),
    "paigeant_store_url": "broker",
    # Not the queue "celery", on which tasks of other applications may wait on the same Redis.
    "paigeant_consume": "only",
    "broker_connection_retry_on_startup": True,
    "worker_prefetch_multiplier": 1,
    "worker_enable_prefetch_count_reduction": False,
    "worker_send_task_events": True,
    "task_ignore_result": True,
}

app = Celery("paigeant_celery")
app.config_from_object("celeryconfig" if find_spec("celeryconfig") else DEFAULTS)
install(app)
