"""The stand-alone app: its user's configuration, and beneath it the defaults that make it work without one."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any, Literal

from celery import Celery

from paigeant_celery.core.errors import ConfigurationError

__all__ = ["LOCAL_REDIS", "REDIS_VARIABLE", "TRANSPORT_VARIABLE", "StandAloneApp", "default_redis_url", "only_broker"]

TRANSPORT_VARIABLE = "PAIGEANT_TRANSPORT"
REDIS_VARIABLE = "PAIGEANT_REDIS_URL"
LOCAL_REDIS = "redis://localhost:6379/0"

CONFIG_MODULE = "celeryconfig"
CONFIG_VARIABLE = "CELERY_CONFIG_MODULE"  # Celery's own, which `celery --config` sets
HOLD_A_STORE = ("redis://", "rediss://")
# The settings that name a worker's queues, as Celery writes them now, as it used to, and as Django does.
NAME_QUEUES = (
    *("task_queues", "CELERY_QUEUES", "CELERY_TASK_QUEUES"),
    *("task_default_queue", "CELERY_DEFAULT_QUEUE", "CELERY_TASK_DEFAULT_QUEUE"),
)


class StandAloneApp(Celery):  # type: ignore[misc]  # Celery ships no types
    """The app of `celery -A paigeant_celery`, which is nobody's host.

    It reads the module that `--config` names, otherwise `celeryconfig.py` in the working directory, if there is one.
    Its settings may be written in each way that Celery knows: `broker_url`, `BROKER_URL` or `CELERY_BROKER_URL`.
    Raises `ConfigurationError` if the module cannot be loaded.
    """

    def __init__(self) -> None:
        super().__init__("paigeant_celery", namespace="CELERY")
        self._beneath: dict[str, object] = {}
        self.on_after_configure.connect(self._put_defaults_beneath, weak=False)
        module = os.environ.get(CONFIG_VARIABLE) or (CONFIG_MODULE if find_spec(CONFIG_MODULE) else None)
        if module is not None:
            self._read(module)
        self.conf.finalize()

    def _read(self, module: str) -> None:
        """Read the module now. Celery would do it later, and hide some errors and rename others."""
        self.config_from_object(module)
        try:
            self.loader.config_from_object(module)
        except Exception as error:
            text = f"`{module}` cannot be loaded: {type(error).__name__}; correct the module"
            raise ConfigurationError([text]) from error

    @property
    def consume_by_default(self) -> Literal["also", "only"]:
        """What a worker serves that is not told. Tasks of other applications may wait in Celery's default queue.

        A user who names queues means them to be consumed.
        """
        layers = self.conf.maps[:-2]  # without our defaults and Celery's
        return "also" if any(name in layer for layer in layers for name in NAME_QUEUES) else "only"

    @property
    def redis_by_default(self) -> bool:
        """Whether its broker is this machine's Redis only because nobody has named another one."""
        return "broker_url" in self._beneath and not os.environ.get(REDIS_VARIABLE)

    def _put_defaults_beneath(self, source: Any, **_: object) -> None:
        """Insert our defaults between what the user has set and Celery's own defaults.

        `Celery.add_defaults` would put them above the user's.
        """
        self._beneath = _defaults(source)
        source.maps.insert(-1, self._beneath)
        source.defaults.insert(-1, self._beneath)


def default_redis_url() -> str:
    """Return `PAIGEANT_REDIS_URL`, otherwise the URL of this host's Redis."""
    return os.environ.get(REDIS_VARIABLE) or LOCAL_REDIS


def only_broker(conf: Any) -> str | None:
    """Return the URL that messages are sent to; None if Celery is given no URL or several."""
    given = conf.broker_write_url
    urls = given if isinstance(given, (list, tuple)) else str(given or "").split(";")
    return urls[0] if len(urls) == 1 and urls[0] else None


def _defaults(conf: Any) -> dict[str, object]:
    """Return what stands beneath `conf`, which may say what else makes sense."""
    found: dict[str, object] = {
        "broker_connection_retry_on_startup": True,
        "worker_prefetch_multiplier": 1,
        "worker_enable_prefetch_count_reduction": False,
        "worker_send_task_events": True,
    }
    if not conf.result_backend:  # a user who names one wants results
        found["task_ignore_result"] = True
    broker = only_broker(conf)
    if not (conf.broker_write_url or conf.broker_read_url or conf.broker_transport):
        broker = found["broker_url"] = default_redis_url()
    if broker is not None and broker.startswith(HOLD_A_STORE):
        found["paigeant_store_url"] = "broker"
    return found
