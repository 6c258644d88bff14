"""What one document of a slip has that another has not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

from pydantic import JsonValue

from paigeant_celery.core.document_steps import RecordedStep, StepOfDocument
from paigeant_celery.core.documents import SlipDocument

__all__ = ["ChangeKind", "DocumentChange", "diff", "step_ids"]

ChangeKind: TypeAlias = Literal["added", "removed", "changed", "moved"]

# How a step ran and where a document comes from is no part of what a workflow does.
_NOT_COMPARED = {"ran", "added_by", "step_id"}


@dataclass(frozen=True, kw_only=True)
class DocumentChange:
    """A difference between two documents.

    `path` is a field, or a step by its id, as in `itinerary.writer.prompt`; in a branch as in
    `itinerary.readings.for_each.reader`. `before` and `after` are its values, None where there is none; of a step that
    was `moved` they say which step it follows.
    """

    kind: ChangeKind
    path: str
    before: JsonValue = None
    after: JsonValue = None


def diff(before: SlipDocument, after: SlipDocument) -> list[DocumentChange]:
    """Return what differs between two documents: in fields, and in steps, which are compared by their ids.

    A step without an id has the one that a dispatch would give it. Neither the workflow that a document was exported
    from, nor how steps ran, nor who inserted them is compared.
    """
    return [*_fields(_head(before), _head(after), ""), *_steps(before.itinerary, after.itinerary, "itinerary")]


def step_ids(steps: Sequence[StepOfDocument]) -> list[str]:
    """Return the ids of steps, of one without an id the one that a dispatch would give it."""
    return list(_named(steps))


def _head(document: SlipDocument) -> dict[str, JsonValue]:
    tree = cast("dict[str, JsonValue]", document.tree())
    return {name: value for name, value in tree.items() if name not in ("version", "itinerary", "workflow")}


def _fields(before: Mapping[str, JsonValue], after: Mapping[str, JsonValue], path: str) -> Iterator[DocumentChange]:
    for name in dict.fromkeys((*before, *after)):
        here = f"{path}.{name}" if path else name
        old, new = before.get(name), after.get(name)
        if name not in before:
            yield DocumentChange(kind="added", path=here, after=new)
        elif name not in after:
            yield DocumentChange(kind="removed", path=here, before=old)
        elif isinstance(old, dict) and isinstance(new, dict):
            yield from _fields(old, new, here)
        elif old != new or type(old) is not type(new):
            yield DocumentChange(kind="changed", path=here, before=old, after=new)


def _steps(before: Sequence[StepOfDocument], after: Sequence[StepOfDocument], path: str) -> Iterator[DocumentChange]:
    old, new = _named(before), _named(after)
    for step_id in old:
        if step_id not in new:
            yield DocumentChange(kind="removed", path=f"{path}.{step_id}", before=_tree(old[step_id]))
    kept = [step_id for step_id in old if step_id in new]
    for step_id, step in new.items():
        here = f"{path}.{step_id}"
        if step_id not in old:
            yield DocumentChange(kind="added", path=here, after=_tree(step))
            continue
        yield from _in_step(old[step_id], step, here)
    yield from _moved(kept, [step_id for step_id in new if step_id in old], path)


def _in_step(before: StepOfDocument, after: StepOfDocument, path: str) -> Iterator[DocumentChange]:
    if isinstance(before, RecordedStep) or isinstance(after, RecordedStep):
        return  # nobody knows what it was given
    if type(before) is not type(after):
        yield DocumentChange(kind="changed", path=path, before=_tree(before), after=_tree(after))
        return
    yield from _fields(_own(before), _own(after), path)
    for name in dict.fromkeys((*before.inner, *after.inner)):
        yield from _steps(before.inner.get(name, ()), after.inner.get(name, ()), f"{path}.{name}")


def _moved(before: list[str], after: list[str], path: str) -> Iterator[DocumentChange]:
    """Yield steps that have to be taken out so that the others are in the same order, the furthest first."""
    while before != after:
        places = {step_id: place for place, step_id in enumerate(before)}
        step_id = max(after, key=lambda each: abs(places[each] - after.index(each)))
        old, new = before.index(step_id), after.index(step_id)
        yield DocumentChange(
            kind="moved", path=f"{path}.{step_id}", before=_behind(before, old), after=_behind(after, new)
        )
        before = [each for each in before if each != step_id]
        after = [each for each in after if each != step_id]


def _behind(step_ids: list[str], place: int) -> JsonValue:
    return f"after {step_ids[place - 1]}" if place else "first"


def _named(steps: Sequence[StepOfDocument]) -> dict[str, StepOfDocument]:
    """Return steps by the ids that a dispatch gives them, as far as those can be told."""
    given = {step.step_id for step in steps}
    found: dict[str, StepOfDocument] = {}
    for step in steps:
        name, number = step.step_id or step.stem, 1
        while step.step_id is None and (name in given or name in found):
            number += 1
            name = f"{step.stem}-{number}"
        found[name] = step
    return found


def _tree(step: StepOfDocument) -> JsonValue:
    tree: dict[str, Any] = step.model_dump(mode="json", exclude_defaults=True)
    return cast("JsonValue", {name: value for name, value in tree.items() if name not in _NOT_COMPARED})


def _own(step: StepOfDocument) -> dict[str, JsonValue]:
    """Return what a step says itself, without the steps of its branches."""
    tree = cast("dict[str, JsonValue]", _tree(step))
    return {name: value for name, value in tree.items() if not step.inner or name != step.kind}
