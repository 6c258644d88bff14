"""The contestants of `journal.py`: one agent whose calls are recorded by nobody, by our journal or by DBOS.

All of them call the same model and the same tool with the same texts, in the same process and event loop. They differ
in what is attached to the agent and what surrounds its run.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import redis
from pydantic_ai import Agent
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.usage import RequestUsage

from paigeant_celery.agents.durability import CeleryDurability
from paigeant_celery.journal.hop_journal import HopJournal
from paigeant_celery.journal.hop_waits import HopWaits
from paigeant_celery.journal.scope import journalling
from paigeant_celery.store.port import Claim, Claimed, Closing, HopRecord, NewWorkflow
from paigeant_celery.store.redis import RedisStore

__all__ = ["Attempt", "Bare", "Bytes", "Contestant", "Dbos", "Journal", "Pinging", "destination"]

AGENT = "walker"
PREFIX, OWNER = "bench", "bench"
LEASE = 3600.0  # seconds; nobody renews it here
LOOK_EVERY = 0.05  # seconds between two looks at whether a DBOS workflow has ended; not part of any measured time

TEXT = "What a model or a tool says is about as long as this sentence, which stands here twice. " * 2
MODULUS = 1_000_003

Tool: TypeAlias = Callable[[int, int], Awaitable[dict[str, Any]]]


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """The result of one attempt of a run: its output, the calls that were made in it, and how long it took."""

    output: str
    model_calls: int
    tool_calls: int
    seconds: float

    @property
    def calls(self) -> int:
        """How many calls were made."""
        return self.model_calls + self.tool_calls


@dataclass(frozen=True, kw_only=True)
class Bytes:
    """What a store holds of a run: how many records, the bytes of their texts, and how much space they take."""

    records: int
    text: int
    held: int


class Contestant(Protocol):
    """What runs the agent. A run and its replay follow each other."""

    name: str

    async def run(self, tool_calls: int, history: int) -> Attempt:
        """Run the agent in a new hop or workflow."""
        ...

    async def replay(self) -> Attempt | None:
        """Run it again in the same hop or workflow, as after a crash; None if nothing is recorded."""
        ...

    def stored(self) -> Bytes | None:
        """Say what is recorded of the run, or None if nothing is."""
        ...


class Walker:
    """The agent, and counters of the calls that reach its model and its tool; each call waits for `pause`."""

    def __init__(
        self,
        *,
        recording: Callable[[Tool], Tool] = lambda tool: tool,
        pause: Callable[[], Awaitable[object]] | None = None,
        **arguments: Any,
    ) -> None:
        self._made, self._pause = Counter[str](), pause
        self.agent = Agent(FunctionModel(self._answer, model_name="stub"), name=AGENT, **arguments)
        self.agent.tool_plain(recording(self._tool()))

    async def attempt(self, tool_calls: int, history: int, **arguments: Any) -> Attempt:
        """Run the agent with a number of messages before its prompt."""
        messages = _messages(history)
        self._made.clear()
        begun = time.perf_counter()
        result = await self.agent.run(
            f"0 {tool_calls}", message_history=messages or None, infer_name=False, **arguments
        )
        seconds = time.perf_counter() - begun
        made = self._made
        return Attempt(output=result.output, model_calls=made["model"], tool_calls=made["tool"], seconds=seconds)

    def _tool(self) -> Tool:
        async def advance(number: int, left: int) -> dict[str, Any]:
            """Take one step."""
            await self._make("tool")
            return {"number": _next(number, left), "left": left - 1, "note": TEXT}

        return advance

    async def _answer(self, messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        await self._make("model")
        number, left = _standing(messages[-1])
        usage = RequestUsage(input_tokens=100, output_tokens=10)  # otherwise the stub counts all words at each request
        if not left:
            return ModelResponse(parts=[TextPart(f"at {number}")], usage=usage)
        call = ToolCallPart("advance", {"number": number, "left": left}, tool_call_id=f"call-{left}")
        return ModelResponse(parts=[TextPart(TEXT), call], usage=usage)

    async def _make(self, kind: str) -> None:
        self._made[kind] += 1
        if self._pause is not None:
            await self._pause()


class Bare:
    """The agent without durability."""

    name = "bare"

    def __init__(self, *, pause: Callable[[], Awaitable[object]] | None = None) -> None:
        self._walker = Walker(pause=pause)

    async def run(self, tool_calls: int, history: int) -> Attempt:
        return await self._walker.attempt(tool_calls, history)

    async def replay(self) -> Attempt | None:
        return None

    def stored(self) -> Bytes | None:
        return None


class Pinging(Bare):
    """The agent without durability; each call makes an empty request to a server, in a thread like our store's."""

    name = "ping"

    def __init__(self, url: str) -> None:
        self._redis = redis.Redis.from_url(url)
        super().__init__(pause=lambda: asyncio.to_thread(self._redis.ping))

    def close(self) -> None:
        """Give the connection back."""
        self._redis.close()


