"""What is around the steps of the project."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.utils import translation

from paigeant_celery import WorkflowContext


@contextmanager
def in_language(context: WorkflowContext) -> Iterator[None]:
    """Speak the language of the workflow."""
    with translation.override(str(context.variables.get("language", "en"))):
        yield
