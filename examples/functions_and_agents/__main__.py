"""Functions and an agent on one slip: clean (sync function) -> editor (agent) -> compare (async function).

Functions are steps just like agents: JSON arguments, a queue, a record of what they return. `compare` reads the
workflow's variables and the outputs of both steps before it. `--fail` makes it wait for a service that is
slower than its time limit.
"""

from __future__ import annotations

import sys
from pathlib import Path

# So that `python examples/functions_and_agents` finds its neighbours, as with `python -m`.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.console import command_line, expect, given_text, parse, run, serving, show_outputs, show_slip
from examples.functions_and_agents.activities import Article, Report, clean, compare, dispatcher, editor
from paigeant_celery import ActivitySpec, FunctionSpec, WorkflowFailed, get_transport

EXAMPLE = (
    "Bees make honey. Bees make honey. They collect nectar from flowers and carry it to the hive. In the hive other "
    "bees fan the nectar with their wings until it is thick. A hive needs a lot of honey for the winter. Bears agree."
)


async def main(text: str, *, words_per_minute: int, fail: bool) -> None:
    """Dispatch functions and an agent as one itinerary, and print what each returned."""
    transport = get_transport("inmemory")
    itinerary: list[ActivitySpec | FunctionSpec] = [
        clean.activity(text),
        editor.activity("Shorten this article."),
        compare.activity(service_delay=60.0 if fail else 0.0),
    ]
    correlation_id = await dispatcher.dispatch_workflow(
        transport, itinerary=itinerary, variables={"words_per_minute": words_per_minute}
    )
    show_slip(itinerary, correlation_id)

    handle = dispatcher.handle(correlation_id, transport)
    async with serving(transport, "clean", "editor", "compare"):
        try:
            result = await handle.result(timeout=300)
        except WorkflowFailed as failure:
            if not fail:
                raise
            print(f"\nThe workflow failed at step {failure.step_id!r}: {failure.error_class}: {failure.text}")
            expect((failure.step_id, failure.error_class) == ("compare", "TimeoutError"), "another failure came")
            return
    expect(not fail, "the last step was made to take too long, and the workflow completed")

    show_outputs(result, [event async for event in handle.events()], transport)

    article, report = result.output_as(Article, step_id="clean"), result.output_as(Report)
    total = report.seconds_to_read + report.seconds_saved
    expect(report.seconds_saved >= 0, "the agent made the article longer")
    expect(abs(total - article.words * 60 / words_per_minute) < 0.2, "the reading times do not add up")


if __name__ == "__main__":
    parser = command_line(__doc__, EXAMPLE)
    parser.add_argument("--words-per-minute", type=int, default=240, help="how fast the reader reads (default: 240)")
    parser.add_argument("--fail", action="store_true", help="let the last step exceed its time limit of 1 s")
    arguments = parse(parser)
    if arguments.words_per_minute < 1:
        parser.error("--words-per-minute is 1 or more")
    if arguments.model:
        editor.model = arguments.model
    run(main(given_text(arguments.text), words_per_minute=arguments.words_per_minute, fail=arguments.fail))
