"""What code inside a step learns about its workflow, and that it cannot change it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest

from paigeant_celery.activities.context import (
    StepOutput,
    WorkflowContext,
    entered,
    only_step_here,
    open_context,
    running_step,
    workflow_context,
)
from paigeant_celery.core.errors import NoWorkflow, UsageError
from paigeant_celery.core.message import PaigeantMessage
from paigeant_celery.core.slip import ActivitySpec, ExecutedStep, OutputRef
from paigeant_celery.store.earlier import executed_step

MakeMessage = Callable[..., PaigeantMessage]
MakeContext = Callable[..., WorkflowContext]

NOON = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)


async def never_read(record: ExecutedStep) -> object:
    raise AssertionError(f"{record.step_id} travelled with the message")


async def never_read_data(digest: str) -> str:
    raise AssertionError(f"{digest} travelled with the message")


READERS: dict[str, Any] = {"read_output": never_read, "read_data": never_read_data}


def reader_of(message: PaigeantMessage) -> Any:
    """Return what finds the record of a step whose record travels."""
    return partial(asyncio.to_thread, executed_step, None, "w-1", message.slip)


def opened(message: PaigeantMessage, **fields: object) -> WorkflowContext:
    given = {**READERS, "attempt": 1, "read_step": reader_of(message), **fields}
    return asyncio.run(open_context(message, **given))  # type: ignore[arg-type]


def test_a_step_learns_who_it_is_and_what_came_before(make_message: MakeMessage) -> None:
    """Idempotency keys, log lines and decisions are built from these."""
    message = make_message(
        ActivitySpec("critic", "judge", step_id="verdict"), outputs=("a", "b"), deadline=NOON, variables={"n": 1}
    )

    context = opened(message, attempt=3)

    assert context == WorkflowContext(
        correlation_id="w-1",
        hop_id="w-1.2",
        step_id="verdict",
        activity="critic",
        attempt=3,
        deadline=NOON,
        variables={"n": 1},
        previous_output=StepOutput(step_id="earlier-1", activity="earlier", output="b"),
        message=message,
        **READERS,
        read_step=context.read_step,
    )


def test_the_first_step_has_no_previous_output(make_message: MakeMessage) -> None:
    """A first step is not mistaken for one after a step whose output is null."""
    assert opened(make_message()).previous_output is None
    assert opened(make_message(outputs=(None,))).previous_output == StepOutput(
        step_id="earlier-0", activity="earlier", output=None
    )


def test_what_a_step_does_to_what_it_reads_does_not_travel_on(make_message: MakeMessage) -> None:
    """A tool that sorts a list in place must not rewrite the record of the step that made it."""
    message = make_message(outputs=(["b", "a"],), variables={"tags": ["y", "x"]})
    before = message.model_copy(deep=True)
    context = opened(message)

    context.variables["tags"].sort()  # type: ignore[union-attr]
    context.previous_output.output.sort()  # type: ignore[union-attr]
    asyncio.run(context.output("earlier-0")).output.clear()  # type: ignore[union-attr]
    with pytest.raises(TypeError):
        context.variables["new"] = 1  # type: ignore[index]

    assert message == before
    assert asyncio.run(context.output("earlier-0")).output == ["b", "a"]


def test_any_earlier_output_can_be_asked_for_by_its_step(make_message: MakeMessage) -> None:
    """A last step that sums up reads everything that came before it."""
    context = opened(make_message(outputs=("a", {"n": 2}, "c")))

    found = asyncio.run(context.output("earlier-1"))

    assert found == StepOutput(step_id="earlier-1", activity="earlier", output={"n": 2})


def test_an_output_that_did_not_travel_is_read_where_it_is(make_message: MakeMessage) -> None:
    """A step does not notice whether an output was large."""
    message = make_message(outputs=("small", None))
    large = message.slip.executed[1].model_copy(update={"output_ref": OutputRef(size=9, sha256="x")})
    slip = message.slip.model_copy(update={"executed": (message.slip.executed[0], large)})

    async def read(record: ExecutedStep) -> object:
        return {"read": record.step_id}

    context = opened(message.model_copy(update={"slip": slip}), read_output=read)

    assert context.previous_output == StepOutput(step_id="earlier-1", activity="earlier", output={"read": "earlier-1"})
    assert asyncio.run(context.output("earlier-1")) == context.previous_output
    assert asyncio.run(context.output("earlier-0")).output == "small"


def test_an_output_of_a_step_that_did_not_run_is_refused_with_those_that_did(make_message: MakeMessage) -> None:
    """A mistyped id is not mistaken for a step without output; the step itself is not one of them either."""
    context = opened(make_message(outputs=("a", "b")))

    for wrong in ("earlier-9", "writer"):
        with pytest.raises(UsageError) as caught:
            asyncio.run(context.output(wrong))
        assert str(caught.value) == (f"no step {wrong!r} ran before 'writer'; these did: ['earlier-0', 'earlier-1']")


def test_no_prompt_or_output_is_shown_with_a_context(make_message: MakeMessage) -> None:
    """Contexts are logged by people who debug their tools."""
    context = opened(make_message(ActivitySpec("a", "tell nobody")))

    assert "tell nobody" not in repr(context)


def test_outside_a_step_there_is_no_context() -> None:
    """A tool that is tested on its own says what is missing."""
    with pytest.raises(NoWorkflow, match=r"^no workflow is running here"):
        workflow_context()


def test_the_context_ends_with_its_step_even_where_it_fails(make_context: MakeContext) -> None:
    """The next step in the same thread must not take the place of the one before."""
    outer, inner = make_context(), make_context()
    seen: list[WorkflowContext] = []

    def fail() -> None:
        with entered(inner) as given:
            seen.extend([given, workflow_context()])
            raise ValueError("no")

    with entered(outer):
        with pytest.raises(ValueError, match="no"):
            fail()
        seen.append(workflow_context())

    assert [context is expected for context, expected in zip(seen, (inner, inner, outer), strict=True)] == [True] * 3
    with pytest.raises(NoWorkflow):
        workflow_context()


def test_steps_that_run_side_by_side_do_not_see_each_other(make_context: MakeContext) -> None:
    """One event loop runs many steps; each one's tools, tasks and threads ask for their own workflow."""

    async def step(context: WorkflowContext, turn: asyncio.Barrier) -> list[WorkflowContext]:
        with entered(context):
            await turn.wait()
            task = asyncio.create_task(asyncio.to_thread(workflow_context))
            await turn.wait()
            return [workflow_context(), await task]

    async def main() -> list[list[WorkflowContext]]:
        turn = asyncio.Barrier(2)
        return await asyncio.gather(step(one, turn), step(other, turn))

    one, other = make_context(), make_context()
    seen = asyncio.run(main())

    assert [[context is own for context in pair] for pair, own in zip(seen, (one, other), strict=True)] == [
        [True, True],
        [True, True],
    ]


