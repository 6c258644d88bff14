"""The order in which answers reach the code of a step."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Awaitable

import pytest

from paigeant_celery.journal import turns
from paigeant_celery.journal.turns import Turns

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("seed", range(10))
async def test_answers_come_in_the_order_of_their_numbers(seed: int) -> None:
    """Whatever order they are asked for in, and from however many tasks; what is left out holds nobody up."""
    chance = random.Random(seed)
    numbers = sorted(chance.sample(range(1, 1000), 12))
    missing = set(chance.sample(numbers, 3))
    order, had = Turns(numbers), list[int]()

    async def ask(number: int) -> None:
        for _ in range(chance.randrange(30)):
            await asyncio.sleep(0)
        if number in missing:
            order.leave(number)
            return
        await order.take(number)
        had.append(number)

    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        for number in chance.sample(numbers, len(numbers)):
            group.create_task(ask(number))

    assert had == [number for number in numbers if number not in missing]
    assert order.next() == numbers[-1] + 1


async def test_what_an_answer_leads_to_comes_before_the_next_answer() -> None:
    """A result passes through the tasks of an agent before it shows; the next one must not overtake it there."""
    order, seen = Turns([1, 2]), list[int]()

    async def through(number: int, tasks: int) -> None:
        if tasks:
            await asyncio.create_task(through(number, tasks - 1))
        else:
            await order.take(number)

    async def ask(number: int, tasks: int) -> None:
        await through(number, tasks)
        seen.append(number)

    async with asyncio.timeout(5):
        await asyncio.gather(ask(2, 0), ask(1, 8))

    assert seen == [1, 2]


async def test_an_answer_is_kept_back_only_as_long_as_something_else_is_ready_to_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A replay would otherwise turn the loop twenty times for each call that a run makes after the other."""
    loop, sleep, turned, slept = asyncio.get_running_loop(), asyncio.sleep, 0, list[float]()

    def counted(delay: float) -> Awaitable[None]:
        slept.append(delay)
        return sleep(delay)

    def turn() -> None:
        nonlocal turned
        turned += 1
        if turned < 8:
            loop.call_soon(turn)

    order = Turns([1, 2])
    loop.call_soon(turn)
    await order.take(1)
    assert turned == 8

    monkeypatch.setattr(asyncio, "sleep", counted)
    await order.take(2)
    assert slept == [0]


async def test_a_call_that_is_cut_off_holds_up_none() -> None:
    """It will never have its answer, neither while it waits nor when it is up."""
    order = Turns([1, 2, 3])
    second = asyncio.create_task(order.take(2))
    third = asyncio.create_task(order.take(3))
    await asyncio.sleep(0)

    second.cancel()
    first = asyncio.create_task(order.take(1))
    await asyncio.sleep(0)
    first.cancel()

    async with asyncio.timeout(5):
        await third


async def test_a_call_that_nobody_makes_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of changed code goes on after a while, but not while a call is in progress, which may lead to it."""
    monkeypatch.setattr(turns, "PATIENCE", 0.02)
    given_up = list[str]()
    order = Turns([1, 2], given_up=lambda: given_up.append("given up"))
    waiting = asyncio.create_task(order.take(2))

    order.begin_work()
    await asyncio.wait({waiting}, timeout=0.2)
    assert not waiting.done()
    order.end_work()
    async with asyncio.timeout(5):
        await waiting

    assert given_up == ["given up"]
    await order.take(1)


async def test_threads_of_one_step_share_the_order() -> None:
    """Agents that run in threads have event loops of their own."""
    order, had = Turns([1, 2, 3, 4]), list[int]()

    def ask(number: int) -> None:
        asyncio.run(order.take(number))
        had.append(number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in (4, 3, 2)]
    for thread in threads:
        thread.start()
    await order.take(1)
    await asyncio.to_thread(lambda: [thread.join(5) for thread in threads])

    assert sorted(had) == [2, 3, 4]
    assert had[0] == 2 or not any(thread.is_alive() for thread in threads)
