"""Durable operations of capabilities, and calls of a workspace: replayed wherever in a run they are made."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pydantic_ai import Agent, ModelRetry, RunContext, TextOutput
from pydantic_ai.capabilities import AbstractCapability, LocalWorkspace, durable_operation
from pydantic_ai.messages import ModelResponse, TextPart
from pydantic_ai.run import AgentRunResult
from pydantic_ai.workspaces import LocalWorkspaceBackend, WorkspaceBackend, WorkspaceRef

from paigeant_celery.agents.durability import CeleryDurability
from paigeant_celery.core.errors import HopLost
from tests.support.journalled_hop import JournalledHop, calls, history, scripted

pytestmark = pytest.mark.anyio

AT_ONCE = 5  # calls of three tools and of an event in flight when the worker dies, and one that had failed

HANDED_ON = {"wrap_run": (), "wrap_node_run": ("node",), "wrap_model_request": ("request_context",)}
HOOKS = sorted(
    name
    for name in dir(AbstractCapability)
    if name.startswith(("before_", "after_", "wrap_", "on_", "prepare_"))
    and asyncio.iscoroutinefunction(getattr(AbstractCapability, name))
)


RECOVERING = {"on_model_request_error", "on_tool_execute_error"}


class Notes(AbstractCapability[Any]):
    """Writes a note, by an operation and into the workspace, at each place that a run passes."""

    id = "notes"

    def __init__(self, effects: Counter[str], hooks: list[str]) -> None:
        self.effects, self.hooks = effects, hooks

    @durable_operation(name="write")
    async def write(self, ctx: RunContext[Any], place: str) -> str:
        self.effects[f"note {place}"] += 1
        return f"noted {place}"

    async def pass_by(self, ctx: RunContext[Any], hook: str, place: str = "") -> None:
        if hook not in self.hooks:
            return
        place = f"{hook}{place}"
        assert await self.write(ctx, place) == f"noted {place}"
        if ctx.workspace.attached:
            await ctx.workspace.write_bytes(f"{place}.txt", place.encode())


class CountingBackend(LocalWorkspaceBackend):
    """A folder that counts what is written."""

    effects: Counter[str]

    async def write_bytes(self, path: str, data: bytes) -> None:
        self.effects[f"file {Path(path).name}"] += 1
        await super().write_bytes(path, data)


class Folder(LocalWorkspace[Any]):
    """A workspace in such a folder."""

    effects: Counter[str]

    def get_workspace(self, ctx: RunContext[Any], *, ref: WorkspaceRef | None) -> WorkspaceBackend | None:
        backend = CountingBackend(self.working_dir)
        backend.effects = self.effects
        return backend


def hook(name: str) -> Callable[..., Awaitable[Any]]:
    """Return a hook that passes by: one that wraps does so twice, and one for errors recovers from them."""
    argument = HANDED_ON.get(name, ("output",) if "output" in name else ("args",))

    async def wrap(self: Notes, ctx: RunContext[Any], *, handler: Callable[..., Awaitable[Any]], **given: Any) -> Any:
        await self.pass_by(ctx, name, " before")
        result = await handler(*(given[wanted] for wanted in argument))
        await self.pass_by(ctx, name, " after")
        return result

    async def plain(self: Notes, ctx: RunContext[Any], *arguments: Any, **given: Any) -> Any:
        await self.pass_by(ctx, name)
        if name == "on_model_request_error" and isinstance(given["error"], ConnectionError):
            return ModelResponse(parts=[TextPart("bad")])
        if name == "on_tool_execute_error" and isinstance(given["error"], ValueError):
            return "recovered"
        return await getattr(AbstractCapability, name)(self, ctx, *arguments, **given)

    return wrap if name.startswith("wrap_") else plain


def passing(hooks: list[str]) -> type[Notes]:
    """Return a capability with these hooks and those that recover."""
    return type("Passing", (Notes,), {name: hook(name) for name in {*hooks, *RECOVERING}})


def noting(effects: Counter[str], folder: Path, hooks: list[str]) -> Agent[None, str]:
    """Return an agent whose run passes every hook: parallel tools, a failing tool, a failing model, bad output."""

    def shout(text: str) -> str:
        if text == "bad":
            raise ModelRetry("again")
        return text.upper()

    model = scripted(effects, calls("look", "fail", "retry"), ConnectionError("away"), calls("look"), "done")
    workspace = Folder(folder)
    workspace.effects = effects
    agent = Agent(
        model,
        name="noting",
        output_type=TextOutput(shout),
        capabilities=[passing(hooks)(effects, hooks), workspace, CeleryDurability[None]()],
    )

    @agent.tool_plain
    def look() -> str:
        effects["look"] += 1
        return "seen"

    @agent.tool_plain
    def fail() -> str:
        effects["fail"] += 1
        raise ValueError("broken")

    @agent.tool_plain
    def retry() -> str:
        effects["retry"] += 1
        raise ModelRetry("again")

    return agent


def said(result: AgentRunResult[Any]) -> Any:
    """Return all messages without the times of answers, which each hop has of its own."""
    messages = history(result)
    for message in messages:
        message.pop("timestamp", None)
    return messages


async def crashes(folder: Path, hooks: list[str], *, every: int) -> None:
    """Let a worker die after every so many records, and compare what the next one makes of it with a whole run."""
    whole: Counter[str] = Counter()
    with JournalledHop().attempt() as journal:
        plain = await noting(whole, folder, hooks).run("go")
    assert journal.made > 5

    for cut in range(0, journal.made + 1, every):
        effects: Counter[str] = Counter()
        hop = JournalledHop()
        with hop.attempt(cut_after=cut), suppress(HopLost):
            await noting(effects, folder, hooks).run("go")
        with hop.attempt() as journal:
            result = await noting(effects, folder, hooks).run("go")

        assert journal.fault is None
        assert (result.output, said(result), result.usage) == (plain.output, said(plain), plain.usage)
        assert not whole - effects
        assert (effects - whole).total() <= AT_ONCE, (cut, effects - whole)


async def test_a_run_goes_on_from_a_crash_at_an_operation(tmp_path: Path) -> None:
    """Only what was in flight is made again, and the code is not suspected, however early or late it was made."""
    some = ["before_run", "wrap_run", "after_run", "before_model_request", "wrap_tool_execute", "after_output_process"]
    await crashes(tmp_path, some, every=5)


@pytest.mark.proof
@pytest.mark.parametrize("hook", HOOKS)
async def test_a_run_goes_on_from_every_crash_at_an_operation(tmp_path: Path, hook: str) -> None:
    """The same for each hook, at every record."""
    await crashes(tmp_path, [hook], every=1)


class Teller(AbstractCapability[Any]):
    """Counts what its operation is asked, in which order, and answers with it."""

    id = "teller"

    def __init__(self) -> None:
        self.asked: list[str] = []

    @durable_operation(name="tell")
    async def tell(self, ctx: RunContext[Any], word: str) -> str:
        self.asked.append(word)
        return f"told {word}"


class Listener(Teller):
    """Tells of each tool with the context of the run, as a workspace does: it does not name the tool call."""

    def __init__(self, hop: JournalledHop, quick_is_told: asyncio.Event) -> None:
        super().__init__()
        self.hop, self.quick_is_told = hop, quick_is_told

    async def before_run(self, ctx: RunContext[Any]) -> None:
        self.ctx = ctx

    async def after_tool_execute(self, ctx: RunContext[Any], *, call: Any, result: Any, **_: Any) -> Any:
        assert await self.tell(self.ctx, call.tool_name) == f"told {call.tool_name}"
        if call.tool_name == "quick" and not self.quick_is_told.is_set():
            self.hop.store.left = 1  # the worker dies when the slow tool is recorded and not yet told of
            self.quick_is_told.set()
        return result


async def test_operations_are_known_by_their_arguments_in_any_order() -> None:
    """Parallel tools end in another order when they are replayed: each gets its own answer, and the new one is made."""
    hop, quick_is_told = JournalledHop(), asyncio.Event()
    listener = Listener(hop, quick_is_told)
    model = scripted(Counter(), calls("slow", "quick"), "done")
    agent: Agent[None, str] = Agent(model, name="a", capabilities=[listener, CeleryDurability[None]()])

    @agent.tool_plain
    async def slow() -> str:
        await quick_is_told.wait()
        return "slow"

    @agent.tool_plain
    async def quick() -> str:
        return "quick"

    with hop.attempt(), pytest.raises(HopLost):
        await agent.run("go")
    assert listener.asked == ["quick", "slow"]
    listener.asked.clear()

    with hop.attempt() as journal:
        await agent.run("go")

    assert listener.asked == ["slow"]
    assert journal.fault is None


async def test_an_operation_whose_arguments_differ_in_each_attempt_is_replayed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Before a recorded answer of the model every operation was made, so its arguments show only what drifted."""

    class Random(Teller):
        async def before_run(self, ctx: RunContext[Any]) -> None:
            await self.tell(ctx, "same")
            await self.tell(ctx, uuid4().hex[:8])

    teller, hop = Random(), JournalledHop()
    agent = Agent(scripted(Counter(), "done"), name="a", capabilities=[teller, CeleryDurability[None]()])
    with hop.attempt():
        await agent.run("go")
    with hop.attempt() as journal, caplog.at_level(logging.WARNING):
        await agent.run("go")

    assert (len(teller.asked), journal.made) == (2, 0)
    assert "although its arguments changed" in caplog.text


