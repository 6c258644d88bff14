"""The process of a watched step is killed in the middle of a stream, and screens get a valid one to its end."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from paigeant_celery import ActivitySpec, WorkflowDispatcher, WorkflowHandle, agent_events
from tests.support.processes import Deployment, deployment, eventually
from tests.support.ui_protocols import Screen, ag_ui, vercel

WITHIN = 60.0  # seconds; a hop of a killed process goes on after two

# Where the process stops, and what watchers have been told by then.
TOLD = {
    "thought": "Let me ",
    "arguments 1": '"call-1"',
    "arguments 2": '"call-2"',
    "page 1": '"function_tool_call"',
    "page 2": '"function_tool_call"',
    "Once": "Once ",
    "upon": "upon ",
    "a time.": "a time.",
}
TEXTS = {"Once": ["Once "], "upon": ["Once upon "], "a time.": ["Once upon a time."]}
WHOLE = "Once upon a time."
PAGES = [text * 100_000 for text in "1122"]

pytestmark = [pytest.mark.anyio, pytest.mark.together]


@pytest.fixture(scope="module")
def made(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A worker whose processes may be killed."""
    folder = tmp_path_factory.mktemp("watched")
    with deployment(redis_url, folder) as made:
        (folder / "stops").mkdir()
        made.variables["STOPS"] = str(folder / "stops")
        made.ready_worker("typist", pool="prefork", slots=2)
        yield made


def dispatch(made: Deployment, stop: str, seen: bool) -> tuple[WorkflowHandle, Path]:
    """Start a workflow that stops there; return the file that will name its process."""
    id_ = f"{stop.replace(' ', '-').strip('.')}-{seen}"
    file = made.folder / "stops" / id_
    file.write_text(stop)
    dispatcher, transport = WorkflowDispatcher(), made.transport()
    steps = [ActivitySpec("typist", "Type."), ActivitySpec("typist", "Type.")]
    dispatcher.dispatch_workflow_sync(transport, itinerary=steps, correlation_id=id_, stream=True)
    return dispatcher.handle(id_, transport), file.with_suffix(".pid")


def told(handle: WorkflowHandle) -> str:
    """Return all that watchers have been told so far."""
    return "".join(event.fields.get("data", "") for event in handle.events_so_far())


async def watched(handle: WorkflowHandle) -> list[Screen]:
    """Watch with both protocols, live."""
    return list(await asyncio.gather(*(read(agent_events(handle.events())) for read in (ag_ui, vercel))))


# Kills of what watchers have seen, and kills at once, before they can have.
IN_BRIEF = ("upon", True)
CASES = [
    pytest.param(stop, seen, marks=() if (stop, seen) == IN_BRIEF else pytest.mark.proof)
    for seen in (True, False)
    for stop in TOLD
]


@pytest.mark.parametrize(("stop", "seen"), CASES)
async def test_a_screen_sees_to_its_end_what_a_killed_process_began(made: Deployment, stop: str, seen: bool) -> None:
    """The page neither spins for ever nor mixes two attempts up, live or later."""
    handle, waiting = dispatch(made, stop, seen)
    watching = asyncio.create_task(watched(handle))
    await asyncio.to_thread(eventually, waiting.exists, within=WITHIN)
    if seen:
        await asyncio.to_thread(eventually, lambda: TOLD[stop] in told(handle), within=WITHIN)

    os.kill(int(waiting.read_text()), signal.SIGKILL)

    async with asyncio.timeout(WITHIN):
        live = await watching
    assert [event.fields["attempt"] for event in handle.events_so_far() if event.type == "claimed"] == ["1", "2", "1"]
    for screen in (*live, *await watched(handle)):
        assert screen.texts[-2:] == [WHOLE, WHOLE]
        assert screen.texts[:-2] == TEXTS.get(stop, []) or (not seen and WHOLE.startswith("".join(screen.texts[:-2])))
        assert screen.error is None
        results = sorted(result for result in screen.results.values() if result[0] in "12")
        assert results == PAGES
