"""What the rows of the harness are made with. The harness itself is imported only when a row is made."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial, wraps
from importlib import import_module
from typing import Any

from tests.contract.capabilities.row import Row
from tests.contract.capabilities.world import World

__all__ = ["HARNESS", "VERSION", "counting", "of", "row"]

HARNESS, VERSION = "pydantic-ai-harness", "0.62.0"

row: Callable[..., Row] = partial(Row, package=HARNESS, since=VERSION)


def of(path: str) -> Any:
    """Return what the harness offers under a name, such as `spend.Budget`."""
    module, _, name = path.rpartition(".")
    return getattr(import_module(f"pydantic_ai_harness.{module}" if module else "pydantic_ai_harness"), name)


def counting(world: World, kind: type, *given: Any, **named: Any) -> Any:
    """Return a store of this kind that outlives the process and counts what is asked of it."""

    def counted(name: str, method: Any) -> Any:
        @wraps(method)
        async def call(*args: Any, **kwargs: Any) -> Any:
            world.did(f"store.{name}")
            return await method(*args, **kwargs)

        return call

    methods = {
        name: counted(name, method)
        for name, method in inspect.getmembers(kind, inspect.iscoroutinefunction)
        if not name.startswith("_")
    }
    if kind.__name__ not in world.state:
        world.state[kind.__name__] = type(kind.__name__, (kind,), methods)(*given, **named)
    return world.state[kind.__name__]
