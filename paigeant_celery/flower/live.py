"""What happens to a workflow, as server-sent events: the browser resumes behind the last one that it has seen."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from pydantic_core import from_json
from tornado.iostream import StreamClosedError
from tornado.web import HTTPError, authenticated

from paigeant_celery.broker.transport import CeleryTransport
from paigeant_celery.client.following import Following
from paigeant_celery.client.readings import CurrentState
from paigeant_celery.core.events import WorkflowEvent
from paigeant_celery.flower.base import Page
from paigeant_celery.flower.words import cut

__all__ = ["Events", "told"]

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 1.0  # seconds between two looks at the store
LONGEST = 600.0  # seconds of one answer; the browser then asks again, and Flower looks again who it is
MOST_AT_ONCE = 50  # answers of an application; each looks once a second
ALIVE = 15.0  # seconds until something is sent in any case, which shows whether somebody still listens
LONG = 2000  # characters of what an agent said at once, of arguments and of results
RESTS = ("completed", "failed", "cancelled", "parked")  # in these nothing happens by itself
# Fields without a word of a person or a model.
FOR_ALL = frozenset({"attempt", "branches", "error", "how", "journal", "name", "queue", "wait", "waits_for", "why"})
# Fields that say what stands beside them, or nothing to a person.
FOR_NONE = frozenset({"step", "fence", "next_hop"})


class Events(Page):
    """What happens to a workflow behind the event whose id the browser names; what agents say only with sign-in.

    A browser that tries again names it in a header, and a page that opens a connection anew as `after`.
    """

    _gone = False

    @authenticated
    async def get(self, correlation_id: str) -> None:
        """Send events until the workflow has ended or is parked, or the browser has gone."""
        shared = self.shared
        if shared.followers >= MOST_AT_ONCE:
            raise HTTPError(503, "Too many pages are followed at this time")
        shared.followers += 1
        try:
            await self._send_all(correlation_id)
        except StreamClosedError:
            pass
        finally:
            shared.followers -= 1

    def on_connection_close(self) -> None:
        """Note that nobody listens any more."""
        self._gone = True

    async def _send_all(self, correlation_id: str) -> None:
        after = self.request.headers.get("Last-Event-ID") or self.get_query_argument("after", "") or None
        # An error is told before the answer begins.
        following, events, state = await self.ask(partial(_begun, correlation_id=correlation_id, after=after))
        self.set_header("Content-Type", "text/event-stream")
        self.set_header("X-Accel-Buffering", "no")  # so that nginx passes each event on at once
        self.write(": \n\n")  # the browser learns that it is connected, also if nothing happens for long
        await self.flush()
        began = said = asyncio.get_running_loop().time()
        pause = FIRST_PAUSE
        while not self._gone:
            now = asyncio.get_running_loop().time()
            sent = [line for event in events for line in _lines(event, content=self.signs_in)]
            if following.found == 0:
                if state in RESTS:
                    self.write(f"event: over\ndata: {json.dumps(state)}\n\n")
                    await self.flush()
                    return
                sent = [": \n\n"] if now - said > ALIVE else []
            if sent:
                self.write("".join(sent))
                await self.flush()
                said = now
            if now - began > LONGEST:  # also of a workflow to which something happens all the time
                return
            pause = FIRST_PAUSE if following.found else min(LONGEST_PAUSE, pause * 1.5)
            await asyncio.sleep(0 if following.found else pause)
            events, state = await self.ask(lambda _: following.look())


def _begun(
    transport: CeleryTransport, correlation_id: str, after: str | None
) -> tuple[Following, list[WorkflowEvent], CurrentState]:
    """Look for the first time; behind an event that the workflow does not have nothing would ever come."""
    following = Following(transport, correlation_id, after)
    events, state = following.look()
    if after is not None and following.found == 0 and not following.knows(after):
        following = Following(transport, correlation_id)
        events, state = following.look()
    return following, events, state


def _lines(event: WorkflowEvent, *, content: bool) -> Iterator[str]:
    kind, data = ("agent", told(event)) if event.type == "agent" else ("happened", _happened(event, content=content))
    if data is None or (kind == "agent" and not content):
        return
    yield f"id: {event.cursor}\nevent: {kind}\ndata: {json.dumps(data)}\n\n"


def _happened(event: WorkflowEvent, *, content: bool) -> dict[str, Any]:
    shown = {name: value for name, value in event.fields.items() if content or name in FOR_ALL}
    fields = {name: cut(value, LONG) for name, value in shown.items() if name not in FOR_NONE}
    if fields.get("exhausted") == "0":
        del fields["exhausted"]
    return {"at": event.at.isoformat(), "type": event.type, "path": event.path, "hop": event.hop_id, "fields": fields}


def told(event: WorkflowEvent) -> dict[str, Any] | None:
    """Return what an agent's event is on a page: which run said what, and whether that begins; None if nothing."""
    fields = event.fields
    said = _said(fields.get("event", ""), _data(fields), fields)
    if said is None:
        return None
    about = {"path": event.path, "run": fields.get("run", ""), "attempt": fields.get("attempt", "")}
    return {**about, **said, "text": cut(said["text"], LONG)}


def _said(kind: str, data: Mapping[str, Any], fields: Mapping[str, str]) -> dict[str, Any] | None:
    part, delta = _inner(data, "part"), _inner(data, "delta")
    match kind:
        case "part_start" if part.get("part_kind") in ("text", "thinking"):
            return {"as": part["part_kind"], "text": _text(part.get("content")), "begins": True}
        case "part_delta" if delta.get("part_delta_kind") in ("text", "thinking"):
            return {"as": delta["part_delta_kind"], "text": _text(delta.get("content_delta")), "begins": False}
        case "function_tool_call":
            text = f"{part.get('tool_name', '')}({_text(part.get('args'))})"
            return {"as": "call", "text": text, "begins": True}
        case "function_tool_result":
            result = part or _inner(data, "result")
            return {
                "as": "result",
                "text": f"{result.get('tool_name', '')}: {_text(result.get('content'))}",
                "begins": True,
            }
        case "run_failed":
            return {"as": "failed", "text": fields.get("error", ""), "begins": True}
    return None


def _data(fields: Mapping[str, str]) -> Mapping[str, Any]:
    try:
        data = from_json(fields.get("data", "{}"))
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}


def _inner(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    inner = data.get(name)
    return inner if isinstance(inner, dict) else {}


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)
