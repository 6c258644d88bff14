"""An agent changes the route: the editor inserts a fact checker if your text makes claims.

The slip begins as editor -> publisher. A text with numbers or absolutes ("never", "the first") makes the editor
insert a step between them. `--forbid` (or `--fail`) gives the text to a trainee who may not insert that step: the
edit is refused, the refusal is recorded, and the workflow goes on without it.
"""

from __future__ import annotations

import sys
from pathlib import Path

# So that `python examples/dynamic_itinerary` finds its neighbours, as `python -m examples.dynamic_itinerary` does.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.console import command_line, expect, given_text, parse, run, serving, show_outputs, show_slip
from examples.dynamic_itinerary.agents import (
    Article,
    dispatcher,
    editor,
    fact_checker,
    proofreader,
    publisher,
    trainee,
)
from examples.dynamic_itinerary.claims import claims_in
from paigeant_celery import WorkflowHandle, get_transport

EXAMPLE = (
    "our city has 250,000 trees. They were planted in 1961, and 7 + 8 = 16 of them are oaks. People like to sit below."
)
ACTIVITIES = ("editor", "trainee", "fact_checker", "proofreader", "publisher")


async def main(text: str, *, forbid: bool, local: bool) -> None:
    """Dispatch two steps and print those that ran."""
    transport = get_transport("inmemory")
    first = (trainee if forbid else editor).add_to_runway(text)
    last = publisher.add_to_runway("Publish this draft.")
    correlation_id = await dispatcher.dispatch_workflow(transport)
    show_slip([first, last], correlation_id)

    handle = dispatcher.handle(correlation_id, transport)
    async with serving(transport, *ACTIVITIES):
        result = await handle.result(timeout=300)

    show_outputs(result, [event async for event in handle.events()], transport)

    inserted, refused = await edits(handle)
    print(f"\nInserted by an agent: {', '.join(inserted) or 'nothing'}. Refused: {', '.join(refused) or 'nothing'}.")
    ran = [step.activity for step in result.steps]
    expect(ran == [first.activity, *inserted, last.activity], f"these steps ran: {ran}")
    expect(not (forbid and "fact_checker" in inserted), "the trainee inserted a step that it must not")
    expect(bool(result.output_as(Article).notes) or "fact_checker" not in ran, "the fact checker left no note")
    if local:
        claims = bool(claims_in(text))
        expect(inserted == (["fact_checker"] if claims and not forbid else []), "the wrong steps were inserted")
        expect(refused == (["activity_not_allowed"] if claims and forbid else []), "the wrong edits were refused")


async def edits(handle: WorkflowHandle) -> tuple[list[str], list[str]]:
    """Return the activities that agents inserted, and why other edits were refused."""
    events = [event async for event in handle.events()]
    inserted = [event.fields["activity"] for event in events if event.type == "step_inserted"]
    refused = [event.fields["reason"] for event in events if event.type == "edit_refused"]
    return inserted, refused


if __name__ == "__main__":
    parser = command_line(__doc__, EXAMPLE)
    parser.add_argument(
        "--forbid", "--fail", action="store_true", help="let an agent ask for a step that it may not insert"
    )
    arguments = parse(parser)
    if arguments.model:
        for agent in (editor, trainee, fact_checker, proofreader, publisher):
            agent.model = arguments.model
    run(main(given_text(arguments.text), forbid=arguments.forbid, local=arguments.model is None))
