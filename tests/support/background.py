"""A capability that runs tools in the background of a run, as pydantic-ai's harness does."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.tools import RunContext
from pydantic_graph import End

__all__ = ["Background"]


class Background(AbstractCapability[Any]):
    """The model is told that a tool has begun; its result reaches the run when it is there.

    A run that would end waits for the next result and goes on with it. A tool that fails ends the run.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._results: asyncio.Queue[str | Exception] = asyncio.Queue()

    async def for_run(self, ctx: RunContext[Any]) -> Background:
        """Keep the tasks of each run apart."""
        return Background()

    async def wrap_run(self, ctx: RunContext[Any], *, handler: Any) -> Any:
        """Leave no task behind."""
        try:
            return await handler()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def wrap_tool_execute(
        self, ctx: RunContext[Any], *, call: Any, tool_def: Any, args: Any, handler: Any
    ) -> Any:
        """Begin the tool."""

        async def work() -> None:
            try:
                self._results.put_nowait(str(await handler(args)))
            except Exception as error:
                self._results.put_nowait(error)

        self._tasks.add(asyncio.create_task(work()))
        return "begun"

    async def after_node_run(self, ctx: RunContext[Any], *, node: Any, result: Any) -> Any:
        """Hand over what is there, or wait for it if the run would end otherwise."""
        found = list[str | Exception]()
        with suppress(asyncio.QueueEmpty):
            while True:
                found.append(self._results.get_nowait())
        if not found and isinstance(result, End) and any(not task.done() for task in self._tasks):
            found.append(await self._results.get())
        for each in found:
            if isinstance(each, Exception):
                raise each
            ctx.enqueue(each)
        return result
