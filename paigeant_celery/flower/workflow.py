"""The page of one workflow, and that of a whole output."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from typing import Any

from tornado.web import HTTPError, authenticated

from paigeant_celery.client.readings import WorkflowStatus
from paigeant_celery.client.stuck import lost_in
from paigeant_celery.flower import words
from paigeant_celery.flower.base import Page
from paigeant_celery.flower.reading import Reading, output_at, read_workflow

__all__ = ["OneWorkflow", "Output", "Workflow", "standing"]

# What a button did, by the word in the address to which it leads: no text of anybody stands in an address.
DONE = {
    "cancelled": "The workflow is cancelled.",
    "ended": "The workflow had already ended. Nothing has changed.",
    "goes_on": "It goes on, with all attempts of its step available again.",
    "not_parked": "Nothing was parked there. Nothing has changed.",
    "settled": "The answer counts, and the workflow goes on.",
    "recorded": "The answer counts; the workflow goes on when the other calls are answered too.",
    "answered": "Somebody answered first. This answer does not count.",
    "late": "Too late: the time for an answer has passed, or the step has ended. This answer does not count.",
    "unknown_wait": "Nothing waits for this answer any more. It does not count.",
}
REFUSED = frozenset({"ended", "not_parked", "answered", "late", "unknown_wait"})
MOST_LOST = 3  # branches that are told to have lost their process
WHOLE = 256 * 1024  # characters of an output on its page


class OneWorkflow(Page):
    """What shows the page of a workflow."""

    async def show_workflow(self, correlation_id: str, *, refused: str = "", done: str = "") -> None:
        """Show the page, with what was wrong with a form that was sent."""
        now = datetime.now(UTC)
        ask = partial(read_workflow, correlation_id=correlation_id, now=now, content=self.signs_in)
        reading = await self.ask(ask)
        self.show(
            "paigeant_workflow.html",
            words=words,
            now=now,
            refused=refused or (DONE[done] if done in REFUSED else ""),
            done=DONE.get(done, "") if done not in REFUSED else "",
            **_values(reading, content=self.signs_in),
        )


class Workflow(OneWorkflow):
    """Where a workflow stands, how it came there, and what may be done about it."""

    @authenticated
    async def get(self, correlation_id: str) -> None:
        """Show it."""
        await self.show_workflow(correlation_id, done=self.get_query_argument("done", ""))


class Output(Page):
    """What a step gave, for those who may see it."""

    @authenticated
    async def get(self, correlation_id: str) -> None:
        """Show it."""
        if not self.signs_in:
            raise HTTPError(403, "Outputs are shown only if Flower asks people to sign in")
        path = self.get_query_argument("path", "")
        text = await self.ask(partial(output_at, correlation_id=correlation_id, path=path))
        if text is None:
            raise HTTPError(404, "No step there has an output")
        cut = words.cut(text, WHOLE)
        self.show(
            "paigeant_output.html", correlation_id=correlation_id, path=path, text=cut, is_cut=cut != text, words=words,
            size=len(text.encode()),
        )  # fmt: skip


def _values(reading: Reading, *, content: bool) -> dict[str, Any]:
    status = reading.status
    total = len(status.executed) + len(status.remaining)
    return {
        "status": status,
        "rows": reading.rows,
        "pending": reading.pending,
        "more_pending": reading.more_pending,
        "unreadable": reading.unreadable,
        "total": total,
        "stuck": status.stuck,
        "notes": list(standing(status, content=content)),
        "parked": sum(row.may_retry for row in reading.rows),
        "waits": [(row.path, wait) for row in reading.rows for wait in row.waits],
        "others": [
            (row.path, wait) for row in reading.rows if row.path not in reading.answerable for wait in row.waits
        ],
    }


def standing(status: WorkflowStatus, *, content: bool) -> Iterator[str]:
    """Say who runs the current step, or what is before it; what an error says only if `content` may be seen."""
    if status.runner is not None:
        yield f"it {status.runner.told}"
    yield from islice(lost_in(status.branches), MOST_LOST)
    if status.ahead:
        yield f"about {status.ahead:,} messages are ahead of it in its queue"
    if status.last_failure is not None and status.state == "queued":
        text = f": {words.cut(status.last_failure.text, 300)}" if content else ""
        yield f"its last attempt failed with {status.last_failure.error_class}{text}"
