"""Settings: the flat `paigeant_*` keys of a Celery configuration, read once and checked together."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from paigeant_celery.core.errors import ConfigurationError
from paigeant_celery.core.names import ACTIVITY_NAME_RULE, MAX_ATTEMPTS, is_activity_name

__all__ = ["Consume", "Settings", "read_settings", "read_what_is_valid"]

PREFIX = "paigeant_"
SPECIAL_CONSUME = {"also", "only", "no"}

Consume: TypeAlias = Literal["also", "only", "no"] | tuple[str, ...]


class Settings(BaseModel):
    """Every setting with its default; `celeryconfig.py` explains each one.

    Times are in seconds, sizes in bytes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    prefix: str = "paigeant"
    store_url: str | None = None
    consume: Consume = "also"
    step_timeout: float = Field(default=3600.0, gt=0, le=30 * 86400, allow_inf_nan=False)
    max_attempts: int = Field(default=5, ge=1, le=MAX_ATTEMPTS, strict=True)
    retry_backoff: float = Field(default=1.0, ge=0, le=86400, allow_inf_nan=False)
    publish_timeout: float = Field(default=10.0, ge=0.1, le=3600, allow_inf_nan=False)
    lease: float = Field(default=10.0, ge=0.2, le=3600, allow_inf_nan=False)
    shutdown_grace: float = Field(default=25.0, ge=0, le=86400, allow_inf_nan=False)
    result_ttl: float = Field(default=7 * 86400.0, ge=1, allow_inf_nan=False)
    max_message_age: float = Field(default=3 * 86400.0, ge=0, allow_inf_nan=False)
    max_message_size: int = Field(default=1024 * 1024, ge=4096, strict=True)
    inline_output_size: int = Field(default=1024, ge=0, strict=True)
    inline_log_size: int = Field(default=4096, ge=0, strict=True)
    max_output_size: int = Field(default=16 * 1024 * 1024, ge=1024, strict=True)
    max_conversation_size: int = Field(default=16 * 1024 * 1024, ge=1024, strict=True)
    max_steps: int = Field(default=256, ge=1, le=100_000, strict=True)
    max_branches: int = Field(default=1000, ge=1, le=10_000, strict=True)
    max_visits: int = Field(default=16, ge=1, strict=True)
    allow_eviction: bool = Field(default=False, strict=True)
    around_step: Any = None

    @property
    def consume_is_set(self) -> bool:
        """Whether the configuration says what a worker serves; otherwise its `-Q` does, or the default."""
        return "consume" in self.model_fields_set

    @property
    def store_is_set(self) -> bool:
        """Whether the configuration says where workflows are recorded, if only that they are not."""
        return "store_url" in self.model_fields_set

    @field_validator("prefix")
    @classmethod
    def _check_prefix(cls, prefix: str) -> str:
        if not is_activity_name(prefix):
            raise ValueError(f"must have {ACTIVITY_NAME_RULE}")
        return prefix

    @field_validator("consume", mode="before")
    @classmethod
    def _check_consume(cls, consume: object) -> object:
        if isinstance(consume, str):
            names = tuple(name.strip() for name in consume.split(",") if name.strip())
            return consume if consume in SPECIAL_CONSUME else names
        if isinstance(consume, (list, tuple, set, frozenset)) and all(isinstance(name, str) for name in consume):
            return tuple(consume)
        raise ValueError("must be 'also', 'only', 'no', or the names of activities")

    @field_validator("around_step")
    @classmethod
    def _check_around_step(cls, around_step: object) -> object:
        if around_step is None or isinstance(around_step, str) or callable(around_step):
            return around_step
        raise ValueError("must be a function, or the dotted path of one")


def read_settings(conf: Mapping[str, object]) -> Settings:
    """Read the `paigeant_*` keys of `conf`; raises a `ConfigurationError` that lists every mistake."""
    settings, mistakes = read_what_is_valid(conf)
    if mistakes:
        raise ConfigurationError(mistakes)
    return settings


def read_what_is_valid(conf: Mapping[str, object]) -> tuple[Settings, list[str]]:
    """Read the `paigeant_*` keys of `conf`, with the default in place of each wrong value; also return the mistakes."""
    keys = list(conf)  # Celery reads its configuration on first use, and knows the namespace only then
    namespace = str(getattr(conf, "prefix", None) or "").lower()  # `CELERY_` in a Django project
    names = {key: key.lower().removeprefix(namespace) for key in keys}
    given = {name.removeprefix(PREFIX): conf[key] for key, name in names.items() if name.startswith(PREFIX)}
    try:
        return Settings.model_validate(given), []
    except ValidationError as error:
        faults = error.errors()
    wrong = {fault["loc"][0] for fault in faults}
    valid = Settings.model_validate({name: value for name, value in given.items() if name not in wrong})
    return valid, [_mistake(fault["loc"], fault["type"], fault["msg"]) for fault in faults]


def _mistake(location: tuple[int | str, ...], kind: str, text: str) -> str:
    name = str(location[0])
    if kind != "extra_forbidden":
        return f"`{PREFIX}{name}`: {text.removeprefix('Value error, ')}"
    close = difflib.get_close_matches(name, Settings.model_fields, n=1)
    hint = f"; did you mean `{PREFIX}{close[0]}`?" if close else ""
    return f"`{PREFIX}{name}` is not a setting{hint}"
