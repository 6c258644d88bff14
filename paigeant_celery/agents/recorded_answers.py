"""What answers the deferred tool calls of a run (approvals, results) is asked once: its answers are recorded.

Handlers are capabilities in a chain that belongs to no toolset. So their calls are recorded where a run asks the chain.
Each is recorded by itself, so that one that waits keeps nobody from being asked only once. What no handler answers, the
agent of a step asks of whoever answers from outside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, Generic, TypeAlias, cast

from pydantic import TypeAdapter
from pydantic_ai.capabilities import AbstractCapability, CombinedCapability
from pydantic_ai.capabilities.combined import _ctx_for_active_cap
from pydantic_ai.exceptions import ModelRetry, ToolFailed
from pydantic_ai.tools import AgentDepsT, DeferredToolRequests, DeferredToolResults, RunContext
from pydantic_core import PydanticSerializationError

from paigeant_celery.agents.asked_calls import AskedCalls
from paigeant_celery.agents.asked_outside import answers_from_outside, is_asked_outside
from paigeant_celery.agents.external_events import asking_about
from paigeant_celery.agents.recorded_calls import recorded
from paigeant_celery.agents.recorded_usage import Spending
from paigeant_celery.agents.tool_values import dumped_value, loaded_value
from paigeant_celery.core.errors import NotSerializable
from paigeant_celery.journal.hop_journal import HopJournal
from paigeant_celery.journal.record import CallKey, Record
from paigeant_celery.journal.scope import current_journal

__all__ = ["RecordedAnswers", "record_answers"]

NAME = "handle_deferred_tool_calls"
UNANSWERED = f"{NAME}/unanswered"  # that nobody has answered some of the calls

Scope: TypeAlias = Callable[[RunContext[AgentDepsT]], AbstractContextManager[RunContext[AgentDepsT]]]

_RESULTS = TypeAdapter(DeferredToolResults)


def record_answers(ctx: RunContext[AgentDepsT], scope: Scope[AgentDepsT]) -> None:
    """Have the answers of a run's handlers recorded from this step on; `scope` surrounds the call of a handler."""
    manager = ctx.tool_manager
    if manager is None or manager.root_capability is None or isinstance(manager.root_capability, RecordedAnswers):
        return
    manager.root_capability = cast("AbstractCapability[AgentDepsT]", RecordedAnswers(manager.root_capability, scope))


class RecordedAnswers(Generic[AgentDepsT]):
    """Stands for a run's capabilities where its tools are called. It is they in everything but the recording."""

    def __init__(self, capabilities: AbstractCapability[AgentDepsT], scope: Scope[AgentDepsT]) -> None:
        self._capabilities, self._scope = capabilities, scope

    def __getattr__(self, name: str) -> Any:
        return getattr(self._capabilities, name)

    async def handle_deferred_tool_calls(
        self, ctx: RunContext[AgentDepsT], *, requests: DeferredToolRequests
    ) -> DeferredToolResults | None:
        """Return the answers, now or before, to some or all of the requests.

        What nobody answered is asked again by a later attempt, unless it is known that the step went on without.
        """
        journal = current_journal()
        if journal is None:
            return await self._capabilities.handle_deferred_tool_calls(ctx, requests=requests)
        found, left = DeferredToolResults(), cast("DeferredToolRequests | None", requests)
        while left is not None:
            asked, is_replayed = left, False
            for handler, inside in _handlers(self._capabilities, ctx):
                key = _key(journal, ctx, left)
                is_replayed = is_replayed or journal.peek(key) is not None
                answers = await self._asked(journal, key, handler, inside, left)
                if answers is not None:
                    found.update(answers)
                    left = left.remaining(answers)
                if left is None:
                    break
            if left is None or left is asked or is_asked_outside(ctx):
                break
            unanswered = _key(journal, ctx, left, name=UNANSWERED)
            if journal.peek(unanswered) is not None:
                break
            if not is_replayed:  # all have been asked just now
                journal.add_later(unanswered, Record())
                break
        if left is not None and is_asked_outside(ctx):
            calls = AskedCalls(left)
            answers = await answers_from_outside(journal, calls, run_id=ctx.run_id or "", step=ctx.run_step)
            found.update(answers)
        return found if found.approvals or found.calls else None

    async def _asked(
        self,
        journal: HopJournal,
        key: CallKey,
        handler: AbstractCapability[AgentDepsT],
        ctx: RunContext[AgentDepsT],
        requests: DeferredToolRequests,
    ) -> DeferredToolResults | None:
        spending = Spending(ctx.usage)

        async def make() -> Record:
            with spending.apart_from(ctx) as apart, self._scope(apart) as inside, asking_about(handler, requests):
                answers = await handler.handle_deferred_tool_calls(inside, requests=requests)
            return Record(result=_dumped(answers), usage=spending.used())

        record = await recorded(
            journal,
            key,
            {},
            make,
            spending=spending,
            unit=nullcontext,  # it may wait, which is refused in a durable unit
            later=lambda made: made.result is None,
            may_wait=True,
        )
        return _loaded(record.result)


def _handlers(
    capabilities: AbstractCapability[AgentDepsT], ctx: RunContext[AgentDepsT]
) -> Iterator[tuple[AbstractCapability[AgentDepsT], RunContext[AgentDepsT]]]:
    """Yield those of the capabilities that are asked, in their order, with the context that each gets."""
    if not isinstance(capabilities, CombinedCapability):
        yield capabilities, ctx
        return
    for capability in getattr(capabilities, "_dispatch", capabilities.capabilities):
        if _can_answer(capability) and (inside := _ctx_for_active_cap(capability, ctx)) is not None:
            yield from _handlers(capability, inside)


def _can_answer(capability: AbstractCapability[Any]) -> bool:
    return type(capability).handle_deferred_tool_calls is not AbstractCapability.handle_deferred_tool_calls


def _key(journal: HopJournal, ctx: RunContext[Any], requests: DeferredToolRequests, *, name: str = NAME) -> CallKey:
    asked = sorted(call.tool_call_id for call in (*requests.approvals, *requests.calls))
    return journal.key(ctx.run_id or "", ctx.run_step, "operation", name=name, call_id=" ".join(asked))


def _dumped(answers: DeferredToolResults | None) -> dict[str, Any] | None:
    """Return the JSON of answers; results of calls have the form that the model is shown, as those of tools have."""
    if answers is None or not (answers.approvals or answers.calls):
        return None
    given = {call_id: result for call_id, result in answers.calls.items() if not _is_signal(result)}
    signals = {call_id: result for call_id, result in answers.calls.items() if _is_signal(result)}
    try:
        tree = _RESULTS.dump_python(replace(answers, calls=signals), mode="json", by_alias=True)
        return {**tree, "given": {call_id: list(dumped_value(result)) for call_id, result in given.items()}}
    except (PydanticSerializationError, TypeError, ValueError) as error:
        text = f"an answer of `{NAME}` has no JSON form ({type(error).__name__}), but is recorded; answer with JSON"
        raise NotSerializable("result_not_serializable", text) from error


def _loaded(tree: dict[str, Any] | None) -> DeferredToolResults | None:
    if tree is None:
        return None
    given = {call_id: loaded_value(*result) for call_id, result in tree["given"].items()}
    answers = _RESULTS.validate_python({name: part for name, part in tree.items() if name != "given"})
    return replace(answers, calls={**answers.calls, **given})


def _is_signal(result: object) -> bool:
    """Say whether a result steers the run, instead of being what a call gave."""
    return isinstance(result, (ModelRetry, ToolFailed)) or getattr(result, "part_kind", None) == "retry-prompt"
