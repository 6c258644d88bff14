"""Running a row's agent: plain, in a hop, and in a hop whose process dies at one of its records."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Set
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

from pydantic_ai.agent import AbstractAgent
from pydantic_ai.messages import ModelMessagesTypeAdapter
from pydantic_ai.run import AgentRunResult
from pydantic_core import to_jsonable_python

from paigeant_celery.activities.context import WorkflowContext, entered, open_context
from paigeant_celery.activities.port import StepLimits
from paigeant_celery.agents.activity import AgentActivity
from paigeant_celery.core.message import PaigeantMessage
from paigeant_celery.core.slip import ActivitySpec, ExecutedStep, RoutingSlip, name_steps
from paigeant_celery.journal.hop_journal import HopJournal
from paigeant_celery.journal.record import CallKey, Record
from tests.contract.capabilities.row import Row
from tests.contract.capabilities.world import Unit, World, current_unit, in_unit
from tests.support.journalled_hop import JournalledHop

__all__ = ["Death", "MortalJournal", "Seen", "Trial", "dying", "in_a_hop", "late", "plain", "seen_in"]

DIED = "it died"
WITHIN = 60.0  # seconds for one attempt, of which one needs more than one only to build schemas
LIMITS = StepLimits(max_visits=16, max_output_size=16 * 1024 * 1024)
NOON = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)

Death: TypeAlias = tuple[Literal["before", "after"], int]  # the process dies before or after the nth record is written


@dataclass(frozen=True)
class Seen:
    """What can be seen of a run from outside, without times."""

    output: Any = None
    messages: Any = None
    usage: Any = None
    ids: Any = None
    error: Any = None


@dataclass
class Trial:
    """A row that was tried once: what was seen in the last attempt and in the first, and what was done in all."""

    world: World
    seen: Seen
    first: Seen | None = None
    made: int = 0  # calls that the last attempt made and recorded


def plain(row: Row) -> Trial:
    """Run a row outside any hop."""
    world = World()
    return Trial(world, asyncio.run(_seen(row, world, lambda: _run_plain(row, world))))


def in_a_hop(row: Row) -> Trial:
    """Run a row in a hop that nothing hits."""
    return _tried(row, JournalledHop(), World(), None)


def late(row: Row) -> Trial:
    """Run a row, lose its result behind the last call, and run it again."""
    hop, world = JournalledHop(), World()
    first = _tried(row, hop, world, None)
    world.attempt += 1
    return replace(_tried(row, hop, world, None), first=first.seen)


def dying(row: Row, death: Death) -> Trial:
    """Run a row in a process that dies, and run it again to its end."""
    hop, world = JournalledHop(), World()
    first = _tried(row, hop, world, death)
    assert first.seen.error == DIED, f"{row.name} did not get to {death}"
    world.attempt += 1
    return _tried(row, hop, world, None)


class MortalJournal(HopJournal):
    """A journal whose process may die at one of its records, and then goes no further."""

    death: Death | None = None

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.died = asyncio.Event()
        self.ended = 0
        self.units: dict[CallKey, Unit] = {}

    @asynccontextmanager
    async def making(self, key: CallKey, *, may_wait: bool = False) -> AsyncIterator[None]:
        async with super().making(key, may_wait=may_wait):
            with in_unit(Unit()):
                yield

    async def add(self, key: CallKey, record: Record, **more: Any) -> int | None:
        self.check_not_lost()
        self._of_this_unit(key)
        self.ended += 1
        place = self.ended  # several may be written at once
        if self.death == ("before", place):
            await self.die()
        number = await super().add(key, record, **more)
        if (unit := current_unit()) is not None and str(key) not in self.held:
            self.is_recorded(unit)
        if self.death == ("after", place):
            await self.die()
        return number

    def add_later(self, key: CallKey, record: Record, **more: Any) -> int | None:
        self._of_this_unit(key)
        return super().add_later(key, record, **more)

    def let_go(self, written: Mapping[str, str]) -> None:
        super().let_go(written)
        for key, unit in self.units.items():
            if str(key) in written:
                self.is_recorded(unit)

    def _of_this_unit(self, key: CallKey) -> None:
        if (unit := current_unit()) is not None:
            self.units[key] = unit

    def is_recorded(self, unit: Unit) -> None:
        """Note that what was done in a unit must not be done again."""
        unit.recorded = True

    async def die(self) -> None:
        """Go no further."""
        self.lose()
        self._held.clear()  # no timer writes it any more
        self.died.set()
        await asyncio.Event().wait()


def _tried(row: Row, hop: JournalledHop, world: World, death: Death | None) -> Trial:
    async def attempt() -> Trial:
        with hop.attempt(journal=MortalJournal) as journal:
            assert isinstance(journal, MortalJournal)
            journal.death = death
            asyncio.get_running_loop().set_exception_handler(_of_a_dead_process)
            running = asyncio.create_task(_seen(row, world, lambda: _run_step(row, world)))
            dying = asyncio.create_task(journal.died.wait())
            await asyncio.wait({running, dying}, timeout=WITHIN, return_when=asyncio.FIRST_COMPLETED)
            seen = Seen(error=DIED) if journal.died.is_set() else Seen(error="it did not end")
            if running.done():
                seen = running.result()
                journal.write_held_now()  # as before the step is tried again; `dying` does not get here
            for task in (running, dying):
                task.cancel()
            await asyncio.wait({running, dying}, timeout=WITHIN)
            for key, unit in journal.units.items():
                unit.recorded |= str(key) in hop.records
            return Trial(world, seen, made=journal.made)

    return asyncio.run(attempt())


def _of_a_dead_process(loop: object, said: object) -> None:
    """Report nothing of tasks that were left behind."""


async def _run_plain(row: Row, world: World) -> Any:
    assert row.make is not None, "nobody can try it"
    made = row.make(world)
    return await (made.run(row.prompt, deps=row.deps) if isinstance(made, AbstractAgent) else made())


async def _run_step(row: Row, world: World) -> Any:
    context = await _context(row)
    with entered(context):
        return await _run_in(row, world, context)


async def seen_in(row: Row, world: World, context: WorkflowContext) -> Seen:
    """Run a row in the step whose context this is."""
    return await _seen(row, world, lambda: _run_in(row, world, context))


async def _run_in(row: Row, world: World, context: WorkflowContext) -> Any:
    assert row.make is not None, "nobody can try it"
    made = row.make(world)
    if not isinstance(made, AbstractAgent):
        return await made()
    results: list[Any] = []
    run = made.run

    async def kept(*args: Any, **kwargs: Any) -> Any:
        results.append(await run(*args, **kwargs))
        return results[-1]

    made.run = kept  # type: ignore[method-assign]  # the step gives only its output
    activity = AgentActivity(made, maker=sys._getframe(), name="row")
    await activity.run(_step(row), activity.check(_step(row)), context, limits=LIMITS)
    return results[-1]


def _step(row: Row) -> ActivitySpec:
    return ActivitySpec("row", row.prompt, row.deps, step_id="draft")


async def _context(row: Row) -> WorkflowContext:
    slip = RoutingSlip(itinerary=name_steps((_step(row),)), executed=())
    message = PaigeantMessage(message_id="w.0", correlation_id="w", created_at=NOON, sent_at=NOON, slip=slip)
    return await open_context(message, attempt=1, read_output=_nothing, read_data=_no_data, read_step=_no_step)


async def _nothing(record: object) -> object:
    return None


async def _no_step(step_id: str) -> ExecutedStep:
    raise AssertionError(step_id)


async def _no_data(digest: str) -> str:
    raise AssertionError(digest)


async def _seen(row: Row, world: World, run: Callable[[], Awaitable[Any]]) -> Seen:
    try:
        result = await run()
    except Exception as error:
        return Seen(error=f"{type(error).__name__}: {error}")
    if not isinstance(result, AgentRunResult):
        return Seen(output=_elsewhere(world, _json(result)))
    messages = ModelMessagesTypeAdapter.dump_python(result.all_messages(), mode="json")
    return Seen(
        output=_elsewhere(world, _json(result.output)),
        messages=_elsewhere(world, _without(messages, {"timestamp", *row.anew})),
        usage=_json(asdict(result.usage)),
        ids=[result.run_id, result.conversation_id],
    )


def _json(value: Any) -> Any:
    return [type(value).__name__, to_jsonable_python(value, serialize_unknown=True)]


def _elsewhere(world: World, tree: Any) -> Any:
    """Return JSON as it would be if the folder of each world had the same name."""
    if not world.has_folder:
        return tree
    return json.loads(json.dumps(tree).replace(json.dumps(str(world.folder))[1:-1], "/folder"))


def _without(tree: Any, names: Set[str]) -> Any:
    """Return JSON without what each attempt measures or makes up anew."""
    if isinstance(tree, Mapping):
        return {name: _without(value, names) for name, value in tree.items() if name not in names}
    return [_without(item, names) for item in tree] if isinstance(tree, list) else tree
