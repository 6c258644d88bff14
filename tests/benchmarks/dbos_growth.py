"""What a long workflow costs with DBOS, for a look beside the case `growth`: the case `dbos`.

    python dbos_growth.py DATABASE_URL STEPS SHORT_WORKFLOWS OUTPUT_BYTES

One DBOS workflow runs the agent once for each step, with `DBOSDurability` and DBOS' defaults, in one process without a
queue. The figures are no hops through a broker, and no target refers to them. CPU per step is the process's, in a
workflow of many steps and in workflows of 5 steps, as in `growth`. It is on SQLite, or with `--postgres` on a
PostgreSQL of its own. Run by its name it is that process, which prints its figures as JSON.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

if not __package__:  # when run by its path
    sys.path.append(str(Path(__file__).parents[2]))

from tests.benchmarks.contestants import agent_arguments, prompt_of
from tests.benchmarks.postgres import running_postgres
from tests.benchmarks.samples import Samples
from tests.benchmarks.stands import SHORT, Place, Size, checked

__all__ = ["NAME", "measure"]

NAME = "dbos"

LONG_CPU, SHORT_CPU = "CPU ms/step, long workflow", "CPU ms/step, 5 steps"
WALL = "s from first to last output"
LIMIT = 300.0  # seconds for one round


def measure(samples: Samples, place: Place, size: Size, *, postgres: bool) -> None:
    """Run rounds, each in a new process."""
    for _ in range(size.rounds):
        with tempfile.TemporaryDirectory(dir=place.folder) as folder:
            sqlite = nullcontext(f"sqlite:///{folder}/dbos.sqlite")
            with running_postgres() if postgres else sqlite as url:
                for name, value in _one_round(url, size).items():
                    samples.add(name, NAME, value)


def _one_round(url: str, size: Size) -> dict[str, float]:
    command = [sys.executable, __file__, url, str(size.steps), str(size.short), str(size.output)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    if done.returncode:
        raise RuntimeError(f"DBOS ended with {done.returncode}: {done.stderr[-500:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


async def _figures(url: str, steps: int, short: int, output: int) -> dict[str, float]:
    from dbos import DBOS
    from pydantic_ai import Agent
    from pydantic_ai.durable_exec.dbos import DBOSDurability

    DBOS(config={"name": "bench", "system_database_url": url, "log_level": "CRITICAL"})
    agent: Agent[None, str] = Agent(**agent_arguments(), capabilities=[DBOSDurability()])

    @DBOS.workflow(name="walk")
    async def walk(prompts: Sequence[str]) -> list[str]:
        outputs: list[str] = []
        for prompt in prompts:
            text = f"{prompt}\n\n{outputs[-1]}" if outputs else prompt
            outputs.append((await agent.run(text)).output)
        return outputs

    async def run(count: int) -> Any:
        prompts = [prompt_of(index, size=output) for index in range(count)]
        handle = await DBOS.start_workflow_async(walk, prompts)
        return checked(await handle.get_result(polling_interval_sec=0.01), prompts)

    DBOS.launch()
    try:
        await run(SHORT)
        before = time.process_time()
        for _ in range(short):
            await run(SHORT)
        between = time.process_time()
        ran = await run(steps)
        after = time.process_time()
    finally:
        DBOS.destroy()
    return {
        SHORT_CPU: (between - before) / (short * SHORT) * 1000,
        LONG_CPU: (after - between) / steps * 1000,
        WALL: ran.ended[-1] - ran.ended[0],
    }


if __name__ == "__main__":
    database, *numbers = sys.argv[1:]
    print(json.dumps(asyncio.run(_figures(database, *map(int, numbers)))))