class Journal:
    """Ours: in a claimed hop, with what a worker attaches to a step's agent."""

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self._store = RedisStore(url, prefix=PREFIX, lease=LEASE, ttl=LEASE)
        self._redis = redis.Redis.from_url(url, decode_responses=True)
        self._walker, self._durability = Walker(), CeleryDurability[Any](name=AGENT)
        self._hop = HopRecord(hop_id="", queue="q", envelope="{}", digest="d")
        self._closing = Closing(hop_id="", owner=OWNER, fence=0)
        self._hops, self._size = 0, (0, 0)

    def close(self) -> None:
        """Give the connections back."""
        self._store.close()
        self._redis.close()

    def server(self) -> str:
        """Say what the store's server is."""
        found: Any = self._redis.info("server")
        name = found.get("server_name", "redis")
        return f"{name} {found.get(f'{name}_version', found['redis_version'])}"

    async def run(self, tool_calls: int, history: int) -> Attempt:
        self._hops, self._size = self._hops + 1, (tool_calls, history)
        workflow = f"w{self._hops:06}"
        self._hop = replace(self._hop, hop_id=f"{workflow}.0")
        self._store.start(NewWorkflow(correlation_id=workflow, content="c", hop=self._hop))
        self._claim()
        return await self._attempt({})

    async def replay(self) -> Attempt | None:
        self._store.release(self._closing)
        self._claim()
        begun = time.perf_counter()
        records = self._store.journal(self._hop.hop_id)
        reading = time.perf_counter() - begun
        attempt = await self._attempt(records)
        return replace(attempt, seconds=attempt.seconds + reading)

    def stored(self) -> Bytes | None:
        key = f"{PREFIX}:journal:{self._hop.hop_id}"
        records: Any = self._redis.hgetall(key)
        held: Any = self._redis.memory_usage(key, samples=0)
        return Bytes(records=len(records), text=_text_bytes(records.items()), held=int(held))

    def _claim(self) -> None:
        token = f"{self._hop.hop_id}-{self._closing.fence}"
        claim = Claim(hop_id=self._hop.hop_id, owner=OWNER, token=token, max_attempts=9, digest=self._hop.digest)
        claimed = self._store.claim(claim)
        assert isinstance(claimed, Claimed), claimed
        self._closing = Closing(hop_id=self._hop.hop_id, owner=OWNER, fence=claimed.fence)

    async def _attempt(self, records: Mapping[str, str]) -> Attempt:
        waits = HopWaits(store=self._store, closing=self._closing, known=(), now=lambda: datetime.now(UTC))
        journal = HopJournal(store=self._store, closing=self._closing, step_id="s", records=records, waits=waits)
        with journalling(journal):
            return await self._walker.attempt(*self._size, capabilities=[self._durability])


