"""A slip as a document, in JSON or YAML: how it is read and written, and what is wrong with the form of one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeAlias

from pydantic import BaseModel, JsonValue, ValidationError

from paigeant_celery.core.budget import WorkflowLimits
from paigeant_celery.core.document_errors import Finding, InvalidDocument
from paigeant_celery.core.document_steps import STEPS, Policy, Ran
from paigeant_celery.core.document_text import read_text, write_json, write_yaml
from paigeant_celery.core.faults import OUR_OWN, QUOTING
from paigeant_celery.core.jsonable import dumps, is_json
from paigeant_celery.core.message import PaigeantMessage
from paigeant_celery.core.slip import ExecutedStep
from paigeant_celery.core.slip_document import DOCUMENT_VERSION, Exported, Limits, Registered, SlipDocument
from paigeant_celery.core.steps import Step
from paigeant_celery.core.written_steps import moment_text, tree_of

__all__ = [
    "Given",
    "SlipDocument",
    "document_schema",
    "exported",
    "form_faults",
    "read_document",
    "revision_of",
    "write_document",
]

Given: TypeAlias = SlipDocument | str | Mapping[str, Any]  # a document, its text, or its JSON as Python has it

REVISION_LENGTH = 16  # characters of the digest of an envelope; a workflow has few that could be taken for each other

# What to do about what pydantic finds, by its names.
_REMEDIES = {
    "missing": "add it",
    "timezone_aware": "give the time its zone, as in 2026-12-01T08:00:00Z",
    "datetime_from_date_parsing": "write a time as 2026-12-01T08:00:00Z",
    "datetime_parsing": "write a time as 2026-12-01T08:00:00Z",
    "datetime_type": "write a time as a text such as 2026-12-01T08:00:00Z",
    "string_type": "put the text in quotes",
    "empty_itinerary": "add a step",
    "invalid_block": "add one, or leave it out",
    "bad_correlation_id": "use other characters",
    "bad_agent_name": "write the name of the activity as the app has it",
    "empty_prompt": "write what the agent is asked",
    "tuple_type": "write a list, also for a single one",
}
_REASONS = {"timezone_aware": "naive_datetime", "extra_forbidden": "unknown_field", "string_unicode": "invalid_text"}
_OWN = {*OUR_OWN, "bad_correlation_id", "empty_itinerary"}
_NESTED: Mapping[str, type[BaseModel]] = {
    "policy": Policy,
    "ran": Ran,
    "usage_limits": Limits,
    "workflow": Exported,
}


def read_document(given: Given) -> SlipDocument:
    """Read a document: its text (JSON or YAML), or its JSON as Python has it.

    Raises `InvalidDocument` with all that is wrong with its form, and `UsageError` for YAML without PyYAML. Whether its
    steps can be dispatched says `lint`.
    """
    if isinstance(given, SlipDocument):
        return given
    document, findings = form_faults(read_text(given) if isinstance(given, str) else given)
    if document is None:
        raise InvalidDocument.of(findings)
    return document


def write_document(document: SlipDocument, *, yaml: bool = False) -> str:
    """Return the text of a document, which `read_document` reads back equal."""
    tree = document.tree()
    return write_yaml(tree) if yaml else write_json(tree)


def document_schema() -> dict[str, Any]:
    """Return the JSON schema of documents, as `docs/document.schema.json` has it."""
    schema = {**SlipDocument.model_json_schema(), "title": "Slip document"}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def revision_of(digest: str) -> str:
    """Return the revision of a workflow, from the digest of the envelope of its current hop."""
    return digest[:REVISION_LENGTH]


def exported(
    message: PaigeantMessage,
    *,
    state: str,
    revision: str,
    ran: Iterable[tuple[ExecutedStep, Step | None, JsonValue]] = (),
) -> SlipDocument:
    """Return the document of a workflow, which has all steps to come.

    `ran` has the record of each step that ran, the step itself if it is known, and its output.
    """
    tree: dict[str, Any] = {
        "version": DOCUMENT_VERSION,
        "deadline": _moment(message.deadline),
        "stream": message.stream or None,
        "variables": message.variables or None,
        "usage_limits": _limits(message.usage_limits),
        "itinerary": [_executed(record, step, output) for record, step, output in ran],
        "registered_activities": [
            {**tree_of(entry.step), **({"description": entry.description} if entry.description else {})}
            for entry in message.registered_activities
        ],
        "workflow": {
            "correlation_id": message.correlation_id,
            "state": state,
            "revision": revision,
            "created_at": _moment(message.created_at),
        },
    }
    tree["itinerary"] += map(tree_of, message.slip.itinerary)
    tree = {name: value for name, value in tree.items() if value is not None and value != []}
    return SlipDocument.model_validate_json(dumps(tree), strict=True)


def form_faults(tree: object) -> tuple[SlipDocument | None, list[Finding]]:
    """Return the document that JSON is, or None and all that is wrong with its form."""
    if not isinstance(tree, Mapping) or not is_json(dict(tree)):
        text = f"a document is a mapping of JSON, not a {type(tree).__name__}"
        return None, [Finding("invalid_document", "", text, "begin with `version: 1` and an `itinerary`")]
    if (fault := _version_fault(tree)) is not None:
        return None, [fault]
    try:
        return SlipDocument.model_validate_json(dumps(dict(tree)), strict=True), []
    except ValidationError as error:
        return None, list(_found_in(error, tree))
    except (ValueError, RecursionError) as error:  # a number that is not finite, or too many levels
        text = f"it has no JSON form ({type(error).__name__})"
        return None, [Finding("invalid_document", "", text, "give what JSON has, and fewer levels")]


def _version_fault(tree: Mapping[str, object]) -> Finding | None:
    version = tree.get("version")
    if type(version) is int and version == DOCUMENT_VERSION:
        return None
    if version is None:
        return Finding("unsupported_version", "version", "is missing", f"add `version: {DOCUMENT_VERSION}`")
    newer = type(version) is int and version > DOCUMENT_VERSION
    remedy = "install the version of paigeant_celery that wrote it" if newer else f"write `version: {DOCUMENT_VERSION}`"
    shown = str(version) if type(version) is int and abs(version) < 1000 else f"a {type(version).__name__}"
    return Finding("unsupported_version", "version", f"this version reads {DOCUMENT_VERSION}, not {shown}", remedy)


def _found_in(error: ValidationError, tree: object) -> Iterator[Finding]:
    """Yield one finding for each place that pydantic found fault with."""
    seen = set[str]()
    for fault in error.errors(include_input=False, include_url=False, include_context=False):
        kind, path = fault["type"], _path_of(fault["loc"], tree)
        if path in seen:  # a value that may be of several kinds has a fault for each
            continue
        seen.add(path)
        reason = kind if kind in _OWN else _REASONS.get(kind, "invalid_document")
        remedy = _REMEDIES.get(kind, "see `docs/document.schema.json`")
        if kind == "extra_forbidden":
            remedy = _instead(fault["loc"])
        yield Finding(reason, path, _told(kind, fault["msg"]), remedy)


def _told(kind: str, text: str) -> str:
    if kind in QUOTING:
        return "was refused by a validator"
    own = {
        "missing": "is missing",
        "string_unicode": "contains a lone surrogate",
        "extra_forbidden": "this version does not know the field",
    }
    return own.get(kind, text[:1].lower() + text[1:])


def _path_of(place: Sequence[int | str], tree: object) -> str:
    """Return a place as a path; what pydantic puts between, for one of several kinds, is not in the document."""
    path, node = "", tree
    for number, part in enumerate(place):
        if isinstance(part, int):
            if isinstance(node, list) and part < len(node):
                path, node = f"{path}[{part}]", node[part]
        elif isinstance(node, Mapping) and (part in node or number == len(place) - 1):
            path, node = (f"{path}.{part[:64]}" if path else part[:64]), node.get(part)
    return path


def _instead(place: Sequence[int | str]) -> str:
    """Say what an unknown field may have been meant to be."""
    fields = list(_model_around(place[:-1]).model_fields)
    close = difflib.get_close_matches(str(place[-1]), fields, n=1)
    return f"did you mean `{close[0]}`?" if close else f"leave it out; there are {', '.join(fields)}"


def _model_around(place: Sequence[int | str]) -> type[BaseModel]:
    for part in reversed(place):
        if part in _NESTED:
            return _NESTED[str(part)]
        if part in STEPS:
            return STEPS[str(part)]
        if part == "registered_activities":
            return Registered
    return SlipDocument


def _executed(record: ExecutedStep, step: Step | None, output: JsonValue) -> dict[str, Any]:
    own = tree_of(step) if step is not None else {"recorded": record.activity}
    ran = Ran(
        place=record.place,
        attempt=record.attempt,
        started_at=record.started_at,
        finished_at=record.finished_at,
        output=output,
        usage=record.usage,
        cost=record.cost,
    )
    named = {"step_id": record.step_id} | ({"added_by": record.added_by} if record.added_by is not None else {})
    return {**own, **named, "ran": ran.model_dump(mode="json", exclude_defaults=True)}


def _limits(limits: WorkflowLimits | None) -> dict[str, Any] | None:
    return limits.model_dump(mode="json", include=set(Limits.model_fields), exclude_none=True) if limits else None


def _moment(time: datetime | None) -> str | None:
    return moment_text(time) if time is not None else None