@pytest.mark.parametrize(
    "made",
    [
        pytest.param(lambda: datetime.now(UTC).isoformat(), id="a time"),
        pytest.param(lambda: f"INSERT ({str(uuid4())!r}, '{datetime.now():%Y-%m-%d %H:%M:%S}')", id="within a text"),
        pytest.param(lambda: {"id": uuid4().hex, "at": [time.time(), time.time_ns()]}, id="in containers"),
        pytest.param(lambda: time.perf_counter() % 1.0, id="a duration"),
        pytest.param(lambda: {str(uuid4()): 1}, id="a key"),
    ],
)
async def test_what_each_attempt_makes_anew_does_not_make_an_operation_another_one(
    made: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    """It is booked once at the end of a run, even if it is told when, how long it took and with a new id."""

    class Booking(Teller):
        @durable_operation(name="book")
        async def book(self, ctx: RunContext[Any], output: str, details: Any) -> int:
            self.asked.append(output)
            return len(self.asked)

        async def after_run(self, ctx: RunContext[Any], *, result: Any) -> Any:
            assert [await self.book(ctx, word, made()) for word in ("one", "two")] == [1, 2]
            return result

    teller, hop = Booking(), JournalledHop()
    agent = Agent(scripted(Counter(), "done"), name="a", capabilities=[teller, CeleryDurability[None]()])
    for _ in range(2):
        with hop.attempt() as journal, caplog.at_level(logging.WARNING):
            await agent.run("go")

    assert (teller.asked, journal.made) == (["one", "two"], 0)
    assert caplog.text == ""


async def test_times_and_messages_do_not_make_an_operation_another_one() -> None:
    """A history has the times of each attempt: what summarized it is paid for once."""

    class Reader(Teller):
        @durable_operation(name="read")
        async def read(self, ctx: RunContext[Any], messages: list[Any], at: datetime) -> int:
            self.asked.append("read")
            return len(messages)

        async def before_model_request(self, ctx: RunContext[Any], request_context: Any) -> Any:
            await self.read(ctx, request_context.messages, datetime.now(UTC))
            return request_context

    for cut in range(5):
        teller, hop = Reader(), JournalledHop()
        model = scripted(Counter(), calls("look"), "done")
        agent = Agent(model, name="a", capabilities=[teller, CeleryDurability[None]()])
        agent.tool_plain(lambda: "seen", name="look")
        with hop.attempt(cut_after=cut), suppress(HopLost):
            await agent.run("go")
        with hop.attempt():
            await agent.run("go")
        assert len(teller.asked) == (3 if cut in (0, 3) else 2)  # the one in flight is made again


async def test_what_an_error_hook_did_is_not_the_answer_of_another_operation() -> None:
    """A retry gets further: operations that only the failed attempt made are left aside."""

    class Errors(Teller):
        async def on_run_error(self, ctx: RunContext[Any], *, error: BaseException) -> Any:
            await self.tell(ctx, "failed")
            raise error

        async def after_run(self, ctx: RunContext[Any], *, result: Any) -> Any:
            assert await self.tell(ctx, "ended") == "told ended"
            return result

    teller, hop = Errors(), JournalledHop()
    failures = [ConnectionError("away")]
    agent = Agent(scripted(Counter(), "done"), name="a", capabilities=[teller, CeleryDurability[None]()])

    @agent.output_validator
    def flaky(output: str) -> str:
        if failures:
            raise failures.pop()
        return output

    with hop.attempt(), pytest.raises(ConnectionError):
        await agent.run("go")
    with hop.attempt() as journal:
        result = await agent.run("go")

    assert (result.output, teller.asked, journal.made) == ("done", ["failed", "ended"], 1)


async def test_an_operation_of_an_earlier_version_is_known_by_its_order() -> None:
    """Journals of a rolling deploy say nothing of arguments."""

    class Twice(Teller):
        async def before_run(self, ctx: RunContext[Any]) -> None:
            assert [await self.tell(ctx, word) for word in ("one", "two")] == ["told one", "told two"]

    teller, hop = Twice(), JournalledHop()
    agent = Agent(scripted(Counter(), "done"), name="a", capabilities=[teller, CeleryDurability[None]()])
    with hop.attempt(), suppress(HopLost):
        await agent.run("go")
    old = JournalledHop()
    with old.attempt():
        old.keep({key: re.sub(r',?"arguments(/2)?":"[0-9a-f]*"', "", text) for key, text in hop.records.items()})
    with old.attempt() as journal:
        await agent.run("go")

    assert (teller.asked, journal.made) == (["one", "two"], 0)


async def test_an_operation_that_the_code_did_not_make_before_is_made_and_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A new version may add one in the middle: it may run beside a recorded call, so nothing is parked."""

    class New(Teller):
        new = False

        async def before_run(self, ctx: RunContext[Any]) -> None:
            if self.new:
                await self.tell(ctx, "new")

    teller, hop = New(), JournalledHop()
    agent = Agent(scripted(Counter(), "done"), name="a", capabilities=[teller, CeleryDurability[None]()])
    with hop.attempt():
        await agent.run("go")
    teller.new = True
    with hop.attempt() as journal, caplog.at_level(logging.WARNING):
        await agent.run("go")

    assert (teller.asked, journal.made, journal.fault) == (["new"], 1, None)
    [record] = caplog.records
    assert record.__dict__["action"] == "replay_drift"
    assert "the operation call 'teller.tell' in step 0 of run 'a:0' is made although" in record.getMessage()
