"""Measures, inside a worker, how much CPU the parts of a hop use: loaded by `contestants.py` if `BENCH_PARTS` is set.

A span is a call of a function, or what a coroutine does between two awaits. Its time is the CPU of its thread, without
that of spans inside it. What a thread does outside of all spans counts under the thread's name. On SIGUSR2 the worker
appends a line with all sums, in seconds since it began, to the file that `BENCH_PARTS` names.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import psutil

__all__ = ["install"]

# What is measured, under the name of its part. Some of it is nobody's promise: a release that moves it fails here.
OF_ALL = {
    "intake": (
        "kombu.transport.redis:MultiChannelPoller.on_poll_start",
        "kombu.transport.redis:MultiChannelPoller.on_readable",
        "celery.concurrency.thread:TaskPool.on_apply",
    ),
    "note of the unacknowledged": ("kombu.transport.redis:QoS.append",),
    "acknowledgement": ("kombu.transport.redis:QoS.ack",),
    "task events": (
        "celery.events.dispatcher:EventDispatcher.flush",
        "celery.events.dispatcher:EventDispatcher._publish",
        "celery.events.dispatcher:EventDispatcher.send",
    ),
    "sending": ("celery:Celery.send_task",),
    "agent's run": (
        "pydantic_ai.agent:AbstractAgent.run",
        "pydantic_graph.graph_builder:_GraphIterator._run_task",
        "pydantic_ai.models.function:FunctionModel.request",
    ),
}
OF_CHAIN = {
    "result or store": ("celery.backends.base:BaseKeyValueStoreBackend._store_result",),
    "event loop": ("asyncio:Runner.run",),
}
OF_SLIP = {
    "intake": ("paigeant_celery.worker.intake:Intake._fault_of",),
    "guard": (
        "paigeant_celery.worker.task:HopTask._arrival",
        "paigeant_celery.hop.service:HopService.open",
        "paigeant_celery.hop.service:read",
    ),
    "result or store": (
        "paigeant_celery.store.redis:RedisStore.claim",
        "paigeant_celery.store.redis:RedisStore.record",
        "paigeant_celery.store.redis:RedisStore.complete",
    ),
    "hand-over to the loop": (
        "paigeant_celery.worker.runtime:HopRuntime.perform",
        "paigeant_celery.worker.runtime:HopRuntime._outcome",
        "paigeant_celery.worker.loop:run_on",
    ),
    "decision and envelope": (
        "paigeant_celery.hop.service:HopService.close",
        "paigeant_celery.broker.outbox:Outbox.record_of",
    ),
    "sending": (
        "paigeant_celery.hop.with_store:send_on",
        "paigeant_celery.broker.threads:_Crew._make",
    ),
    "around the step": ("paigeant_celery.hop.run:StepRunner._run",),
    "journal": ("paigeant_celery.agents.recorded_calls:_RecordedOperation._answered",),
}
# What threads do outside of all spans; the beginnings of their names.
THREADS = {
    "MainThread": "main loop of the worker",
    "ThreadPoolExecutor": "Celery's task",
    "paigeant-loop": "event loop",
    "paigeant-broker": "sending",
}


class _Clock(threading.local):
    """The sums of one thread, and the spans that it is in: each with its name, begin and the time of inner spans."""

    def __init__(self) -> None:
        self.sums, self.inside = Counter[str](), list[list[Any]]()
        _sums[threading.get_native_id()] = self.sums

    def enter(self, part: str) -> None:
        self.inside.append([part, time.thread_time(), 0.0])

    def leave(self) -> None:
        part, begun, inner = self.inside.pop()
        took = time.thread_time() - begun
        self.sums[part] += took - inner
        if self.inside:
            self.inside[-1][2] += took


_sums: dict[int, Counter[str]] = {}  # by the system's number of a thread
_clock = _Clock()


class _Timed:
    """A coroutine, measured each time it goes on."""

    def __init__(self, part: str, coroutine: Generator[Any, Any, Any]) -> None:
        self._part, self._coroutine = part, coroutine

    def __await__(self) -> _Timed:
        return self

    def __iter__(self) -> _Timed:
        return self

    def __next__(self) -> Any:
        return self.send(None)

    def send(self, value: Any) -> Any:
        return self._on(self._coroutine.send, value)

    def throw(self, *error: Any) -> Any:
        return self._on(self._coroutine.throw, *error)

    def close(self) -> None:
        self._coroutine.close()

    def _on(self, go_on: Callable[..., Any], *value: Any) -> Any:
        _clock.enter(self._part)
        try:
            return go_on(*value)
        finally:
            _clock.leave()


def install(kind: str, file: Path) -> None:
    """Measure the parts of a contestant from now on."""
    for parts in (OF_ALL, OF_SLIP if kind == "slip" else OF_CHAIN):
        for part, targets in parts.items():
            for target in targets:
                _measure(part, target)
    signal.signal(signal.SIGUSR2, lambda *_: _write(file))


def _measure(part: str, target: str) -> None:
    module, _, path = target.partition(":")
    *owners, name = path.split(".")
    owner: Any = functools.reduce(getattr, owners, importlib.import_module(module))
    function = inspect.getattr_static(owner, name)

    @functools.wraps(function)
    def timed(*args: Any, **kwargs: Any) -> Any:
        _clock.enter(part)
        try:
            return function(*args, **kwargs)
        finally:
            _clock.leave()

    @functools.wraps(function)
    async def timed_coroutine(*args: Any, **kwargs: Any) -> Any:
        return await _Timed(part, function(*args, **kwargs))

    setattr(owner, name, timed_coroutine if inspect.iscoroutinefunction(function) else timed)


def _write(file: Path) -> None:
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    total = Counter[str]()
    for thread in psutil.Process().threads():
        spans = _sums.get(thread.id, Counter[str]()).copy()  # which the thread goes on to change
        total.update(spans)
        name = names.get(thread.id, "")
        rest = next((part for begins, part in THREADS.items() if name.startswith(begins)), "other threads")
        total[rest] += thread.user_time + thread.system_time - sum(spans.values())
    with file.open("a") as lines:
        lines.write(json.dumps(total) + os.linesep)