def test_a_thread_of_its_own_belongs_to_no_step(make_context: MakeContext) -> None:
    """A pool that a library keeps across steps must not hold on to one workflow."""
    seen: list[type[BaseException]] = []

    def ask() -> None:
        try:
            workflow_context()
        except NoWorkflow as error:
            seen.append(type(error))

    with entered(make_context()):
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()

    assert seen == [NoWorkflow]


def in_thread(call: Callable[[], object], *, within: float = 10.0) -> object:
    """Call a function in a thread that knows nothing of this one's context."""
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(call()))
    thread.start()
    thread.join(within)
    return found[0]


def test_code_is_part_of_a_step_only_while_that_step_runs(make_context: MakeContext) -> None:
    """A task that a step starts and leaves behind, such as a pool's, may do later what any code may."""

    async def main() -> list[str | None]:
        over = asyncio.Event()

        async def lasting() -> list[str | None]:
            own = running_step()
            await over.wait()
            return [own, running_step()]

        with entered(make_context()):
            left_behind = asyncio.create_task(lasting())
            inside = await asyncio.to_thread(running_step)
            await asyncio.sleep(0)
        over.set()
        return [running_step(), inside, *await left_behind]

    assert asyncio.run(main()) == [None, "writer", "writer", None]


def test_the_threads_of_a_process_with_one_step_are_part_of_it() -> None:
    """A pool that a step makes carries no context, and in a child of prefork nothing else can have made it."""
    with only_step_here("first"):
        inside = (running_step(), in_thread(running_step))
    after = in_thread(running_step)

    assert (inside, after) == ((None, "first"), None)


def test_the_threads_of_a_process_with_several_steps_are_part_of_none() -> None:
    """The rest of such a process, a web server for example, may wait for workflows as it likes."""

    def hop() -> object:
        with only_step_here("first"):
            return in_thread(running_step)

    assert in_thread(hop) is None
