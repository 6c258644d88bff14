"""Errors as JSON: each leads back to the same class, with its attributes and what it came from."""

from __future__ import annotations

import asyncio
import builtins
import concurrent.futures
import errno
import inspect
import json
import pickle
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from http import HTTPStatus
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel, SecretStr, TypeAdapter, ValidationError
from pydantic_ai import exceptions
from pydantic_ai.exceptions import (
    AgentRunError,
    FallbackExceptionGroup,
    ModelAPIError,
    ModelHTTPError,
    ModelRateLimitError,
    ModelRequestTimeout,
    RunCancelled,
    RunTimedOut,
    UnexpectedModelBehavior,
)
from pydantic_ai.messages import ModelRequest, ModelRequestAttempt, ModelResponse, TextPart, ToolReturnPart
from pydantic_ai.usage import RequestUsage, RunUsage

from paigeant_celery.agents.error_forms import error_from, form_of
from paigeant_celery.agents.recorded_errors import rebuilt, survived
from paigeant_celery.core import errors
from paigeant_celery.core.causes import cause_of
from paigeant_celery.core.errors import InvalidInput, ReplayedError
from paigeant_celery.core.policy import is_final
from paigeant_celery.journal.record import CallKey, parse_record

AT = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
SECRET = "hunter2-hunter2"


def again(error: Exception) -> Exception:
    """The error as a replay raises it, from the text that a store keeps."""
    text = survived(error, {}).encode()
    return rebuilt(parse_record(text, step_id="s", key=CallKey(run="r", step=1, kind="model")))


def seen(value: object) -> object:
    """Return all that code can see of an error or what it carries, but for frames."""
    if isinstance(value, BaseException):
        before = value.__cause__ or (None if value.__suppress_context__ else value.__context__)
        own = {name: seen(part) for name, part in vars(value).items()}
        return type(value), str(value), seen(value.args), own, members(value), seen(before), value.__cause__ is None
    if isinstance(value, (list, tuple)):
        return type(value), [seen(item) for item in value]
    return value


def members(error: BaseException) -> dict[str, object]:
    """Return the attributes that Python's own classes have."""
    names = {name for kind in type(error).__mro__ if kind.__module__ == "builtins" for name in vars(kind)}
    return {name: seen(getattr(error, name, None)) for name in names if name[0] != "_" and not is_method(error, name)}


def is_method(error: BaseException, name: str) -> bool:
    return callable(getattr(type(error), name, None))


def classes_of(module: Any) -> dict[str, type[Exception]]:
    """All errors of a module that code can catch by name."""
    found = {
        name: kind for name, kind in vars(module).items() if isinstance(kind, type) and issubclass(kind, Exception)
    }
    return {name: kind for name, kind in found.items() if kind.__name__ == name and not name.startswith("_")}


# A value for each argument that an error of pydantic-ai takes. A later version's new one fails the test.
ARGUMENTS: dict[str, Any] = {
    "message": "what happened", "metadata": {"why": [1, None]}, "kind": "question", "model": "test",
    "response": ModelResponse(parts=[TextPart("partly")], timestamp=AT), "validated_args": {"at": AT, "n": {1, 2}},
    "result": ("a", b"\xff"), "messages": [ModelRequest(parts=[], timestamp=AT), ModelResponse(parts=[], timestamp=AT)],
    "new_message_index": 1, "usage": RunUsage(requests=2, cost=Decimal("0.1")), "run_id": "r", "conversation_id": "c",
    "body": '{"error": "odd"}', "model_name": "m", "provider_error_code": "busy", "provider_error_type": "overload",
    "retry_after": 7.5, "in_stream": True, "phase": "connect", "timeout": 30.0, "setting": "first_event_timeout",
    "status_code": 429, "headers": {"Retry-After": "7", "x-ratelimit-remaining-tokens": "0"}, "hint": "Wait.",
    "suggested_model_id": "test:m", "exceptions": [ModelHTTPError(503, "m"), ValueError("v")],
    "tool_retry": ToolReturnPart("look", "no", tool_call_id="1", timestamp=AT),
    "tool_failed": ToolReturnPart("look", {"no": 1}, tool_call_id="1", timestamp=AT),
}  # fmt: skip


