"""One attempt of a hop whose agent has types made from sets: reads the hop's records and prints those that it leaves.

Started as a module of the tests. The first argument says after how many records the worker dies.
"""

import asyncio
import json
import sys
from collections import Counter
from contextlib import suppress
from enum import Enum
from typing import Literal

from pydantic import create_model
from pydantic_ai import Agent

from paigeant_celery import CeleryDurability
from paigeant_celery.core.errors import HopLost
from tests.support.journalled_hop import JournalledHop, calls, scripted

WORDS = {"red", "green", "blue", "black", "white", "grey"}
Colour = Literal[tuple(WORDS)]
Tone = Enum("Tone", {word: word for word in WORDS})
Found = create_model("Found", **dict.fromkeys(WORDS, (int, ...)))
Lost = create_model("Lost", why=(Colour, ...))


async def main(cut_after: int | None) -> None:
    """Run the attempt."""
    asked: Counter[str] = Counter()
    model = scripted(asked, calls("mix", of="red", tone="blue"), calls("final_result_Lost", why="red"))
    kinds = {"Found": Found, "Lost": Lost}
    outputs = [kinds[name] for name in set(kinds)]
    agent = Agent(model, name="painter", output_type=outputs, capabilities=[CeleryDurability()])

    @agent.tool_plain
    def mix(of: Colour, tone: Tone) -> str:
        return f"{of} {tone.value}"

    hop, records = JournalledHop(), json.load(sys.stdin)
    with hop.attempt():
        hop.keep(records)
    with hop.attempt(cut_after=cut_after) as journal, suppress(HopLost):
        await agent.run("go")
    print(json.dumps({"asked": asked["local"], "replayed": journal.replayed, "records": dict(hop.records)}))


asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else None))
