"""The commands about all workflows: which ones there are, how many, and how long their steps take."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any

import click

from paigeant_celery.cli.asking import transport_of_app
from paigeant_celery.cli.output import Table, command, shown, tell

if TYPE_CHECKING:
    from paigeant_celery.client.queries import ActivityTimes, WorkflowCounts, WorkflowPage, WorkflowSummary
    from paigeant_celery.core.flow import Failure

__all__ = ["list_workflows", "stats"]

LONGEST_AGE = 7  # characters
DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}  # seconds


def _moment(context: click.Context, option: click.Parameter, typed: str | None) -> datetime | None:
    """Read a time: `15m`, `2h` or `3d` ago, `2026-01-02`, which begins in UTC, or one with its zone."""
    if typed is None:
        return None
    if typed[:-1].isdecimal() and typed[-1] in UNITS and len(typed) < LONGEST_AGE:
        return datetime.now(UTC) - timedelta(seconds=int(typed[:-1]) * UNITS[typed[-1]])
    try:
        if DAY.fullmatch(typed):
            return datetime.combine(date.fromisoformat(typed), time(), UTC)
        moment = datetime.fromisoformat(typed)
    except ValueError:
        times = "an age, such as 15m, 2h or 3d, nor a time, such as 2026-01-02 or 2026-01-02T12:00:00Z"
        text = f"{shown(typed)!r} is neither {times}"
        raise click.BadParameter(text, context, option) from None
    if moment.utcoffset() is None:
        raise click.BadParameter(f"{shown(typed)!r} has no time zone; write Z behind it for UTC", context, option)
    return moment


@command(name="list")
@click.option("--state", "states", multiple=True, metavar="STATE", help="Only those in this state; may be repeated.")
@click.option("--activity", help="Only those whose current step is of this activity.")
@click.option("--waits-for", metavar="NAME", help="Only those that wait for a signal or an answer of this name.")
@click.option("--since", callback=_moment, help="Only those recorded after this: 15m, 2h or 3d ago, a day, or a time.")
@click.option("--before", callback=_moment, help="Only those recorded before this.")
@click.option("--prefix", help="Only those whose ids begin with this, in the order of their ids.")
@click.option("--after", metavar="NEXT", help="List what comes after the `next` of an earlier list.")
@click.option("--limit", default=50, show_default=True, help="List at most this many.")
@click.option("--ids", is_flag=True, help="Print ids alone, one a line, for `retry -` and other programs.")
@click.pass_context
def list_workflows(context: click.Context, /, states: tuple[str, ...], ids: bool, **filters: Any) -> None:
    """List workflows, newest first, and say why each one that does not go on stands still."""
    from paigeant_celery.client.queries import Workflows

    found = Workflows(transport_of_app(context)).page_sync(state=states, **filters)  # type: ignore[arg-type]
    workflows = [_document(each) for each in found.items]
    document = {
        "workflows": workflows,
        "next": found.next,
        "complete": found.complete,
        "unreadable": list(found.unreadable),
    }
    tell(document, _ids_only(found) if ids else _lines(found))


@command()
@click.pass_context
def stats(context: click.Context) -> None:
    """Count workflows by state and activity, and say how long steps waited and ran in the last week."""
    from paigeant_celery.client.queries import Workflows

    workflows = Workflows(transport_of_app(context))
    counts, times = workflows.counts_sync(), workflows.times_sync()
    document = {
        "states": counts.states,
        "activities": counts.activities,
        "complete": counts.complete,
        "times": {
            activity: {"queue": _histogram(each.queue), "run": _histogram(each.run)} for activity, each in times.items()
        },
    }
    tell(document, _tables(counts, times))


def _document(summary: WorkflowSummary) -> dict[str, object]:
    document: dict[str, object] = {each.name: getattr(summary, each.name) for each in fields(summary)}
    for name in ("failure", "last_failure"):
        document[name] = _failure(getattr(summary, name))
    document["runner"] = asdict(summary.runner) if summary.runner is not None else None
    return document


def _failure(failure: Failure | None) -> dict[str, object] | None:
    """Return an error without its text, which may hold what a model or a user said."""
    if failure is None:
        return None
    return {"step_id": failure.step_id, "error_class": failure.error_class, "where": failure.where}


def _lines(page: WorkflowPage) -> Iterator[str | Table]:
    if page.items:
        yield _table(page.items)
    else:
        yield "no workflows" if page.next is None else "no workflows here"
    yield from _beside(page)


def _ids_only(page: WorkflowPage) -> Iterator[str]:
    """Yield the ids, for the next program; what else is to be said goes to the standard error, for people."""
    yield from (each.correlation_id for each in page.items)
    for line in _beside(page):
        click.echo(line, err=True)


def _beside(page: WorkflowPage) -> Iterator[str]:
    if page.next is not None:
        yield f"more: --after {page.next}"
    if page.unreadable:
        yield f"left out, because their records cannot be read: {', '.join(map(shown, page.unreadable))}"
    yield from _missing(page)


def _missing(told: WorkflowPage | WorkflowCounts) -> Iterator[str]:
    from paigeant_celery.client.queries import INCOMPLETE

    if not told.complete:
        yield INCOMPLETE


def _table(found: tuple[WorkflowSummary, ...]) -> Table:
    rows = [
        (
            each.correlation_id,
            each.state,
            each.step_id or each.activity or "-",
            str(each.attempt),
            f"{each.created_at:%Y-%m-%d %H:%M:%S}",
            _about(each),
        )
        for each in found
    ]
    return Table(("workflow", "state", "step", "attempt", "recorded (UTC)", "about"), rows)


def _about(each: WorkflowSummary) -> str:
    """Return why a workflow stands, or who runs it."""
    parts = [each.stuck] if each.stuck is not None else []
    if each.runner is not None:
        parts.append(each.runner.told)
    if each.waits_for:
        parts.append(f"waits for {', '.join(each.waits_for)}")
    if each.ahead:
        parts.append(f"about {each.ahead} messages before it")
    if (failure := each.failure or each.last_failure) is not None:
        parts.append(f"{failure.step_id or '-'}: {failure.error_class}")
    return "; ".join(parts)


def _histogram(histogram: Any) -> dict[str, object]:
    return {
        "count": histogram.count,
        "bounds": list(histogram.bounds),
        "counts": list(histogram.counts),
        **{f"p{part}": _finite(histogram.quantile(part / 100)) for part in (50, 90, 99)},
    }


def _finite(seconds: float | None) -> float | None:
    """Return a time; None for one that is longer than all bounds, which JSON cannot say."""
    return seconds if seconds is not None and seconds != float("inf") else None


def _tables(counts: WorkflowCounts, times: Mapping[str, ActivityTimes]) -> Iterator[str | Table]:
    yield from _missing(counts)
    if not counts.states and not times:
        yield "no workflows"
        return
    states = list(counts.states)
    rows = [
        (activity or "-", *(str(each.get(state, 0)) for state in states))
        for activity, each in counts.activities.items()
    ]
    yield Table(("activity", *states), [*rows, ("all", *(str(counts.states[state]) for state in states))])
    if times:
        yield ""
        columns = ("activity", "claimed", "waited p50", "p90", "p99", "ended", "ran p50", "p90", "p99")
        yield Table(columns, [_time_row(activity, each) for activity, each in times.items()])


def _time_row(activity: str, times: ActivityTimes) -> tuple[str, ...]:
    cells = [activity]
    for histogram in (times.queue, times.run):
        cells.append(str(histogram.count))
        cells += [_shown_time(histogram.quantile(part)) for part in (0.5, 0.9, 0.99)]
    return tuple(cells)


def _shown_time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return "longer" if seconds == float("inf") else f"< {seconds:g} s"
