"""Errors as JSON that leads back to them: to the same classes, arguments and attributes, and what they came from.

No form names a module. The names of classes are looked up in `KNOWN`, and no method of a class is called but those that
Python's own errors have, so that a form can make nothing but errors.
"""

from __future__ import annotations

import asyncio
import builtins
import inspect
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from types import ModuleType
from typing import Any

from pydantic import JsonValue
from pydantic_ai import exceptions

from paigeant_celery.agents.recorded_values import TooMuch, ValueReader, ValueWriter
from paigeant_celery.core import errors
from paigeant_celery.core.causes import clean
from paigeant_celery.core.errors import ReplayedError

try:  # since pydantic-ai 2.68
    from pydantic_ai import workspaces
except ImportError:
    workspaces = exceptions  # type: ignore[misc]

__all__ = ["ErrorForm", "error_from", "form_of"]

ErrorForm = dict[str, JsonValue]

KNOWN: tuple[ModuleType, ...] = (exceptions, builtins, errors, workspaces, asyncio)
MOST_ERRORS = 1000  # in groups and chains together
DEEPEST = 20  # errors that one came from, or that hold it
MOST_OWN = 10  # names of classes of one's own that an error has

ATTACHED = "_pydantic_ai_"  # begins the names of what pydantic-ai attaches to an error on its way
ELSEWHERE = {"_pydantic_ai_streamed_before_failing"}  # the record itself has it
UNKEPT = {"obj"}  # of an `AttributeError`: any object at all
CREDENTIALS = re.compile(
    r"cookie|authori[sz]|authentic|secret|password|credential|session|signature|token(?!s)|api-?key"
)
MASK = "**********"  # as pydantic writes a secret


class _StandIn(ReplayedError):
    """Stands for an error of a class that is not known here, beside the known classes that it is an instance of.

    Its class has the name of the error's own, and below it those of the classes in between, so that a policy that names
    one of them judges a replay as it judged the first attempt.
    """

    def __init__(self) -> None:
        """Do nothing: it is made from its form."""

    @property
    def error_class(self) -> str:  # type: ignore[override]
        return str(vars(self).get("error_class", type(self).__name__))

    @property
    def text(self) -> str:  # type: ignore[override]
        return vars(self)["text"] if "text" in vars(self) else str(self)

    def __str__(self) -> str:
        return super(ReplayedError, self).__str__()  # as the nearest known class writes it

    def __reduce__(self) -> tuple[Any, ...]:
        return ReplayedError, (self.error_class, self.text)


def form_of(error: Exception) -> ErrorForm | None:
    """Return the form of an error; None if it has none, because it is too large or does not let itself be looked at."""
    try:
        return _Writing().form(error)
    except (TooMuch, RecursionError):
        return None
    except Exception:  # noqa: BLE001 - a class may raise anything when its errors are looked at
        return None


def error_from(form: Mapping[str, Any]) -> Exception | None:
    """Return the error of a form; None if it cannot be made here."""
    try:
        error = _error(form)
    except Exception:  # noqa: BLE001 - another version wrote it, or it is damaged: less is known of the error then
        return None
    return error if isinstance(error, Exception) else None


class _Writing:
    """Writes an error and those that it came from or holds."""

    def __init__(self) -> None:
        self._values = ValueWriter(self._held)
        self._left, self._open = MOST_ERRORS, list[BaseException]()

    def form(self, error: BaseException) -> ErrorForm:
        self._left -= 1
        if self._left < 0:
            raise TooMuch
        self._open.append(error)
        own, known = _kinds(type(error))
        form: ErrorForm = {"is": [kind.__name__ for kind in known]}
        if own:
            form["own"] = [*own]
        _, arguments, *_ = _layout(type(error)).__reduce__(error)
        form["args"] = [self._values.write(argument, _text) for argument in arguments]
        form["has"] = {
            name: self._values.write(_masked(name, value), _class_name) for name, value in _attributes(error, known)
        }
        before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if before is not None and (came_from := self._held(before)) is not None:
            form["from" if error.__cause__ is not None else "while"] = came_from
        self._open.pop()
        return form

    def _held(self, error: BaseException) -> ErrorForm | None:
        """Return the form of an error in another one; None in a circle, too deep, or not for code to catch."""
        is_open = any(error is other for other in self._open)
        if is_open or len(self._open) > DEEPEST or not _kinds(type(error))[1]:
            return None
        return self.form(error)


def _error(form: Mapping[str, Any]) -> BaseException:
    values = ValueReader(_error)
    error = _bare(_class(tuple(form.get("own", ())), tuple(form["is"])), [values.read(each) for each in form["args"]])
    own = vars(error)
    members = dict(_members(type(error)))
    for name, tree in form["has"].items():
        value = values.read(tree)
        if name not in members:
            own[name] = value
            continue
        with suppress(AttributeError, TypeError):  # it cannot be set, or is what the arguments made it
            members[name].__set__(error, value)
    if "from" in form:
        error.__cause__ = _error(form["from"])
    elif "while" in form:
        error.__context__ = _error(form["while"])
    return error


