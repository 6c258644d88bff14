"""What a step gave whose body ended well: with it the hop can be closed, now or by whoever redrives it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import TypeAdapter, ValidationError

from paigeant_celery.activities.port import ActivityResult
from paigeant_celery.core.errors import NonDeterminismError
from paigeant_celery.core.faults import kind_fault
from paigeant_celery.core.jsonable import dumps

__all__ = ["Ended", "newer_part", "read_kept"]

FORMAT = 1  # of what is kept; increased when older versions could not read it


@dataclass(frozen=True, kw_only=True)
class Ended:
    """The result of a step, and of which attempt, from when to when. Its notes are events to record with it."""

    result: ActivityResult
    attempt: int
    started_at: datetime
    ended_at: datetime

    def encode(self) -> str:
        """Write it as the text that a journal keeps."""
        return dumps({"v": FORMAT, "ended": _ENDED.dump_python(self, mode="json")})


_ENDED: TypeAdapter[Ended] = TypeAdapter(Ended)


def newer_part(text: str) -> str | None:
    """Say what of the text that a journal keeps only a newer version can read; None if nothing."""
    try:
        tree: dict[str, Any] = json.loads(text)
        if type(tree["v"]) is int and tree["v"] > FORMAT:
            return f"what the step gave is kept in format {tree['v']}, and this version reads {FORMAT}"
        _ENDED.validate_python(tree["ended"])
    except ValidationError as error:
        if kind_fault(error) is not None:
            return "the step inserted a step of a kind that this version does not know"
    except (ValueError, TypeError, KeyError):
        pass  # it is damaged, which whoever goes on with it says
    return None


def read_kept(text: str, *, step_id: str) -> Ended:
    """Read what was kept; raises `NonDeterminismError` if it is damaged or another version wrote it."""
    try:
        tree: dict[str, Any] = json.loads(text)
        if tree["v"] == FORMAT:
            return _ENDED.validate_python(tree["ended"])
    except (ValueError, TypeError, KeyError, ValidationError) as error:
        raise NonDeterminismError(step_id, "what the step gave", "its record is damaged") from error
    text = f"its record has format {tree['v']}, but this version reads {FORMAT}"
    raise NonDeterminismError(step_id, "what the step gave", text)
