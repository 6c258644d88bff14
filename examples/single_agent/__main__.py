"""One agent as a workflow of one step: it summarises your text.

The step is put on a queue, a worker in this process takes it from there, and the result is read by the
workflow's id. `--fail` makes the model fail, and shows what the caller is told.
"""

from __future__ import annotations

import sys
from pathlib import Path

# So that `python examples/single_agent` finds its neighbours, as `python -m examples.single_agent` does.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pydantic_ai.models.function import FunctionModel

from examples.console import command_line, expect, given_text, parse, run, serving, show_outputs, show_slip
from examples.local_models import unreachable
from examples.single_agent.agents import Summary, dispatcher, summariser
from paigeant_celery import WorkflowFailed, get_transport

EXAMPLE = (
    "A queue keeps work safe while a worker is away. The worker takes a message from the queue, runs the agent and "
    "acknowledges the message. If the worker dies, the message is still there. Another worker takes it. "
    "That is why people put a queue between the agent and the caller. Coffee helps as well."
)


async def main(text: str, *, fail: bool) -> None:
    """Dispatch the step, serve it in this process and print its output."""
    transport = get_transport("inmemory")
    step = summariser.add_to_runway(text)
    correlation_id = await dispatcher.dispatch_workflow(transport)
    show_slip([step], correlation_id)

    handle = dispatcher.handle(correlation_id, transport)
    async with serving(transport, "summariser"):
        try:
            result = await handle.result(timeout=120)
        except WorkflowFailed as failure:
            if not fail:
                raise
            print(f"\nThe workflow failed at step {failure.step_id!r}: {failure.error_class}: {failure.text}")
            expect((failure.step_id, failure.error_class) == ("summariser", "ConnectionError"), "another failure came")
            return
    expect(not fail, "the model was made to fail, and the workflow completed")

    show_outputs(result, [event async for event in handle.events()], transport)
    summary = result.output_as(Summary)
    expect(summary.sentences, "the summary has no sentence")
    expect(len(" ".join(summary.sentences)) <= len(text), "the summary is longer than the text")


if __name__ == "__main__":
    parser = command_line(__doc__, EXAMPLE)
    parser.add_argument("--fail", action="store_true", help="let the model fail, and show how that is reported")
    arguments = parse(parser)
    if arguments.model:
        summariser.model = arguments.model
    if arguments.fail:
        summariser.model = FunctionModel(unreachable)
    run(main(given_text(arguments.text), fail=arguments.fail))