def one_of(kind: type[Exception]) -> Exception:
    """Return an error of a class of pydantic-ai, with everything that it can carry."""
    if issubclass(kind, BaseExceptionGroup):
        return kind("all failed", ARGUMENTS["exceptions"])
    if kind.__init__ in (Exception.__init__, RuntimeError.__init__, Warning.__init__, UserWarning.__init__):
        return kind("text")
    parameters = [each for each in inspect.signature(kind).parameters.values() if each.name not in ("args", "kwargs")]
    given = {each.name: ARGUMENTS[each.name] for each in parameters if each.kind is not each.KEYWORD_ONLY}
    named = {each.name: ARGUMENTS[each.name] for each in parameters if each.kind is each.KEYWORD_ONLY}
    return kind(*given.values(), **named) if parameters else kind("text")


def categorized() -> Iterator[Exception]:
    """One error for each category that an HTTP error may have."""
    category, *others = inspect.signature(ModelHTTPError.for_category).parameters
    for value in [None, *getattr(exceptions, "_HTTP_CATEGORY_CLASSES", {})]:
        yield ModelHTTPError.for_category(**{category: value}, **{name: ARGUMENTS[name] for name in others})


def fallen_back() -> FallbackExceptionGroup:
    group = FallbackExceptionGroup("all failed", [*categorized(), FallbackExceptionGroup("inner", [KeyError("k")])])
    used = RequestUsage(output_tokens=3)
    group.attempts = [
        ModelRequestAttempt(model_name="m", outcome="rejected", timestamp=AT, duration=timedelta(seconds=2), usage=used)
    ]
    return group


OF_PYDANTIC_AI = [*map(one_of, classes_of(exceptions).values()), *categorized(), fallen_back()]


@pytest.mark.parametrize("error", OF_PYDANTIC_AI, ids=lambda error: f"{type(error).__name__}")
def test_every_error_of_pydantic_ai_comes_back_as_it_was(error: Exception) -> None:
    """Code that caught it catches it again, and finds in it what it found then."""
    error.add_note("a note")

    back = again(error)

    assert type(back) is type(error)
    assert seen(back) == seen(error)
    assert is_final(back, retry_on=None, final_on=()) == is_final(error, retry_on=None, final_on=())


@pytest.mark.parametrize(
    "error",
    [
        *(OSError(code, "text", "file", None, "other") for code in (errno.ENOENT, errno.EPIPE, errno.EIO)),
        *(kind() for kind in classes_of(builtins).values() if issubclass(kind, OSError)),
        *(kind("text") for kind in classes_of(builtins).values() if issubclass(kind, (OSError, Warning))),
        *(kind(2, "no such", Path("f")) for kind in classes_of(builtins).values() if issubclass(kind, OSError)),
        BlockingIOError(11, "later", 3), FileNotFoundError(b"\xfffile"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), UnicodeEncodeError("ascii", "é", 0, 1, "bad"),
        UnicodeTranslateError("é", 0, 1, "bad"), UnicodeError("odd"),
        KeyError(("a", 1)), KeyError(AT), LookupError(), IndexError(3), StopIteration([1]), StopAsyncIteration(),
        ImportError("no", name="n", path="p"), ModuleNotFoundError("no", name="n"), NameError("no", name="n"),
        AttributeError("no", name="n"), SyntaxError("no", ("f.py", 1, 2, "x = ", 1, 3)), IndentationError("no"),
        ValueError("bad", 3, None, True, 1.5), ValueError({"a": [1]}, {3: "x"}, {"$": 1}),
        ArithmeticError(Decimal("1.50"), UUID(int=1), timedelta(1)), ZeroDivisionError("division by zero"),
        MemoryError(), RecursionError("deep"), AssertionError(), EOFError("end"), NotImplementedError(),
        ExceptionGroup("two", [OSError(2, "x"), ExceptionGroup("one", [ValueError(1)])]),
        TimeoutError(), TimeoutError(1), asyncio.QueueEmpty(), asyncio.IncompleteReadError(b"a", 3),
        InvalidInput("a", "b", "c"), errors.UnknownWorkflow("w", "s"), errors.Unreachable("store", "redis://h", "No"),
    ],
    ids=repr,
)  # fmt: skip
def test_every_error_of_python_and_of_ours_comes_back_as_it_was(error: Exception) -> None:
    """A file name, an error number and the rest of a group are what handlers ask for."""
    error.add_note("a note")

    back = again(error)

    assert type(back) is type(error)
    assert seen(back) == seen(error)


