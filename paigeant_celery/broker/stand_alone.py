"""The stand-alone app: its user's configuration, and beneath it the defaults that make it work without one."""

from __future__ import annotations

import os
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Literal

from celery import Celery
from celery.app.defaults import _TO_NEW_KEY, SETTING_KEYS

from paigeant_celery.core.causes import cause_of
from paigeant_celery.core.errors import ConfigurationError

__all__ = ["LOCAL_REDIS", "REDIS_VARIABLE", "TRANSPORT_VARIABLE", "StandAloneApp", "default_redis_url"]

TRANSPORT_VARIABLE = "PAIGEANT_TRANSPORT"
REDIS_VARIABLE = "PAIGEANT_REDIS_URL"
LOCAL_REDIS = "redis://localhost:6379/0"

CONFIG_MODULE = "celeryconfig"
CONFIG_VARIABLE = "CELERY_CONFIG_MODULE"  # Celery's own, which `celery --config` sets
NAME_QUEUES = {"task_queues", "task_default_queue"}


class StandAloneApp(Celery):  # type: ignore[misc]  # Celery ships no types
    """The app of `celery -A paigeant_celery`, which is nobody's host.

    It reads the module that `--config` names, otherwise `celeryconfig.py` in the working directory, if there is one.
    Its settings may be written in each way that Celery knows: `broker_url`, `BROKER_URL` or `CELERY_BROKER_URL`.
    Raises `ConfigurationError` if the module cannot be loaded.
    """

    def __init__(self) -> None:
        super().__init__("paigeant_celery")
        module = os.environ.get(CONFIG_VARIABLE) or (CONFIG_MODULE if find_spec(CONFIG_MODULE) else None)
        self._given = self._read(module) if module is not None else {}
        if not self._given.get("broker_url"):  # perhaps taken from a variable that is not set
            self._given.pop("broker_url", None)
        self.config_from_object(self._given)
        self._by_default = {name: value for name, value in _defaults(self.conf).items() if name not in self._given}
        self.conf.update(self._by_default)

    @property
    def consume_by_default(self) -> Literal["also", "only"]:
        """What a worker serves that is not told. Tasks of other applications may wait in Celery's default queue.

        A user who names queues means them to be consumed.
        """
        return "also" if NAME_QUEUES & self._given.keys() else "only"

    @property
    def redis_by_default(self) -> bool:
        """Whether its broker is this machine's Redis only because nobody has named another one."""
        return "broker_url" in self._by_default and not os.environ.get(REDIS_VARIABLE)

    @property
    def faults(self) -> list[str]:
        """What is wrong with the variable if the broker is taken from it. Celery would look for a host of that name."""
        if "broker_url" not in self._by_default or "://" in str(self._by_default["broker_url"]):
            return []
        return [f"`{REDIS_VARIABLE}` is not a URL; use 'redis://host:6379/0'"]

    def _read(self, module: str) -> dict[str, object]:
        """Return the settings of a module by their present names. Celery would hide some errors and rename others."""
        try:
            self.loader.config_from_object(module)
        except Exception as error:
            where = cause_of(error).where  # no text, which may quote a URL with its password
            at = f" at {where}" if where is not None else ""
            text = f"`{module}` cannot be loaded: {type(error).__name__}{at}; correct the module"
            raise ConfigurationError([text]) from error
        found = {name: value for name, value in self.loader.conf.items() if not isinstance(value, ModuleType)}
        # Names in lower case last: they count if somebody has kept the old one beside it.
        return {_present_name(name): found[name] for name in sorted(found)}


def default_redis_url() -> str:
    """Return `PAIGEANT_REDIS_URL`, otherwise the URL of this host's Redis."""
    return os.environ.get(REDIS_VARIABLE) or LOCAL_REDIS


def _defaults(conf: Any) -> dict[str, object]:
    """Return what stands beneath `conf`, which says what makes sense.

    `Celery.add_defaults` would put it above the user's values.
    """
    found: dict[str, object] = {
        "broker_connection_retry_on_startup": True,
        "worker_prefetch_multiplier": 1,
        "worker_enable_prefetch_count_reduction": False,
        "worker_send_task_events": True,
    }
    if not conf.result_backend:  # a user who names one wants results
        found["task_ignore_result"] = True
    if not (conf.broker_write_url or conf.broker_read_url or conf.broker_transport):
        found["broker_url"] = default_redis_url()
    return found


def _present_name(name: str) -> str:
    """Return what Celery calls a setting now that is written as it used to be, or in a namespace, as Django does."""
    plain = name.lower().removeprefix("celery_")
    if plain in SETTING_KEYS or plain.startswith("paigeant_"):
        return plain
    return str(_TO_NEW_KEY.get(name, name))
