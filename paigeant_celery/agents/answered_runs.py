"""The run of a step's agent, to its end: what it still asks for when it ends is answered, and it goes on with that.

Nearly everything is answered within the run. A call that asks again when it has been answered ends it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_ai.agent import AbstractAgent
from pydantic_ai.messages import ModelMessage, ModelResponse, ToolCallPart
from pydantic_ai.run import AgentRunResult
from pydantic_ai.tools import DeferredToolRequests
from pydantic_ai.usage import RunUsage

from paigeant_celery.activities.pauses import NO_STORE
from paigeant_celery.agents.asked_calls import AskedCalls
from paigeant_celery.agents.asked_outside import answers_from_outside, asking_outside
from paigeant_celery.agents.binding import inner
from paigeant_celery.agents.external_events import waits_refused
from paigeant_celery.agents.step_runs import StepRuns
from paigeant_celery.core.errors import Paused
from paigeant_celery.journal.scope import current_journal

__all__ = ["Ran", "run_to_end"]


@dataclass(frozen=True)
class Ran:
    """What the runs of a step gave: the output of the last, and the usage and messages of all."""

    output: Any
    usage: RunUsage
    said: Sequence[ModelMessage]


async def run_to_end(agent: AbstractAgent[Any, Any], runs: StepRuns, prompt: Any, **given: Any) -> Ran:
    """Run the agent of a step. Raises `Paused` (`store_required`) if it would have to wait, but there is no store."""
    journal, said = current_journal(), list[ModelMessage]()
    if journal is not None and journal.waits.has_waited:
        given |= _that_may_ask_again(agent)
    while True:
        with runs.durable() as capabilities, waits_refused() if journal is None else asking_outside():
            result = await agent.run(prompt, capabilities=capabilities, infer_name=False, **given)
        said += result.new_messages()
        if (calls := _still_asked(result)) is None:
            return Ran(output=result.output, usage=result.usage, said=said)
        if journal is None:
            raise Paused("store_required", NO_STORE)
        prompt = None
        given |= {
            "message_history": result.all_messages(),
            "deferred_tool_results": await answers_from_outside(journal, calls, run_id="", step=0),
            "usage": result.usage,
        }


def _that_may_ask_again(agent: AbstractAgent[Any, Any]) -> Mapping[str, Any]:
    """Return what lets a run end with a call that asks again, when it was answered, though its agent declares none.

    An agent with validators of its output takes no other type for a run, so that it must declare it itself.
    """
    validators = getattr(inner(agent), "_output_validators", ())
    return {} if validators else {"output_type": [agent.output_type, DeferredToolRequests]}


def _still_asked(result: AgentRunResult[Any]) -> AskedCalls | None:
    """Return the calls that a run ended with; None if it has ended otherwise, or its output only looks so."""
    if not isinstance(result.output, DeferredToolRequests):
        return None
    last = next((each for each in reversed(result.all_messages()) if isinstance(each, ModelResponse)), None)
    made = {part.tool_call_id for part in last.parts if isinstance(part, ToolCallPart)} if last is not None else set()
    calls = AskedCalls(result.output)
    return calls if calls.parts and made.issuperset(calls.parts) else None
