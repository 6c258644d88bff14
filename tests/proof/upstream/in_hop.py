"""A plugin of pytest that runs pydantic-ai's own tests, each in a hop of its own.

Its tests are in no package, so they take a checkout of it and an environment with what they need beside this project.
Run from the checkout, once with `IN_HOP=` and once with `IN_HOP=1`; README.md has the commands and what fails only in
a hop. Names that the tests import and the installed pydantic-ai does not have are made up, so that one such name does
not hide a whole file.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import os
import runpy
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from pydantic_ai import Agent

from paigeant_celery.agents.durability import CeleryDurability
from paigeant_celery.journal.scope import current_journal

__all__ = ["pytest_configure", "pytest_runtest_call"]

IN_HOP = bool(os.environ.get("IN_HOP"))
# By its path, because the checkout has a package `tests` of its own.
JournalledHop: Any = runpy.run_path(str(Path(__file__).parents[2] / "support/journalled_hop.py"))["JournalledHop"]
ENGINES = ("temporal", "dbos", "prefect")  # whose libraries would be loaded


def pytest_configure(config: pytest.Config) -> None:
    """Make up missing names, and give each agent durability for its run, as a step does."""
    for module, name in _imported(config.rootpath / "tests"):
        with suppress(ImportError, AttributeError):
            found = importlib.import_module(module)
            if not hasattr(found, name):
                setattr(found, name, _missing(module, name))
    if IN_HOP:
        Agent.iter = _durable(Agent.iter)  # type: ignore[method-assign]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Run a test inside a hop."""
    if IN_HOP and isinstance(item, pytest.Function):
        item.obj = _in_hop(item.obj)
    return (yield)


def _imported(folder: Path) -> Iterator[tuple[str, str]]:
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            module = node.module if isinstance(node, ast.ImportFrom) and not node.level else None
            if module and module.startswith("pydantic_ai") and not any(engine in module for engine in ENGINES):
                yield from ((module, alias.name) for alias in node.names)  # type: ignore[union-attr]


def _missing(module: str, name: str) -> Any:
    with suppress(ImportError):
        return importlib.import_module(f"{module}.{name}")
    return type(name, (), {})


def _durable(plain: Any) -> Any:
    @asynccontextmanager
    @functools.wraps(plain)
    async def iterated(agent: Agent[Any, Any], *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        if current_journal() is not None and CeleryDurability.from_agent(agent) is None:
            durability: CeleryDurability[Any] = CeleryDurability(name=agent.name or "agent")
            kwargs = {**kwargs, "capabilities": [*(kwargs.get("capabilities") or ()), durability], "infer_name": False}
        async with plain(agent, *args, **kwargs) as run:
            yield run

    return iterated


def _in_hop(test: Any) -> Any:
    if inspect.iscoroutinefunction(test):

        @functools.wraps(test)
        async def run_async(*args: Any, **kwargs: Any) -> Any:
            with JournalledHop().attempt():
                return await test(*args, **kwargs)

        return run_async

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> Any:
        with JournalledHop().attempt():
            return test(*args, **kwargs)

    return run
