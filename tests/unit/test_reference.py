"""What is public: each name can be imported from one place and is documented as it is."""

from __future__ import annotations

import ast
import builtins
import dataclasses
import inspect
import re
import tomllib
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from pydantic import BaseModel

import paigeant_celery
from paigeant_celery import testing
from paigeant_celery.core import errors

ROOT = Path(__file__).parents[2]
PACKAGE = Path(paigeant_celery.__file__).parent
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
REFERENCE = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")

PUBLIC: dict[str, Any] = {
    name: getattr(module, name) for module in (paigeant_celery, testing) for name in module.__all__
}
CLASSES = {name: thing for name, thing in PUBLIC.items() if inspect.isclass(thing)}
ERRORS = {name: thing for name, thing in CLASSES.items() if issubclass(thing, BaseException)}

# They are there for annotations; what they are made of is not public.
FOR_ANNOTATIONS = {"CeleryTransport", "Delivery", "Runway", "SlipDocument", "Store", "TaskSignature", "Transport"}
STEPS = ("ActivitySpec", "BlockSpec", "FunctionSpec", "SleepSpec", "TaskSpec", "WaitSpec")
# Methods that other parts of the package call; they are public in Python's sense only.
OWN_USE = {
    *(
        "FunctionActivity.check",
        "FunctionActivity.run",
        "MessageError.detail",
        "PaigeantMessage.moved",
        "PaigeantMessage.within",
    ),
    *("TaskActivity.check", "TaskActivity.run"),
    *("Cause.as_json", "RoutingSlip.advanced", "RoutingSlip.step_ids", "StepPolicy.over"),
    *("WorkflowLimits.account", "WorkflowLimits.given", "WorkflowLimits.left", "WorkflowLimits.set_limits"),
    *("PaigeantAgent.from_file", "PaigeantAgent.from_spec"),  # always raise
    *(f"{step}.{method}" for step in STEPS for method in ("identified", "inserted_by")),
    *("ActivitySpec.asking", "BlockSpec.with_branches"),
    *("RoutingSlip.name_in_store", "RoutingSlip.path_of", "RoutingSlip.place_of"),
}
MADE_BY_US = {
    "BlockSpec",
    "FunctionActivity",
    "SleepSpec",
    "StepOutput",
    "TaskActivity",
    "WaitSpec",
    "WorkflowContext",
}  # nobody calls these classes


# Reading the page.


def rows(header: str) -> Iterator[list[str]]:
    """Yield the rows of all tables of the reference that have this header, as their cells."""
    lines = iter(REFERENCE.splitlines())
    for line in lines:
        if line == header:
            next(lines)
            while (row := next(lines, "")).startswith("|"):
                yield [cell.strip() for cell in row[1:-1].split("|")]


def shown_calls() -> dict[str, list[str]]:
    """Return the arguments of each call as the tables write them; those that are passed by name end in `=`."""
    cells = [row[0].strip(" `") for row in rows("| call | what it does |")]
    split = [re.fullmatch(r"([\w.]+)\((.*)\)", cell) for cell in cells]
    return {found[1]: [part for part in found[2].split(", ") if part] for found in split if found}


def shown_words(cell: str) -> list[str]:
    return re.findall(r"`(\w+)`", cell.partition(":")[0])


# Reading the code.


