"""Errors that a run survived come back in its replay."""

from __future__ import annotations

import builtins
import json
from typing import Any

import pytest
from pydantic_ai import exceptions
from pydantic_ai.exceptions import ModelAPIError, ModelHTTPError, UnexpectedModelBehavior

from paigeant_celery.agents.recorded_errors import rebuilt, survived
from paigeant_celery.core.causes import cause_of
from paigeant_celery.core.errors import ReplayedError
from paigeant_celery.journal.record import CallKey, Record, RecordedError, parse_record


class OwnError(Exception):
    """An error in the user's code."""


@pytest.mark.parametrize(
    "error",
    [
        ModelHTTPError(503, "m", {"error": "busy"}),
        ModelAPIError("m", "no connection"),
        UnexpectedModelBehavior("odd"),
        ValueError("bad", 3),
        KeyError("k"),
    ],
)
def test_an_error_of_python_or_pydantic_ai_is_of_its_class_again(error: Exception) -> None:
    """The code that caught it, such as a fallback model, catches it again."""
    again = rebuilt(survived(error, {}))

    assert type(again) is type(error)
    assert str(again) == str(error)


def test_a_replayed_error_leads_to_the_code_that_raised_it_then() -> None:
    """The replay runs no tool, and its own frames say nothing about the bug."""

    def tool() -> None:
        raise ValueError("bad")

    with pytest.raises(ValueError, match="bad") as first:
        tool()
    record = parse_record(survived(first.value, {}).encode(), step_id="s", key=CallKey(run="r", step=1, kind="tool"))
    with pytest.raises(ValueError, match="bad") as replayed:
        raise rebuilt(record)

    then = cause_of(first.value).frames[-1]
    assert then.function.endswith("tool")
    assert cause_of(replayed.value).frames[-1] == then


@pytest.mark.parametrize("error", [OwnError("mine"), OwnError(object())])
def test_any_other_error_is_replaced_by_one_that_names_it(error: Exception) -> None:
    """A record is data: what it names is not imported."""
    again = rebuilt(survived(error, {}))

    assert isinstance(again, ReplayedError)
    assert again.error_class == "OwnError"
    assert str(error) in str(again)


@pytest.mark.parametrize(
    ("name", "arguments", "kind", "text"),
    [
        (
            "ModelHTTPError",
            [503, "m", {"error": "busy"}],
            ModelHTTPError,
            str(ModelHTTPError(503, "m", {"error": "busy"})),
        ),
        ("ModelAPIError", ["m", "no connection"], ModelAPIError, "no connection"),
        ("KeyError", ["k"], KeyError, "'k'"),
        ("FileNotFoundError", [2, "gone"], FileNotFoundError, "[Errno 2] gone"),
        ("OwnError", ["mine"], ReplayedError, "OwnError: mine"),
    ],
)
def test_a_record_of_an_earlier_version_is_read_as_that_version_did(
    name: str, arguments: list[Any], kind: type[Exception], text: str
) -> None:
    """It has a class and arguments, which are all that such a version reads of a record of today, too."""
    old = json.dumps({"v": 1, "of": {}, "failure": {"class": name, "args": arguments}})

    again = rebuilt(parse_record(old, step_id="s", key=CallKey(run="r", step=1, kind="model")))

    assert type(again) is kind
    assert str(again) == text


def test_what_earlier_versions_read_of_a_record_stays_where_it_was() -> None:
    """In a rolling deploy they take over steps that this one began."""
    error = ModelHTTPError(503, "m", {"error": "busy"})

    failure = json.loads(survived(error, {}).encode())["failure"]

    assert failure == {"class": "ModelHTTPError", "args": [503, "m", {"error": "busy"}], "form": failure["form"]}


@pytest.mark.parametrize("name", ["SystemExit", "KeyboardInterrupt", "print", "Exception", "UserError", "nothing"])
def test_no_record_raises_what_would_end_a_worker(name: str) -> None:
    """Only errors that code can survive are ever recorded."""
    assert isinstance(rebuilt(Record(failure=RecordedError(error_class=name, args=()))), Exception)


RATE = [429, "m", {"error": "slow down"}]


@pytest.mark.parametrize(
    ("name", "arguments", "classes"),
    [
        ("ModelRateLimitError", RATE, ("ModelRateLimitError", "ModelHTTPError")),
        ("ModelRequestTimeout", ["m", "it took 1.5 seconds"], ("ModelAPIError",)),
        ("ModelHTTPError", [503, "m", None], ("ModelHTTPError",)),
        ("UnicodeDecodeError", ["cannot decode"], ("ValueError",)),
    ],
)
def test_records_without_forms_are_as_near_as_they_can_be(
    name: str, arguments: list[Any], classes: tuple[str, ...]
) -> None:
    """A workflow that an earlier version began, or parked, goes on where its code caught the error."""
    again = rebuilt(Record(failure=RecordedError(error_class=name, args=tuple(arguments))))

    for near in classes:
        found = getattr(exceptions, near, None) or getattr(builtins, near, None)
        if found is not None:  # some came with later versions of pydantic-ai
            assert isinstance(again, found)
    assert str(arguments[-1]) in str(again)


@pytest.mark.parametrize("name", ["FallbackExceptionGroup", "OwnError"])
def test_a_record_of_a_class_that_its_arguments_cannot_make_names_it(name: str) -> None:
    """Nothing but `except Exception` catches it."""
    again = rebuilt(Record(failure=RecordedError(error_class=name, args=("all of them",))))

    assert type(again) is ReplayedError
    assert str(again) == f"{name}: all of them"