class Dbos:
    """`DBOSDurability` in a DBOS workflow, on SQLite; the tool is a step, as the manual says.

    The time is that of the agent's run inside the workflow. To be replayed, the workflow is held when the run has
    ended, then cancelled and resumed under its own id. There may be only one in a process.
    """

    name = "dbos"

    def __init__(self, folder: Path) -> None:
        from dbos import DBOS
        from pydantic_ai.durable_exec.dbos import DBOSDurability

        self._file = folder / "dbos.sqlite"
        # It reports each cancelled workflow as an error.
        DBOS(config={"name": "bench", "system_database_url": f"sqlite:///{self._file}", "log_level": "CRITICAL"})
        self._dbos: Any = DBOS
        self._walker = Walker(recording=DBOS.step(), capabilities=[DBOSDurability()])
        self._workflow: Any = DBOS.workflow(name="walk")(self._body())
        self._attempts: list[Attempt] = []
        self._workflows, self._size_before = 0, 0

    def launch(self) -> None:
        """Start its threads and make its database; on the event loop of the runs."""
        self._dbos.launch()

    def close(self) -> None:
        """End its threads."""
        self._dbos.destroy()

    async def run(self, tool_calls: int, history: int) -> Attempt:
        from dbos import SetWorkflowID

        self._workflows, self._size_before = self._workflows + 1, self._file.stat().st_size
        self._ended, self._gate = asyncio.Event(), asyncio.Event()
        with SetWorkflowID(f"w{self._workflows:06}"):
            self._handle = await self._dbos.start_workflow_async(self._workflow, tool_calls, history)
        await self._ended.wait()
        return self._attempts[-1]

    async def replay(self) -> Attempt | None:
        from dbos import error

        await self._dbos.cancel_workflow_async(self._handle.workflow_id)
        self._gate.set()
        with suppress(error.DBOSAwaitedWorkflowCancelledError):
            await self._handle.get_result(polling_interval_sec=LOOK_EVERY)
        resumed = await self._dbos.resume_workflow_async(self._handle.workflow_id)
        await resumed.get_result(polling_interval_sec=LOOK_EVERY)
        return self._attempts[-1]

    def stored(self) -> Bytes | None:
        with closing(sqlite3.connect(self._file)) as connection:
            query = "SELECT * FROM operation_outputs WHERE workflow_uuid = ?"
            rows = connection.execute(query, (self._handle.workflow_id,)).fetchall()
        return Bytes(records=len(rows), text=_text_bytes(rows), held=self._file.stat().st_size - self._size_before)

    def _body(self) -> Callable[[int, int], Awaitable[str]]:
        async def walk(tool_calls: int, history: int) -> str:  # a method cannot take a decorator of DBOS
            attempt = await self._walker.attempt(tool_calls, history)
            self._attempts.append(attempt)
            if not self._gate.is_set():  # the resumed one runs on another event loop, and passes
                self._ended.set()
                await self._gate.wait()
            return attempt.output

        return walk


def destination(tool_calls: int) -> str:
    """Return what the agent must answer."""
    number = 0
    for left in range(tool_calls, 0, -1):
        number = _next(number, left)
    return f"at {number}"


def _next(number: int, left: int) -> int:
    return (number * 31 + left) % MODULUS


def _standing(message: ModelMessage) -> tuple[int, int]:
    """Return how far the walk is, and how many of its steps are left."""
    part = message.parts[-1]
    if isinstance(part, ToolReturnPart):
        content: Any = part.content
        return int(content["number"]), int(content["left"])
    assert isinstance(part, UserPromptPart)
    number, left = str(part.content).split()
    return int(number), int(left)


def _messages(count: int) -> list[ModelMessage]:
    asked = ModelRequest(parts=[UserPromptPart(TEXT)])
    said = ModelResponse(parts=[TextPart(TEXT)], usage=RequestUsage(input_tokens=100, output_tokens=10))
    return [asked if index % 2 == 0 else said for index in range(count)]


def _text_bytes(rows: Iterable[Sequence[object]]) -> int:
    return sum(len(str(value).encode()) for row in rows for value in row if value is not None)
