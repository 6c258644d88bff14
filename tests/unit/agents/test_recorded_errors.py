"""Errors that a run survived come back in its replay."""

from __future__ import annotations

import pytest
from pydantic_ai.exceptions import ModelAPIError, ModelHTTPError, UnexpectedModelBehavior

from paigeant_celery.agents.recorded_errors import rebuilt, survived
from paigeant_celery.core.errors import ReplayedError
from paigeant_celery.journal.record import Record, RecordedError


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


@pytest.mark.parametrize("error", [OwnError("mine"), OwnError(object())])
def test_any_other_error_is_replaced_by_one_that_names_it(error: Exception) -> None:
    """A record is data: what it names is not imported."""
    again = rebuilt(survived(error, {}))

    assert isinstance(again, ReplayedError)
    assert again.error_class == "OwnError"
    assert str(error) in str(again)


@pytest.mark.parametrize("name", ["SystemExit", "KeyboardInterrupt", "print", "Exception", "UserError", "nothing"])
def test_no_record_raises_what_would_end_a_worker(name: str) -> None:
    """Only errors that code can survive are ever recorded."""
    assert isinstance(rebuilt(Record(failure=RecordedError(error_class=name, args=()))), Exception)
