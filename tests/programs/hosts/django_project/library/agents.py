"""Steps of each kind that ask the database, and answer with the language that they see."""

from __future__ import annotations

import asyncio
import time

from asgiref.sync import sync_to_async
from django.core.cache import cache
from django.db import connection, transaction
from django.utils.translation import get_language
from pydantic_ai import Agent
from pydantic_ai.models.test import TestModel

from paigeant_celery import PaigeantAgent, WorkflowContext, activity


def ask() -> str | None:
    """Ask the database; a cache is used as well."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    cache.get("x")
    return get_language()


ask_later = sync_to_async(ask)


@activity
def ask_sync() -> str | None:
    return ask()


@activity
async def ask_async() -> str | None:
    return await ask_later()


@activity
async def ask_in_threads() -> str | None:
    assert await asyncio.to_thread(ask) == await sync_to_async(ask, thread_sensitive=False)()
    return get_language()


@activity
def ask_in_own_loop() -> str | None:
    """Wait in sync code for async code that waits for sync code."""
    return asyncio.run(ask_later())


@activity
async def ask_in_transaction(seconds: float) -> str | None:
    """Be in the middle of a transaction while steps on the same event loop end."""

    def work() -> str | None:
        with transaction.atomic():
            ask()
            time.sleep(seconds)
            return ask()

    return await sync_to_async(work)()


async def shelf(_: None, context: WorkflowContext) -> str | None:
    return await ask_later()


librarian = PaigeantAgent(TestModel(), name="librarian", deps_factory=shelf)
helper = Agent(TestModel(), name="helper")


@helper.tool_plain
@librarian.tool_plain
def sync_tool() -> str | None:
    return ask()


@helper.tool_plain
@librarian.tool_plain
async def async_tool() -> str | None:
    return await ask_later()


@activity
async def ask_helper() -> str:
    """Run an agent of the host's own inside a function."""
    return (await helper.run("ask")).output
