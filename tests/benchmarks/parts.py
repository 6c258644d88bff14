"""Where the CPU of a hop goes: the parts of our slip beside those of a plain Celery chain, in ms.

    python tests/benchmarks/parts.py [--rounds N] [--slips N]

The workers have four threads and are loaded as in the case `threads` of `hop.py`: slips of five steps, all sent to a
stopped worker. What each part is stands in `spans.py`. To measure costs a little itself, about 0.1 ms for each hop.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

if not __package__:  # when run by its path
    sys.path.append(str(Path(__file__).parents[2]))

from tests.benchmarks.contestants import prompt_of
from tests.benchmarks.stands import CHAIN, SHORT, SLIP, Stand, place, standing, warm_up
from tests.benchmarks.steady import SLOTS

WRITE_TIMEOUT = 10.0  # seconds for a worker to write its sums
SHOWN = 0.005  # ms; what is less has no row

Parts = Mapping[str, float]  # of a hop, in ms


def main() -> None:
    """Measure both and print the table."""
    parser = argparse.ArgumentParser(description="Where the CPU of a hop goes.")
    parser.add_argument("--rounds", type=int, default=6, help="interleaved rounds (default 6)")
    parser.add_argument("--slips", type=int, default=100, help="slips of five steps in a round (default 100)")
    arguments = parser.parse_args()
    found: dict[str, list[Parts]] = {SLIP.name: [], CHAIN.name: []}
    with tempfile.TemporaryDirectory() as name, place(Path(name)) as where, ExitStack() as stack:
        stands = []
        for index, contestant in enumerate((SLIP, CHAIN)):
            own = where.database(index)
            os.environ["BENCH_PARTS"] = str(_sums_of(contestant.name, where.folder))
            stand = standing(
                stack, contestant, worker_url=own, client_url=own, pool="threads", slots=SLOTS, folder=where.folder
            )
            warm_up(stand)
            stands.append(stand)
        for round_ in range(arguments.rounds):
            for stand in stands[:: -1 if round_ % 2 else 1]:
                found[stand.name].append(_one_round(stand, arguments.slips, where.folder))
    print("\n".join(table(found)))


def table(found: Mapping[str, Sequence[Parts]]) -> Iterator[str]:
    """Yield the lines of a table in Markdown: the median of each part, the largest difference first."""
    names = list(found)
    known = {part for rounds in found.values() for parts in rounds for part in parts}
    rows = {part: [_median(found[name], part) for name in names] for part in known}
    yield "| part | " + " | ".join(names) + " |"
    yield "|---" * (len(names) + 1) + "|"
    for part, medians in sorted(rows.items(), key=lambda row: (row[1][-1] - row[1][0], row[0])):
        if max(medians) >= SHOWN:
            yield f"| {part} | " + " | ".join(f"{median:.2f}" for median in medians) + " |"
    totals = [statistics.median(sum(parts.values()) for parts in found[name]) for name in names]
    yield "| all | " + " | ".join(f"{total:.2f}" for total in totals) + " |"


def _median(rounds: Sequence[Parts], part: str) -> float:
    return statistics.median(one.get(part, 0.0) for one in rounds)


def _one_round(stand: Stand, slips: int, folder: Path) -> Parts:
    prompts = [prompt_of(index) for index in range(SHORT)]
    before = _sums(stand, folder)
    with stand.worker.paused():
        sent = [stand.client.send(prompts) for _ in range(slips)]
    for one in sent:
        stand.read(one, prompts)
    stand.wait_until_quiet()
    after = _sums(stand, folder)
    return {part: (after[part] - before.get(part, 0.0)) / (slips * SHORT) * 1000 for part in after}


def _sums(stand: Stand, folder: Path) -> Parts:
    """Have a worker write its sums, and return them."""
    file, deadline = _sums_of(stand.name, folder), time.monotonic() + WRITE_TIMEOUT
    before = file.read_text() if file.exists() else ""
    stand.worker.send_signal(signal.SIGUSR2)
    while not (file.exists() and (text := file.read_text()) != before and text.endswith("\n")):
        if time.monotonic() > deadline:
            raise TimeoutError("the worker wrote no sums")
        time.sleep(0.01)
    return Counter(json.loads(text.splitlines()[-1]))


def _sums_of(name: str, folder: Path) -> Path:
    return folder / f"{name}.sums"


if __name__ == "__main__":
    main()