def _bare(kind: type[BaseException], arguments: list[Any]) -> BaseException:
    """Return an error with these arguments, made as Python's own class makes it and not by any other's `__init__`."""
    layout = _layout(kind)
    error: BaseException = layout.__new__(kind, *arguments)
    layout.__init__(error, *arguments)  # some of Python's classes read them only here
    return error


def _layout(kind: type[BaseException]) -> Any:
    """Return the class of Python that says what an instance of `kind` consists of."""
    return max((base for base in kind.__mro__ if base.__module__ == "builtins"), key=lambda base: base.__basicsize__)


def _kinds(kind: type[BaseException]) -> tuple[list[str], list[type[BaseException]]]:
    """Return the names of a class and its bases as far as they are not known, and the nearest known ones."""
    own, known = list[str](), list[type[BaseException]]()
    for base in kind.__mro__:
        if _known(base.__name__) is base:
            if not any(issubclass(nearer, base) for nearer in known):
                known.append(base)
        elif issubclass(base, BaseException) and base.__module__ != "builtins" and len(own) < MOST_OWN:
            own.append(clean(base.__name__))
    return own, known


def _known(name: str) -> type[BaseException] | None:
    """Return the class of errors that has this name for everybody; none that would end a worker if it were raised."""
    for module in KNOWN:
        found = getattr(module, name, None)
        if isinstance(found, type) and (issubclass(found, Exception) or found is asyncio.CancelledError):
            return None if name.startswith("_") else found
    return None


@lru_cache(maxsize=1000)
def _class(own: tuple[str, ...], names: tuple[str, ...]) -> type[BaseException]:
    """Return the class that has these names and known bases: one that exists, or one that stands for it."""
    bases = tuple(kind for kind in map(_known, names) if kind is not None)
    if not own and len(bases) == len(names) == 1:
        return bases[0]
    own = own or names[:1]
    if (combined := _combined().get((own[0], names))) is not None:
        return combined
    made: tuple[type[Any], ...] = (_StandIn, *(base for base in bases if base is not Exception))
    said = {"__module__": ReplayedError.__module__, "__doc__": ReplayedError.__doc__}  # for readers of tracebacks
    for name in reversed(own):
        made = (type(name, made, {**said, "__qualname__": f"{ReplayedError.__name__}.{name}"}),)
    return made[0]


@lru_cache(maxsize=1)
def _combined() -> dict[tuple[str, tuple[str, ...]], type[BaseException]]:
    """Return pydantic-ai's classes that have the name of another one, such as those of an HTTP error's category."""
    found: dict[tuple[str, tuple[str, ...]], type[BaseException]] = {}
    for kind in vars(exceptions).values():
        if isinstance(kind, type) and issubclass(kind, Exception) and _known(kind.__name__) is not kind:
            own, known = _kinds(kind)
            found[own[0], tuple(base.__name__ for base in known)] = kind
    return found


def _attributes(error: BaseException, known: list[type[BaseException]]) -> Iterator[tuple[str, object]]:
    """Yield what the known classes of an error say that it has, and nothing that a class of one's own adds."""
    for name, member in _members(type(error)):
        with suppress(AttributeError):  # it is not set
            if (value := member.__get__(error)) is not None:
                yield name, value
    declared = {name for kind in known for base in kind.__mro__ for name in _declared(base)}
    for name, value in vars(error).items():
        if name in declared or (name.startswith(ATTACHED) and name not in ELSEWHERE):
            yield name, value


def _members(kind: type[BaseException]) -> Iterator[tuple[str, Any]]:
    """Yield the attributes of Python's own classes, which no `__dict__` has."""
    for base in kind.__mro__:
        if base.__module__ == "builtins" and base not in (BaseException, BaseExceptionGroup, object):
            for name, member in vars(base).items():
                if (inspect.ismemberdescriptor(member) or inspect.isgetsetdescriptor(member)) and name not in UNKEPT:
                    yield name, member


@lru_cache(maxsize=1000)
def _declared(kind: type[Any]) -> frozenset[str]:
    """Return the attributes that a known class declares, or takes to keep them, with or without an underscore."""
    if kind.__module__ == "builtins":
        return frozenset({"__notes__"})
    taken = inspect.signature(kind.__init__).parameters if "__init__" in vars(kind) else {}
    return frozenset({*inspect.get_annotations(kind), *taken, *(f"_{name}" for name in taken)})


def _masked(name: str, value: object) -> object:
    """Return an attribute without what lets its holder in, such as the cookies of a provider's answer."""
    if name != "headers" or not isinstance(value, Mapping):
        return value
    return {key: MASK if CREDENTIALS.search(str(key)) else held for key, held in value.items()}


def _text(value: object) -> str:
    return clean(str(value))


def _class_name(value: object) -> str:
    return clean(f"<{type(value).__name__}>")
