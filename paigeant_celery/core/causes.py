"""What raised an error: classes, texts and frames, without values and lines of source, and never too much of it.

Texts may quote prompts, answers and secrets: they are for the record of a failure, never for a log.
"""

from __future__ import annotations

import json
import re
import traceback
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from types import FrameType, FunctionType, TracebackType
from typing import Any

from pydantic import ValidationError

from paigeant_celery.core.errors import PaigeantError
from paigeant_celery.core.waits import without_tokens

__all__ = [
    "Cause",
    "Frame",
    "as_lists",
    "beyond_plumbing",
    "cause_from",
    "cause_of",
    "clean",
    "frames_from",
    "name_of",
    "text_of",
    "traceback_of",
]

MOST_BYTES = 16 * 1024  # of a cause as JSON; a workflow keeps one
MOST_ERRORS = 12  # in a chain and its groups together
LONGEST_TEXT = 4000  # characters of the text of the error that ended a step
MOST_TEXT = 1000  # characters of the text of one error of a cause
MOST_NOTES = 5
MOST_NAME = 300  # characters of a file or a name; of a file, the end says more
# Frames of one error that are kept: the outermost and innermost ones, and between them those that are no library's.
OUTERMOST, INNERMOST, OWN = 5, 15, 20

PLUMBING = ("paigeant_celery", "celery", "asyncio", "threading", "concurrent", "contextlib")  # around each step
LIBRARIES = re.compile(r"[/\\](site|dist)-packages[/\\]|^<frozen ")
LIBRARY_FOLDERS = (traceback.__file__.removesuffix("traceback.py"), __file__.removesuffix("core/causes.py"))

FROM = "The above exception was the direct cause of the following exception:"  # Python's own words
WHILE = "During handling of the above exception, another exception occurred:"


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A place in the code that was running; `skipped` frames before it were left out."""

    file: str
    line: int
    function: str
    skipped: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line} in {self.function}"


@dataclass(frozen=True, kw_only=True)
class Cause:
    """An error: its class, text, notes and frames (outermost first), and the errors that it came from.

    `raised_from` is the error that it was raised from, or, unless `direct`, while handling which it was raised.
    `group` holds the errors of an exception group. `str()` gives all of it as Python prints a traceback.
    """

    error_class: str
    text: str = field(default="", repr=False)
    frames: tuple[Frame, ...] = ()
    notes: tuple[str, ...] = field(default=(), repr=False)
    raised_from: Cause | None = None
    direct: bool = True
    group: tuple[Cause, ...] = ()

    def __str__(self) -> str:
        return "\n".join(_lines(self, texts=True))

    @property
    def without_texts(self) -> str:
        """Classes and frames alone, for logs."""
        return "\n".join(_lines(self, texts=False))

    @property
    def where(self) -> Frame | None:
        """The innermost frame of `telling` that is no library's, or else the innermost one."""
        frames = self.telling.frames
        own = (frame for frame in reversed(frames) if not _is_library(frame.file))
        return next(own, frames[-1] if frames else None)

    @property
    def telling(self) -> Cause:
        """The first of these errors that has a frame that is no library's: a timeout, for example, has none itself."""
        own = (each for each in self._all() if not all(_is_library(frame.file) for frame in each.frames))
        return next(own, self)

    def _all(self) -> Iterator[Cause]:
        yield self
        for other in (self.raised_from, *self.group):
            if other is not None:
                yield from other._all()

    def as_json(self) -> dict[str, Any]:
        """Return it as records keep it; what is empty is left out."""
        tree: dict[str, Any] = {"error_class": self.error_class}
        if self.text:
            tree["text"] = self.text
        if self.frames:
            tree["frames"] = as_lists(self.frames)
        if self.notes:
            tree["notes"] = list(self.notes)
        if self.raised_from is not None:
            tree["from" if self.direct else "while"] = self.raised_from.as_json()
        if self.group:
            tree["group"] = [member.as_json() for member in self.group]
        return tree


def cause_from(tree: Mapping[str, Any]) -> Cause:
    """Read what `as_json` returned; what a later version adds is left out."""
    before = tree.get("from", tree.get("while"))
    return Cause(
        error_class=tree["error_class"],
        text=tree.get("text", ""),
        frames=frames_from(tree.get("frames", ())),
        notes=tuple(tree.get("notes", ())),
        raised_from=cause_from(before) if before is not None else None,
        direct="while" not in tree,
        group=tuple(cause_from(member) for member in tree.get("group", ())),
    )


