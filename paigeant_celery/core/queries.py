"""Questions about all workflows: which ones, in which order, from where on. Every store answers them by these rules."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, TypeAlias, cast, get_args

from paigeant_celery.core.errors import InvalidInput
from paigeant_celery.core.flow import WorkflowState
from paigeant_celery.core.names import is_activity_name, is_correlation_id, name_fault

__all__ = [
    "BOUNDS",
    "MOST_LISTED",
    "STATES",
    "CurrentState",
    "Underway",
    "WorkflowQuery",
    "milliseconds",
    "bucket_of",
    "checked_query",
    "current_state",
    "cursor_of",
    "place_of_cursor",
]

# The store says `running` until a workflow ends or is parked. Whoever looks wants to know more.
Underway: TypeAlias = Literal["queued", "running", "retrying", "suspended"]
CurrentState: TypeAlias = Literal[Underway, WorkflowState]

STATES: tuple[CurrentState, ...] = (*get_args(Underway), "completed", "failed", "parked", "cancelled")
MOST_LISTED = 1000  # workflows on one page
LONGEST_WAIT = 1024  # characters that a name may have of which waits are looked for; those of ours have at most 128

# Upper ends of the buckets in which times are counted, in seconds: 10 ms and then always twice as much, up to 46 hours.
BOUNDS: tuple[float, ...] = tuple(0.01 * 2**number for number in range(25))

_CURSOR = re.compile(r"(\d{1,13}):([A-Za-z0-9_-]{1,128})")
_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


@dataclass(frozen=True, kw_only=True)
class WorkflowQuery:
    """Which workflows: all that fit everything that is given. No `states` are all states.

    `since` and `before` are about when they were recorded. `waits_for` is the name of a wait that is open, in a branch
    as well. With a `prefix` they come in the order of their ids, otherwise the newest first. `after` is the cursor of
    the last one that was seen.
    """

    states: frozenset[CurrentState] = frozenset()
    activity: str | None = None
    waits_for: str | None = None
    since: datetime | None = None
    before: datetime | None = None
    prefix: str | None = None
    after: str | None = None
    limit: int = 50


def current_state(state: WorkflowState, *, running: bool, suspended: bool, retrying: bool) -> CurrentState:
    """Say more than the store's `running`, from how the current hop stands."""
    if state != "running" or running:
        return state
    if suspended:
        return "suspended"
    return "retrying" if retrying else "queued"


def checked_query(
    *,
    state: CurrentState | Iterable[CurrentState] | None,
    activity: str | None,
    waits_for: str | None,
    since: datetime | None,
    before: datetime | None,
    prefix: str | None,
    after: str | None,
    limit: int,
) -> WorkflowQuery:
    """Return a query of what a caller gave; raises `InvalidInput`."""
    for name, moment in (("since", since), ("before", before)):
        if moment is not None and (not isinstance(moment, datetime) or moment.utcoffset() is None):
            raise InvalidInput("naive_datetime", name, "must be a datetime with a time zone")
    if activity is not None and not (isinstance(activity, str) and is_activity_name(activity)):
        raise InvalidInput("bad_agent_name", "activity", "is not the name of an activity")
    if waits_for is not None:
        _check_wait(waits_for)
    if prefix is not None and not (isinstance(prefix, str) and (prefix == "" or is_correlation_id(prefix))):
        raise InvalidInput("bad_correlation_id", "prefix", "must be the beginning of a correlation id")
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MOST_LISTED:
        raise InvalidInput("invalid_limit", "limit", f"must be a whole number from 1 to {MOST_LISTED}")
    if after is not None:
        place_of_cursor(after)
    return WorkflowQuery(
        states=_states(state),
        activity=activity,
        waits_for=waits_for,
        since=since,
        before=before,
        prefix=prefix,
        after=after,
        limit=limit,
    )


def _check_wait(name: object) -> None:
    if not isinstance(name, str) or len(name) > LONGEST_WAIT:
        text = f"must be the name of a wait, as in `wait_for('paid')`, of at most {LONGEST_WAIT} characters"
        raise InvalidInput("invalid_input", "waits_for", text)
    if fault := name_fault(name):
        raise InvalidInput("invalid_text", "waits_for", fault)


def _states(state: object) -> frozenset[CurrentState]:
    given = () if state is None else (state,) if isinstance(state, str) else state
    found = frozenset(given) if isinstance(given, Iterable) else frozenset([given])
    if unknown := sorted(str(each) for each in found if each not in STATES):
        raise InvalidInput("invalid_input", "state", f"{unknown[0]!r} is none of {', '.join(STATES)}")
    return cast("frozenset[CurrentState]", found)


def cursor_of(created_at: datetime, correlation_id: str) -> str:
    """Return the cursor behind a workflow."""
    return f"{milliseconds(created_at)}:{correlation_id}"


def place_of_cursor(cursor: object) -> tuple[int, str]:
    """Return when the workflow was recorded, in milliseconds, and its id; raises `InvalidInput`."""
    found = _CURSOR.fullmatch(cursor) if isinstance(cursor, str) else None
    if found is None:
        raise InvalidInput("bad_cursor", "after", "is not the `next` of a page that was read before")
    return int(found[1]), found[2]


def milliseconds(moment: datetime) -> int:
    """Return a time in whole milliseconds since 1970, as stores keep times."""
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def bucket_of(seconds: float) -> int:
    """Return the number of the bucket that counts such a time; the one behind the last has no upper end."""
    return next((number for number, bound in enumerate(BOUNDS) if seconds <= bound), len(BOUNDS))
