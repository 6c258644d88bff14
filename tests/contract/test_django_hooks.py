"""What we build on in Django, asgiref and Celery's fixup that is not public, or public in few places."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

from asgiref import local
from asgiref.sync import SyncToAsync, ThreadSensitiveContext, sync_to_async
from celery import Celery
from celery.fixups.django import DjangoFixup, DjangoWorkerFixup
from pydantic_ai import Agent
from pydantic_ai.models.test import TestModel


def test_asgiref_makes_thread_sensitive_calls_where_its_context_says() -> None:
    """Otherwise all steps of a process share one thread, and nothing can be closed in it."""

    async def run() -> list[threading.Thread]:
        own, executor = ThreadSensitiveContext(), ThreadPoolExecutor(1)
        SyncToAsync.context_to_thread_executor[own] = executor
        token = SyncToAsync.thread_sensitive_context.set(own)
        inside = await asyncio.create_task(sync_to_async(threading.current_thread)())
        SyncToAsync.thread_sensitive_context.reset(token)
        outside = await sync_to_async(threading.current_thread)()
        return [inside, outside, executor.submit(threading.current_thread).result()]

    inside, outside, own = asyncio.run(run())

    assert inside is own
    assert outside is not own


def test_asgiref_notes_to_which_thread_a_local_belongs() -> None:
    """Otherwise sync tools and functions would not see the language of their step."""
    assert isinstance(local._rehome(local._Storage(1, {"a": 1})), local._Storage)


def test_the_fixup_of_celery_closes_connections_and_pools() -> None:
    """In prefork it also closes pools of connections."""
    assert callable(DjangoWorkerFixup.close_database)
    assert isinstance(DjangoFixup.worker_fixup, property)


def test_an_app_lists_its_fixups() -> None:
    """A host is a Django project if one of them finds the modules of its apps."""
    app = Celery(set_as_current=False, fixups=["celery.fixups.django:DjangoFixup"])

    assert [type(fixup) for fixup in app._fixups] == [DjangoFixup]
    assert callable(DjangoFixup.autodiscover_tasks)


def test_agents_run_sync_tools_in_an_executor_of_ours() -> None:
    """Also agents that a function runs."""
    agent = Agent(TestModel())
    threads: list[threading.Thread] = []

    @agent.tool_plain
    def tool() -> None:
        threads.append(threading.current_thread())

    with ThreadPoolExecutor(1) as executor, Agent.using_thread_executor(executor):
        asyncio.run(agent.run("go"))
        assert threads == [executor.submit(threading.current_thread).result()]
