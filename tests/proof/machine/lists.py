"""What lists of workflows must say: a walk over all records of a reading, beside the lists of both stores."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING

from paigeant_celery.core.names import number_of
from paigeant_celery.core.queries import CurrentState, WorkflowQuery, current_state, milliseconds
from paigeant_celery.core.steps import ActivitySpec
from paigeant_celery.store.port import HopRecord, Store
from paigeant_celery.store.query_port import ListedWorkflow
from paigeant_celery.store.redis_older import step_in

if TYPE_CHECKING:
    from tests.proof.machine.test_store_machine import Course, Reading

__all__ = ["ACTIVITIES", "EDITED", "check_counts", "check_list", "envelope_of", "told"]

ACTIVITIES = ("draft", "review", "print")  # of the hops at each place
EDITED = "redraft"  # of a hop that was edited
MOST_PAGES = 50


@cache
def envelope_of(hop_id: str, *, edited: bool = False) -> str:
    """Return an envelope of which everybody can read at which activity its hop is."""
    place = number_of(hop_id.partition(".")[2])
    activity = EDITED if edited else ACTIVITIES[place]
    step = ActivitySpec(agent_name=activity, prompt="Go on.", step_id=f"{activity}-{place}")
    return json.dumps({"slip": {"itinerary": [json.loads(step.model_dump_json())]}, "of": hop_id})


def told(hop: HopRecord) -> HopRecord:
    """Return a hop with what its envelope says of its step, as whoever records it knows that."""
    activity, step_id = step_in(hop.envelope)
    return replace(hop, activity=activity, step_id=step_id)


def state_of(found: Reading, course: Course) -> CurrentState:
    row = found.hops[course.hop]
    return current_state(
        course.state,
        running=row.state == "running",
        suspended=row.state == "suspended",
        retrying=row.state == "waiting" and not row.given_back,
    )


def check_counts(counts: Mapping[str, Mapping[CurrentState, int]], found: Reading) -> None:
    """Check that workflows are counted as their records say."""
    walk = Counter((course.stands_at[0], state_of(found, course)) for course in found.workflows.values())
    flat = {(activity, state): count for activity, states in counts.items() for state, count in states.items()}
    assert flat == dict(walk), f"counts: {flat}, but the records say {dict(walk)}"


def check_list(store: Store, query: WorkflowQuery, found: Reading) -> Sequence[ListedWorkflow]:
    """Check that the pages for a query have what a walk over the records finds, in its order; return what they have."""
    fitting = [name for name in found.workflows if fits(found, name, query)]
    by_age = query.prefix is None
    expected = sorted(fitting, key=lambda name: (-found.workflows[name].created_at if by_age else 0, name))
    items: list[ListedWorkflow] = []
    after = None
    for _ in range(MOST_PAGES):
        page = store.listed(replace(query, after=after))
        assert len(page.items) <= query.limit, f"list: {len(page.items)} for {query}"
        assert not page.unreadable, f"list: {page.unreadable} cannot be read"
        items += page.items
        if (after := page.next) is None:
            break
    listed = [each.correlation_id for each in items]
    assert (listed, after) == (expected, None), f"list: {listed} for {query}, but the records say {expected}"
    for each in items:
        course = found.workflows[each.correlation_id]
        shown = each.state, (each.activity, each.step_id), milliseconds(each.created_at)
        recorded = state_of(found, course), course.stands_at, course.created_at
        assert shown == recorded, f"list: {each.correlation_id} is shown as {shown}, but recorded as {recorded}"
    return items


def fits(found: Reading, name: str, query: WorkflowQuery) -> bool:
    course = found.workflows[name]
    created_at = datetime.fromtimestamp(course.created_at / 1000, UTC)
    return (
        name.startswith(query.prefix or "")
        and (query.since is None or created_at >= query.since)
        and (query.before is None or created_at < query.before)
        and query.activity in (None, course.stands_at[0])
        and (not query.states or state_of(found, course) in query.states)
        and (query.waits_for is None or query.waits_for in asked_in(found, name))
    )


def asked_in(found: Reading, name: str) -> set[str]:
    """Return the names of all that any hop of a workflow waits for."""
    return {
        wait.name
        for row in found.hops.values()
        if row.workflow == name and row.state not in ("done", "failed", "cancelled")
        for wait in row.stands_at
        if wait.state == "open"
    }
