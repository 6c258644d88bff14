"""The words that others match on: each is in its table in `core/names.py`, and no row is unused."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

import pytest

import paigeant_celery
from paigeant_celery.core import names

PACKAGE = Path(paigeant_celery.__file__).parent

SOURCES = {file.relative_to(PACKAGE).as_posix(): file.read_text(encoding="utf-8") for file in PACKAGE.rglob("*.py")}
SCRIPTS = {file.name: file.read_text(encoding="utf-8") for file in PACKAGE.rglob("*.lua")}

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Argument:
    """What each call of a function or class gets, or returns, with what is put in front of it."""

    of: str
    name: str = ""  # of a keyword
    place: int = -1  # of a positional argument, or in a returned tuple
    returned: bool = False
    module: str = ""  # for a private function; one of any module otherwise
    prefix: str = ""


ERRORS = (
    *("MessageError", "NewerMessage", "InvalidInput", "EmptyItinerary", "NotSerializable"),
    *("InvalidAnswer", "SignalRefused", "InvalidDocument", "Finding", "EditRefused"),
)

# Where reason codes originate. Those of a failure are among names of classes, which are not words of ours.
REASONS = [
    *(Argument(of, "reason", 0) for of in ERRORS),
    Argument("Paused", "reason", 0),
    *(Argument(of, "error_class") for of in ("Failure", "Failed")),
    Argument("PydanticCustomError", "error_type", 0),
]


class Words:
    """Finds the words of a kind in source texts: in mappings under a key, and in arguments, wherever these come from.

    A value that comes in an attribute was a word when that was made, and is not followed further. Functions are found
    by their bare names: two of one name share their words, unless they are private and in different modules. So a word
    may count as used that only a function of the same name gets.
    """

    def __init__(
        self, sources: Mapping[str, str], *, arguments: Iterable[Argument] = (), key: str | None = None
    ) -> None:
        self._key, self._left, self._seen = key, list(arguments), set[Argument]()
        self._nodes = [(module, node) for module, text in sources.items() for node in nodes_of(text)]
        self._named: dict[str, list[tuple[str, ast.AST]]] = {}  # calls and definitions
        self._around: dict[ast.AST, list[Function]] = {}
        for module, node in self._nodes:
            self._named.setdefault(_name_of(node), []).append((module, node))
            for inner in ast.walk(node) if isinstance(node, Function) else ():
                self._around.setdefault(inner, []).append(node)  # type: ignore[arg-type]  # it is one
        self.found: dict[str, str] = {}

    def all(self) -> dict[str, str]:
        """Return each word with a place where it is used."""
        for module, node in self._nodes:
            if isinstance(node, ast.Dict):
                for key, value in zip(node.keys, node.values, strict=True):
                    if isinstance(key, ast.Constant) and key.value == self._key:
                        self._follow(module, value, "")
        while self._left:
            argument = self._left.pop()
            if argument not in self._seen:
                self._seen.add(argument)
                for module, node in self._named.get(argument.of, ()):
                    if argument.module in ("", module):
                        for value in _values(node, argument):
                            self._follow(module, value, argument.prefix)
        return self.found

    def _follow(self, module: str, value: ast.expr, prefix: str) -> None:
        """Record the words that an expression may give, or where they come from."""
        match value:
            case ast.Constant(value=str(word)):
                if word[:1].islower():
                    self.found.setdefault(prefix + word, f"{module}:{value.lineno}")
            case ast.IfExp(body=body, orelse=orelse):
                self._follow(module, body, prefix)
                self._follow(module, orelse, prefix)
            case ast.JoinedStr(values=[ast.Constant(value=str(begin)), ast.FormattedValue(value=ast.Name() as name)]):
                self._follow(module, name, prefix + begin)
            case ast.Starred(value=ast.Call() as call):
                self._left.append(Argument(_name_of(call), place=0, returned=True, prefix=prefix))
            case ast.Name(id=name):
                self._follow_name(module, value, name, prefix)

    def _follow_name(self, module: str, at: ast.expr, name: str, prefix: str) -> None:
        for function in self._around.get(at, ()):
            for node in ast.walk(function):
                if isinstance(node, ast.Assign):
                    self._follow_assigned(module, node, name, prefix)
            parameters = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
            known = [parameter.arg for parameter in parameters if parameter.arg not in ("self", "cls")]
            if name in known:
                place = known.index(name) if name not in {a.arg for a in function.args.kwonlyargs} else -1
                private = module if function.name.startswith("_") else ""
                self._left.append(Argument(function.name, name, place, module=private, prefix=prefix))

    def _follow_assigned(self, module: str, node: ast.Assign, name: str, prefix: str) -> None:
        match node.targets:
            case [ast.Name(id=assigned)] if assigned == name:
                self._follow(module, node.value, prefix)
            case [ast.Tuple(elts=elements)] if isinstance(node.value, ast.Call):
                for place, element in enumerate(elements):
                    if isinstance(element, ast.Name) and element.id == name:
                        called = _name_of(node.value)
                        self._left.append(Argument(called, place=place, returned=True, prefix=prefix))


@cache
def nodes_of(source: str) -> tuple[ast.AST, ...]:
    """Return all nodes of a source text."""
    return tuple(ast.walk(ast.parse(source)))


def _name_of(node: ast.AST) -> str:
    """Return the name of what is called or defined, without its owner."""
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return name
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
            return name
    return ""


def _values(node: ast.AST, argument: Argument) -> Iterator[ast.expr]:
    if isinstance(node, ast.Call):
        yield from () if argument.returned else _handed_to(node, argument)
    else:
        yield from _given_by(node, argument)


def _handed_to(call: ast.Call, argument: Argument) -> Iterator[ast.expr]:
    yield from (keyword.value for keyword in call.keywords if keyword.arg == argument.name)
    if any(isinstance(handed, ast.Starred) for handed in call.args[: argument.place + 1]):
        yield call.args[0]
    elif 0 <= argument.place < len(call.args):
        yield call.args[argument.place]


def _given_by(node: ast.AST, argument: Argument) -> Iterator[ast.expr]:
    """Yield what a function returns, or its defaults if no argument is passed."""
    if isinstance(node, ast.ClassDef):
        for inner in node.body:
            if isinstance(inner, ast.FunctionDef) and inner.name == "__init__":
                yield from _defaults(inner, argument)
    if not isinstance(node, Function):
        return
    if not argument.returned:
        yield from _defaults(node, argument)
        return
    for inner in ast.walk(node):
        if isinstance(inner, ast.Return) and isinstance(inner.value, ast.Tuple):
            yield inner.value.elts[argument.place]


def _defaults(function: Function, argument: Argument) -> Iterator[ast.expr]:
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    pairs = [
        *zip(reversed(positional), reversed(arguments.defaults), strict=False),
        *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
    ]
    yield from (default for parameter, default in pairs if parameter.arg == argument.name and default is not None)


def words_of_scripts() -> dict[str, str]:
    """Return each type of event that a script writes, with the script."""
    found = {}
    for script, source in SCRIPTS.items():
        for written in re.findall(r"'type', (.+?), 'hop'", source):
            words = re.findall(r"'(\w+)'", re.sub(r"== '\w+'", "", written))  # what a choice compares is no type
            found.update(dict.fromkeys(words, script))
    return found


def test_each_reason_code_stands_in_its_table() -> None:
    """Those who sort dead letters or catch a refusal match on it, and learn here what it means."""
    assert_same(Words(SOURCES, arguments=REASONS).all(), names.REASONS)


def test_each_type_of_event_stands_in_its_table() -> None:
    """Screens and tests of hosts match on them; both stores write the same."""
    written = Words(SOURCES, key="type").all()

    assert_same({**written, **words_of_scripts()}, names.EVENTS)
    assert set(words_of_scripts()) <= set(written)


def test_each_kind_of_agent_event_of_ours_stands_in_its_table() -> None:
    """They appear among pydantic-ai's own."""
    assert_same(Words(SOURCES, key="event").all(), names.AGENT_EVENTS)


