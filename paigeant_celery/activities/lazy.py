"""Results that are made while they are read: generators and other iterators, awaitables, async generators.

They are read to their end where the step ran, inside its timeout and its attempts, so that what they raise is the
step's own error.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import copy
import dataclasses
import time
from collections import deque
from collections.abc import AsyncIterable, Awaitable, Coroutine, Generator, Iterable, Iterator
from ipaddress import IPv4Network, IPv6Network
from typing import Any, TypeAlias

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_json

from paigeant_celery.activities.real_threads import real, run_on
from paigeant_celery.core.crossing import reader_of
from paigeant_celery.core.errors import NotSerializable
from paigeant_celery.core.jsonable import MAX_VALUE_DEPTH

__all__ = ["GivenUp", "Limit", "Reading", "read_in_thread", "read_on_loop", "reading"]

# Yields None before each item, and each coroutine whose answer it must be sent; returns what was read.
Reading: TypeAlias = Generator[Coroutine[Any, Any, Any] | None, Any, Any]

SHARE = 0.01  # seconds for which reading may keep other steps off the event loop

# What is one value, even if it has items: older versions of pydantic write a network only where it is declared.
ATOMS = (str, bytes, bytearray, int, float, type, type(None), IPv4Network, IPv6Network)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limit:
    """How many bytes of JSON are read, and why: the reason code, what they are, and what to do about it."""

    size: int
    reason: str = "output_too_large"
    name: str = "of an output are kept"
    remedy: str = "yield less, or raise `paigeant_max_output_size`"


def reading(result: object, limit: Limit) -> Reading:
    """Read a result: whatever is lazy in it, also inside containers and models, becomes a list or a value.

    Raises what its code raises, and `NotSerializable` with the reason of the limit once more was read, because it may
    never end.
    """
    return _Reader(limit).read(result, 0)


async def read_on_loop(steps: Reading) -> Any:
    """Read on the event loop, which may turn to other steps between two items."""
    try:
        wanted, turned = next(steps), time.monotonic()
        while True:
            if wanted is not None:
                try:
                    answer = await wanted
                except BaseException as error:  # noqa: BLE001 - what reads may handle it
                    wanted = steps.throw(error)
                else:
                    wanted = steps.send(answer)
                continue
            if time.monotonic() - turned > SHARE:
                await asyncio.sleep(0)
                turned = time.monotonic()
            wanted = next(steps)
    except StopIteration as end:
        return end.value
    finally:
        steps.close()


class GivenUp:
    """Whether nobody waits for a reading any more; then what it awaits is cancelled as well."""

    def __init__(self) -> None:
        self.is_so = False
        self._lock = real().Lock()
        self._awaited: concurrent.futures.Future[Any] | None = None

    def begin(self) -> None:
        """Say that nobody waits from now on."""
        with self._lock:
            self.is_so, awaited = True, self._awaited
        if awaited is not None:
            awaited.cancel()

    def cancels(self, awaited: concurrent.futures.Future[Any]) -> None:
        """Have cancelled what is awaited now."""
        with self._lock:
            self._awaited, already = awaited, self.is_so
        if already:
            awaited.cancel()


def read_in_thread(
    steps: Reading,
    loop: asyncio.AbstractEventLoop,
    given_up: GivenUp,
    wanted: Coroutine[Any, Any, Any] | None = None,
) -> Any:
    """Read in this thread, and await on `loop` what must be awaited; stop before the next item once it is `given_up`.

    `wanted` is what a reading that has begun has asked for.
    """
    try:
        while not given_up.is_so:
            if wanted is None:
                wanted = next(steps)
                continue
            try:
                answer = _awaited(wanted, loop, given_up)
            except BaseException as error:  # noqa: BLE001 - what reads may handle it
                wanted = steps.throw(error)
            else:
                wanted = steps.send(answer)
    except StopIteration as end:
        return end.value
    finally:
        steps.close()
    raise concurrent.futures.CancelledError


def _awaited(wanted: Coroutine[Any, Any, Any], loop: asyncio.AbstractEventLoop, given_up: GivenUp) -> Any:
    future = run_on(loop, wanted)
    given_up.cancels(future)
    return future.result()


class _Reader:
    """Reads one result. What holds nothing lazy is returned as it is; of anything else, a copy with what was read."""

    def __init__(self, limit: Limit) -> None:
        self._limit, self._left = limit, limit.size
        self._met: dict[int, tuple[object, object]] = {}  # models and dataclasses, and what was read of them

    def read(self, value: Any, depth: int) -> Reading:
        """Read a value at a depth of the result."""
        if isinstance(value, ATOMS):
            return value
        if isinstance(value, dict):
            changed = yield from self._changed(value.items(), _level(depth))
            return {**value, **changed} if changed else value
        if isinstance(value, (list, tuple, set, frozenset, deque)):
            changed = yield from self._changed(enumerate(value), _level(depth))
            return [changed.get(index, item) for index, item in enumerate(value)] if changed else value
        if isinstance(value, Iterator):
            return (yield from self._items(value, _level(depth)))
        if isinstance(value, (Awaitable, concurrent.futures.Future)):
            return (yield from self.read((yield _answer(value)), depth))
        if isinstance(value, AsyncIterable):
            return (yield self._async_items(value, _level(depth)))
        if isinstance(value, BaseModel) or dataclasses.is_dataclass(value):
            return (yield from self._once(value, depth + 1))
        if _is_only_iterable(value):
            return (yield from self._items(iter(value), _level(depth)))
        return value

    def _changed(self, items: Iterable[tuple[Any, Any]], depth: int) -> Generator[Any, Any, dict[Any, Any]]:
        """Return the items that were read as something else."""
        changed = {}
        for key, item in items:
            if not isinstance(item, ATOMS):
                read = yield from self.read(item, depth)
                if read is not item:
                    changed[key] = read
        return changed

    def _items(self, source: Iterator[Any], depth: int) -> Reading:
        items: list[Any] = []
        try:
            while True:
                yield None
                try:
                    item = next(source)
                except StopIteration:  # what a generator returns is not among its items
                    return items
                left = self._left
                # Before the next one: that of `groupby`, for example, ends the one before it.
                items.append((yield from self.read(item, depth)))
                self._count(items[-1], left)
        finally:
            if isinstance(source, Generator):
                source.close()

    async def _async_items(self, source: AsyncIterable[Any], depth: int) -> list[Any]:
        items: list[Any] = []
        try:
            async for item in source:
                left = self._left
                items.append(await read_on_loop(self.read(item, depth)))
                self._count(items[-1], left)
            return items
        finally:
            close = getattr(source, "aclose", None)
            if close is not None:
                await close()

    def _once(self, value: Any, depth: int) -> Reading:
        """Read a model or dataclass, unless it was met before: it may hold itself, or be held by many others."""
        if id(value) in self._met:
            return self._met[id(value)][1]
        if depth > MAX_VALUE_DEPTH:
            return value
        self._met[id(value)] = (value, value)
        read = yield from (self._model if isinstance(value, BaseModel) else self._dataclass)(value, depth)
        self._met[id(value)] = (value, read)
        return read

    def _model(self, model: BaseModel, depth: int) -> Reading:
        held = {**vars(model), **(model.model_extra or {})}
        changed = yield from self._changed(held.items(), depth)
        if not changed:
            return model
        read = BaseModel.__copy__(model)  # that of a root model copies what it holds as well, which cannot be copied
        for name, value in changed.items():
            of = vars(read) if name in vars(read) else read.model_extra or {}
            of[name] = value
        return read

    def _dataclass(self, instance: Any, depth: int) -> Reading:
        held = {field.name: getattr(instance, field.name, None) for field in dataclasses.fields(instance)}
        changed = yield from self._changed(held.items(), depth)
        if not changed:
            return instance
        read = copy.copy(instance)
        for name, value in changed.items():
            object.__setattr__(read, name, value)  # it may be frozen
        return read

    def _count(self, item: object, left: int) -> None:
        """Count an item, before which there were `left` bytes, in the place of what was counted inside it."""
        self._left = left - _least_size(item)
        if self._left < 0:
            limit = self._limit
            text = f"at most {limit.size} bytes {limit.name}, and no more was read; {limit.remedy}"
            raise NotSerializable(self._limit.reason, text)


def _level(depth: int) -> int:
    """Return the depth inside one more array or object; raises `NotSerializable` if there may be no more."""
    if depth >= MAX_VALUE_DEPTH:
        raise NotSerializable("output_not_serializable", f"more than {MAX_VALUE_DEPTH} levels")
    return depth + 1


async def _answer(value: Awaitable[Any] | concurrent.futures.Future[Any]) -> Any:
    """Await a value, even a future of a thread, or of another event loop that is running."""
    if isinstance(value, concurrent.futures.Future):
        return await asyncio.wrap_future(value)
    if asyncio.isfuture(value) and not value.done():
        its_loop = value.get_loop()
        if its_loop is not asyncio.get_running_loop() and its_loop.is_running():
            return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(_answer(value), its_loop))
    return await value


def _is_only_iterable(value: object) -> bool:
    """Say whether all that is known of a value is that it has items, as of a query, a range or a view of a dict.

    What has keys is left alone, because its items may be only those, as in a table.
    """
    return isinstance(value, Iterable) and not hasattr(value, "keys") and reader_of(type(value)) is None


def _least_size(item: object) -> int:
    """Return how many bytes of JSON an item takes at least, with the comma after it."""
    if isinstance(item, str):
        return len(item) + 3
    if isinstance(item, int) and not isinstance(item, bool):
        return 2 + max(0, item.bit_length() - 1) * 3 // 10  # of 0.30103 digits for each bit
    if isinstance(item, (int, float, type(None))):
        return 4
    try:
        return len(to_json(item, inf_nan_mode="constants", by_alias=True, fallback=lambda _: None)) + 1
    except (PydanticSerializationError, ValueError, RecursionError):
        return 2  # whoever records it says what is wrong