def test_every_builtin_error_is_known_by_its_own_class() -> None:
    """No class of Python is stood for by another one."""
    for name, kind in classes_of(builtins).items():
        arguments = {"UnicodeDecodeError": ("a", b"b", 0, 1, "c"), "UnicodeEncodeError": ("a", "b", 0, 1, "c")}
        arguments |= {"UnicodeTranslateError": ("b", 0, 1, "c"), "ExceptionGroup": ("g", [ValueError()])}
        error = kind(*arguments.get(name, ("text",)))
        assert seen(again(error)) == seen(error)


def test_what_an_error_came_from_comes_back_with_it() -> None:
    """Handlers look into it: a connection error has the client's own as its cause."""
    error = ModelAPIError("m", "Connection error.")
    error.__cause__ = ConnectionResetError(104, "reset")
    error.__cause__.__context__ = socket.gaierror(-2, "unknown")
    timeout = TimeoutError()
    timeout.__cause__ = asyncio.CancelledError()
    hidden = ValueError("shown")
    hidden.__context__, hidden.__suppress_context__ = KeyError(SECRET), True
    circle = ValueError("round")
    circle.__cause__ = KeyError("and round")
    circle.__cause__.__context__ = circle
    group = ExceptionGroup("all", [ValueError("one")])
    group.exceptions[0].__context__ = group

    cause = again(error).__cause__
    assert isinstance(cause, ConnectionResetError)
    assert (cause.errno, type(cause.__context__).__name__) == (104, "gaierror")
    assert isinstance(cause.__context__, OSError)
    assert isinstance(again(timeout).__cause__, asyncio.CancelledError)
    assert again(hidden).__context__ is None
    assert SECRET not in survived(hidden, {}).encode()
    assert repr(again(circle).__cause__) == "KeyError('and round')"
    assert repr(again(group)) == repr(group)


def test_what_pydantic_ai_attaches_to_an_error_comes_back_with_it() -> None:
    """The usage of attempts that were rejected counts in the run, and a stopped run can be gone on with."""
    error = ConnectionError("gone")
    vars(error)["_pydantic_ai_failed_attempts"] = fallen_back().attempts
    vars(error)["_pydantic_ai_run_cancelled"] = one_of(RunTimedOut)

    back = again(error)

    assert seen(back) == seen(error)
    stopped = RunCancelled.from_cancellation(back)
    assert isinstance(stopped, RunTimedOut)
    assert isinstance(stopped, TimeoutError)
    assert stopped.all_messages() == ARGUMENTS["messages"]


class ShopError(ModelHTTPError):
    """An error of a user's code that is one of pydantic-ai's too."""

    def __init__(self, shop: str) -> None:
        super().__init__(503, "m", {"shop": shop}, headers={"retry-after": "7"})
        self.shop, self.key = shop, SECRET


class NestedShopError(ShopError, KeyError):
    """One below it, which is also one of Python's."""


class Quiet(Exception):
    """One that is nobody else's."""


class ModelRateLimited(ModelRateLimitError, ModelHTTPError):
    """One that has a category, but is none of pydantic-ai's own."""


class Missing(FileNotFoundError):
    def __init__(self, path: str) -> None:
        super().__init__(errno.ENOENT, "missing", path)


class Rude(ValueError):
    """One that does not let itself be looked at."""

    def __str__(self) -> str:
        raise KeyError(SECRET)

    __repr__ = __reduce__ = __str__  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        raise OSError


