"""What of a failure everybody may read, and what only those who may read content."""

from __future__ import annotations

from pydantic import JsonValue

from paigeant_celery.core.flow import Failure
from paigeant_celery.core.names import REASONS

__all__ = ["told", "told_document"]

# Codes and classes under which only texts of our own stand: they name a field, a setting and a remedy, and no value.
# What a step raised may quote anything that the step knew.
OURS = frozenset(REASONS) - {"unexpected_error"} | {"NonDeterminismError"}


def told(failure: Failure) -> str:
    """Return the class of the error or the reason, with the text if that is ours."""
    return f"{failure.error_class}: {failure.text}" if failure.error_class in OURS else failure.error_class


def told_document(failure: Failure | None) -> JsonValue:
    """Return the same as JSON, with classes and frames of what raised the error; None for none."""
    if failure is None:
        return None
    return {
        "step_id": failure.step_id,
        "error_class": failure.error_class,
        "text": failure.text if failure.error_class in OURS else None,
        "where": failure.where or None,
        "trace": failure.cause.without_texts if failure.cause is not None else None,
    }
