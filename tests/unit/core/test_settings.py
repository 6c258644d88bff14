"""Settings: read from whatever configuration the host has, and refused together if they are wrong."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from pydantic import ValidationError

from paigeant_celery.core.errors import ConfigurationError
from paigeant_celery.core.names import ACTIVITY_NAME_RULE
from paigeant_celery.core.settings import Settings, read_settings

SECRET = "hunter2-hunter2"


def mistakes_of(**conf: object) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        read_settings(conf)
    return caught.value.mistakes


def host(namespace: str = "", **settings: object) -> Celery:
    """An app that reads its configuration from an object, as a Django project's does."""
    app = Celery(set_as_current=False)
    app.config_from_object(SimpleNamespace(**settings), namespace=namespace)
    return app


def test_a_configuration_without_our_keys_gives_the_defaults() -> None:
    """Adding us to a deployment needs no settings, and other people's keys are not ours."""
    assert read_settings({}) == Settings()
    assert read_settings(host(broker_url="memory://", task_time_limit=5).conf) == Settings()
    assert read_settings({"my_paigeant_lease": 3, "broker_url": "x"}) == Settings()


@pytest.mark.parametrize(
    "conf",
    [
        {"paigeant_lease": 3, "paigeant_prefix": "shop"},
        {"PAIGEANT_LEASE": 3, "PAIGEANT_PREFIX": "shop"},
        host(paigeant_lease=3, paigeant_prefix="shop").conf,
        host("CELERY", CELERY_PAIGEANT_LEASE=3, CELERY_PAIGEANT_PREFIX="shop").conf,
    ],
    ids=["mapping", "upper-case", "celery", "django"],
)
def test_settings_are_read_in_the_way_that_the_host_writes_its_own(conf: Any) -> None:
    """Celery's keys are lower-case, and Django's are upper-case after a namespace."""
    assert read_settings(conf) == Settings(prefix="shop", lease=3.0)


@pytest.mark.parametrize(
    ("given", "consume"),
    [
        ("also", "also"),
        ("only", "only"),
        ("no", "no"),
        ("writer", ("writer",)),
        ("writer, critic,", ("writer", "critic")),
        (["writer", "critic"], ("writer", "critic")),
        (("only",), ("only",)),
        ("", ()),
    ],
)
def test_what_a_worker_serves_is_a_word_or_names(given: object, consume: object) -> None:
    """An environment variable holds names with commas, a Python file a list."""
    assert read_settings({"paigeant_consume": given}).consume == consume


def test_every_mistake_is_named_and_no_value_is_shown() -> None:
    """One failed start shows all that must be corrected; a configuration holds passwords."""
    assert mistakes_of(
        paigeant_prefix=f"{SECRET} ",
        paigeant_store_url=[SECRET],
        paigeant_consume=[SECRET, 5],
        paigeant_step_timeout=0,
        paigeant_max_attempts="5",
        paigeant_lease=float("nan"),
        paigeant_result_ttl=SECRET,
        paigeant_max_message_size=100,
        paigeant_inline_output_size=-1,
        paigeant_max_output_size=1.5,
        paigeant_max_steps=0,
        paigeant_max_visits=True,
        paigeant_allow_eviction="yes",
        paigeant_max_step=SECRET,
        paigeant_zzz=SECRET,
    ) == [
        f"`paigeant_prefix`: must have {ACTIVITY_NAME_RULE}",
        "`paigeant_store_url`: Input should be a valid string",
        "`paigeant_consume`: must be 'also', 'only', 'no', or the names of activities",
        "`paigeant_step_timeout`: Input should be greater than 0",
        "`paigeant_max_attempts`: Input should be a valid integer",
        "`paigeant_lease`: Input should be a finite number",
        "`paigeant_result_ttl`: Input should be a valid number, unable to parse string as a number",
        "`paigeant_max_message_size`: Input should be greater than or equal to 4096",
        "`paigeant_inline_output_size`: Input should be greater than or equal to 0",
        "`paigeant_max_output_size`: Input should be a valid integer",
        "`paigeant_max_steps`: Input should be greater than or equal to 1",
        "`paigeant_max_visits`: Input should be a valid integer",
        "`paigeant_allow_eviction`: Input should be a valid boolean",
        "`paigeant_max_step` is not a setting; did you mean `paigeant_max_steps`?",
        "`paigeant_zzz` is not a setting",
    ]


@pytest.mark.parametrize("consume", [5, None, {"only": True}, [1]])
def test_what_a_worker_serves_is_one_mistake(consume: object) -> None:
    """The message says what may be written, not how it is checked."""
    assert mistakes_of(paigeant_consume=consume) == [
        "`paigeant_consume`: must be 'also', 'only', 'no', or the names of activities"
    ]


@pytest.mark.parametrize(
    ("name", "lowest", "highest"),
    [
        ("step_timeout", 0.001, 30 * 86400),
        ("max_attempts", 1, 1000),
        ("lease", 0.2, 3600),
        ("max_steps", 1, 100_000),
        ("max_message_size", 4096, 10**12),
        ("inline_output_size", 0, 10**12),
        ("max_output_size", 1024, 10**12),
        ("max_visits", 1, 10**9),
        ("result_ttl", 1, 10**9),
    ],
)
def test_the_limits_of_a_setting_are_allowed(name: str, lowest: float, highest: float) -> None:
    """The settings' reference states the smallest and the largest value."""
    for value in (lowest, highest):
        assert getattr(read_settings({f"paigeant_{name}": value}), name) == value


def test_settings_do_not_change_after_the_start() -> None:
    """What was checked at start-up is what applies."""
    settings = Settings()

    with pytest.raises(ValidationError, match="frozen"):
        settings.lease = 0  # type: ignore[misc]
    assert settings == Settings()
