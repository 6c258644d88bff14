"""The output of a block: a manifest of the last outputs of its branches, and the value that they are together.

A branch writes its last output once, under a name of its own. Whoever reads the output of the block puts it together
from those, so that nothing is copied and no record is long.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, JsonValue, ValidationError

from paigeant_celery.core.budget import used_by
from paigeant_celery.core.causes import Cause
from paigeant_celery.core.errors import MessageError
from paigeant_celery.core.jsonable import dumps, loads
from paigeant_celery.core.message import sha256
from paigeant_celery.core.slip import Cost, OutputRef, RoutingSlip, WireModel
from paigeant_celery.core.steps import BlockSpec, Form

__all__ = [
    "BranchEnd",
    "Manifest",
    "ManifestEntry",
    "OpenedAs",
    "assembled",
    "content_in",
    "failed_end",
    "manifest_in",
    "manifest_of",
    "name_of_branch",
    "name_of_opened",
    "name_of_slip",
    "opened_as",
    "read_end",
    "read_opened",
    "succeeded_end",
]


_NUMBER = re.compile(r"0|[1-9][0-9]{0,8}", re.ASCII)


class BranchEnd(WireModel):
    """How a branch ended: where its last output is, or why it failed; and what its steps have used together.

    `size` is that of the output in bytes. If it is that of a `block`, the store has its manifest in this place, and the
    size is that of all its parts. `cause` is what raised the error, as `Cause.as_json` has it; no manifest keeps that.
    """

    state: Literal["succeeded", "failed"]
    output: OutputRef | None = None
    block: bool = False
    size: int = Field(default=0, ge=0)
    content: tuple[str, ...] = ()
    step: str | None = None  # the path of the one that failed
    error_class: str = ""
    text: str = ""
    cause: dict[str, JsonValue] | None = None
    usage: dict[str, int] = Field(default_factory=dict)
    cost: Cost | None = None

    def encode(self) -> str:
        """Write it for the store, which does not read it."""
        return dumps(self.model_dump(mode="json", exclude_defaults=True))

    @property
    def failure(self) -> JsonValue:
        """What stands for the output of a branch that failed."""
        return {"failed": self.error_class, "text": self.text}


class ManifestEntry(BranchEnd):
    """How a branch of a block ended, with the place of the branch and its name."""

    place: str
    name: str


class Manifest(WireModel):
    """What the output of a block consists of; `format` grows if its entries change. It exists since 1.5."""

    format: Annotated[int, Field(ge=1)] = 1
    form: Form
    branches: tuple[ManifestEntry, ...]

    @property
    def size(self) -> int:
        """About how many bytes of JSON the output has."""
        return sum(entry.size or len(dumps(entry.failure).encode()) for entry in self.branches)

    def as_json(self) -> JsonValue:
        """Return it as the output of a step is recorded."""
        tree: JsonValue = self.model_dump(mode="json", exclude_defaults=True)
        return tree


class OpenedAs(WireModel):
    """What whoever looks at the branches of a block needs to know of it, whatever becomes of its messages.

    `path` is that of the block, and `names` are those of its branches, if they are not numbers. `deep` says whether
    there are blocks in its branches. It exists since 1.5.
    """

    form: Form
    path: str
    names: tuple[str, ...] = ()
    deep: bool = False

    def encode(self) -> str:
        """Write it for the store, which does not read it."""
        return dumps(self.model_dump(mode="json", exclude_defaults=True))

    def name_of(self, number: int) -> str:
        """Return the name of a branch."""
        return self.names[number] if number < len(self.names) else str(number)

    def number_of(self, name: str) -> int | None:
        """Return the number of a branch by its name; None if there is none of that name."""
        if self.names:
            return self.names.index(name) if name in self.names else None
        return int(name) if _NUMBER.fullmatch(name) is not None else None


def opened_as(block: BlockSpec, path: str) -> OpenedAs:
    """Return what is kept of a block that opens its branches."""
    return OpenedAs(
        form=block.form,
        path=path,
        names=tuple(branch.name for branch in block.branches) if block.form == "parallel" else (),
        deep=any(isinstance(step, BlockSpec) for branch in block.branches for step in branch.steps),
    )


def name_of_opened(place: str) -> str:
    """Return the name under which the store has what is kept of the block at a place."""
    return f"{place}::block"


def read_opened(text: str | None) -> OpenedAs | None:
    """Read what is kept of a block; None if there is nothing that can be read."""
    try:
        return OpenedAs.model_validate(loads(text, invalid="store_corrupt")) if text is not None else None
    except (ValidationError, MessageError):
        return None


def name_of_slip(slip: RoutingSlip) -> str:
    """Return the name under which the store has the slip of a branch that succeeded."""
    return slip.name_in_store(":slip")


def succeeded_end(slip: RoutingSlip) -> tuple[BranchEnd, Mapping[str, str]]:
    """Return how a branch ended whose slip has no more steps, and what the store must hold of it."""
    used = used_by(slip.executed, earlier=slip.earlier)
    end = BranchEnd(state="succeeded", usage=dict(used.counters), cost=used.cost)
    stored = {name_of_slip(slip): dumps(slip.model_dump(mode="json", exclude_defaults=True))}
    last = slip.previous  # if the branch only slept, what it was given
    if last is None:
        return end, stored
    if last.output_ref is not None:
        ref = last.output_ref.model_copy(update={"name": last.output_name})
    else:
        text, name = dumps(last.output), slip.name_in_store(last.step_id)
        ref, stored[name] = OutputRef(size=len(text.encode()), sha256=sha256(text), name=name), text
    size = last.whole_size if last.whole_size is not None else ref.size
    changed = {"output": ref, "block": last.is_block, "size": size, "content": last.content}
    return end.model_copy(update=changed), stored


def failed_end(
    slip: RoutingSlip | None, *, step: str | None, error_class: str, text: str, cause: Cause | None = None
) -> BranchEnd:
    """Return how a branch ended that failed; `slip` is None if it cannot be read."""
    used = used_by(slip.executed, earlier=slip.earlier) if slip is not None else used_by(())
    return BranchEnd(
        state="failed",
        step=step,
        error_class=error_class,
        text=text,
        cause=cause.as_json() if cause is not None else None,
        usage=dict(used.counters),
        cost=used.cost,
    )


def read_end(text: str) -> BranchEnd:
    """Read how a branch ended; raises `ValueError` if it is damaged."""
    try:
        return BranchEnd.model_validate(loads(text, invalid="store_corrupt"))
    except (ValidationError, MessageError) as error:
        raise ValueError("the record of how a branch ended is damaged") from error


def manifest_of(block: BlockSpec, place: str, ends: Mapping[int, BranchEnd]) -> Manifest:
    """Return the manifest of a block at a place from how some of its branches ended, by their numbers."""
    entries = [
        ManifestEntry(
            **{**dict(end), "cause": None, "place": f"{place}-{number}", "name": name_of_branch(block, number)}
        )
        for number, end in sorted(ends.items())
    ]
    return Manifest(form=block.form, branches=tuple(entries))


def name_of_branch(block: BlockSpec, number: int) -> str:
    """Return the name of a branch: that of a `parallel`, or the number of an item."""
    return block.branches[number].name if block.form == "parallel" else str(number)


def content_in(manifest: Manifest) -> tuple[str, ...]:
    """Return JSON Pointers to the files and links in the output of a block."""
    if manifest.form == "sub_workflow":
        return tuple(pointer for entry in manifest.branches for pointer in entry.content)
    return tuple(
        f"/{_escaped(entry.name) if manifest.form == 'parallel' else index}{pointer}"
        for index, entry in enumerate(manifest.branches)
        for pointer in entry.content
    )


def manifest_in(tree: JsonValue) -> Manifest:
    """Read the recorded output of a block; raises `ValueError` if it is none."""
    try:
        manifest = Manifest.model_validate(tree)
    except ValidationError as error:
        raise ValueError("the manifest of a block is damaged") from error
    if manifest.format > 1:
        raise ValueError("the manifest of a block is of a newer version")
    return manifest


def assembled(manifest: Manifest, outputs: Mapping[str, JsonValue]) -> JsonValue:
    """Return the output of a block; `outputs` has those of the branches that gave one, by their places."""
    values = [entry.failure if entry.state == "failed" else outputs.get(entry.place) for entry in manifest.branches]
    if manifest.form == "for_each":
        return values
    if manifest.form == "sub_workflow":
        return values[0] if values else None
    return {entry.name: value for entry, value in zip(manifest.branches, values, strict=True)}


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
