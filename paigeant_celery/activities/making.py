"""How an activity was made: what tells a second one of its name from the same one that is made again."""

from __future__ import annotations

from dataclasses import dataclass
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
    notebook's cell loads anew, and its namespace) or a test. It is empty in a thread.
    """

    subject: object
    calls: tuple[str, ...]
    run: tuple[object, ...]

    @classmethod
    def at(cls, maker: FrameType, subject: object) -> Making:
        """Return how the code in `maker` makes an activity of `subject` now."""
        calls: list[str] = []
        frame: FrameType | None = maker
        run: tuple[object, ...] = ()
        while frame is not None and not run:
            calls.append(f"{frame.f_code.co_filename}:{frame.f_lineno}")
            run, frame = _run_in(frame), frame.f_back
        return cls(subject=subject, calls=tuple(calls), run=run)

    def replaces(self, earlier: Making) -> bool:
        """Say whether this is the earlier one again: the same object, or what the same calls make in another run.

        A module may run again: as `__main__` and by its name, after a reload, in a cell. Within one run the same calls
        make two different activities, as a loop or a factory does.
        """
        if self.subject is earlier.subject:
            return True
        same_run = all(mine is theirs for mine, theirs in zip(self.run, earlier.run, strict=False))
        return self.calls == earlier.calls and not same_run

    def place(self, origin: str) -> str:
        """Say where it was made, with the call that led there."""
        return f"{origin}, called at {self.calls[1]}" if len(self.calls) > 1 else origin


def _run_in(frame: FrameType) -> tuple[object, ...]:
    """Return what a frame runs if it may run again, or nothing."""
    if frame.f_code.co_name == MODULE_BODY:
        return (frame.f_code, frame.f_globals)
    test = TESTS.get((frame.f_globals.get("__name__", ""), frame.f_code.co_name))
    return (frame.f_locals[test],) if test is not None else ()
