"""The page says what the rows say, and nothing that pydantic-ai offers is missing from them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import ModuleType

import pytest
from pydantic_ai import capabilities, output, toolsets
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.toolsets import AbstractToolset

from tests.contract.capabilities.page import PAGE, page
from tests.contract.capabilities.row import CORE
from tests.contract.capabilities.rows import SECTIONS
from tests.contract.capabilities.rows.workflows import SHOWN


def test_the_page_is_made_of_the_rows() -> None:
    """Users read what the tests have shown; `python -m tests.contract.capabilities` writes it anew."""
    assert PAGE.read_text(encoding="utf-8") == page()


ELSEWHERE = [row.by for row in SHOWN] + [row.waits for rows in SECTIONS.values() for row in rows if row.waits]


@pytest.mark.parametrize("by", ELSEWHERE)
def test_what_is_shown_elsewhere_has_its_test(by: str) -> None:
    """A test that is renamed or deleted shows nothing."""
    file, _, name = by.partition("::")
    assert f"def {name}(" in (PAGE.parents[1] / file).read_text(encoding="utf-8")


def test_no_two_rows_have_the_same_name() -> None:
    """A name is what people find a row by."""
    names = [row.name for rows in SECTIONS.values() for row in rows]
    assert len(names) == len({*names})


def of(rows: str) -> set[str]:
    return {name for row in SECTIONS[rows] for name in row.of}


def public(module: ModuleType, base: type) -> Iterator[str]:
    """Yield the public classes of a module that are, or derive from, `base`."""
    for name in module.__all__:
        found = getattr(module, name)
        if inspect.isclass(found) and issubclass(found, base):
            yield name


# What stands in `pydantic_ai.output` beside types and helpers: each is a way of getting an output.
OUTPUTS = {"NativeOutput", "PendingModelResponse", "PromptedOutput", "StructuredDict", "TextOutput", "ToolOutput"}
NO_OUTPUTS = {"BoolCriteria", "Choice", "Choices", "OutputContext", "OutputDataT", "OutputMode"} | {
    "OutputObjectDefinition", "OutputSpec", "OutputTypeOrFunction", "StructuredOutputMode", "TextOutputFunc",
}  # fmt: skip


def test_each_public_capability_has_a_row() -> None:
    """A release that adds one fails here, until somebody has tried what a crash does to it."""
    found = {*public(capabilities, AbstractCapability)}
    assert len(found) > 30
    assert found - {name for section in SECTIONS for name in of(section)} == set()


def test_each_public_toolset_has_a_row() -> None:
    """Nobody has to guess whether the calls of a toolset are recorded."""
    found = {*public(toolsets, AbstractToolset)}
    assert len(found) > 10
    assert found - of("Toolsets") == set()


def test_each_way_of_getting_an_output_has_a_row() -> None:
    """A name that is neither is new: say which of the two it is."""
    assert {*output.__all__} - OUTPUTS - NO_OUTPUTS == set()
    assert {*output.__all__} & OUTPUTS - of("Outputs") - of("Waiting") == set()


@pytest.mark.parametrize("section", SECTIONS)
def test_rows_stand_for_what_is_there(section: str) -> None:
    """A name that is misspelt would stand for nothing."""
    places = (capabilities, output, toolsets)
    unknown = {
        name for row in SECTIONS[section] if row.is_here and row.package == CORE for name in row.of
        if not any(hasattr(place, name) for place in places)
    }  # fmt: skip
    assert unknown <= {"MCPToolset"}
