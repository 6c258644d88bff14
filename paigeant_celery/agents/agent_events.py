"""What watchers of a workflow are told, as pydantic-ai's own events: one sequence in which all that begins ends.

A workflow has several runs, and runs have several attempts, of which any may have been broken off anywhere; a watcher
may have come late or missed something. What shows events on a screen expects none of this.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, NamedTuple, TypeAlias, cast

from pydantic import TypeAdapter, ValidationError
from pydantic_ai.exceptions import RunCancelled
from pydantic_ai.messages import (
    INTERRUPTED_TOOL_RETURN_CONTENT,
    AgentStreamEvent,
    FinalResultEvent,
    FunctionToolCallEvent,
    FunctionToolResultEvent,
    NativeToolCallPart,
    NativeToolReturnPart,
    OutputToolCallEvent,
    OutputToolResultEvent,
    PartDeltaEvent,
    PartEndEvent,
    PartStartEvent,
    TextPart,
    ThinkingPart,
    ToolCallEvent,
    ToolCallPart,
    ToolCallPartDelta,
    ToolReturnPart,
)
from pydantic_ai.run import AgentRunResultEvent

from paigeant_celery.core.errors import WorkflowFailed, WorkflowParked
from paigeant_celery.core.events import WorkflowEvent
from paigeant_celery.core.names import AGENT_EVENTS, split_hop_id

__all__ = ["agent_events"]

NativeEvent: TypeAlias = AgentStreamEvent | AgentRunResultEvent[Any]
ResultEvent: TypeAlias = FunctionToolResultEvent | OutputToolResultEvent

LAST = 10**9  # stands behind the index of any part
TEXT_ELSEWHERE = "`handle.status()` has its text"  # which may quote a prompt


async def agent_events(events: AsyncIterable[WorkflowEvent]) -> AsyncIterator[NativeEvent]:
    """Turn the events of a workflow into pydantic-ai's own, for `AGUIEventStream` and `VercelAIEventStream`.

    All steps are one sequence. Each part that starts ends, also if its attempt was broken off, and has its deltas
    between; what is asked for again starts anew. Each tool call gets one result, from whichever attempt, or one that
    says that it was interrupted. Runs of agents inside tools are left out, as in a plain run; of runs at the same time,
    one part is shown after the other. The last run's result comes when the workflow has completed. If it failed or is
    parked, `WorkflowFailed` or `WorkflowParked` is raised at the end, without the text of the error; if it was
    cancelled, pydantic-ai's `RunCancelled`.
    """
    sequence = _Sequence()
    try:
        async for event in events:
            for shown in sequence.after(event):
                yield shown
    finally:
        if (close := getattr(events, "aclose", None)) is not None:
            await close()
    for shown in sequence.end():
        yield shown
    if sequence.error is not None:
        raise sequence.error


class _Run(NamedTuple):
    hop: str
    id: str


@dataclass(kw_only=True)
class _Open:
    """The part that is shown; `ended` is its end if another part of the kind may go on from it."""

    run: _Run
    index: int
    part: Any
    deltas: list[Any] = field(default_factory=list)
    ended: PartEndEvent | None = None

    def end(self) -> PartEndEvent:
        """Return what ends the part here."""
        if self.ended is not None:
            return replace(self.ended, next_part_kind=None)
        part = self.part
        for delta in self.deltas:
            with suppress(Exception):  # a delta that does not fit is no reason to leave the part open
                part = delta.apply(part)
        return PartEndEvent(index=self.index, part=part)


@dataclass(kw_only=True)
class _Call:
    """A tool call: the part that shows it, under an id that no other call has, and where in its run it stands."""

    part: ToolCallPart | NativeToolCallPart
    at: tuple[int, int]
    begun: bool = False
    is_output: bool = False
    done: bool = False


class _Sequence:
    """Takes what watchers are told and says what is to be shown."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self._shown: list[NativeEvent] = []
        self._open: _Open | None = None
        self._waiting: dict[_Run, deque[Mapping[str, str]]] = {}
        self._calls: dict[tuple[_Run, str], _Call] = {}
        self._ids = set[str]()
        self._result: AgentRunResultEvent[Any] | None = None

    def after(self, event: WorkflowEvent) -> list[NativeEvent]:
        """Return what is to be shown after an event of the workflow."""
        match event.type:
            case "agent":
                self._take(_Run(event.hop_id, event.fields.get("run", "")), event.fields)
            case "claimed" | "retrying" | "released" | "given_back":
                self._break_off(event.hop_id)
            case "events_dropped":
                self._break_off(None)
            case "completed":
                self._settle(event.hop_id)
            case "workflow_completed":
                self._settle(None)
                if self._result is not None:
                    self._shown.append(self._result)
            case "workflow_failed" | "parked" | "workflow_cancelled":
                self.error = _error_of(event)
            case "redriven":
                self.error = None
                if "journal" in event.fields:  # all of its runs are made anew
                    self._settle(event.hop_id)
        return self._taken()

    def end(self) -> list[NativeEvent]:
        """Return what is to be shown when nothing more is told."""
        self._settle(None)
        return self._taken()

    def _taken(self) -> list[NativeEvent]:
        shown, self._shown = self._shown, []
        return shown

    def _take(self, run: _Run, fields: Mapping[str, str]) -> None:
        if fields.get("event") == "dropped":
            self._break_off(run.hop)
        elif "within" not in fields and fields.get("event") not in AGENT_EVENTS:
            self._waiting.setdefault(run, deque()).append(fields)
            self._go_on()

    def _go_on(self) -> None:
        """Show what waits, as far as the part that is open lets it."""
        while (run := self._open.run if self._open is not None else next(iter(self._waiting), None)) in self._waiting:
            fields = self._waiting[run].popleft()
            if not self._waiting[run]:
                del self._waiting[run]
            self._show(run, fields)

    def _break_off(self, hop: str | None) -> None:
        """End what is open of an attempt, or of all: what comes next does not go on from it."""
        while self._open is not None and hop in (None, self._open.run.hop):
            self._close()
            self._go_on()

    def _settle(self, hop: str | None) -> None:
        """End what is open of a hop, or of all, and its calls."""
        self._break_off(hop)
        for (run, _), call in self._calls.items():
            if hop in (None, run.hop):
                self._interrupt(call)

    def _show(self, run: _Run, fields: Mapping[str, str]) -> None:
        event, step = _read(fields), int(fields.get("step", 0))
        match event:
            case None:  # too large, or of a version that this one does not know
                if self._is_open(run) and fields.get("event", "").startswith("part_"):
                    self._close()
            case PartStartEvent():
                self._start(run, step, event)
            case PartDeltaEvent():
                self._change(run, event)
            case PartEndEvent():
                self._end(run, step, event, cut="cut" in fields)
            case FinalResultEvent():
                self._note_final(run, event)
            case ToolCallEvent():
                self._begin_call(run, step, event)
            case FunctionToolResultEvent() | OutputToolResultEvent():
                self._end_call(run, step, event)
            case AgentRunResultEvent():
                self._result = event
            case _:
                self._shown.append(event)

    def _is_open(self, run: _Run) -> bool:
        return self._open is not None and self._open.run == run

    def _close(self) -> None:
        if self._open is not None:
            self._shown.append(self._open.end())
            self._open = None

    def _start(self, run: _Run, step: int, event: PartStartEvent) -> None:
        ended = self._open.ended if self._open is not None else None
        if ended is not None and event.previous_part_kind == event.part.part_kind == ended.next_part_kind:
            self._shown.append(ended)
            self._open = None
        elif isinstance(event.part, (TextPart, ThinkingPart)):
            event = replace(event, previous_part_kind=None)
        self._close()
        for (of, _), call in self._calls.items():
            if of == run and call.at >= (step, event.index):  # the answer that it stood in is given again
                self._interrupt(call)
        part: Any = event.part
        if isinstance(part, (ToolCallPart, NativeToolCallPart)):
            part = self._call(run, part, at=(step, event.index)).part
        elif isinstance(part, NativeToolReturnPart):
            part = self._native_return(run, step, part)
            if part is None:
                return
        self._shown.append(replace(event, part=part))
        self._open = _Open(run=run, index=event.index, part=part)

    def _change(self, run: _Run, event: PartDeltaEvent) -> None:
        if self._open is None or not self._is_open(run) or (self._open.index, None) != (event.index, self._open.ended):
            return  # its part began before this watcher came, and is shown when it ends
        if isinstance(event.delta, ToolCallPartDelta):
            event = replace(event, delta=replace(event.delta, tool_call_id=self._open.part.tool_call_id))
        self._open.deltas.append(event.delta)
        self._shown.append(event)

    def _end(self, run: _Run, step: int, event: PartEndEvent, *, cut: bool) -> None:
        part: Any = event.part
        if self._open is None or not self._is_open(run) or self._open.index != event.index:
            call = self._calls.get((run, getattr(part, "tool_call_id", "")))
            if cut or (call is not None and not call.done and isinstance(part, (ToolCallPart, NativeToolCallPart))):
                return
            self._start(run, step, PartStartEvent(index=event.index, part=part))
        if self._open is None:
            return
        if isinstance(part, (ToolCallPart, NativeToolCallPart, NativeToolReturnPart)):
            event = replace(event, part=replace(part, tool_call_id=self._open.part.tool_call_id))
        if isinstance(part, (TextPart, ThinkingPart)) and event.next_part_kind == part.part_kind:
            self._open.ended = event
            return
        self._shown.append(event)
        self._open = None

    def _call(self, run: _Run, part: ToolCallPart | NativeToolCallPart, *, at: tuple[int, int]) -> _Call:
        """Take a call that is new here, under an id that is new here: a model that is asked again may give it again."""
        known = self._calls.pop((run, part.tool_call_id), None)
        if known is not None:
            self._interrupt(known)
        id_, number = part.tool_call_id, 1
        while id_ in self._ids:
            number += 1
            id_ = f"{part.tool_call_id}~{number}"
        self._ids.add(id_)
        call = self._calls[run, part.tool_call_id] = _Call(part=replace(part, tool_call_id=id_), at=at)
        return call

    def _known_call(self, run: _Run, step: int, part: ToolCallPart | NativeToolCallPart) -> _Call:
        """Return a call; one that began before this watcher came is shown first."""
        self._close()
        call = self._calls.get((run, part.tool_call_id))
        if call is None:
            call = self._call(run, part, at=(step, LAST))
            self._shown += [PartStartEvent(index=0, part=call.part), PartEndEvent(index=0, part=call.part)]
        return call

    def _begin_call(self, run: _Run, step: int, event: ToolCallEvent) -> None:
        call = self._known_call(run, step, event.part)
        if not call.begun and not call.done:
            call.begun, call.is_output = True, isinstance(event, OutputToolCallEvent)
            self._shown.append(_under(call, event))

    def _end_call(self, run: _Run, step: int, event: ResultEvent) -> None:
        part = event.part
        call = self._known_call(run, step, ToolCallPart(part.tool_name, tool_call_id=part.tool_call_id))
        if not call.done:
            call.is_output = isinstance(event, OutputToolResultEvent)
            self._finish_call(call, _under(call, event))

    def _finish_call(self, call: _Call, result: ResultEvent) -> None:
        if not call.begun:  # protocols expect a result only after that
            begun = OutputToolCallEvent if call.is_output else FunctionToolCallEvent
            self._shown.append(begun(cast("ToolCallPart", call.part), args_valid=None))
        call.begun = call.done = True
        self._shown.append(result)

    def _note_final(self, run: _Run, event: FinalResultEvent) -> None:
        if event.tool_call_id is None:
            self._shown.append(event)
        elif (call := self._calls.get((run, event.tool_call_id))) is not None and not call.begun:
            call.is_output = True
            self._shown.append(replace(event, tool_call_id=call.part.tool_call_id))

    def _native_return(self, run: _Run, step: int, part: NativeToolReturnPart) -> NativeToolReturnPart | None:
        made = NativeToolCallPart(part.tool_name, tool_call_id=part.tool_call_id, provider_name=part.provider_name)
        call = self._known_call(run, step, made)
        if call.done:
            return None
        call.done = True
        return replace(part, tool_call_id=call.part.tool_call_id)

    def _interrupt(self, call: _Call) -> None:
        """Give a call that has no result one that says so."""
        if call.done:
            return
        name, id_ = call.part.tool_name, call.part.tool_call_id
        if isinstance(call.part, NativeToolCallPart):
            call.done, by = True, call.part.provider_name
            native = NativeToolReturnPart(
                name, INTERRUPTED_TOOL_RETURN_CONTENT, tool_call_id=id_, provider_name=by, outcome="interrupted"
            )
            self._shown += [PartStartEvent(index=0, part=native), PartEndEvent(index=0, part=native)]
            return
        part = ToolReturnPart(name, INTERRUPTED_TOOL_RETURN_CONTENT, tool_call_id=id_, outcome="interrupted")
        self._finish_call(call, OutputToolResultEvent(part) if call.is_output else FunctionToolResultEvent(part))


