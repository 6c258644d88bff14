"""The wings of the package, and who may import whom: the wing of a module is the first part of its dotted name."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import paigeant_celery

PACKAGE = Path(paigeant_celery.__file__).parent

# The other wings that each wing may import. The name of a module means only that module.
MAY_IMPORT = {
    "core": set[str](),
    "store": {"core", "activities.real_threads"},
    "activities": {"core"},
    "journal": {"core", "store.port", "activities.real_threads"},
    "broker": {"core", "store", "activities"},
    "hop": {
        *(
            "core",
            "store.port",
            "store.branch_port",
            "store.earlier",
            "store.outputs",
            "store.pages",
            "store.steps",
            "store.touching",
            "activities",
            "journal",
        ),
        *("broker.port", "broker.outbox", "broker.sending", "broker.tracing", "broker.spans", "broker.metrics"),
    },
    "agents": {"core", "activities", "journal"},
    "client": {
        "core",
        "store.port",
        "store.branch_port",
        "store.earlier",
        "store.limits",
        "store.outputs",
        "store.pages",
        "store.query_port",
        "store.steps",
        "store.timeline",
        "store.tree",
        "activities",
        "broker",
    },
    "worker": {"core", "store.port", "store.endpoint", "activities", "broker", "hop", "client.documents"},
    "flower": {"core", "client", "broker.transport"},
}
FACES = {"", "celery", "tasks", "cli", "testing", "replay"}  # "" is the package itself

# Who may import libraries other than the standard library and pydantic, which everyone may import.
LIBRARIES = {
    "pydantic_ai": {"agents", "worker.django_host"},
    "celery": {"broker", "worker"},
    "kombu": {"broker", "worker"},
    "redis": {"store.redis_client"},
    "click": {"worker", "cli"},
    "rich": {"cli.terminal"},
    "packaging": {"cli.findings"},
    "opentelemetry": {"broker.tracing", "broker.spans", "broker.metrics"},
    "asgiref": {"worker.django_host"},
    "django": {"worker.django_host"},
    "sentry_sdk": {"worker.reporting"},
    "pytest": {"testing"},
    "flower": {"flower"},
    "tornado": {"flower"},
    "typing_extensions": {"agents"},
    "yaml": {"core.document_text"},
}
# A library is loaded by the modules that need it, and never by these.
WITHOUT_CELERY = {*("broker.port", "broker.outbox", "broker.sending"), *LIBRARIES["opentelemetry"]}

NOT_IN_CORE = {"asyncio", "os", "random", "secrets", "socket", "subprocess", "threading", "time", "urllib", "uuid"}

STORES = {"store.memory", "store.redis"}
MAY_NAME_A_STORE = {"store", "testing", "replay"}
MAY_USE_A_PART = {("store.touching", "store.redis_client")}  # it is loaded by a process that must stay small

BY_STRING = re.compile(r"(paigeant_celery(?:\.\w+)*):\w+")  # how Celery imports a class only when it needs it

# Who may import inside a function, and what. An entry that ends in a dot means everything below it.
LATE = {
    ("core.document_text", "yaml"),  # an optional library
    ("store", "paigeant_celery.store."),  # only the requested store loads its client
    ("client.dispatch", "paigeant_celery.broker.transport"),  # a process that names its transport needs no default
    ("client.queries", "paigeant_celery.broker.transport"),  # the same
}


@dataclass(frozen=True)
class Import:
    """One import of a module: `target` is a dotted name, `late` says that a function makes it, `line` where."""

    target: str
    late: bool
    line: int


pytestmark = pytest.mark.together  # the files of the package are read once


def modules() -> dict[str, Path]:
    """All modules of the package by their dotted name inside it; a wing's `__init__` has the wing's name."""
    found = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = file.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = file
    return found


def wing_of(module: str) -> str:
    """The wing or face that a module belongs to."""
    return module.partition(".")[0]


def imports_of(source: str) -> Iterator[Import]:
    """Every import in a source text, including those in functions, under TYPE_CHECKING and by a string."""
    tree = ast.parse(source)
    late = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node in late, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import hides where it points"
            yield from _from_import(node, late=node in late)
        elif isinstance(node, ast.Constant) and (named := BY_STRING.fullmatch(str(node.value))) is not None:
            yield Import(named[1], node in late, node.lineno)


def _from_import(node: ast.ImportFrom, *, late: bool) -> Iterator[Import]:
    module = node.module or ""
    for alias in node.names:
        below = f"{module}.{alias.name}"
        yield Import(below if own(below) in modules() else module, late, node.lineno)


def own(target: str) -> str | None:
    """The module of ours that an import names ("" for the package itself), or None for anyone else's."""
    if target == "paigeant_celery":
        return ""
    return target.removeprefix("paigeant_celery.") if target.startswith("paigeant_celery.") else None


