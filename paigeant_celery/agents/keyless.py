"""Models that are known by name, made where no provider's key is, because none of them is asked."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from pydantic_ai import UserError
from pydantic_ai.models import infer_model

from paigeant_celery.core.errors import UsageError

__all__ = ["without_keys"]

KEY = re.compile(r"`([A-Z][A-Z0-9_]*)`")  # how pydantic-ai names the environment variable that it misses
MOST_KEYS = 5  # of one provider
STAND_IN = "no-key-is-needed-for-a-replay"


@contextmanager
def without_keys(model: object) -> Iterator[None]:
    """Let a model that is known by its name be made inside the block: what says that it is missing gets a stand-in.

    Raises `UsageError` if the provider's package is not installed, or the model cannot be made in another way.
    """
    given: list[str] = []
    try:
        if isinstance(model, str):
            _try(model, given)
        yield
    finally:
        for name in given:
            os.environ.pop(name, None)


def _try(model: str, given: list[str]) -> None:
    while True:
        try:
            infer_model(model)
        except ImportError as error:
            raise UsageError(f"the model {model!r} cannot be made: {error}") from error
        except UserError as error:
            missing = [name for name in KEY.findall(str(error)) if name not in os.environ]
            if not missing or len(given) >= MOST_KEYS:
                raise UsageError(f"the model {model!r} cannot be made: {error}") from error
            os.environ[missing[0]] = STAND_IN
            given.append(missing[0])
        else:
            return
