"""The web service: it dispatches, watches, cancels and answers. The agents run in workers; it knows their names alone.

`uvicorn examples.fastapi_service.service:web` serves it beside workers of your own.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Annotated, Any, cast
from urllib.parse import urlsplit

from fastapi import Depends, FastAPI, Header, HTTPException, Query, Request
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, StringConstraints
from starlette.middleware.trustedhost import TrustedHostMiddleware

from examples.fastapi_service import archive, streams
from paigeant_celery import (
    ActivitySpec,
    AskedCall,
    Inbox,
    InvalidInput,
    NotPublished,
    PaigeantError,
    TransientError,
    UnknownWait,
    UnknownWorkflow,
    WorkflowConflict,
    WorkflowDispatcher,
    WorkflowError,
    WorkflowHandle,
    WorkflowResult,
    get_transport,
)

__all__ = ["Offer", "web"]

PAGE = Path(__file__).parent / "page"
SAFE = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'",  # what a text says is no script
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",  # whoever knows the id of a workflow may see it
}
REFUSED: dict[type[PaigeantError] | type[TimeoutError], int] = {
    UnknownWorkflow: 404,
    UnknownWait: 404,
    WorkflowConflict: 409,
    WorkflowError: 409,  # there is no result, because it failed, is parked or was cancelled
    TimeoutError: 409,  # there is none yet
    InvalidInput: 422,
    TransientError: 503,  # store or broker is away; a dispatch says so as `NotRecorded`, all else as `Unreachable`
}

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=20_000)]
Name = Annotated[str, StringConstraints(strip_whitespace=True, max_length=100)]


def from_here(request: Request) -> None:
    """Refuse what a page of another site sends: a browser sends its forms to whatever address they name."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    foreign = site != "same-origin" if site else origin is not None and urlsplit(origin).netloc != request.url.netloc
    if foreign and request.method not in ("GET", "HEAD"):
        raise HTTPException(403, "the request comes from another site")


# The pages with documents load scripts from elsewhere.
web = FastAPI(title="Newsroom", docs_url=None, redoc_url=None, dependencies=[Depends(from_here)])
web.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])  # no other site's name leads here
web.mount("/page", StaticFiles(directory=PAGE))
dispatcher, transport = WorkflowDispatcher(), get_transport("redis")


class Offer(BaseModel):
    """What the page offers: notes to begin with, and a button that kills the worker, which only the example has."""

    notes: str = ""
    may_kill: bool = False


web.state.offer = Offer()


class Notes(BaseModel):
    """What an article is to be written about."""

    text: Text


class Started(BaseModel):
    """The id of a workflow."""

    id: str


class Standing(BaseModel):
    """Where a workflow stands. The text of an error may quote notes, and its frames name files: they stay here."""

    state: str
    executed: tuple[str, ...]
    remaining: tuple[str, ...]
    error: str | None


class Question(BaseModel):
    """A call that a person is asked about. Its token stays here: whoever has it could answer."""

    call: str
    tool: str | None
    arguments: Any


class Decision(BaseModel):
    """What a person says to a call; `arguments` take the place of those that the model asked for."""

    call: str
    approve: bool
    arguments: dict[str, Any] | None = None
    reason: Text | None = None
    by: Name = ""


async def handle_of(correlation_id: str) -> WorkflowHandle:
    """Return the workflow of a request's path."""
    return dispatcher.handle(correlation_id, transport)


async def last_seen(
    last_event_id: Annotated[str | None, Header()] = None, after: Annotated[str | None, Query()] = None
) -> str | None:
    """Return the id of the last event that a browser has seen; a page that opens a stream anew cannot send a header."""
    return last_event_id or after


Handle = Annotated[WorkflowHandle, Depends(handle_of)]
LastSeen = Annotated[str | None, Depends(last_seen)]