@cache
def every_import() -> tuple[tuple[str, Import], ...]:
    """Every import of every module, with the module that contains it."""
    return tuple((module, found) for module, file in modules().items() for found in imports_of(file.read_text()))


def own_imports() -> Iterator[tuple[str, Import, str]]:
    """Those that name a module of ours, with that module."""
    return ((module, found, target) for module, found in every_import() if (target := own(found.target)) is not None)


def is_allowed(module: str, target: str) -> bool:
    """Say whether the table lets a module import another one."""
    wing, of = wing_of(module), wing_of(target)
    return wing in FACES or wing == of or not MAY_IMPORT[wing].isdisjoint({of, target})


def test_each_module_stands_in_a_wing_or_is_a_face() -> None:
    """A new module needs no entry here: its path says what it may know about the others."""
    assert {wing_of(module) for module in modules()} == {*MAY_IMPORT, *FACES}


@pytest.mark.parametrize("wing", MAY_IMPORT)
def test_a_wing_imports_only_those_that_the_table_gives_it(wing: str) -> None:
    """What decides can be read, and tested, without what waits, fails or looks at a clock."""
    wrong = [
        f"{module}:{found.line} imports {target or 'the package itself'}"
        for module, found, target in own_imports()
        if wing_of(module) == wing and not is_allowed(module, target)
    ]

    assert wrong == []


def test_the_table_of_wings_has_no_circle() -> None:
    """One row of wings in one direction can be held in mind."""
    TopologicalSorter({wing: {wing_of(other) for other in others} for wing, others in MAY_IMPORT.items()}).prepare()


def test_only_who_opens_a_store_names_its_implementation() -> None:
    """Another store is added in one place."""
    wrong = [
        f"{module}:{found.line} imports {target}"
        for module, found, target in own_imports()
        if target in STORES and wing_of(module) not in MAY_NAME_A_STORE
    ]

    assert wrong == []


def test_the_parts_of_a_store_are_used_by_that_store_alone() -> None:
    """How a store is divided is its own business. The names of its parts begin with its name."""
    wrong = [
        f"{module}:{found.line} imports {target}"
        for module, found, target in own_imports()
        for store in STORES
        if target.startswith(f"{store}_") and module != store and not module.startswith(f"{store}_")
        if (module, target) not in MAY_USE_A_PART
    ]

    assert wrong == []


def test_each_library_is_imported_in_its_own_wing_only() -> None:
    """A library that stays in one wing can be replaced, and is not loaded where it is not needed."""
    wrong = [
        f"{module}:{found.line} imports {library}"
        for module, found in every_import()
        if (library := found.target.partition(".")[0]) not in {"paigeant_celery", "pydantic", "pydantic_core"}
        if library not in sys.stdlib_module_names
        if LIBRARIES.get(library, set()).isdisjoint({wing_of(module), module})
        or (library in {"celery", "kombu"} and module in WITHOUT_CELERY)
    ]

    assert wrong == []


def test_each_place_that_may_import_a_library_does() -> None:
    """A permission that nobody uses would let the next import in unseen."""
    unused = [
        f"{place} imports no {library}"
        for library, places in LIBRARIES.items()
        for place in places
        if not any(
            found.target.partition(".")[0] == library and place in {wing_of(module), module}
            for module, found in every_import()
        )
    ]

    assert unused == []


def test_the_core_reads_no_clock_and_does_no_io() -> None:
    """The same workflow and event give the same decision, whenever and wherever they meet."""
    imported = [
        f"{module}:{found.line} imports {found.target}"
        for module, found in every_import()
        if wing_of(module) == "core" and found.target.partition(".")[0] in NOT_IN_CORE
    ]
    clocks = [
        f"{module}:{node.lineno} calls {node.func.attr}"
        for module, file in modules().items()
        if wing_of(module) == "core"
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if node.func.attr in {"now", "utcnow", "today", "open"}
    ]

    assert imported + clocks == []


def calls_of(names: set[str], *, wings: set[str]) -> list[str]:
    """Where functions or classes of these names are called in some wings, with the module and the line."""
    return [
        f"{module}:{node.lineno} calls {node.func.id}"
        for module, file in modules().items()
        if wing_of(module) in wings
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names
    ]


def test_a_delivery_is_made_in_one_place() -> None:
    """The limits and links of a message cannot depend on who sends it."""
    made = calls_of({"Delivery", "delivery_of"}, wings={*MAY_IMPORT, *FACES})

    assert {call.partition(":")[0] for call in made} == {"broker.outbox"}


