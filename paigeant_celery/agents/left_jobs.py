"""Jobs at providers that a cancelled hop left: found in its journal, and cancelled without a run.

No code of the agent runs: no hook, no tool, nothing that makes its deps. Only its model is asked, as a run that is cut
off asks it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from pydantic import TypeAdapter
from pydantic_ai.agent import AbstractAgent
from pydantic_ai.durable_exec import durable_unit_scope
from pydantic_ai.messages import ModelResponse
from pydantic_ai.models import Model
from pydantic_ai.models.wrapper import serving_wrapper_scope

from paigeant_celery.core.errors import UsageError
from paigeant_celery.journal.abandoned import Abandoned
from paigeant_celery.journal.record import CallKey, Record, parse_key, parse_record
from paigeant_celery.journal.waits import name_of_wait

__all__ = ["cancel_left_jobs"]

_response = TypeAdapter(ModelResponse)


async def cancel_left_jobs(
    agent: AbstractAgent[Any, Any], run_name: str, records: Mapping[str, str], find: Callable[[], Model | None]
) -> None:
    """Cancel the jobs that runs with this name slept for; `find` returns the model that the agent has for its runs.

    A job that cannot be cancelled is logged. One of another model is left alone: it may have been given for the run.
    """
    abandoned = Abandoned()
    for key, record in _latest(run_name, records):
        response = _response.validate_python(record.result)
        if response.state == "suspended":
            abandoned.add(key, partial(_cancel, agent, find, record, response))
    await abandoned.cancel()


def _latest(run_name: str, records: Mapping[str, str]) -> list[tuple[CallKey, Record]]:
    """Return the latest answer of the model in each run of this name that has slept."""
    latest: dict[str, CallKey] = {}
    for key in filter(None, map(parse_key, records)):
        if key.kind != "model" or key.name or _name_in(key.run) != run_name or name_of_wait(key.run) not in records:
            continue
        known = latest.get(key.run)
        if known is None or (known.step, known.occurrence) < (key.step, key.occurrence):
            latest[key.run] = key
    given_up = [key for key in latest.values() if str(replace(key, name="cancel", occurrence=0)) in records]
    kept = [key for key in latest.values() if key not in given_up]
    found = [(key, parse_record(records[str(key)], step_id="", key=key)) for key in kept]
    return [(key, record) for key, record in found if record.failure is None]


def _name_in(run: str) -> str:
    name, _, number = run.rpartition(":")
    return name if number.isdecimal() else run


async def _cancel(
    agent: AbstractAgent[Any, Any], find: Callable[[], Model | None], record: Record, response: ModelResponse
) -> None:
    model = find()
    if model is None or model.model_name != record.fingerprint.get("model"):
        raise UsageError("the agent has no longer the model that the run waited for")
    model._refresh_http_client()  # its event loop may have ended
    with durable_unit_scope():
        wrapper = agent.root_capability.get_wrapper_model(model)  # what gathers requests into batches knows its own
        if wrapper is None:
            await model.cancel_suspended_response(response)
            return
        async with serving_wrapper_scope(wrapper, model) as serving:
            await serving.cancel_suspended_response(response)