def test_an_error_of_one_s_own_is_one_of_the_nearest_known_classes() -> None:
    """`except ModelHTTPError` and `fallback_on=` match it again, and it says whose it was."""
    back = again(NestedShopError("x"))

    assert isinstance(back, (ReplayedError))
    assert isinstance(back, ModelHTTPError)
    assert isinstance(back, KeyError)
    assert (back.status_code, back.body, back.retry_after) == (503, {"shop": "x"}, 7.0)
    assert (type(back).__name__, back.error_class) == ("NestedShopError", "NestedShopError")
    assert str(back) == back.text == str(ShopError("x"))
    assert cause_of(back).error_class == "paigeant_celery.core.errors.ReplayedError.NestedShopError"
    assert not hasattr(back, "shop")
    for names in ({"ShopError"}, {"NestedShopError"}, {"KeyError"}, {"ModelHTTPError"}):
        assert is_final(back, retry_on=None, final_on=names)
    assert not is_final(back, retry_on=None, final_on={"OSError"})


@pytest.mark.parametrize(
    ("error", "kinds", "text"),
    [
        (Quiet("hush", 1), [ReplayedError], "('hush', 1)"),
        (ModelRateLimited(429, "m"), [ModelRateLimitError, ModelHTTPError], str(ModelHTTPError(429, "m"))),
        (Missing("f"), [FileNotFoundError], "[Errno 2] missing: 'f'"),
        (json.JSONDecodeError("bad", "x", 0), [ValueError], "bad: line 1 column 1 (char 0)"),
        (socket.gaierror(-2, "unknown"), [OSError], "[Errno -2] unknown"),
        (concurrent.futures.CancelledError(), [ReplayedError], ""),
        (type("TimeoutError", (Exception,), {})("mine"), [ReplayedError], "mine"),
        (type("Own one\n", (RuntimeError,), {})("odd"), [RuntimeError], "odd"),
        (type("Grouped", (ExceptionGroup,), {})("g", [Quiet("a")]), [ExceptionGroup], "g (1 sub-exception)"),
        (type("Refused", (InvalidInput,), {})("a", "b", "c"), [InvalidInput, ValueError], "a at `b`: c"),
        (type("Wrong", (SyntaxError,), {})("no", ("f.py", 1, 2, "x")), [SyntaxError], "no (f.py, line 1)"),
    ],
    ids=repr,
)  # fmt: skip
def test_any_other_error_is_stood_for(error: Exception, kinds: list[type[Exception]], text: str) -> None:
    """A record is data: what it names is not imported, and no two classes are mixed up because of a name."""
    back = again(error)

    assert all(isinstance(back, kind) for kind in [ReplayedError, *kinds])
    assert str(back) == text
    assert isinstance(back, TimeoutError) is isinstance(error, TimeoutError)
    assert back.error_class == type(back).__name__
    restored = pickle.loads(pickle.dumps(back))
    assert (type(restored), restored.error_class, restored.text) == (ReplayedError, back.error_class, back.text)
    twice = again(back)  # a replay of a replay
    assert (type(twice).__name__, str(twice)) == (type(back).__name__, text)
    assert all(isinstance(twice, kind) for kind in [ReplayedError, *kinds])


def test_an_error_that_does_not_let_itself_be_looked_at_is_recorded_by_its_name() -> None:
    """Whatever its class raises must not hide it, and the run was not ended by it."""
    back = again(Rude(SECRET))

    assert isinstance(back, ReplayedError)
    assert back.error_class == "Rude"


def test_no_more_is_recorded_of_an_error_than_what_it_is_known_for() -> None:
    """A journal is not where the cookies of a provider and the keys of a client belong."""
    http = ModelHTTPError(429, "m", headers={"Set-Cookie": SECRET, "x-api-key": SECRET, "Retry-After": "7"})
    own = ShopError("x")
    attached = ValueError("v")
    attached.key = SECRET  # type: ignore[attr-defined]
    missing = AttributeError("no", name="n", obj={"key": SECRET})
    unknown = exceptions.SkipToolExecution(SecretStr(SECRET))

    for error in (http, own, attached, missing, unknown):
        assert SECRET not in survived(error, {}).encode()
    back = again(http)
    assert isinstance(back, ModelHTTPError)
    assert back.headers == {"set-cookie": "**********", "x-api-key": "**********", "retry-after": "7"}
    assert back.retry_after == 7.0


