"""What is recorded of a failed call, and when: only errors that the step survived are raised again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic_ai import Agent, RunContext
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.models.test import TestModel
from pydantic_ai.toolsets import FunctionToolset, WrapperToolset

from paigeant_celery.agents.durability import CeleryDurability
from paigeant_celery.agents.fingerprints import digest
from paigeant_celery.core.errors import NonDeterminismError, NotSerializable, Unreachable
from paigeant_celery.journal.hop_journal import HopJournal
from paigeant_celery.journal.record import CallKey, Record, RecordedError, parse_key
from tests.support.journalled_hop import JournalledHop

pytestmark = pytest.mark.anyio

FAILED = Record(failure=RecordedError(error_class="ConnectionError", args=("away",)))


def recorded_runs(hop: JournalledHop) -> set[str]:
    return {key.run for text in hop.records if (key := parse_key(text)) is not None}


def model_key(journal: HopJournal, run_id: str, step: int = 1) -> CallKey:
    return journal.key(run_id, step, "model")


async def test_a_failure_beside_which_others_went_on_is_tried_again() -> None:
    """Otherwise a provider that was busy for one of two agents would be busy forever."""
    hop = JournalledHop()
    with hop.attempt() as journal:
        bad, good = journal.next_run_id("bad"), journal.next_run_id("good")
        journal.add_later(model_key(journal, bad), FAILED)
        await journal.add(model_key(journal, good), Record(result=1))
        await journal.add(model_key(journal, good, 2), Record(result=2))

        assert recorded_runs(hop) == {"good:0"}


async def test_a_tool_that_failed_beside_another_one_is_tried_again() -> None:
    """The error ends the run; that the parallel tool ended does not show that the error was survived."""
    hop = JournalledHop()
    with hop.attempt() as journal:
        run = journal.next_run_id("worker")
        journal.add_later(journal.key(run, 1, "tool", name="flaky", call_id="1"), FAILED)
        await journal.add(journal.key(run, 1, "tool", name="steady", call_id="2"), Record(result=1))

        assert len(hop.records) == 1


@pytest.mark.parametrize("after", ["fallback", "later step", "later run"])
async def test_a_failure_behind_which_the_step_went_on_is_recorded(after: str) -> None:
    """Asked again, the call might succeed, and what came after it would not fit."""
    hop = JournalledHop()
    with hop.attempt() as journal:
        run = journal.next_run_id("worker")
        journal.add_later(model_key(journal, run), FAILED)
        if after == "later run":
            run = journal.next_run_id("other")
        await journal.add(model_key(journal, run, 2 if after == "later step" else 1), Record(result=1))

        assert len(hop.records) == 2


async def test_a_failure_is_not_lost_with_a_record_that_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """The record that carried it was cancelled while the store was away; the next one carries it."""
    hop = JournalledHop()
    with hop.attempt() as journal:
        run = journal.next_run_id("worker")
        journal.add_later(model_key(journal, run), FAILED)

        def away(*arguments: Any) -> bool:
            raise Unreachable("store", "redis://127.0.0.1:1", "ConnectionError")

        with monkeypatch.context() as patched:
            patched.setattr(hop.store, "record", away)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(journal.add(model_key(journal, run), Record(result=1)), 0.05)
        await journal.add(model_key(journal, run, 2), Record(result=2))

        assert len(hop.records) == 2


async def test_nothing_is_made_any_more_where_code_swallowed_that_it_changed() -> None:
    """Its hop is parked whatever it does, and its calls would cost money."""
    hop = JournalledHop()
    with hop.attempt() as journal:
        await journal.add(model_key(journal, journal.next_run_id("a")), Record(fingerprint={"model": "one"}))
    with hop.attempt() as journal:
        with pytest.raises(NonDeterminismError):
            journal.find(model_key(journal, journal.next_run_id("a")), {"model": "two"})

        with pytest.raises(NonDeterminismError):
            journal.find(model_key(journal, journal.next_run_id("b")), {"model": "two"})


async def test_a_result_that_is_too_large_for_a_record_is_refused_by_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that went wild does not fill the store."""
    monkeypatch.setattr("paigeant_celery.journal.hop_journal.MAX_RECORD", 100)
    hop = JournalledHop()
    with hop.attempt() as journal, pytest.raises(NotSerializable, match="result_too_large"):
        await journal.add(model_key(journal, "r"), Record(result="x" * 200))


def test_a_digest_is_made_of_anything() -> None:
    """Arguments of tools may be bytes, and models may write broken text."""
    assert digest({"image": b"\xff"}) != digest({"image": b"\xfe"})
    assert digest({"k": "\ud800", "s": {1}}) == digest({"k": "\ud800", "s": {1}})


class Hasty(WrapperToolset[None]):
    """Gives a tool little time and goes on without it."""

    async def call_tool(self, name: str, tool_args: dict[str, Any], ctx: Any, tool: Any) -> Any:
        try:
            async with asyncio.timeout(0.05):
                return await super().call_tool(name, tool_args, ctx, tool)
        except TimeoutError:
            return "no time"


async def test_a_tool_that_was_cut_off_and_survived_is_cut_off_again() -> None:
    """The run went on without its answer and does so again; this is not a sign of changed code."""
    hop, begun = JournalledHop(), []

    async def sleepy() -> str:
        begun.append(1)
        await asyncio.Event().wait()
        return "never"

    agent = Agent(TestModel(), name="a", capabilities=[_HastyTools()], toolsets=[FunctionToolset([sleepy])])
    with hop.attempt():
        first = await agent.run("go", capabilities=[CeleryDurability[object]()])
    with hop.attempt() as journal:
        again = await agent.run("go", capabilities=[CeleryDurability[object]()])

    assert first.output == again.output == '{"sleepy":"no time"}'
    assert (journal.made, len(begun)) == (0, 1)


class _HastyTools(AbstractCapability[Any]):
    def get_wrapper_toolset(self, toolset: Any) -> Any:
        return Hasty(toolset)


async def test_what_a_failed_tool_used_counts_in_the_replay() -> None:
    """A sub-agent was paid for, even if its tool then failed and the run went on."""
    hop = JournalledHop()
    inner = Agent(TestModel(), name="inner")

    def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        if len(messages) == 1:
            return ModelResponse(parts=[ToolCallPart("ask", {})])
        return ModelResponse(parts=[TextPart("done")])

    async def ask(ctx: RunContext[Any]) -> str:
        await inner.run("go", usage=ctx.usage)
        raise ConnectionError("after it was paid for")

    agent = Agent(FunctionModel(answer), name="a", capabilities=[_Forgiving()])
    agent.tool(ask)
    with hop.attempt():
        first = await agent.run("go", capabilities=[CeleryDurability[object]()])
    with hop.attempt() as journal:
        again = await agent.run("go", capabilities=[CeleryDurability[object]()])

    assert journal.made == 0
    assert first.usage == again.usage
    assert first.usage.requests == 3


class _Forgiving(AbstractCapability[Any]):
    def get_wrapper_toolset(self, toolset: Any) -> Any:
        return _ForgivingTools(toolset)


class _ForgivingTools(WrapperToolset[Any]):
    async def call_tool(self, name: str, tool_args: dict[str, Any], ctx: Any, tool: Any) -> Any:
        try:
            return await super().call_tool(name, tool_args, ctx, tool)
        except ConnectionError as error:
            return f"failed: {error}"
