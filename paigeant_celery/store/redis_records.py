"""How records are written on Redis and read from it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import datetime, timedelta
from typing import Any

from paigeant_celery.core.budget import Usage
from paigeant_celery.core.causes import cause_from
from paigeant_celery.core.flow import Failure
from paigeant_celery.core.hops import EPOCH
from paigeant_celery.store.conversations import history_fields
from paigeant_celery.store.port import DeadLetter, EarlierClaims, HopRecord, NewWorkflow, Totals, WorkflowOrigin
from paigeant_celery.store.timeline import Entry, Id, id_of
from paigeant_celery.store.totals import sums_in, sums_of, sums_text, usage_of

__all__ = [
    "about_failure",
    "before_in",
    "entry_of",
    "failure_of",
    "failure_text",
    "flat_of",
    "hop_arguments",
    "hops_of",
    "letter_fields",
    "letter_of",
    "moment_of",
    "origin_arguments",
    "origin_in",
    "spent_arguments",
    "totals_in",
    "used_argument",
    "workflow_arguments",
]


def hop_arguments(hop: HopRecord) -> tuple[str, str, str, str]:
    """Return a hop as scripts take it."""
    return hop.hop_id, hop.queue, hop.envelope, hop.digest


def workflow_arguments(new: NewWorkflow) -> tuple[str | int, ...]:
    """Return a new workflow as scripts take it."""
    # A deadline is never looked at before it has passed.
    deadline = "" if new.deadline is None else -((EPOCH - new.deadline) // timedelta(milliseconds=1))
    return new.correlation_id, new.content, *hop_arguments(new.hop), deadline, new.hop.activity, new.hop.step_id


def origin_arguments(new: NewWorkflow) -> list[str | int]:
    """Return what a new workflow has beside its first hop as the script takes it: what it is a fork of, and blobs."""
    said: dict[str, str] = {}
    for spoken in new.said:
        said.update(history_fields(spoken, log=new.hop.hop_id))
    origin = new.origin or WorkflowOrigin(workflow="", step="", place="")
    return [origin.workflow, origin.step, len(new.copied), *new.copied, *flat_of({**new.blobs, **said})]


def origin_in(text: str | None) -> WorkflowOrigin | None:
    """Read what a workflow is a fork of; no id has a space."""
    if text is None:
        return None
    workflow, step, place = text.split(" ")
    return WorkflowOrigin(workflow=workflow, step=step, place=place)


def hops_of(flat: Sequence[str]) -> tuple[HopRecord, ...]:
    """Read hops that a script returns."""
    hops = zip(*(iter(flat),) * 4, strict=True)
    return tuple(
        HopRecord(hop_id=hop_id, queue=queue, envelope=envelope, digest=digest)
        for hop_id, queue, envelope, digest in hops
    )


def flat_of(pairs: Mapping[str, str]) -> list[str]:
    """Return keys and values in turn, as commands take them."""
    return [part for pair in pairs.items() for part in pair]


def used_argument(usage: Usage | None) -> str:
    """Return what was used as scripts take it: nothing for a workflow without limits."""
    return "" if usage is None else sums_text(sums_of(usage))


def spent_arguments(spent: Mapping[str, Usage] | None) -> list[str | int]:
    """Return what calls used as a script takes it, by the keys of their records."""
    if spent is None:
        return [""]
    return [len(spent), *flat_of({name: used_argument(usage) for name, usage in spent.items()})]


def totals_in(flat: Sequence[str]) -> Totals | None:
    """Read the totals of a workflow; None if it has no limits."""
    if not flat:
        return None
    used, counted = (usage_of(sums_in(text)) for text in flat)
    return Totals(used=used, counted=counted)


def before_in(told: Sequence[str]) -> EarlierClaims:
    """Read what is known of earlier claims of a hop."""
    claimed_at, taken_over, *traces = told
    at = moment_of(claimed_at) if claimed_at else None
    return EarlierClaims(claimed_at=at, taken_over=taken_over == "1", traces=tuple(traces))


def failure_text(failure: Failure) -> str:
    """Return a failure as records keep it."""
    kept = {"step_id": failure.step_id, "error_class": failure.error_class, "text": failure.text}
    return json.dumps(kept if failure.cause is None else {**kept, "cause": failure.cause.as_json()})


def about_failure(failure: Failure) -> tuple[str, str, str, str]:
    """Return a failure as scripts take it."""
    return failure_text(failure), failure.step_id or "", failure.error_class, failure.where


def failure_of(text: str) -> Failure:
    """Read a failure; earlier versions recorded no cause."""
    kept = json.loads(text)
    cause = kept.get("cause")
    return Failure(
        step_id=kept["step_id"],
        error_class=kept["error_class"],
        text=kept["text"],
        cause=cause_from(cause) if cause is not None else None,
    )


def letter_fields(letter: DeadLetter) -> list[str]:
    """Return the fields of a letter and their values in turn."""
    return flat_of({name: str(value) for name, value in vars(letter).items() if value is not None})


def letter_of(flat: Sequence[str]) -> DeadLetter:
    """Read a letter."""
    kept: dict[str, Any] = dict(zip(flat[::2], flat[1::2], strict=True))
    known = {field.name: kept[field.name] for field in fields(DeadLetter) if field.name in kept}
    optional = dict.fromkeys(("hop_id", "correlation_id", "activity", "queue"))
    return DeadLetter(**{**optional, **known, "size": int(kept["size"]), "at": moment_of(kept["at"])})


def entry_of(id_: str, flat: Sequence[str], *, behind: Id | None = None) -> Entry:
    """Read an entry of a stream."""
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    return Entry(id=id_of(id_), at=moment_of(id_.partition("-")[0]), fields=fields, behind=behind)


def moment_of(milliseconds: str) -> datetime:
    """Read a time as the scripts write it."""
    return EPOCH + timedelta(milliseconds=int(milliseconds))
