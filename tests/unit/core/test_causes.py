"""What is kept of an error: classes, texts and frames, whatever the error is, and never too much of it."""

from __future__ import annotations

import asyncio
import json
import time
import traceback
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel, field_validator

from paigeant_celery.core.causes import Cause, Frame, cause_from, cause_of, text_of, traceback_of

HERE = __file__
SECRET = "tiger" + "-42"


def lower(depth: int = 0) -> None:
    if depth:
        lower(depth - 1)
    raise KeyError(SECRET)


def upper(depth: int = 0) -> None:
    lower(depth)


async def waiting() -> None:
    upper()


def generating() -> Any:
    yield 1
    upper()


class Strict(BaseModel):
    name: str

    @field_validator("name")
    @classmethod
    def check(cls, value: str) -> str:
        raise ValueError(value)


class Mute(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


class Odd(Exception):
    __notes__ = 7  # type: ignore[assignment]

    @property
    def __cause__(self) -> Any:  # type: ignore[override]
        raise SystemExit(4)


def raised(call: Callable[[], object]) -> BaseException:
    try:
        call()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def functions(cause: Cause) -> list[str]:
    return [frame.function for frame in cause.frames]


def wrapping() -> None:
    try:
        upper()
    except KeyError as error:
        raise ValueError("wrapped") from error


def slipping() -> None:
    try:
        upper()
    except KeyError:
        raise ValueError("slipped")  # noqa: B904 - that is the case


def hiding() -> None:
    try:
        upper()
    except KeyError:
        raise ValueError("hidden") from None


def grouped() -> None:
    raise ExceptionGroup("two", [raised(upper), ValueError("b")])  # type: ignore[list-item]  # both are exceptions


async def tasks() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(waiting())


def test_the_frames_lead_to_the_line_that_raised() -> None:
    """A bug two calls down is found without running the step again."""
    cause = cause_of(raised(upper))

    assert (cause.error_class, cause.text) == ("KeyError", repr(SECRET))
    assert functions(cause) == ["raised", "upper", "lower"]
    assert {frame.file for frame in cause.frames} == {HERE}
    assert cause.where is not None
    assert cause.where.line == lower.__code__.co_firstlineno + 3


@pytest.mark.parametrize(
    ("call", "last"),
    [
        (lambda: asyncio.run(waiting()), ["waiting", "upper", "lower"]),
        (lambda: list(generating()), ["generating", "upper", "lower"]),
    ],
)
def test_coroutines_and_generators_are_followed(call: Callable[[], object], last: list[str]) -> None:
    """How a step is written does not matter."""
    cause = cause_of(raised(call))

    assert [name.rpartition(".")[2] for name in functions(cause)][-len(last) :] == last


def test_an_error_that_a_validator_raised_is_found_in_the_error_of_pydantic() -> None:
    """The frames of pydantic's own error end before the validator."""
    cause = cause_of(raised(lambda: Strict(name="x")))

    (inside,) = cause.group
    assert (inside.error_class, functions(inside)) == ("ValueError", ["Strict.check"])


def test_what_an_error_was_raised_from_is_kept_and_what_is_hidden_is_not() -> None:
    """The first error is usually the one to repair."""
    direct, slipped, hidden = (cause_of(raised(call)) for call in (wrapping, slipping, hiding))

    for cause, is_direct in ((direct, True), (slipped, False)):
        assert cause.raised_from is not None
        assert (cause.raised_from.error_class, cause.direct) == ("KeyError", is_direct)
        assert functions(cause.raised_from)[-2:] == ["upper", "lower"]
    assert hidden.raised_from is None


@pytest.mark.parametrize("call", [grouped, lambda: asyncio.run(tasks())])
def test_each_error_of_a_group_is_kept(call: Callable[[], object]) -> None:
    """The group itself says only how many there are."""
    cause = cause_of(raised(call))

    assert "lower" in functions(cause.group[0])
    assert cause.group[0].error_class == "KeyError"


def test_the_frames_around_each_step_are_left_out_but_never_all_frames() -> None:
    """Ours and asyncio's are the same for every error; an error of ours has no others."""

    def from_asyncio(step: Any) -> list[str]:
        error = raised(lambda: asyncio.run(step))
        assert error.__traceback__ is not None
        assert error.__traceback__.tb_next is not None
        return functions(cause_of(error.with_traceback(error.__traceback__.tb_next.tb_next)))

    assert from_asyncio(waiting()) == ["waiting", "upper", "lower"]
    assert from_asyncio(None) == ["run", "Runner.run"]
    assert cause_of(raised(upper).with_traceback(None)).frames == ()


def test_thousands_of_frames_cost_little_and_the_first_and_last_are_kept() -> None:
    """A recursion that never ends is a common bug, and its record must stay small."""

    def deep(depth: int) -> None:
        if depth == 0:
            upper()
        deep(depth - 1)

    error = raised(lambda: deep(900))
    for _ in range(4):  # 4000 frames, which no recursion limit allows at once
        error = raised(lambda held=error: nest(held))  # type: ignore[misc]
    began = time.process_time()
    cause = cause_of(error)

    assert time.process_time() - began < 0.1
    assert functions(cause)[0] == "raised"
    assert functions(cause)[-1] == "lower"
    assert len(cause.frames) <= 40
    assert len(cause.frames) + sum(frame.skipped for frame in cause.frames) > 3000
    assert "frames are left out" in str(cause)


def nest(error: BaseException, depth: int = 900) -> None:
    if depth == 0:
        raise error
    nest(error, depth - 1)


def test_own_code_in_the_midst_of_libraries_is_kept() -> None:
    """A tool is called by a library and calls another; both may be many frames deep."""

    def through(library: int, then: Callable[[], object]) -> object:
        code = "def call(depth):\n    return then() if depth == 0 else call(depth - 1)\n"
        space: dict[str, Any] = {"then": then}
        exec(compile(code, "/venv/lib/site-packages/library.py", "exec"), space)
        return space["call"](library)

    def tool() -> None:
        through(60, upper)

    cause = cause_of(raised(lambda: through(60, tool)))

    assert any(name.endswith("tool") for name in functions(cause))
    assert str(cause.where).endswith("in lower")


def test_a_record_stays_within_its_limits() -> None:
    """A store keeps one for each workflow that failed."""

    def chain(count: int) -> None:
        try:
            if count:
                chain(count - 1)
            upper(100)
        except Exception as error:
            error.add_note("é" * 100_000)
            raise ValueError("é" * 100_000) from error

    cause = cause_of(raised(lambda: chain(50)))

    assert len(json.dumps(cause.as_json())) < 24_000
    assert cause.text == "é" * 1000
    assert cause.raised_from is not None


def test_a_circle_of_causes_is_followed_once() -> None:
    """Nothing forbids one."""
    first, second = ValueError("1"), ValueError("2")
    first.__cause__, second.__cause__ = second, first

    cause = cause_of(first)

    assert cause.raised_from is not None
    assert cause.raised_from.raised_from is None


@pytest.mark.parametrize(
    "error",
    [
        SystemExit(2), KeyboardInterrupt(), MemoryError(), RecursionError("deep"), GeneratorExit(),
        asyncio.CancelledError(), Mute(), Odd(), ValueError("\ud800\0"), UnicodeDecodeError("a", b"\xff", 0, 1, "x"),
        type("Odd\nname", (Exception,), {"__module__": None})(),
    ],
)  # fmt: skip
def test_every_error_has_a_cause_that_records_and_logs_can_keep(error: BaseException) -> None:
    """What an error does when it is looked at must not end the worker that looks."""
    cause = cause_of(error)

    assert type(error).__name__.replace("\n", "?") in cause.error_class
    assert cause_from(json.loads(json.dumps(cause.as_json()))) == cause
    assert "\n" not in cause.without_texts
    text_of(error).encode()


def test_code_that_cannot_be_read_is_located() -> None:
    """No frame is there, because it never ran."""
    cause = cause_of(raised(lambda: compile("x = (", "/app/steps.py", "exec")))

    assert cause.frames[-1] == Frame(file="/app/steps.py", line=1, function="<module>")


def test_a_record_is_read_as_it_was_written() -> None:
    """The reader may be another process and another version."""
    for call in (upper, wrapping, slipping, grouped, lambda: upper(100)):
        cause = cause_of(raised(call))
        assert cause_from(json.loads(json.dumps(cause.as_json()))) == cause


def test_a_cause_reads_like_a_traceback_and_has_no_texts_in_a_log() -> None:
    """People know how to read one; a text may quote a secret."""
    error = raised(wrapping)
    error.add_note("look at " + SECRET)
    cause = cause_of(error)

    assert str(cause).splitlines()[0] == "Traceback (most recent call last):"
    assert SECRET in str(cause)
    assert "direct cause" in str(cause)
    assert "ValueError: wrapped" in str(cause)
    assert SECRET not in cause.without_texts
    assert "wrapped" not in cause.without_texts
    assert cause.without_texts.splitlines()[-1] == "ValueError"


def test_frames_become_a_traceback_without_variables() -> None:
    """Who reports errors elsewhere reads frames of Python, and would report their variables."""
    frames = (Frame(file="/app/steps.py", line=7, function="outer"), Frame(file="/app/x.py", line=1, function="inner"))

    made = traceback_of(frames)

    assert [(at.filename, at.lineno, at.name) for at in traceback.extract_tb(made)] == [
        ("/app/steps.py", 7, "outer"), ("/app/x.py", 1, "inner"),
    ]  # fmt: skip
    assert [frame.f_locals for frame, _ in traceback.walk_tb(made)] == [{}, {}]
    assert cause_of(ValueError().with_traceback(made)).frames == frames
    assert traceback_of(()) is None