def test_what_has_no_form_is_known_by_its_class() -> None:
    """An open connection is not recorded, and neither is the error without it lost."""

    class Body(BaseModel):
        error: str

    loop: list[object] = []
    loop.append(loop)

    assert again(UnexpectedModelBehavior("odd", "no JSON")).body == "no JSON"  # type: ignore[attr-defined]
    assert again(ModelHTTPError(500, "m", Body(error="e"))).body == {"error": "e"}  # type: ignore[attr-defined]
    assert again(ModelHTTPError(500, "m", object())).body == "<object>"  # type: ignore[attr-defined]
    assert again(ModelHTTPError(500, "m", loop)).body == ["<list>"]  # type: ignore[attr-defined]
    assert again(ValueError(HTTPStatus.OK, object)).args == (200, "<class 'object'>")
    values = (letter for letter in "ab")
    assert again(exceptions.SkipToolExecution(values)).result == "<generator>"  # type: ignore[attr-defined]
    assert list(values) == ["a", "b"]


def test_an_error_that_carries_too_much_is_recorded_without_it() -> None:
    """A record is written together with a later one, in one round trip."""
    many = ExceptionGroup("many", [ValueError(number) for number in range(2000)])
    long: BaseException = ValueError("first")
    for number in range(3000):
        long, before = ValueError(number), long
        long.__context__ = before

    assert form_of(many) is None
    assert isinstance(again(many), ReplayedError)
    back = again(long)  # type: ignore[arg-type]
    depth = 0
    while back.__context__ is not None:
        back, depth = back.__context__, depth + 1  # type: ignore[assignment]
    assert (type(back), depth) == (ValueError, 20)


@pytest.mark.parametrize(
    "changes",
    [
        {"is": None}, {"is": []}, {"is": [["x"]]}, {"is": "x"}, {"is": ["SystemExit"]}, {"is": ["print"]},
        {"is": ["_CategorizedHTTPError"]}, {"is": ["CancelledError"]}, {"is": ["UnicodeDecodeError"]},
        {"is": ["ValueError", "OSError", "ImportError"]},
        {"is": ["KeyboardInterrupt"], "own": ["x"]}, {"own": 3}, {"own": [""]}, {"args": 3}, {"args": [{"$": 3}]},
        {"args": [{"$": ["Popen", ["ls"]]}]}, {"args": [{"$": ["error", {}]}]}, {"has": [1]}, {"from": 3},
        {"has": {"__class__": 3, "args": 1, "__cause__": "x", "with_traceback": 1}},
    ],
    ids=repr,
)  # fmt: skip
def test_a_form_makes_nothing_but_errors_that_code_can_survive(changes: dict[str, Any]) -> None:
    """It may be damaged, or of a later version; then less is known of the error."""
    error = error_from({"is": ["ValueError"], "args": [], "has": {}, **changes})

    assert error is None or isinstance(error, Exception)
    assert not isinstance(error, (SystemExit, KeyboardInterrupt, asyncio.CancelledError))


def test_an_error_of_a_validation_is_no_text_of_its_input() -> None:
    """Its text quotes what was given."""
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(int).validate_python(SECRET)

    back = again(caught.value)

    assert isinstance(back, ValueError)
    assert back.error_class == "ValidationError"  # type: ignore[attr-defined]
    assert SECRET not in survived(caught.value, {}).encode()


def test_a_class_that_this_version_does_not_know_is_one_of_its_bases() -> None:
    """Another worker may have a later pydantic-ai."""
    form = form_of(ModelRequestTimeout("m", 3.0))
    assert form is not None

    back = error_from({**form, "is": ["ModelOutOfOrder"]})
    nearer = error_from({**form, "is": ["ModelOutOfOrder", "AgentRunError"], "own": ["Mine"]})

    assert isinstance(back, ReplayedError)
    assert back.error_class == "ModelOutOfOrder"
    assert isinstance(nearer, AgentRunError)
