"""A step that keeps the history of its runs itself: what an earlier attempt saved is the next one's own."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from pydantic_ai import Agent, Conversation
from pydantic_ai.exceptions import UserError
from pydantic_ai.messages import (
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelRequest,
    ModelResponse,
    TextPart,
    UserPromptPart,
)
from pydantic_ai.run import AgentRunResult
from pydantic_ai.usage import RequestUsage, RunUsage, UsageLimits

from paigeant_celery import CeleryDurability
from tests.support.journalled_hop import JournalledHop, calls, scripted

try:
    from pydantic_ai.conversation_store import InMemoryConversationStore
except ImportError:  # before pydantic-ai 2.68
    InMemoryConversationStore = None  # type: ignore[assignment, misc]

needs_stores = pytest.mark.skipif(InMemoryConversationStore is None, reason="this pydantic-ai has no such store")

Kept = Any
Step = Callable[[], Awaitable[Any]]


def turn(name: str) -> list[ModelMessage]:
    """An earlier turn, or one of somebody else."""
    return [
        ModelRequest(parts=[UserPromptPart(f"ask {name}")], run_id=name),
        ModelResponse(
            parts=[TextPart(f"say {name}")], run_id=name, usage=RequestUsage(input_tokens=5, output_tokens=1)
        ),
    ]


def texts(messages: list[ModelMessage]) -> list[str]:
    return [str(getattr(part, "content", "call")) for message in messages for part in message.parts]


def desk(*answers: Any) -> tuple[Agent[Any, str], Counter[str]]:
    """An agent, and how often its model was asked."""
    asked: Counter[str] = Counter()
    agent: Agent[Any, str] = Agent(scripted(asked, *answers), name="desk", capabilities=[CeleryDurability()])

    @agent.tool_plain
    def look() -> str:
        asked["looked"] += 1
        return "there"

    return agent, asked


def attempts(step: Step, times: int = 2, *, hop: JournalledHop | None = None) -> list[Any]:
    """Run a step again and again, as if each attempt had failed after its end."""
    hop = hop or JournalledHop()

    async def all_() -> list[Any]:
        found = []
        for _ in range(times):
            with hop.attempt():
                found.append(await step())
        return found

    return asyncio.run(all_())


class Table:
    """A history that a step keeps itself, as objects or as JSON."""

    def __init__(self, messages: list[ModelMessage], *, as_json: bool = False) -> None:
        self.as_json, self.kept = as_json, list[ModelMessage]()
        self.save(messages)

    def load(self) -> list[ModelMessage]:
        return list(self.kept)

    def save(self, messages: list[ModelMessage]) -> None:
        written = ModelMessagesTypeAdapter.dump_json(messages)
        self.kept = ModelMessagesTypeAdapter.validate_json(written) if self.as_json else list(messages)


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("before", [[], turn("before")], ids=["first turn", "later turn"])
def test_a_history_that_a_step_keeps_is_the_same_after_each_attempt(before: list[ModelMessage], as_json: bool) -> None:
    """What failed was something else; the turn is not asked again, not refused and not doubled."""
    table = Table(before, as_json=as_json)
    agent, asked = desk(*["unused"] * (len(before) // 2), calls("look"), "found")

    async def step() -> tuple[str, list[str], str]:
        result = await agent.run("Where is it?", message_history=table.load())
        table.save(result.all_messages())
        return result.output, texts(result.new_messages()), result.run_id

    first, *others = attempts(step, 4)

    assert others == [first] * 3
    assert first[1] == ["Where is it?", "call", "there", "found"]
    assert texts(table.load()) == [*texts(before), *first[1]]
    assert asked == {"local": 2, "looked": 1}


@needs_stores
@pytest.mark.parametrize("way", ["saves the result", "saves the conversation", "loads a window"])
def test_a_conversation_store_has_each_turn_once(way: str) -> None:
    """Its usage and revision go on as well, and no branch is left."""
    store = InMemoryConversationStore()
    agent, asked = desk("unused", calls("look"), "found")

    async def step() -> tuple[str, int]:
        limit = 3 if way == "loads a window" else None
        conversation = await store.load("c", limit=limit) or Conversation(conversation_id="c")
        result = await agent.run("Where is it?", conversation=conversation, usage_limits=UsageLimits(request_limit=3))
        await store.save(result.conversation if way == "saves the conversation" else result)
        return result.output, result.usage.requests

    async def prepared() -> None:
        usage = RunUsage(requests=1, input_tokens=5, output_tokens=1)
        await store.save(Conversation(messages=turn("before"), conversation_id="c", usage=usage))

    asyncio.run(prepared())
    outcomes = attempts(step, 3)
    kept, record = asyncio.run(store.load("c")), asyncio.run(store.read_record("c"))

    assert outcomes == [("found", 3)] * 3
    assert kept is not None
    assert record is not None
    assert texts(kept.messages) == ["ask before", "say before", "Where is it?", "call", "there", "found"]
    assert (kept.usage.requests, kept.usage.tool_calls, record.branches) == (3, 1, [])
    assert asked == {"local": 2, "looked": 1}


def test_what_others_saved_meanwhile_stays_where_it_is() -> None:
    """A turn of another workflow came between two attempts."""
    table, others = Table(turn("before")), [turn("other")]
    agent, asked = desk("unused", "found")

    async def step() -> str:
        result = await agent.run("Where is it?", message_history=table.load())
        table.save(result.all_messages())
        if others:
            table.save([*table.load(), *others.pop()])
        return result.output

    assert attempts(step, 3) == ["found"] * 3
    assert texts(table.load()) == ["ask before", "say before", "Where is it?", "found", "ask other", "say other"]
    assert asked == {"local": 1}


@needs_stores
def test_what_others_saved_meanwhile_stays_in_a_conversation_store() -> None:
    """It is not left on a branch."""
    store, others = InMemoryConversationStore(), [turn("other")]
    agent, _ = desk("found")

    async def step() -> str:
        conversation = await store.load("c") or Conversation(conversation_id="c")
        result = await agent.run("Where is it?", conversation=conversation)
        await store.save(result)
        if others:
            kept = await store.load("c")
            assert kept is not None
            kept.messages.extend(others.pop())
            await store.save(kept)
        return result.output

    attempts(step, 3)
    kept = asyncio.run(store.load("c"))

    assert kept is not None
    assert texts(kept.messages) == ["Where is it?", "found", "ask other", "say other"]


@needs_stores
@pytest.mark.parametrize("what", ["the result", "its conversation"])
def test_a_step_that_saves_without_reading_first_is_no_conflict(what: str) -> None:
    """It began the conversation in its first attempt, and still holds what was there before that."""
    store, failing = InMemoryConversationStore(), [True]
    agent, asked = desk("one", "two")

    async def step() -> list[str]:
        first = await agent.run("a")
        held = first if what == "the result" else first.conversation
        await store.save(held)
        second = await agent.run("b", conversation=first.conversation if what == "the result" else held)  # type: ignore[arg-type]
        if not failing or failing.pop() is None:
            await store.save(second if what == "the result" else second.conversation)
        return [first.conversation_id, first.output, second.output]

    outcomes = attempts(step, 4)
    kept, record = asyncio.run(store.load(outcomes[0][0])), asyncio.run(store.read_record(outcomes[0][0]))

    assert outcomes == [[outcomes[0][0], "one", "two"]] * 4
    assert kept is not None
    assert record is not None
    assert texts(kept.messages) == ["a", "one", "b", "two"]
    assert (kept.usage.requests, record.branches) == (2, [])
    assert asked == {"local": 2}


@needs_stores
def test_a_conflict_with_others_stays_one() -> None:
    """Only what the hop itself has saved is its own."""
    store = InMemoryConversationStore()
    agent, _ = desk("found")

    async def step() -> str:
        result = await agent.run("Where is it?", conversation_id="c")
        await store.save(result)
        return result.output

    async def taken() -> None:
        await store.save(Conversation(messages=turn("other"), conversation_id="c"))

    asyncio.run(taken())
    with pytest.raises(UserError, match="already exists"):
        attempts(step, 1)
    hop = JournalledHop()
    with pytest.raises(UserError, match="already exists"):
        attempts(step, 1, hop=hop)
    with pytest.raises(UserError, match="already exists"):
        attempts(step, 1, hop=hop)


def test_several_runs_of_a_step_go_on_from_one_another() -> None:
    """Each replays with the history that it had, whatever the later ones saved."""
    table = Table([])
    agent, asked = desk("one", "two", "three")

    async def step() -> list[str]:
        outputs = []
        for prompt in ("a", "b", "c"):
            result = await agent.run(prompt, message_history=table.load())
            table.save(result.all_messages())
            outputs.append(result.output)
        return outputs

    assert attempts(step, 3) == [["one", "two", "three"]] * 3
    assert texts(table.load()) == ["a", "one", "b", "two", "c", "three"]
    assert asked == {"local": 3}


def test_an_attempt_that_died_between_two_runs_goes_on_with_the_second() -> None:
    """The middle, where crashes are."""
    table, failing = Table([]), [OSError("away")]
    agent, asked = desk("one", "two")

    async def step() -> list[str]:
        outputs = []
        for prompt in ("a", "b"):
            result = await agent.run(prompt, message_history=table.load())
            table.save(result.all_messages())
            outputs.append(result.output)
            if failing:
                return [str(failing.pop())]
        return outputs

    assert attempts(step, 3) == [["away"], ["one", "two"], ["one", "two"]]
    assert texts(table.load()) == ["a", "one", "b", "two"]
    assert asked == {"local": 2}


def test_what_was_saved_in_the_middle_of_a_run_is_its_beginning() -> None:
    """A step may save after each of its run's calls, and die between two of them."""
    table, failing = Table(turn("before")), [True]
    agent, asked = desk("unused", calls("look"), "found")

    async def step() -> str:
        async with agent.iter("Where is it?", message_history=table.load()) as run:
            async for node in run:
                if Agent.is_call_tools_node(node) and failing:
                    table.save(run.all_messages())
                    return failing.pop() and "died"
        assert run.result is not None
        table.save(run.result.all_messages())
        return run.result.output

    assert attempts(step, 3) == ["died", "found", "found"]
    assert texts(table.load()) == ["ask before", "say before", "Where is it?", "call", "there", "found"]
    assert asked == {"local": 2, "looked": 1}


