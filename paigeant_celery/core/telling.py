"""What of a failure everybody may read. Its texts may quote prompts and answers, and are for those who ask for them."""

from __future__ import annotations

from dataclasses import replace

from paigeant_celery.core.causes import Cause
from paigeant_celery.core.flow import Failure
from paigeant_celery.core.names import REASONS

__all__ = ["named", "without_texts"]

# Codes and classes under which only texts of our own stand: they name a field, a setting and a remedy, and no value.
OURS = frozenset(REASONS) - {"unexpected_error"} | {"NonDeterminismError"}


def named(failure: Failure) -> str:
    """Return the class of the error or the reason, with the text if there is one."""
    return f"{failure.error_class}: {failure.text}" if failure.text else failure.error_class


def without_texts(failure: Failure | None) -> Failure | None:
    """Return a failure with classes and frames alone; a text of our own stays."""
    if failure is None:
        return None
    text = failure.text if failure.error_class in OURS else ""
    return replace(failure, text=text, cause=_bare(failure.cause) if failure.cause is not None else None)


def _bare(cause: Cause) -> Cause:
    return replace(
        cause,
        text="",
        notes=(),
        raised_from=_bare(cause.raised_from) if cause.raised_from is not None else None,
        group=tuple(map(_bare, cause.group)),
    )
