"""Three agents on a routing slip: one finds the topic of your text, one jokes about it, one chooses the best joke.

Each step runs when its message arrives on its queue, and gets the output of the step before it. `--fail` lets
the second agent write one joke where three are asked for, and shows where the workflow stops.
"""

from __future__ import annotations

import sys
from pathlib import Path

# So that `python examples/three_agents` finds its neighbours, as `python -m examples.three_agents` does.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pydantic_ai.messages import ModelMessage, ModelResponse, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from examples.console import command_line, expect, given_text, parse, run, serving, show_outputs, show_slip
from examples.three_agents.agents import dispatcher, joke_judge, joke_writer, topic_finder
from examples.three_agents.outputs import Jokes, Selection
from paigeant_celery import WorkflowFailed, WorkflowHandle, get_transport

EXAMPLE = "Every Monday the coffee machine in our office breaks, and nobody can make coffee before the meeting."
NAMES = ("topic_finder", "joke_writer", "joke_judge")


async def main(text: str, *, fail: bool) -> None:
    """Dispatch the slip, serve its three queues and print what each agent returned."""
    transport = get_transport("inmemory")
    slip = [
        topic_finder.add_to_runway(text),
        joke_writer.add_to_runway("Write three short jokes about this topic."),
        joke_judge.add_to_runway("Which of these jokes is the best?"),
    ]
    correlation_id = await dispatcher.dispatch_workflow(transport)
    show_slip(slip, correlation_id)

    handle = dispatcher.handle(correlation_id, transport)
    async with serving(transport, *NAMES):
        if fail:
            await show_failure(handle)
            return
        result = await handle.result(timeout=300)

    show_outputs(result, [event async for event in handle.events()], transport)

    jokes = result.output_as(Jokes, step_id="joke_writer").jokes
    best = jokes[result.output_as(Selection).number - 1]
    print(f"\n{best}")
    expect(tuple(result.outputs) == NAMES, f"the steps were {tuple(result.outputs)}, and not {NAMES}")
    expect(len(set(jokes)) == 3, "the model wrote no three different jokes")


async def show_failure(handle: WorkflowHandle) -> None:
    """Print what the caller is told about a failed step, and what is left on the slip."""
    try:
        await handle.result(timeout=300)
    except WorkflowFailed as failure:
        status = await handle.status()
        print(f"\nThe workflow {status.state} at step {failure.step_id!r}: {failure.error_class}: {failure.text}")
        print(f"Done: {', '.join(status.executed)}. Never run: {', '.join(NAMES[len(status.executed) + 1 :])}.")
        expect(failure.step_id == "joke_writer", "another step failed than the one that was made to")
        expect(status.executed == NAMES[:1], "other steps ran than the one before the failure")
    else:
        expect(False, "the second step was made to fail, and the workflow completed")


def write_one_joke(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """Answer like a model that ignores the schema, however often it is asked."""
    return ModelResponse(parts=[ToolCallPart(info.output_tools[0].name, {"jokes": ["That was all."]})])


if __name__ == "__main__":
    parser = command_line(__doc__, EXAMPLE)
    parser.add_argument("--fail", action="store_true", help="let the second agent fail, and show what is reported")
    arguments = parse(parser)
    if arguments.model:
        for agent in (topic_finder, joke_writer, joke_judge):
            agent.model = arguments.model
    if arguments.fail:
        joke_writer.model = FunctionModel(write_one_joke)
    run(main(given_text(arguments.text), fail=arguments.fail))