@web.post("/workflows", status_code=202)
async def start(notes: Notes, idempotency_key: Annotated[str | None, Header()] = None) -> Started:
    """Start a workflow; a request that is made again with the same key starts no second one."""
    steps = [
        ActivitySpec("reporter", notes.text),
        ActivitySpec("writer", notes.text),
        ActivitySpec("publisher", "Publish the article."),
    ]
    try:
        id_ = await dispatcher.dispatch_workflow(
            transport, itinerary=steps, correlation_id=idempotency_key, stream=True
        )
    except NotPublished as error:  # it is recorded, and will run
        id_ = error.correlation_id
    return Started(id=id_)


@web.get("/workflows/{correlation_id}")
async def show(handle: Handle) -> Standing:
    """Say where a workflow stands."""
    status = await handle.status()
    error = status.failure.error_class if status.failure is not None else None
    return Standing(state=status.state, executed=status.executed, remaining=status.remaining, error=error)


@web.get("/workflows/{correlation_id}/result")
async def result(handle: Handle) -> WorkflowResult:
    """Return the outputs of a workflow that has completed."""
    return await handle.result(timeout=0)


@web.get("/workflows/{correlation_id}/events")
async def events(handle: Handle, after: LastSeen) -> StreamingResponse:
    """Send what happens to a workflow, from its start or from behind the last event that was seen."""
    return sent(await streams.events(handle, after))


@web.get("/workflows/{correlation_id}/ag-ui")
async def screen(handle: Handle, after: LastSeen) -> StreamingResponse:
    """Send what the agents of a workflow do, as events of AG-UI."""
    return sent(await streams.screen(handle, after))


@web.get("/workflows/{correlation_id}/questions")
async def questions(handle: Handle) -> list[Question]:
    """List what a person is asked."""
    return [
        Question(call=call.id, tool=call.tool, arguments=call.arguments)
        for _, call in await approvals(handle)
    ]  # fmt: skip


@web.post("/workflows/{correlation_id}/answers", status_code=204)
async def answer(handle: Handle, decision: Decision) -> None:
    """Approve or deny a call."""
    token = next((token for token, call in await approvals(handle) if call.id == decision.call), None)
    if token is None:
        raise HTTPException(404, "nobody asks this any more")
    inbox = Inbox(transport)
    if decision.approve:
        given = await inbox.approve(token, decision.call, override_args=decision.arguments, by=decision.by)
    else:
        given = await inbox.deny(token, decision.call, message=decision.reason, by=decision.by)
    if not given.taken:
        raise HTTPException(409, f"{given.first.by or 'somebody'} was faster" if given.first else "too late")


@web.post("/workflows/{correlation_id}/cancel", status_code=204)
async def cancel(handle: Handle) -> None:
    """Cancel a workflow."""
    if not await handle.cancel():
        raise HTTPException(409, "it had ended before")


@web.post("/workflows/{correlation_id}/redrive", status_code=204)
async def redrive(handle: Handle) -> None:
    """Let a parked workflow go on."""
    if not await handle.redrive():
        raise HTTPException(409, "it is not parked")


@web.get("/", include_in_schema=False)
def page() -> FileResponse:
    """Return the page, which may run no script but its own."""
    return FileResponse(PAGE / "index.html", headers=SAFE)


@web.get("/offer")
def offer() -> Offer:
    """Say what the page offers."""
    return cast("Offer", web.state.offer)


@web.get("/articles")
def articles() -> list[archive.Article]:
    """Return what has been published, newest first."""
    return archive.articles()


async def approvals(handle: WorkflowHandle) -> list[tuple[str, AskedCall]]:
    """Return the calls that wait for a person, each with the token that lets one answer."""
    return [(wait.token, call) for wait in await handle.pending() for call in wait.calls if call.kind == "approval"]


def sent(lines: AsyncGenerator[str, None]) -> StreamingResponse:
    """Return a response that ends with the lines."""
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # the latter is for nginx
    return StreamingResponse(streams.with_heartbeats(lines), media_type="text/event-stream", headers=headers)


async def refused(request: Request, error: Exception) -> JSONResponse:
    """Answer with what the error says."""
    status = next(status for kind, status in REFUSED.items() if isinstance(error, kind))
    return JSONResponse({"detail": str(error)}, status_code=status)


for kind in REFUSED:
    web.add_exception_handler(kind, refused)
