"""What pydantic-ai-harness offers, in an environment that has it; CI makes one (`.ci/run`)."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import os
import pkgutil
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any
from unittest.mock import patch

import pytest
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.durable_exec import _capability_operation

from paigeant_celery import CeleryDurability
from tests.contract.capabilities.row import Row
from tests.contract.capabilities.rows import harness
from tests.contract.capabilities.rows.harness.history import summary
from tests.contract.capabilities.schemas import schemas_kept
from tests.contract.capabilities.verdict import faults_of
from tests.contract.capabilities.world import World
from tests.support.journalled_hop import JournalledHop

WANTED = "HARNESS" in os.environ  # where its rows are run; elsewhere the package is absent

# Modules that cannot be imported without a provider's library, and the capabilities in them.
APART = {
    "absurd": {"AbsurdDurability"}, "aws_lambda": {"AWSLambdaDurability"}, "boxlite_sandbox": {"BoxLiteSandbox"},
    "browser_use": {"BrowserUse"}, "daytona_sandbox": {"DaytonaSandbox"}, "e2b_sandbox": {"E2BSandbox"},
    "exa": {"ExaAgent", "ExaSearch"}, "logfire": {"ManagedPrompt"}, "modal_sandbox": {"ModalSandbox"},
    "pgtask": {"PGTaskDurability"}, "prompt_injection_defender": {"PromptInjectionDefender"},
    "render": {"RenderWorkflows"},
    "smol_sandbox": {"SmolSandbox"}, "sprites_sandbox": {"SpritesSandbox"}, "youdotcom": {"YouResearch", "YouSearch"},
}  # fmt: skip


def of_rows() -> set[str]:
    return {name for row in harness.ROWS for name in row.of}


def modules(package: Any) -> Iterator[tuple[str, Any]]:
    """Yield the public modules of a package, with None for those that lack a library; old names only warn."""
    for found in pkgutil.iter_modules(package.__path__):
        if found.name.startswith("_"):
            continue
        try:
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                module = importlib.import_module(f"{package.__name__}.{found.name}")
        except ImportError:
            yield found.name, None
        else:
            if not any("has been renamed" in str(warning.message) for warning in said):
                yield found.name, module


def capabilities(module: Any) -> Iterator[str]:
    """Yield the public capabilities of a module."""
    for name in getattr(module, "__all__", ()):
        found = vars(module).get(name)  # what is made when it is asked for is no class
        if inspect.isclass(found) and issubclass(found, AbstractCapability):
            yield name


def test_each_module_that_lacks_a_library_has_rows() -> None:
    """What cannot be looked into is listed by hand, and each name of it stands in the page."""
    assert set().union(*APART.values()) - of_rows() == set()


def test_the_versions_stand_on_the_page() -> None:
    """Readers see what the section is about."""
    assert {(row.package, row.since) for row in harness.ROWS} == {(harness.HARNESS, harness.VERSION)}


if WANTED:

    def test_the_harness_is_the_one_of_the_page() -> None:
        """Rows of a package that is absent or another one would not be run, and nobody would notice."""
        assert version(harness.HARNESS) == harness.VERSION
        assert all(row.is_here for row in harness.ROWS)

    def test_each_public_capability_of_the_harness_has_a_row() -> None:
        """A release that adds one fails here, until somebody has tried what a crash does to it."""
        found = dict(modules(importlib.import_module("pydantic_ai_harness")))
        public = {name for module in found.values() if module is not None for name in capabilities(module)}
        assert len(public) > 40
        assert public - of_rows() == set()
        assert {name for name, module in found.items() if module is None} == {*APART}

    @pytest.mark.parametrize("name", sorted(of_rows() - set().union(*APART.values())))
    def test_rows_stand_for_what_the_harness_has(name: str) -> None:
        """A name that is misspelt would stand for nothing."""
        found = dict(modules(importlib.import_module("pydantic_ai_harness")))
        assert any(name in getattr(module, "__all__", ()) for module in found.values())

    @pytest.mark.proof
    @pytest.mark.parametrize("row", [pytest.param(row, id=row.name) for row in harness.ROWS if row.make is not None])
    def test_a_row_of_the_harness_is_true(row: Row) -> None:
        """Whatever the process dies at, it is as the page says."""
        with schemas_kept():
            assert faults_of(row) == []

    def test_a_second_hop_builds_no_schema() -> None:
        """The schemas over a message history take seconds, which only the first hop of a process pays for."""
        agent: Any = summary(World())
        built: list[str] = []
        build = _capability_operation.function_schema

        def counted(function: Any, *given: Any, **named: Any) -> Any:
            built.append(function.__qualname__)
            return build(function, *given, **named)

        counts = []
        with patch.object(_capability_operation, "function_schema", counted):
            for _ in range(2):
                with JournalledHop().attempt():
                    asyncio.run(agent.run("go", capabilities=[CeleryDurability()]))
                counts.append(len(built))

        assert counts[0] > 0
        assert counts[1] == counts[0]