def as_lists(frames: Sequence[Frame]) -> list[list[str | int]]:
    """Return frames as records keep them."""
    return [[frame.file, frame.line, frame.function, frame.skipped] for frame in frames]


def frames_from(lists: Iterable[Sequence[Any]]) -> tuple[Frame, ...]:
    """Read what `as_lists` returned."""
    return tuple(Frame(file=each[0], line=each[1], function=each[2], skipped=each[3]) for each in lists)


def traceback_of(frames: Sequence[Frame]) -> TracebackType | None:
    """Return frames as an error carries them, without any variable, for those who read nothing else."""
    at: TracebackType | None = None
    for frame in reversed(frames):
        at = TracebackType(at, _bare(frame), -1, frame.line)
    return at


def beyond_plumbing(first: TracebackType | None) -> TracebackType | None:
    """Return a traceback without the frames that surround each step; None if there are no others."""
    return next((at for at in _linked(first) if not _is_plumbing(at)), None)


def cause_of(error: BaseException) -> Cause:
    """Return what raised an error, whatever the error does when it is looked at."""
    try:
        return _Reading().of(error)
    except BaseException:  # noqa: BLE001 - a class may override anything; its name is still known
        return Cause(error_class=name_of(error))


def text_of(error: BaseException) -> str:
    """Return the text of an error in a form that a record can keep and anybody may read."""
    try:
        return clean(without_tokens(str(error)[:LONGEST_TEXT]))
    except BaseException:  # noqa: BLE001 - an error whose text raises, whatever it raises, is still an error of the step
        return "(the text of the error could not be made)"


def name_of(error: BaseException) -> str:
    """Return the name of an error's class, in one line; classes that are made at run time may have any name."""
    return _name(str(type.__dict__["__name__"].__get__(type(error))))  # a metaclass may say something else, or raise


def clean(text: str) -> str:
    """Return a text in which every store can keep it."""
    return text.replace("\0", " ").encode(errors="replace").decode()


@dataclass
class _Reading:
    """Reads errors, the one that ended the step first, until the limits are reached."""

    bytes_left: int = MOST_BYTES
    seen: set[int] = field(default_factory=set)

    def of(self, error: BaseException) -> Cause:
        self.seen.add(id(error))
        frames, text = self._frames(error), self._kept(text_of(error))
        before, direct = _before(error)
        raised_from = self.of(before) if before is not None and self._goes_on(before) else None
        return Cause(
            error_class=_class_of(error),
            text=text,
            frames=frames,
            notes=tuple(self._kept(note) for note in _notes(error)),
            raised_from=raised_from,
            direct=direct or raised_from is None,
            group=tuple(self.of(member) for member in _members(error) if self._goes_on(member)),
        )

    def _goes_on(self, error: BaseException) -> bool:
        return len(self.seen) < MOST_ERRORS and self.bytes_left > 0 and id(error) not in self.seen

    def _frames(self, error: BaseException) -> tuple[Frame, ...]:
        frames = [*_frames_of(error.__traceback__), *_syntax_error(error)]
        return tuple(frame for frame in frames if self._takes(frame.file, frame.function))

    def _takes(self, *texts: str) -> bool:
        self.bytes_left -= sum(len(json.dumps(text)) for text in texts) + 20
        return self.bytes_left > 0

    def _kept(self, text: str) -> str:
        kept = text[:MOST_TEXT]
        return kept if self._takes(kept) else ""


def _before(error: BaseException) -> tuple[BaseException | None, bool]:
    """Return the error that this one came from, and whether it was raised from it."""
    if error.__cause__ is not None:
        return error.__cause__, True
    # Ours hide what they replace from tracebacks, because its text may quote a value. Records may have it.
    hidden = error.__suppress_context__ and not isinstance(error, PaigeantError)
    return (None if hidden else error.__context__), False


def _members(error: BaseException) -> Sequence[BaseException]:
    """Return the errors inside an error: those of a group, and those that validators raised."""
    if isinstance(error, BaseExceptionGroup):
        return error.exceptions
    if isinstance(error, ValidationError):
        faults = error.errors(include_url=False, include_input=False)
        raised = (fault.get("ctx", {}).get("error") for fault in faults[:MOST_ERRORS])
        return [found for found in raised if isinstance(found, BaseException)]
    return ()