def methods(name: str, kind: type) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield the public methods that a class of ours defines and that its bases from elsewhere do not."""
    for member, thing in inspect.getmembers(kind):
        function = getattr(thing, "__func__", thing)
        home = next(base for base in kind.__mro__ if member in vars(base))
        foreign = any(member in vars(base) for base in kind.__mro__ if not is_ours(base) and base is not object)
        if member.startswith("_") or not inspect.isfunction(function) or not is_ours(home) or foreign:
            continue
        if f"{name}.{member}" not in OWN_USE:
            yield f"{name}.{member}", function


def public_calls() -> dict[str, Callable[..., Any]]:
    """Return all that a user may call: functions, constructors, methods. Twins are checked on their own."""
    values = {row[0].strip("`") for row in rows("| value | its attributes |")}
    found: dict[str, Callable[..., Any]] = {}
    for name, thing in PUBLIC.items():
        if not inspect.isclass(thing):
            found[name] = thing
        elif name not in FOR_ANNOTATIONS and name not in ERRORS:
            if not values & {name} and name not in MADE_BY_US | {"WorkflowDependencies", "Settings"}:
                found[name] = thing
            found |= dict(methods(name, thing))
    fixture = "workflow_harness"
    return {name: call for name, call in found.items() if name != fixture and not name.endswith("_sync")}


def arguments(name: str, call: Callable[..., Any]) -> list[str]:
    """Return the arguments of a call as the tables write them."""
    parameters = [
        each for each in inspect.signature(call).parameters.values()
        if each.name not in ("self", "cls", "agent_arguments")
    ]  # fmt: skip
    if any(each.kind is each.VAR_POSITIONAL for each in parameters):
        return ["…"]
    return [each.name + "=" * (each.kind is each.KEYWORD_ONLY) for each in parameters]


def attributes(kind: type) -> set[str]:
    """Return what a value of a class has for its readers."""
    own = {name for name in vars(kind) if isinstance(vars(kind)[name], property)}
    if issubclass(kind, BaseModel):
        own |= set(kind.model_fields)
    elif dataclasses.is_dataclass(kind):
        own |= {field.name for field in dataclasses.fields(kind)}
    return {name for name in own if not name.startswith("_")}


def is_ours(thing: object) -> bool:
    return inspect.isclass(thing) and thing.__module__.partition(".")[0] == "paigeant_celery"


def classes_in(hint: object) -> Iterator[type]:
    """Yield the classes of ours in an annotation."""
    for part in (hint, typing.get_origin(hint)):
        if inspect.isclass(part) and is_ours(part):
            yield part
    for argument in typing.get_args(hint):
        for part in argument if isinstance(argument, list) else [argument]:
            yield from classes_in(part)


def named_by(thing: Any) -> Iterator[type]:
    """Yield the classes of ours that a public name's signature or fields name."""
    if not inspect.isclass(thing):
        functions: list[Any] = [thing, *typing.get_overloads(thing)]
    else:
        if dataclasses.is_dataclass(thing) or issubclass(thing, BaseModel):
            for field, hint in typing.get_type_hints(thing).items():
                yield from () if field.startswith("_") else classes_in(hint)
        members = [
            member for name, member in vars(thing).items()
            if (name == "__init__" and thing.__name__ not in MADE_BY_US)
            or not (name.startswith("_") or f"{thing.__name__}.{name}" in OWN_USE)
        ]  # fmt: skip
        functions = [getattr(member, "fget", getattr(member, "__func__", member)) for member in members]
    for function in functions:
        if inspect.isfunction(function) and is_in_package(function):
            for hint in typing.get_type_hints(function).values():
                yield from classes_in(hint)


def is_in_package(function: Any) -> bool:
    return str(function.__module__).startswith("paigeant_celery")


# The claims.


def test_each_class_in_the_signature_of_a_public_name_is_a_public_name() -> None:
    """People write it into their own annotations, and catch or build it."""
    # The signature of a hook of pydantic-ai is pydantic-ai's.
    todo = [thing for name, thing in PUBLIC.items() if name not in {"CeleryDurability", *FOR_ANNOTATIONS}]
    own_use = {"Blocks", "Decorator", "Usage", "Waits"}  # a protocol of overloads; what `WorkflowLimits` count; seams
    hidden = {
        (getattr(thing, "__name__", ""), named.__name__)
        for thing in todo
        for named in named_by(thing)
        if named.__name__ not in {*PUBLIC, *own_use}
    }

    assert {"DeadLetter", "Failure", "ExecutedStep"} <= {named.__name__ for thing in todo for named in named_by(thing)}
    assert hidden == set()


def test_each_error_that_a_text_of_an_error_or_a_page_names_is_a_public_name() -> None:
    """What one is told to catch can be imported."""
    own = {name for name in errors.__all__ if name not in PUBLIC}
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    for file in PACKAGE.rglob("*.py"):
        nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
        docstrings = {node.value for node in nodes if isinstance(node, ast.Expr)}
        constants = (node for node in nodes if isinstance(node, ast.Constant) and node not in docstrings)
        texts += [node.value for node in constants if isinstance(node.value, str)]
    named = {word for text in texts for word in re.findall(r"`(\w+)[`(]", text)}

    assert named & own <= {"DuplicateActivity"}


