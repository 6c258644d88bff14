"""A hop whose journal is kept in a real store, for tests of what runs inside a hop."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TypeAlias

from pydantic_ai.messages import ModelMessage, ModelMessagesTypeAdapter, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel
from pydantic_ai.run import AgentRunResult

from paigeant_celery.core.budget import Usage
from paigeant_celery.journal.event_feed import EventFeed
from paigeant_celery.journal.hop_journal import HopJournal
from paigeant_celery.journal.hop_waits import HopWaits
from paigeant_celery.journal.scope import journalling
from paigeant_celery.store.memory import MemoryStore
from paigeant_celery.store.port import Claim, Claimed, Closing, HopRecord, NewWorkflow, Totals

__all__ = ["JournalledHop", "calls", "history", "scripted"]

Answer: TypeAlias = str | Sequence[ToolCallPart] | Exception

HOP = HopRecord(hop_id="w.0", queue="q", envelope="e", digest="d")


class CutOff(MemoryStore):
    """A store that lets the worker write a given number of records and then takes the hop away from it."""

    def __init__(self) -> None:
        super().__init__(lease=60, ttl=60)
        self.left: int | None = None

    def record(
        self, closing: Closing, records: Mapping[str, str], *, spent: Mapping[str, Usage] | None = None
    ) -> Totals | bool:
        """Record, or answer as to an overtaken owner."""
        if self.left is not None:
            if self.left == 0:
                return False
            self.left -= 1
        return super().record(closing, records, spent=spent)


class JournalledHop:
    """The hop `w.0`, step `draft`, attempt after attempt."""

    def __init__(self, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.store, self._now = CutOff(), now
        self.store.start(NewWorkflow(correlation_id="w", content="c", hop=HOP))
        self.attempts = 0
        self.closing: Closing | None = None

    @contextmanager
    def attempt(
        self,
        *,
        cut_after: int | None = None,
        stopping: Callable[[], bool] = lambda: False,
        feed: EventFeed | None = None,
        journal: type[HopJournal] = HopJournal,
    ) -> Iterator[HopJournal]:
        """Run one attempt inside the block; nothing more is recorded after `cut_after` records."""
        if self.closing is not None:
            self.store.release(self.closing)
        self.attempts += 1
        claim = Claim(hop_id="w.0", owner="o", token=str(self.attempts), max_attempts=100, digest="d")
        claimed = self.store.claim(claim)
        assert isinstance(claimed, Claimed)
        self.closing = Closing(hop_id="w.0", owner="o", fence=claimed.fence)
        self.store.left = cut_after
        made = journal(
            store=self.store,
            closing=self.closing,
            step_id="draft",
            records=self.store.journal("w.0"),
            waits=HopWaits(store=self.store, closing=self.closing, known=claimed.waits, now=self._now),
            stopping=stopping,
            feed=feed,
        )
        with journalling(made):
            yield made

    def keep(self, records: Mapping[str, str]) -> None:
        """Record what another process did in the current attempt."""
        assert self.closing is not None
        assert self.store.record(self.closing, records)

    @property
    def records(self) -> Mapping[str, str]:
        """What is recorded of the hop."""
        return self.store.journal("w.0")


def calls(*names: str, **arguments: Any) -> list[ToolCallPart]:
    """Return the answer of a model that calls tools, each with the same arguments; the ids are a provider's."""
    return [ToolCallPart(name, arguments, f"{name}-{number}") for number, name in enumerate(names, 1)]


def scripted(asked: Counter[str], *answers: Answer, name: str = "local") -> FunctionModel:
    """Return a model that gives these answers in order in each run, and counts its requests in `asked`."""

    def answer(messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
        asked[name] += 1
        given = answers[sum(isinstance(message, ModelResponse) for message in messages)]
        if isinstance(given, Exception):
            raise given
        return ModelResponse(parts=[TextPart(given)] if isinstance(given, str) else list(given))

    async def stream(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str | dict[int, DeltaToolCall]]:
        for index, part in enumerate(answer(messages, info).parts):
            if isinstance(part, TextPart):
                for letter in part.content:
                    yield letter
            elif isinstance(part, ToolCallPart):
                yield {index: DeltaToolCall(part.tool_name, part.args_as_json_str(), tool_call_id=part.tool_call_id)}

    return FunctionModel(answer, stream_function=stream, model_name=name)


def history(result: AgentRunResult[Any]) -> Any:
    """Return all messages without the times of the parts that each attempt makes again."""
    messages = ModelMessagesTypeAdapter.dump_python(result.all_messages(), mode="json")
    for message in messages:
        if message["kind"] == "request":
            message.pop("timestamp", None)
            for part in message["parts"]:
                part.pop("timestamp", None)
        for failed in message.get("failed_attempts") or ():
            del failed["timestamp"], failed["duration"]
    return messages