def _under(call: _Call, event: Any) -> Any:
    """Return an event of a call with the id under which that is shown."""
    return replace(event, part=replace(event.part, tool_call_id=call.part.tool_call_id))


def _read(fields: Mapping[str, str]) -> Any:
    """Return the event that is told, or what can be shown of it if it was too large; None if nothing can."""
    kind, data = fields.get("event", ""), fields.get("data")
    if data is not None:
        adapter = _result_adapter() if kind == AgentRunResultEvent.event_kind else _event_adapter()
        with suppress(ValidationError):
            return adapter.validate_json(data)
        return None
    about = fields.get("name", ""), fields.get("call_id")
    if kind == FunctionToolResultEvent.event_kind and about[1] is not None:
        text = f"The result has {fields.get('bytes')} bytes and is not shown."
        return FunctionToolResultEvent(ToolReturnPart(about[0], text, tool_call_id=about[1]))
    return None


@cache
def _event_adapter() -> TypeAdapter[Any]:
    return TypeAdapter(AgentStreamEvent)


@cache
def _result_adapter() -> TypeAdapter[Any]:
    return TypeAdapter(AgentRunResultEvent[Any])


def _error_of(event: WorkflowEvent) -> Exception:
    workflow, _ = split_hop_id(event.hop_id) or (event.hop_id, "")
    if event.type == "workflow_cancelled":
        return RunCancelled(f"workflow {workflow} was cancelled")
    kind = WorkflowParked if event.type == "parked" else WorkflowFailed
    return kind(workflow, event.fields.get("step"), event.fields.get("error", ""), TEXT_ELSEWHERE)
