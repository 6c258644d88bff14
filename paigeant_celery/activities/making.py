"""How an activity was made: what tells a second one of its name from the same one that is made again."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from types import FrameType

__all__ = ["Making"]

MODULE_BODY = "<module>"

# The functions that run one test, and the local variable that says which. What an earlier test has made may outlive it:
# runners keep the instances of their classes, above all those of tests that failed.
TESTS = {
    ("_pytest.runner", "runtestprotocol"): "item",
    ("unittest.case", "run"): "self",
    ("unittest.suite", "_handleClassSetUp"): "currentClass",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Making:
    """The calls that made an activity of `subject`, an agent or a function: `file:line`, from the innermost outwards.

    `run` is what was running and may run again: the body of a module (its code, which each import, reload and run of a
    notebook's cell loads anew, and its namespace) or a test. It is empty in a thread. `of` is what such runs have in
    common: the file of the module, or without one, and in a test, the calls.
    """

    subject: object
    calls: tuple[str, ...]
    of: str
    run: tuple[object, ...]

    @classmethod
    def at(cls, maker: FrameType, subject: object) -> Making:
        """Return how the code in `maker` makes an activity of `subject` now."""
        calls: list[str] = []
        frame: FrameType | None = maker
        of, run = "", tuple[object, ...]()
        while frame is not None and not run:
            calls.append(f"{frame.f_code.co_filename}:{frame.f_lineno}")
            (of, run), frame = _run_in(frame), frame.f_back
        return cls(subject=subject, calls=tuple(calls), of=of or " ".join(calls), run=run)

    @property
    def module(self) -> str | None:
        """The name of the module in whose body it was made; None if it was made elsewhere."""
        namespace = self.run[1] if len(self.run) > 1 else None
        name = namespace.get("__name__") if isinstance(namespace, dict) else None
        return name if isinstance(name, str) else None

    def replaces(self, earlier: Making) -> bool:
        """Say whether the earlier one is out of date: of the same object, or made by another run of the same thing.

        A module may run again: as `__main__` and by its name, after a reload, in a cell. What an earlier run made is
        replaced, also if the code has moved to another line since. Within one run two are two, as those of a loop are.
        """
        if self.subject is earlier.subject:
            return True
        same_run = all(mine is theirs for mine, theirs in zip(self.run, earlier.run, strict=False))
        return self.of == earlier.of and not same_run

    def place(self, origin: str) -> str:
        """Say where it was made, with the call that led there."""
        return f"{origin}, called at {self.calls[1]}" if len(self.calls) > 1 else origin


def _run_in(frame: FrameType) -> tuple[str, tuple[object, ...]]:
    """Return the module whose body a frame runs, and what it runs if that may run again."""
    if frame.f_code.co_name == MODULE_BODY:
        file = frame.f_code.co_filename
        # Text that is run without a file has a name such as `<stdin>`, which says nothing.
        return "" if file.startswith("<") else _real(file), (frame.f_code, frame.f_globals)
    test = TESTS.get((frame.f_globals.get("__name__", ""), frame.f_code.co_name))
    return "", (frame.f_locals[test],) if test is not None else ()


@lru_cache(maxsize=1024)  # also because the working directory may change
def _real(file: str) -> str:
    """Return a file by its one name: a path may lead through links, or begin in the working directory."""
    return os.path.realpath(file)
