"""The process that runs a step is killed at each of the step's calls: another one goes on and repeats none.

By default that is one call of each kind, in threads only while it runs; `--proof=full` takes all of them.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from pydantic_ai.durable_exec import conversation_id_from_run_id

from paigeant_celery import WorkflowHandle
from paigeant_celery.core.errors import WorkflowParked
from tests.support.library import Library, Note
from tests.support.processes import deployment, eventually

WITHIN = 300.0  # seconds for all workflows of a pool; a few take 10, all of them in threads take most of it
SOON = 8.0
SHUTDOWN_GRACE = 25.0  # seconds; the default, of which a step needs almost nothing

TOOLS = ("add add-1", "look look-1", "insist insist-1", "insist insist-2", "delegate delegate-1", "delegate delegate-2")
EVENTS = [f"function_tool_{kind} {tool.split()[1]}" for kind in ("call", "result") for tool in TOOLS]
CALLS = (
    *(f"model {step}" for step in range(1, 5)),
    "validator add add-1",
    *(f"tool {tool}" for tool in TOOLS),
    *(f"event {event}" for event in EVENTS),
)
UNDISTURBED = "never"  # a strike that never happens
POOLS = ("prefork", "threads")
WHENS = ("before", "during", "after")
ALL = tuple(f"{when} {call}" for call in CALLS for when in WHENS)
ONE_OF_EACH_KIND = ("model 2", "validator add add-1", "tool delegate delegate-1", "event function_tool_result look-1")
# With threads each kill ends a worker, and what a process has answered is the same in every pool.
BRIEF = {
    "prefork": {f"{when} {call}" for call in ONE_OF_EACH_KIND for when in WHENS},
    "threads": {f"during {call}" for call in ONE_OF_EACH_KIND},
}

pytestmark = pytest.mark.skipif(not Path("/proc/self/ns/pid").exists(), reason="needs /proc to see processes die")


CASES = [
    pytest.param(pool, strike, marks=() if strike in BRIEF[pool] else pytest.mark.proof)
    for pool in POOLS
    for strike in ALL
]

Struck: TypeAlias = tuple[Library, Mapping[str, WorkflowHandle]]


@pytest.fixture(scope="module")
def struck(
    request: pytest.FixtureRequest, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Struck]]:
    """Return a pool's ended workflows by their strikes: one for each strike and one without, all run at once.

    Only what the tests of this run ask for is struck, and the first of them waits for all.
    """
    asked = {pool: [*dict.fromkeys(strikes_of(request.session.items, pool))] for pool in POOLS}
    with ExitStack() as stack:

        @cache
        def of_pool(pool: str) -> Struck:
            made = stack.enter_context(deployment(redis_url, tmp_path_factory.mktemp(pool)))
            library = Library(made)
            handles = {strike: library.study(strike) for strike in (UNDISTURBED, *asked[pool])}
            let_end(library, handles.values(), pool)
            return library, handles

        yield of_pool


def strikes_of(items: Iterable[pytest.Item], pool: str) -> Iterator[str]:
    for item in items:
        params = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        if item.path == Path(__file__) and params.get("pool") == pool and "strike" in params:
            yield params["strike"]


def let_end(library: Library, handles: Iterable[WorkflowHandle], pool: str) -> None:
    """Wait until all workflows ended; workers that die are started again, as a service manager does."""
    slots = 4 if pool == "prefork" else 1  # if threads die together, calls of other workflows would die too
    workers = [library.worker(pool, name=name, slots=slots) for name in ("one", "two")]
    running = list(handles)

    def ended() -> bool:
        workers[:] = [
            worker if worker.running else library.worker(pool, name=worker.name, slots=slots) for worker in workers
        ]
        running[:] = [handle for handle in running if handle.status_sync().in_progress]
        return not running

    with suppress(AssertionError):  # each test checks its own
        eventually(ended, within=WITHIN)


@pytest.fixture
def library(redis_url: str, tmp_path: Path) -> Iterator[Library]:
    with deployment(redis_url, tmp_path / "made", paigeant_retry_backoff=0.0) as made:
        yield Library(made)


def told(handle: WorkflowHandle) -> Any:
    """Return everything in a result except what differs between workflows: the id and the times."""
    output = handle.result_sync(SOON).output
    assert output["conversation_id"] == conversation_id_from_run_id(output["run_id"])
    text = json.dumps(output).replace(output["conversation_id"], "conversation")
    return json.loads(text.replace(handle.correlation_id, "workflow"), object_hook=without_time)


def without_time(tree: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in tree.items() if name != "timestamp"}


@pytest.mark.together("pool")
@pytest.mark.parametrize(("pool", "strike"), CASES)
def test_a_step_goes_on_where_its_process_was_killed(struck: Callable[[str], Struck], pool: str, strike: str) -> None:
    """The model is paid for once, tools act once, and the result is identical to an uninterrupted run."""
    library, handles = struck(pool)
    handle = handles[strike]

    notes = library.notes(handle)

    assert told(handle) == told(handles[UNDISTURBED])
    assert handle.status_sync().attempt == 2
    [killed] = [note for note in notes if note.what == "killed"]
    assert killed.call == strike
    victim = (killed.process, killed.pid)
    first = [note for note in notes if (note.process, note.pid) == victim]
    second = [note for note in notes if (note.process, note.pid) != victim]
    expect_none_repeated(strike, calls(first), calls(second))


def calls(notes: list[Note]) -> Mapping[str, Counter[str]]:
    """Return what was noted about which call, and how often."""
    found = {what: Counter[str]() for what in ("begun", "recorded", "replayed", "streamed")}
    for note in notes:
        if note.what in found:
            found[note.what][note.call] += 1
    return found


def expect_none_repeated(strike: str, first: Mapping[str, Counter[str]], second: Mapping[str, Counter[str]]) -> None:
    """Recorded calls are replayed and the others made, once each."""
    when, _, call = strike.partition(" ")
    assert second["begun"] + second["replayed"] == Counter(CALLS)
    assert first["recorded"] <= second["replayed"] <= first["begun"] <= Counter(CALLS)
    assert (first["begun"][call], second["begun"][call]) == {"before": (0, 1), "during": (1, 1), "after": (1, 0)}[when]
    # The handler sees a stream as it comes, but not again.
    assert second["streamed"] == Counter(made for made in second["begun"] if made.startswith("model"))


@pytest.mark.together("pool")
@pytest.mark.parametrize("pool", POOLS)
def test_a_step_that_nothing_hits_makes_each_call_once(struck: Callable[[str], Struck], pool: str) -> None:
    """The kill points cover all calls: a new kind of call must not go untested."""
    library, handles = struck(pool)
    handle = handles[UNDISTURBED]

    found = calls(library.notes(handle))

    assert handle.status_sync().attempt == 1
    assert found["begun"] == found["recorded"] == Counter(CALLS)
    assert told(handle)["output"] == "DONE"
    assert (told(handle)["usage"]["requests"], told(handle)["usage"]["tool_calls"]) == (6, 5)


PAGES = 4
ALL_PAGES = Counter(f"model {page}" for page in range(1, PAGES + 2)) + Counter(
    f"tool read page-{page}" for page in range(1, PAGES + 1)
)


@pytest.mark.parametrize("pool", POOLS)
def test_a_worker_that_is_told_to_end_gives_its_step_back_after_the_call_that_runs(library: Library, pool: str) -> None:
    """A deployment at noon waits for one answer of a model, repeats none and costs no attempt."""
    (library.reading / "closed-3").touch()
    first = library.ready_worker(pool, name="first")
    handle = library.read("reading")
    eventually(lambda: library.begun(handle)["tool read page-3"], within=SOON, what="page 3 was not begun")

    os.kill(first.pid, signal.SIGTERM)
    first.wait_for_log("Warm shutdown")
    library.ready_worker(pool, name="second")  # the call goes on while the worker starts
    before = library.begun(handle)
    (library.reading / "closed-3").unlink()
    ended_at = time.monotonic()
    assert first.ended() == 0

    assert time.monotonic() - ended_at < SHUTDOWN_GRACE / 5
    assert handle.result_sync(SOON).output == "read"
    assert before == Counter(f"model {page}" for page in (1, 2, 3)) + Counter(
        f"tool read page-{page}" for page in (1, 2, 3)
    )
    assert library.begun(handle) == ALL_PAGES
    assert handle.status_sync().attempt == 1
    assert "released" in [event.type for event in handle.events_so_far()]


def test_a_step_that_is_tried_again_repeats_no_call_that_went_well(library: Library) -> None:
    """The provider is down for a moment; what it has answered before is not asked again."""
    (library.reading / "unavailable-2").touch()
    library.ready_worker(name="one")
    handle = library.read("stumbling")

    assert handle.result_sync(SOON).output == "read"
    assert library.begun(handle) == ALL_PAGES + Counter(["model 2"])
    assert handle.status_sync().attempt == 2


def test_a_killed_step_goes_on_within_the_limits_of_its_workflow(library: Library) -> None:
    """A budget that just suffices still does after a crash: what is replayed counts once, and is never refused."""
    (library.reading / "closed-3").touch()
    first = library.ready_worker(name="first")
    handle = library.read("limited", request_limit=PAGES + 1, tool_calls_limit=PAGES)
    eventually(lambda: library.begun(handle)["tool read page-3"], within=SOON, what="page 3 was not begun")

    first.kill()
    counted = library.used(handle)
    (library.reading / "closed-3").unlink()
    library.ready_worker(name="second")

    result = handle.result_sync(3 * SOON)
    assert (counted["requests"], counted["tool_calls"]) == (3, 2)
    assert (result.output, library.used(handle)) == ("read", result.usage)
    assert (result.usage["requests"], result.usage["tool_calls"]) == (PAGES + 1, PAGES)
    assert library.begun(handle) == ALL_PAGES + Counter(["tool read page-3"])


@pytest.fixture
def changed(library: Library) -> WorkflowHandle:
    """A parked workflow: its code changed while its worker was away."""
    (library.reading / "closed-3").touch()
    library.ready_worker(name="first")
    handle = library.read("changed")
    eventually(lambda: library.begun(handle)["tool read page-3"], within=SOON, what="page 3 was not begun")
    library.deploy(edition="2")
    (library.reading / "closed-3").unlink()
    library.ready_worker(name="second")
    eventually(lambda: handle.status_sync().state == "parked", within=SOON, what="it was not parked")
    return handle


def test_a_step_whose_code_changed_waits_for_a_person(library: Library, changed: WorkflowHandle) -> None:
    """Half of one version's work and half of another's is worse than none; the text says what to do."""
    with pytest.raises(WorkflowParked) as parked:
        changed.result_sync(SOON)

    text = str(parked.value)
    assert parked.value.error_class == "NonDeterminismError"
    assert "step 'reader'" in text
    assert "the model call in step 1" in text
    assert "cannot be replayed: its tools changed" in text
    assert "Deploy the code that began the step and redrive" in text
    assert "`redrive(discard_journal=True)`" in text
    [letter] = library.letters().list()
    assert (letter.hop_id, letter.correlation_id) == ("changed.0", "changed")
    assert library.begun(changed)["model 1"] == 1
    assert changed.status_sync().state == "parked"


def test_a_parked_step_goes_on_with_the_code_that_began_it(library: Library, changed: WorkflowHandle) -> None:
    """The earlier version is deployed again, and nothing is lost."""
    assert changed.redrive_sync(discard_journal=False)
    again = eventually(lambda: parked_again(changed), within=SOON, what="it was not parked again")
    assert again == 2

    library.deploy(edition="1")
    assert changed.redrive_sync(discard_journal=False)
    library.ready_worker(name="third")

    assert changed.result_sync(SOON).output == "read"
    assert library.begun(changed) == ALL_PAGES + Counter(["tool read page-3"])  # that one was cut short


def parked_again(handle: WorkflowHandle) -> int:
    """Return how often a workflow was parked, if it is parked now."""
    parked = [event for event in handle.events_so_far() if event.type == "parked"]
    return len(parked) if len(parked) > 1 else 0


def test_a_parked_step_begins_anew_without_its_journal(library: Library, changed: WorkflowHandle) -> None:
    """If the earlier version was wrong, its work is thrown away and the new one does the step."""
    assert changed.redrive_sync(discard_journal=True)

    assert changed.result_sync(SOON).output == "read"
    twice = Counter(["model 1", "model 2", "model 3", "tool read page-1", "tool read page-2", "tool read page-3"])
    assert library.begun(changed) == ALL_PAGES + twice