def test_each_action_of_the_log_stands_in_its_table() -> None:
    """Alerts match on them."""
    assert_same(Words(SOURCES, key="action").all(), names.ACTIONS)


@pytest.mark.parametrize("table", [names.REASONS, names.EVENTS, names.AGENT_EVENTS, names.ACTIONS])
def test_a_table_of_words_is_sorted_says_what_each_means_and_cannot_be_changed(table: Mapping[str, str]) -> None:
    """A row can be found at a glance."""
    assert list(table) == sorted(table)
    assert [word for word, meaning in table.items() if not meaning.strip()] == []
    assert isinstance(table, MappingProxyType)


def test_the_checks_see_words_wherever_they_come_from() -> None:
    """A rule that overlooks a word in a parameter or a default guards nothing."""
    source = """
def check(value, *, invalid="by_default"): raise MessageError(invalid, "", "")
def _later(self, otherwise, reason):
    def refuse(): return MessageError(reason)
def fault_of(error): return ("returned" if error else "otherwise"), "path", "text"
def use(path, kind):
    check(1, invalid="by_keyword")
    self._later(None, "by_place")
    raise MessageError(*fault_of(1))
    reason, text = fault_of(2)
    word = "assigned" if text else error.reason
    raise InvalidInput(word, reason)
    raise InvalidInput(f"with_{kind}", "")
use("", "prefix")
failure = Failure(step_id="no_word", error_class="TimeoutError")
failure = Failure(error_class="by_failure")
log("x", extra={"action": "logged"})
"""

    reasons, actions = Words({"a.py": source}, arguments=REASONS), Words({"a.py": source}, key="action")

    assert set(reasons.all()) == {
        *("by_default", "by_keyword", "by_place", "returned", "otherwise", "assigned", "with_prefix", "by_failure"),
    }
    assert actions.all() == {"logged": "a.py:17"}


def assert_same(used: Mapping[str, str], table: Mapping[str, str]) -> None:
    """Assert that the words in use, each with its place, are those of the table."""
    assert {word: place for word, place in used.items() if word not in table} == {}, "not in the table"
    assert [word for word in table if word not in used] == [], "used by nobody"