def test_a_run_that_is_streamed_is_refused_as_little() -> None:
    """All ways to run an agent begin alike."""
    table = Table([])
    agent, asked = desk("found")

    async def step() -> str:
        async with agent.run_stream("Where is it?", message_history=table.load()) as result:
            output = await result.get_output()
        table.save(result.all_messages())
        return output

    assert attempts(step, 3) == ["found"] * 3
    assert texts(table.load()) == ["Where is it?", "found"]
    assert asked == {"local": 1}


def test_after_a_discarded_journal_the_new_answer_stands_in_the_place_of_the_old() -> None:
    """The run is made again, and its messages are its own."""
    table, hop = Table(turn("before")), JournalledHop()
    agent, asked = desk("unused", "found")

    async def step() -> str:
        result = await agent.run(f"Where is it, {asked['local']}?", message_history=table.load())
        table.save(result.all_messages())
        return result.output

    attempts(step, 1, hop=hop)
    hop.store._records.hops["w.0"].journal.clear()
    attempts(step, 1, hop=hop)

    assert texts(table.load()) == ["ask before", "say before", "Where is it, 1?", "found"]
    assert asked == {"local": 2}


def test_an_id_of_its_own_that_a_step_gives_to_its_run_counts_as_well() -> None:
    """It is as much the same in every attempt; in another run's history it stays refused."""
    table = Table([])
    agent, asked = desk("found", "more")

    async def step() -> str:
        result = await agent.run("Where is it?", message_history=table.load(), run_id="mine")
        table.save(result.all_messages())
        return result.output

    assert attempts(step, 2) == ["found"] * 2
    assert asked == {"local": 1}
    with pytest.raises(UserError, match="already appears"):
        attempts(step, 1)


def test_outside_a_hop_nothing_changes() -> None:
    """Histories are what pydantic-ai makes of them."""
    agent, _ = desk("found", "more")

    async def two() -> AgentRunResult[str]:
        first = await agent.run("a", run_id="mine")
        return await agent.run("b", run_id="mine", message_history=first.all_messages())

    with pytest.raises(UserError, match="already appears"):
        asyncio.run(two())