def test_the_reference_has_each_call_with_its_arguments() -> None:
    """Nobody should have to read the source to learn that an argument exists."""
    assert shown_calls() == {name: arguments(name, call) for name, call in public_calls().items()}


def test_each_public_name_and_each_argument_stands_in_the_documentation() -> None:
    """Whoever searches the pages for a name finds it."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    missing = [name for name in PUBLIC if not re.search(rf"\b{name}\b", text)]
    keywords = {
        (name, part.strip("="))
        for name, call in public_calls().items()
        for part in arguments(name, call)
        if not re.search(rf"\b{part.strip('=')}\b[=,)`]", text)
    }

    assert missing == []
    assert keywords - {("FunctionActivity.activity", "…"), ("TaskActivity.activity", "…")} == set()


def test_each_twin_takes_what_the_async_method_takes() -> None:
    """The page says that they do the same."""
    twins = [name for kind in (paigeant_celery.WorkflowHandle, paigeant_celery.WorkflowDispatcher)
             for name, _ in inspect.getmembers(kind, inspect.isfunction) if name.endswith("_sync")]  # fmt: skip

    assert len(twins) == 14
    for kind in (paigeant_celery.WorkflowHandle, paigeant_celery.WorkflowDispatcher):
        for name in twins:
            if hasattr(kind, name):
                twin, own = (inspect.signature(getattr(kind, each)) for each in (name, name.removesuffix("_sync")))
                assert twin.parameters == own.parameters
                assert f"`{name}`" in REFERENCE


def test_the_reference_has_each_attribute_of_what_one_reads() -> None:
    """A field that is not on the page is not used, or guessed."""
    shown = {row[0].strip("`"): set(shown_words(row[1])) for row in rows("| value | its attributes |")}

    hidden = {"read_output", "read_data", "read_step", "history", "waits", "blocks", *OWN_USE}
    assert shown == {name: attributes(CLASSES[name]) - hidden for name in shown}
    values = {name for name, kind in CLASSES.items() if "__dataclass_params__" in vars(kind)}
    assert values - FOR_ANNOTATIONS - set(shown) == set()


def test_the_reference_has_each_error_with_its_family_and_attributes() -> None:
    """Someone who writes `except` wants to know what it also catches, and what the error can tell."""
    shown = {row[0].strip("`"): row[1:] for row in rows("| error | family | when | attributes |")}

    assert {*shown, "PaigeantError"} == {*ERRORS, "DuplicateActivity"}
    for name, (family, when, told) in shown.items():
        kind = ERRORS.get(name) or getattr(errors, name)
        bases = {base.__name__ for base in kind.__bases__} - {"PaigeantError"}
        assert set(shown_words(family)) == bases, name
        assert all(base in shown or hasattr(builtins, base) for base in bases)
        parameters = inspect.signature(kind.__init__).parameters.values()
        given = {each.name for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD} - {"self"}
        assert set(shown_words(told)) == given, name
        assert when


def lists(project: dict[str, Any]) -> dict[str, list[str]]:
    """Return the dependencies of a project, those of all installations and those of its extra."""
    return {"always": project["dependencies"], "extra": project["optional-dependencies"]["models"]}


@pytest.mark.parametrize("install", ["always", "extra"])
def test_the_project_that_depends_on_us_names_us_and_our_extras(install: str) -> None:
    """A wrong name would be looked for on PyPI, which has none, or another."""
    shown = tomllib.loads(re.findall(r"```toml\n(.*?)```", REFERENCE, re.DOTALL)[0])
    own = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (requirement,) = map(Requirement, lists(shown["project"])[install])

    assert requirement.name == own["name"]
    assert requirement.extras <= set(own["optional-dependencies"])
    assert str(requirement.url).startswith("git+https://")
    assert shown["project"]["requires-python"] == own["requires-python"]
    assert [extra for extra in own["optional-dependencies"] if f"`{extra}`" not in REFERENCE] == []
    assert shown["tool"]["hatch"]["metadata"]["allow-direct-references"] is True
    assert (PACKAGE / "py.typed").is_file()
