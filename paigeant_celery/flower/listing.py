"""The list of workflows, by what they are and what they wait for, in pages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

from tornado.web import authenticated

from paigeant_celery.broker.transport import CeleryTransport
from paigeant_celery.client.queries import INCOMPLETE, WorkflowCounts, WorkflowPage, Workflows
from paigeant_celery.core.errors import InvalidInput
from paigeant_celery.flower import words
from paigeant_celery.flower.base import Page

__all__ = ["AGES", "WorkflowList"]

AT_ONCE = 50
STATES = ("queued", "running", "retrying", "suspended", "parked", "completed", "failed", "cancelled")
# When a workflow was started, by the word in the address: whether longer ago than so much, or not as long.
AGES: Mapping[str, tuple[str, bool, timedelta]] = {
    "hour": ("the last hour", False, timedelta(hours=1)),
    "day": ("the last day", False, timedelta(days=1)),
    "week": ("the last week", False, timedelta(days=7)),
    "before-hour": ("more than an hour ago", True, timedelta(hours=1)),
    "before-day": ("more than a day ago", True, timedelta(days=1)),
    "before-week": ("more than a week ago", True, timedelta(days=7)),
}


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What the address asks for; an empty text is no filter."""

    state: str
    activity: str
    waits_for: str
    age: str
    prefix: str
    after: str

    def query(self, **changed: str) -> str:
        """Return the part of an address that asks for this with some changes, from the first page on."""
        asked = {**self.__dict__, "after": "", **changed}
        return "?" + urlencode({name: value for name, value in asked.items() if value})

    @property
    def is_filtered(self) -> bool:
        """Whether some workflows are left out."""
        return any((self.state, self.activity, self.waits_for, self.age, self.prefix))


class WorkflowList(Page):
    """The workflows, newest first or, with a beginning of their ids, in the order of these."""

    @authenticated
    async def get(self) -> None:
        """Show a page of them."""
        now = datetime.now(UTC)
        asked = _Asked(
            **{name: self.get_query_argument(name, "") or "" for name in _Asked.__dataclass_fields__},
        )
        page, counts, refused = await self.ask(lambda transport: _read(transport, asked, now))
        if refused:
            self.set_status(400)
        self.show(
            "paigeant_workflows.html",
            words=words,
            now=now,
            asked=asked,
            items=page.items,
            next_page=page.next,
            unreadable=", ".join(page.unreadable),
            incomplete="" if counts.complete else INCOMPLETE,
            refused=refused,
            states=STATES,
            counts=counts.states,
            total=sum(counts.states.values()),
            activities=sorted(filter(None, counts.activities)),
            ages=AGES,
        )


def _read(transport: CeleryTransport, asked: _Asked, now: datetime) -> tuple[WorkflowPage, WorkflowCounts, str]:
    """Return a page, how many there are, and what is wrong with what is asked."""
    workflows = Workflows(transport)
    page, refused = WorkflowPage(items=()), ""
    _, before, age = AGES.get(asked.age, ("", False, None))
    moment = now - age if age is not None else None
    try:
        page = workflows.page_sync(
            state=asked.state or None,  # type: ignore[arg-type]  # it is checked there
            activity=asked.activity or None,
            waits_for=asked.waits_for or None,
            since=None if before else moment,
            before=moment if before else None,
            prefix=asked.prefix or None,
            after=asked.after or None,
            limit=AT_ONCE,
        )
    except InvalidInput as error:
        refused = str(error)
    return page, workflows.counts_sync(), refused
