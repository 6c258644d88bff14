"""The rooms of the package and the one direction in which they import each other."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import paigeant_celery

PACKAGE = Path(paigeant_celery.__file__).parent

LAYERS = {
    "core": {
        "errors",
        "names",
        "jsonable",
        "policy",
        "retry",
        "deps",
        "slip",
        "budget",
        "message",
        "context",
        "flow",
        "journal",
        "core",
        "core.hops",
    },
    "seams": {"ports", "config", "process", "registry", "tracing", "feed", "recorder"},
    "adapters": {
        *(
            "transport",
            "publisher",
            "letter_queue",
            "store",
            "store.limits",
            "store.memory",
            "store.reading",
            "store.redis",
        ),
        *(
            "agent",
            "itinerary",
            "functions",
            "loop",
            "runner",
            "durability",
            "fingerprints",
            "failures",
            "loop_models",
            "recorded_calls",
            "recorded_tools",
            "watching",
        ),
    },
    "services": {
        *("owner", "shutdown", "sweeper", "guard", "hop", "step", "effects", "message_only"),
        *("outputs", "sending", "dispatch", "handle", "dead_letters"),
    },
    "entry": {
        *("hop_task", "request", "revoking", "channels", "intake", "advice", "worker"),
        *("plugin", "tasks", "executor", "celery", "cli", "testing"),
    },
}
LAYER_OF = {module: layer for layer, modules in LAYERS.items() for module in modules}

# Within a layer any import; services know their adapters through ports alone.
MAY_IMPORT = {
    "core": {"core"},
    "seams": {"core", "seams"},
    "adapters": {"core", "seams", "adapters"},
    "services": {"core", "seams", "services"},
    "entry": {"core", "seams", "adapters", "services", "entry"},
}

CELERY = {
    "transport",
    "publisher",
    "letter_queue",
    "hop_task",
    "request",
    "revoking",
    "channels",
    "intake",
    "advice",
    "worker",
    "plugin",
    "executor",
    "celery",
    "tasks",
    "cli",
}

# Who may import what is neither the standard library nor pydantic.
ONLY_IN = {
    "pydantic_ai": {
        "agent",
        "itinerary",
        "runner",
        "durability",
        "fingerprints",
        "failures",
        "loop_models",
        "recorded_calls",
        "recorded_tools",
        "watching",
        "testing",
    },
    "celery": CELERY,
    "kombu": CELERY,
    "redis": {"store.redis"},
    "click": {"worker", "cli"},
    "opentelemetry": {"tracing"},
    "pytest": {"testing"},
    "typing_extensions": {"agent"},
}

NOT_IN_CORE = {"asyncio", "os", "random", "secrets", "socket", "subprocess", "threading", "time", "urllib", "uuid"}

# `dispatch` takes the default transport from the package's own public names.
MAY_IMPORT_THE_ROOT = {"dispatch"}


@dataclass(frozen=True)
class Import:
    """One import of a module: `target` is a dotted name, `at_load` says whether it happens with the module's."""

    target: str
    at_load: bool
    line: int


def modules() -> dict[str, Path]:
    """All modules of the package but its `__init__`, by dotted name below it."""
    found = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = file.relative_to(PACKAGE).with_suffix("").parts
        if parts != ("__init__",):
            found[".".join(parts).removesuffix(".__init__")] = file
    return found


def imports_of(source: str) -> Iterator[Import]:
    """Every import in a source text, those in functions and under TYPE_CHECKING included."""
    tree = ast.parse(source)
    late = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node not in late, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import hides where it points"
            yield from _from_import(node, at_load=node not in late)


def _from_import(node: ast.ImportFrom, *, at_load: bool) -> Iterator[Import]:
    module = node.module or ""
    for alias in node.names:
        below = f"{module}.{alias.name}"
        is_module = below.removeprefix("paigeant_celery.") in LAYER_OF
        yield Import(below if is_module else module, at_load, node.lineno)


def own(target: str) -> str | None:
    """The module of ours that an import names ("" for the package itself), or None for anyone else's."""
    if target == "paigeant_celery":
        return ""
    return target.removeprefix("paigeant_celery.") if target.startswith("paigeant_celery.") else None


@cache
def every_import() -> tuple[tuple[str, Import], ...]:
    """Every import of every module, with the module that it stands in."""
    return tuple((module, found) for module, file in modules().items() for found in imports_of(file.read_text()))


def test_each_module_has_its_room() -> None:
    """Who adds a module says what it may know of the others."""
    assert set(modules()) == set(LAYER_OF)


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_point_up_the_list_of_layers_only(layer: str) -> None:
    """What decides can be read, and tested, without what waits, fails or looks at a clock."""
    wrong = [
        f"{module}:{found.line} imports {target}"
        for module, found in every_import()
        if LAYER_OF[module] == layer and (target := own(found.target))
        if LAYER_OF[target] not in MAY_IMPORT[layer]
    ]

    assert wrong == []


def test_only_dispatch_asks_the_package_itself_for_a_public_name() -> None:
    """An import of the package from inside would get around the layers."""
    importers = {module for module, found in every_import() if own(found.target) == ""}

    assert importers <= MAY_IMPORT_THE_ROOT


def test_each_library_is_imported_in_its_own_rooms_only() -> None:
    """A library that stays in one room can be replaced, and is not loaded where it is not needed."""
    wrong = [
        f"{module}:{found.line} imports {library}"
        for module, found in every_import()
        if (library := found.target.partition(".")[0]) not in {"paigeant_celery", "pydantic", "pydantic_core"}
        if library not in sys.stdlib_module_names and module not in ONLY_IN.get(library, set())
    ]

    assert wrong == []


def test_the_core_reads_no_clock_and_does_no_io() -> None:
    """The same workflow and event give the same decision, whenever and wherever they meet."""
    imported = [
        f"{module}:{found.line} imports {found.target}"
        for module, found in every_import()
        if LAYER_OF[module] == "core" and found.target.partition(".")[0] in NOT_IN_CORE
    ]
    clocks = [
        f"{module}:{node.lineno} calls {node.func.attr}"
        for module, file in modules().items()
        if LAYER_OF[module] == "core"
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if node.func.attr in {"now", "utcnow", "today", "open"}
    ]

    assert imported + clocks == []


def test_no_modules_import_each_other_when_they_load() -> None:
    """The order in which modules are imported must not matter."""
    graph: dict[str, set[str]] = {module: set() for module in modules()}
    for module, found in every_import():
        if found.at_load and (target := own(found.target)):
            graph[module].add(target)

    TopologicalSorter(graph).prepare()  # raises CycleError that names the circle


def test_the_checks_see_imports_wherever_they_stand() -> None:
    """A rule that overlooks an import inside a function guards nothing."""
    source = (
        "import celery.app\n"
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from paigeant_celery.hop.service import HopService\n"
        "def late():\n    from paigeant_celery import flow, get_transport\n"
    )

    found = set(imports_of(source))

    assert found == {
        Import("celery.app", True, 1),
        Import("typing", True, 2),
        Import("paigeant_celery.hop.service", False, 4),
        Import("paigeant_celery.core.flow", False, 6),
        Import("paigeant_celery", False, 6),
    }
