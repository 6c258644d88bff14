"""What is wrong with a document, all of it together: its form, its steps, and what no worker could run."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import TypeAdapter, ValidationError

from paigeant_celery.core.block_faults import block_faults
from paigeant_celery.core.document_errors import Finding, InvalidDocument
from paigeant_celery.core.document_steps import (
    DocumentStep,
    Placed,
    RecordedStep,
    StepOfDocument,
    inner_of,
    places_of,
)
from paigeant_celery.core.document_text import read_text
from paigeant_celery.core.documents import Given, SlipDocument, form_faults
from paigeant_celery.core.errors import InvalidInput, MessageError
from paigeant_celery.core.jsonable import dumps
from paigeant_celery.core.names import FLOW
from paigeant_celery.core.slip import name_steps
from paigeant_celery.core.steps import MOST_DEEP, Step, steps_in

__all__ = ["Known", "at_step", "in_document", "lint", "told_in_document"]

# Where a part of a step stands in a document, by the name that the step's constructor has for it.
_FIELDS = {
    "agent_name": "agent",
    "branches": "parallel",
    "function_name": "function",
    "task_name": "task",
    "name": "wait_for",
    "seconds": "sleep_for",
    "when": "sleep_until",
}
_STEP: TypeAdapter[StepOfDocument] = TypeAdapter(DocumentStep)


@dataclass(frozen=True, kw_only=True)
class Known:
    """What a process knows when it looks at a document.

    `activities` are those that the app has loaded, each with its kind; None if others may have loaded more. `check`
    raises `InvalidInput` or `MessageError` for a step that its activity would not take. `now` is for deadlines.
    """

    activities: Mapping[str, str] | None = None
    check: Callable[[Step], object] | None = None
    now: datetime | None = None
    max_steps: int = 256
    max_branches: int = 1000


def lint(given: Given, known: Known | None = None) -> list[Finding]:
    """Return all that is wrong with a document: a text, its JSON as Python has it, or a document that was read.

    What does not depend on a mistake is looked at in spite of it. Raises `UsageError` for YAML without PyYAML.
    """
    known = known or Known()
    try:
        tree: Any = read_text(given) if isinstance(given, str) else given
    except InvalidDocument as error:
        return list(error.findings)
    document, findings = (tree, []) if isinstance(tree, SlipDocument) else form_faults(tree)
    steps = list(enumerate(document.itinerary)) if document is not None else list(_readable(tree))
    findings += _step_faults(steps, known, whole=not findings)
    if document is not None:
        findings += _other_faults(document, known)
    return list(dict.fromkeys(findings))


def at_step(error: InvalidInput | MessageError, path: str) -> Finding:
    """Return what an error says about a step that stands at a path."""
    field, text = _field(error.path, path), error.text
    told, semicolon, remedy = text.partition("; ")
    return Finding(error.reason, field, told, remedy if semicolon else "see `docs/documents.md`")


def in_document(steps: Iterable[Placed], path: str) -> str:
    """Return where in the itinerary of a document stands what an error names by its path on the slip of `steps`."""
    return _translated(dict(places_of(steps, "itinerary", "itinerary")), path)


@contextmanager
def told_in_document(steps: Iterable[Placed]) -> Iterator[None]:
    """Tell what an error says of the slip of `steps` as of the document in which they stand."""
    try:
        yield
    except InvalidDocument:
        raise
    except InvalidInput as error:
        raise InvalidDocument.of([Finding(error.reason, in_document(steps, error.path), error.text)]) from error


def _translated(places: Mapping[str, str], path: str) -> str:
    for wire in sorted(places, key=len, reverse=True):
        if path == wire or path.startswith((f"{wire}.", f"{wire}[")):
            return _field(path[len(wire) :].lstrip("."), places[wire])
    return path


def _field(path: str, step: str) -> str:
    """Return the path of a part of a step, whose own path is `step`, as the document calls it."""
    if not path:
        return step
    name, dot, rest = path.partition(".")
    base, bracket, index = name.partition("[")
    return f"{step}.{_FIELDS.get(base, base)}{bracket}{index}{dot}{rest}"


def _readable(tree: object) -> Iterator[Placed]:
    """Yield the steps of a document whose form is right, although that of something else is not."""
    itinerary = tree.get("itinerary") if isinstance(tree, Mapping) else None
    for index, step in enumerate(itinerary if isinstance(itinerary, list) else ()):
        try:
            yield index, _STEP.validate_json(dumps(step), strict=True)
        except (ValidationError, ValueError, RecursionError):
            continue


def _step_faults(steps: Sequence[Placed], known: Known, *, whole: bool) -> Iterator[Finding]:
    """Yield what is wrong with steps; whether they fit each other is told only if they are the `whole` itinerary."""
    built = list[tuple[int, StepOfDocument, Step]]()
    for index, step in steps:
        faults = list(_made_faults(step, index))
        yield from faults
        if not faults and not isinstance(step, RecordedStep):
            built.append((index, step, step.step()))
    doubled = list(_doubled([step for _, step in steps], "itinerary", [index for index, _ in steps]))
    yield from doubled
    places = dict(places_of([(index, step) for index, step, _ in built], "itinerary", "itinerary"))
    slip = [step for _, _, step in built]
    for path, each, depth in steps_in(slip, "itinerary"):
        here = places[path]
        if depth >= MOST_DEEP and each.activity == FLOW and f"{path}.branches[0].steps[0]" in places:
            yield Finding("too_many_blocks", here, f"more than {MOST_DEEP} blocks are inside each other", "use fewer")
        yield from _activity_faults(each, here, known)
    for path, count in _lengths([step for _, step in steps], "itinerary"):
        if count > known.max_steps:
            text = f"{count} steps exceed `paigeant_max_steps` ({known.max_steps})"
            yield Finding("too_many_steps", path, text, "raise it, or dispatch several workflows")
    if whole and not doubled and len(built) == len(steps):
        for reason, path, text in block_faults(name_steps(slip), "itinerary", most=known.max_branches):
            yield at_step(InvalidInput(reason, "", text), _translated(places, path))


def _made_faults(step: StepOfDocument, index: int) -> Iterator[Finding]:
    """Yield what is wrong with a step and with those in its branches, before which a block is not looked at."""
    wrong = False
    for path, each in inner_of([step], "itinerary"):
        if isinstance(each, RecordedStep) or (wrong and each.inner):
            continue
        try:
            each.step()
        except InvalidInput as error:
            wrong = True
            yield at_step(error, path.replace("itinerary[0]", f"itinerary[{index}]", 1))


def _doubled(steps: Sequence[StepOfDocument], path: str, indices: Sequence[int]) -> Iterator[Finding]:
    seen = set[str]()
    for index, step in zip(indices, steps, strict=True):
        here = f"{path}[{index}]"
        if step.step_id is not None and step.step_id in seen:
            text = f"{step.step_id!r} is used twice in the itinerary"
            yield Finding("duplicate_step_id", f"{here}.step_id", text, "give one of them another, or none")
        seen.add(step.step_id or "")
        for name, inner in step.inner.items():
            yield from _doubled(inner, f"{here}.{name}", range(len(inner)))


def _lengths(steps: Sequence[StepOfDocument], path: str) -> Iterator[tuple[str, int]]:
    yield path, len(steps)
    for index, step in enumerate(steps):
        for name, inner in step.inner.items():
            yield from _lengths(inner, f"{path}[{index}].{name}")


def _activity_faults(step: Step, path: str, known: Known) -> Iterator[Finding]:
    """Yield what is wrong with a step as far as the app that would run it is known."""
    name, field = step.activity, f"{path}.{step.kind.partition('_')[0]}"
    if known.activities is None or name == FLOW:
        return
    kind = known.activities.get(name)
    if kind is None:
        close = difflib.get_close_matches(name, known.activities, n=3)
        remedy = f"did you mean {' or '.join(map(repr, close))}?" if close else "add its module to `imports`"
        yield Finding("unknown_agent", field, f"no activity {name!r} is loaded", remedy)
    elif kind != step.kind.partition("_")[0]:
        yield Finding("unknown_agent", field, f"{name!r} is of the kind `{kind}`", f"write `{kind}: {name}`")
    elif known.check is not None:
        try:
            known.check(step)
        except (InvalidInput, MessageError) as error:
            yield at_step(error, path)


def _other_faults(document: SlipDocument, known: Known) -> Iterator[Finding]:
    for index, entry in enumerate(document.registered_activities):
        path = f"registered_activities[{index}]"
        try:
            yield from _activity_faults(entry.step(), path, known)
        except InvalidInput as error:
            yield at_step(error, path)
    try:
        document.limits()
    except InvalidInput as error:
        yield Finding(error.reason, error.path, error.text, "see `docs/documents.md`")
    start, deadline = document.start_at, document.deadline
    if deadline is not None and known.now is not None and deadline <= known.now:
        yield Finding("deadline_passed", "deadline", "it is in the past", "give a later one, or none")
    elif deadline is not None and start is not None and deadline <= start:
        yield Finding("deadline_passed", "deadline", "it is not after `start_at`", "give a later one, or none")