def test_only_the_flow_decides_what_becomes_of_a_workflow() -> None:
    """Every advance, retry, park and failure has one place to look for its reason; stores read what was decided."""
    decisions, outside = {"Advance", "Fail", "Failure", "Finish", "Park"}, {*MAY_IMPORT, *FACES} - {"core", "store"}
    decided = calls_of(decisions, wings=outside) + calls_of({"Retry"}, wings=outside - {"worker"})  # Celery's own

    assert decided == []


def test_what_was_decided_is_matched_in_one_place() -> None:
    """A decision that is added is a case that is added, once for hops with a store and those without."""
    matching = {
        module
        for module, file in modules().items()
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.MatchClass) and isinstance(node.cls, ast.Name) and node.cls.id in {"Advance", "Finish"}
    }

    assert matching == {"hop.effects"}


def test_whether_there_is_a_store_is_asked_where_the_effects_are_chosen() -> None:
    """Everything else about a hop is written once; what differs without a store is in one file."""
    asked = [
        f"{module}:{node.lineno}"
        for module, file in modules().items()
        if wing_of(module) == "hop" or module == "worker.runtime"
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Compare) and isinstance(node.ops[0], (ast.Is, ast.IsNot))
        if isinstance(node.left, (ast.Name, ast.Attribute))
        if ast.unparse(node.left).rpartition(".")[2].lstrip("_") in {"store", "letters", "owner", "sweeper"}
    ]

    assert [place.partition(":")[0] for place in asked] == ["worker.runtime"]


def test_no_files_import_each_other_in_a_circle() -> None:
    """Two files in a circle are one subject in two places; an import inside a function only hides it."""
    graph: dict[str, set[str]] = {module: set() for module in modules()}
    for module, _, target in own_imports():
        if module:  # the package's own names are loaded on first use
            graph[module].add(target)

    TopologicalSorter(graph).prepare()  # raises a CycleError that names the circle


def test_only_a_few_imports_stand_inside_functions() -> None:
    """A reader of the top of the file does not see an import inside a function."""
    wrong = [
        f"{module}:{found.line} imports {found.target}"
        for module, found, _ in own_imports()
        if found.late and wing_of(module) not in FACES
        if not any(module == who and found.target.startswith(what) for who, what in LATE)
    ]

    assert wrong == []


def test_the_checks_see_imports_wherever_they_stand() -> None:
    """A rule that overlooks an import inside a function guards nothing."""
    source = (
        "import celery.app\n"
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from paigeant_celery.hop.service.service import HopService\n"
        "def late():\n    from paigeant_celery import core, get_transport\n"
        "Request = 'paigeant_celery.worker.request:HopRequest'\n"
    )

    found = set(imports_of(source))

    assert found == {
        Import("celery.app", False, 1),
        Import("typing", False, 2),
        Import("paigeant_celery.hop.service.service", False, 4),
        Import("paigeant_celery.core", True, 6),
        Import("paigeant_celery", True, 6),
        Import("paigeant_celery.worker.request", False, 7),
    }


def test_the_page_on_the_architecture_shows_this_table() -> None:
    """People read the page; what holds is the table."""
    shown = {row[0].strip(" `"): {name.strip(" `") for name in row[1].split(",")} for row in shown_rows()}

    assert shown == {wing: others or {"nothing of ours"} for wing, others in MAY_IMPORT.items()} | {
        "faces": {"everything"}
    }


def test_the_page_on_the_architecture_shows_the_libraries_of_each_wing() -> None:
    """It also says which single file may import a library, and which files may not."""
    users: dict[str, set[tuple[str, str]]] = {wing: set() for wing in (*MAY_IMPORT, "faces")}
    for library, importers in LIBRARIES.items():
        for module in importers:
            users["faces" if wing_of(module) in FACES else wing_of(module)].add((library, module))
    cells = {row[0].strip(" `"): row[2] for row in shown_rows()}

    assert {wing: set(re.findall(r"`(\w+)`", cell)) for wing, cell in cells.items()} == {
        wing: {library for library, _ in found} for wing, found in users.items()
    }
    assert {file for cell in cells.values() for file in re.findall(r"`([\w/]+(?:\.py|/))`", cell)} == {
        *(file_of(module) for found in users.values() for _, module in found if "." in module or module in FACES),
        *(file_of(module) for module in WITHOUT_CELERY),
    }


def shown_rows() -> list[list[str]]:
    """The rows of the table of wings in the page on the architecture."""
    page = (Path(__file__).parents[2] / "docs/architecture.md").read_text(encoding="utf-8")
    section = page.partition("## Who may import whom")[2].partition("\n## ")[0]
    return [line.strip("|").split("|") for line in section.splitlines() if line.startswith(("| `", "| faces"))]


def file_of(module: str) -> str:
    """The path of a module in the package."""
    if module == "cli":
        return "cli/"
    return f"{module.replace('.', '/')}.py"