def _notes(error: BaseException) -> list[str]:
    notes = getattr(error, "__notes__", ())
    return (
        [clean(without_tokens(str(note)[:MOST_TEXT])) for note in notes[:MOST_NOTES]] if isinstance(notes, list) else []
    )


def _frames_of(first: TracebackType | None) -> list[Frame]:
    """Return the frames that are kept of a traceback. Thousands cost little: only those are looked at closely."""
    start = beyond_plumbing(first) or first
    outermost = list(islice(_linked(start), OUTERMOST))
    innermost: deque[tuple[int, TracebackType]] = deque(maxlen=INNERMOST)
    own: deque[tuple[int, TracebackType]] = deque(maxlen=OWN)
    for number, at in enumerate(_linked(start)):
        if len(innermost) == INNERMOST and not _is_library(innermost[0][1].tb_frame.f_code.co_filename):
            own.append(innermost[0])
        innermost.append((number, at))
    kept = {**dict(enumerate(outermost)), **dict(own), **dict(innermost)}
    frames, expected = [], 0
    for number in sorted(kept):
        frames.append(_frame(kept[number], skipped=number - expected))
        expected = number + 1
    return frames


class _Here(Exception):
    """Raised to get a frame."""


def _raise_here() -> None:
    raise _Here


def _bare(frame: Frame) -> FrameType:
    """Return a frame of Python that has the names and the line of this one, and no variables."""
    code = _raise_here.__code__.replace(
        co_filename=frame.file, co_name=frame.function, co_qualname=frame.function, co_firstlineno=frame.line
    )
    try:
        FunctionType(code, {"_Here": _Here})()
    except _Here as here:
        *_, at = _linked(here.__traceback__)
        return at.tb_frame
    raise AssertionError("unreachable")


def _linked(at: TracebackType | None) -> Iterator[TracebackType]:
    while at is not None:
        yield at
        at = at.tb_next


def _is_plumbing(at: TracebackType) -> bool:
    return str(at.tb_frame.f_globals.get("__name__")).partition(".")[0] in PLUMBING


def _is_library(file: str) -> bool:
    return file.startswith(LIBRARY_FOLDERS) or LIBRARIES.search(file) is not None


def _frame(at: TracebackType, *, skipped: int) -> Frame:
    code = at.tb_frame.f_code
    return Frame(
        file=_name(code.co_filename), line=at.tb_lineno or 0, function=_name(code.co_qualname), skipped=skipped
    )


def _syntax_error(error: BaseException) -> list[Frame]:
    """Return where the code cannot be read; no frame is there."""
    if not isinstance(error, SyntaxError) or not isinstance(error.filename, str):
        return []
    line = error.lineno if isinstance(error.lineno, int) else 0
    return [Frame(file=_name(error.filename), line=line, function="<module>")]


def _class_of(error: BaseException) -> str:
    kind = type(error)
    module = str(kind.__module__)
    return _name(kind.__qualname__ if module in ("builtins", "__main__") else f"{module}.{kind.__qualname__}")


def _name(text: str) -> str:
    """Return the name of a file, class or function in one line, so that it forges no line of a log."""
    return "".join(c if c.isprintable() else "?" for c in clean(text[-MOST_NAME:]))


def _lines(cause: Cause, *, texts: bool) -> Iterator[str]:
    if cause.raised_from is not None:
        yield from _lines(cause.raised_from, texts=texts)
        yield from ("", FROM if cause.direct else WHILE, "")
    if cause.frames:
        yield "Traceback (most recent call last):"
    for frame in cause.frames:
        if frame.skipped:
            yield f"  ... {frame.skipped} frames are left out ..."
        yield f'  File "{frame.file}", line {frame.line}, in {frame.function}'
    yield f"{cause.error_class}: {cause.text}" if texts and cause.text else cause.error_class
    if texts:
        yield from cause.notes
    for number, member in enumerate(cause.group, start=1):
        yield f"  error {number} of {len(cause.group)} in the group:"
        yield from (f"    {line}" if line else "" for line in _lines(member, texts=texts))
