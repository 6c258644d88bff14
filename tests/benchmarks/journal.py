"""What it costs to record an agent's calls and to replay them: our journal against pydantic-ai's DBOS.

    python tests/benchmarks/journal.py [--rounds N] [--calls N] [--quick]

One agent walks: its model asks for a tool, N times, and then answers. Model and tool answer at once, with a line of
text each. The contestants run in one process and take turns to begin a round:

- `bare`: the agent without durability; what the others add is the difference from it, in the same round.
- `ping`: the same, but each call makes an empty request to the server of `journal`, in a thread like ours. No journal
  of that kind can add less. What a wait costs depends on the machine and on what was done since the last one: with a
  long history, caches are cold and the server's process sleeps.
- `journal`: ours, in a claimed hop, with its store on a Redis server that has an append-only file, as recommended:
  written at once and flushed to disk each second.
- `journal, fsync`: the same with `appendfsync always`: each record is on disk before its call returns.
- `dbos`: `DBOSDurability` on SQLite, with its defaults: also on disk before a step returns. It does not record
  function tools by itself, so the tool is a `@DBOS.step`, as its manual says. Only if it is installed:
  `pip install --group bench`.

The servers put their files where Python puts temporary ones: `TMPDIR=/dev/shm` takes the disk out of all of them.

Measured, with 0, 100, 200 and 400 messages in front of the agent's prompt:

- run: the agent's run, from the call of `agent.run` to its result; without what begins and ends the hop or workflow.
- added: how much longer the run takes than the bare one of its round, divided by its calls, all recorded by then.
- text: bytes of the records with their keys, divided by their number; for DBOS all columns of `operation_outputs`.
- held: bytes by which the store grows in the run, divided by the number of records; for ours `MEMORY USAGE` of the
  journal, for DBOS the database file, with its rows of the workflow.
- replay: the run of the next attempt of the same hop, or of the same workflow resumed, for which all calls are
  recorded; for ours this includes reading the journal.

The ratios are the medians of those of the rounds; on a busy machine the ranges say what they are worth. The exit code
is 1 if an output is wrong, if a call was not made exactly once, was not recorded or was made again by a replay, or if
the bytes of a record of ours grow with the history by more than a tenth. It never depends on times.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import platform
import signal
import statistics
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

if not __package__:  # when run by its path: the helpers are found, and the installed package goes first
    sys.path.append(str(Path(__file__).parents[2]))

from tests.benchmarks.durable_runs import Attempt, Bare, Bytes, Contestant, Dbos, Journal, Pinging, destination
from tests.support.servers import NoServer, redis_server

BARE, OURS, SYNCED, DBOS = "bare", "journal", "journal, fsync", "dbos"
PACKAGES = ("paigeant_celery", "pydantic-ai-slim", "redis", "dbos")
GROWTH = 1.1  # of a record's bytes, from the shortest to the longest history
LIMIT = 900  # seconds for everything


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is run."""

    rounds: int
    calls: int  # of the tool, in one run
    histories: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What one contestant did in a round."""

    attempt: Attempt
    replay: Attempt | None = None
    stored: Bytes | None = None

    @property
    def text(self) -> float:
        """Bytes of a record."""
        return self.stored.text / self.stored.records if self.stored is not None else 0.0

    @property
    def held(self) -> float:
        """How much the store grows per record, in bytes."""
        return self.stored.held / self.stored.records if self.stored is not None else 0.0

    def added(self, bare: Sample) -> float:
        """How many milliseconds longer each call takes."""
        return (self.attempt.seconds - bare.attempt.seconds) / bare.attempt.calls * 1000


# By history and contestant; those of one round have the same position.
Samples = Mapping[int, Mapping[str, Sequence[Sample]]]


def main() -> int:
    """Run everything and print the tables; 1 if something is wrong, 2 without a server."""
    size = _size(_arguments())
    for ending in (signal.SIGALRM, signal.SIGTERM):
        signal.signal(ending, _give_up)
    signal.alarm(LIMIT)
    try:
        samples, server = asyncio.run(_measure(size))
    except NoServer as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(_report_lines(samples, server, size)))
    mistakes = list(mistakes_in(samples, calls=size.calls))
    for mistake in mistakes:
        print(f"wrong: {mistake}", file=sys.stderr)
    return 1 if mistakes else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What it costs to record an agent's calls, and to replay them.")
    parser.add_argument("--rounds", type=int, help="of each history (default 15, quick 3)")
    parser.add_argument("--calls", type=int, help="of the tool in a run (default 40, quick 10)")
    parser.add_argument("--quick", action="store_true", help="less of everything, for a look")
    return parser.parse_args()


def _size(arguments: argparse.Namespace) -> Size:
    if arguments.quick:
        return Size(rounds=arguments.rounds or 3, calls=arguments.calls or 10, histories=(0, 400))
    return Size(rounds=arguments.rounds or 15, calls=arguments.calls or 40, histories=(0, 100, 200, 400))


def _give_up(number: int, _frame: object) -> None:
    """End on a signal as on any error, so that the servers also end."""
    for ending in (signal.SIGALRM, signal.SIGTERM):
        signal.signal(ending, signal.SIG_IGN)
    sys.exit(f"ended by {signal.Signals(number).name}")


async def _measure(size: Size) -> tuple[Samples, str]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        contestants, server = _contestants(stack, folder)
        for contestant in contestants:  # so that each has warmed up its code and connections
            await _sample(contestant, calls=2, history=0)
        samples: dict[int, dict[str, list[Sample]]] = {}
        for history in size.histories:
            found = samples[history] = {contestant.name: [] for contestant in contestants}
            for round_ in range(size.rounds):
                first = round_ % len(contestants)
                for contestant in (*contestants[first:], *contestants[:first]):
                    found[contestant.name].append(await _sample(contestant, calls=size.calls, history=history))
        return samples, server


def _contestants(stack: ExitStack, folder: Path) -> tuple[list[Contestant], str]:
    """Return who takes part, and what our server is called."""
    server = stack.enter_context(redis_server("--appendonly", "yes"))
    synced = stack.enter_context(redis_server("--appendonly", "yes", "--appendfsync", "always"))
    ours = [
        stack.enter_context(closing(Journal(name, url))) for name, url in ((OURS, server.url), (SYNCED, synced.url))
    ]
    pinging = stack.enter_context(closing(Pinging(server.url)))
    contestants: list[Contestant] = [Bare(), pinging, *ours]
    if find_spec("dbos") is not None:
        dbos = stack.enter_context(closing(Dbos(folder)))
        dbos.launch()
        contestants.append(dbos)
    return contestants, ours[0].server()


async def _sample(contestant: Contestant, *, calls: int, history: int) -> Sample:
    gc.collect()  # nobody pays for what the previous one left
    attempt = await contestant.run(calls, history)
    stored = contestant.stored()
    return Sample(attempt=attempt, stored=stored, replay=await contestant.replay())


# What is wrong.


def mistakes_in(samples: Samples, *, calls: int) -> Iterator[str]:
    """Yield a line for each mistake."""
    for history, found in samples.items():
        for name, several in found.items():
            wrong = sorted({mistake for sample in several for mistake in _mistakes(sample, calls)})
            yield from (f"{name}, {history} messages: {mistake}" for mistake in wrong)
    shortest, longest = samples[min(samples)], samples[max(samples)]
    for name in (OURS, SYNCED):
        for what in ("text", "held"):
            few, many = (_median(getattr(sample, what) for sample in found[name]) for found in (shortest, longest))
            if many > few * GROWTH:
                yield f"{name}: {few:.0f} bytes a record ({what}) after a short history, {many:.0f} after a long one"


def _mistakes(sample: Sample, calls: int) -> Iterator[str]:
    attempt, expected = sample.attempt, destination(calls)
    if attempt.output != expected:
        yield f"the output is {attempt.output!r} instead of {expected!r}"
    if (attempt.model_calls, attempt.tool_calls) != (calls + 1, calls):
        yield f"{attempt.model_calls} model and {attempt.tool_calls} tool calls were made, of {calls + 1} and {calls}"
    if sample.stored is not None and sample.stored.records < 2 * calls + 1:
        yield f"{sample.stored.records} records are kept of {2 * calls + 1} calls"
    if sample.replay is None:
        return
    if sample.replay.output != expected:
        yield f"the replay's output is {sample.replay.output!r} instead of {expected!r}"
    if sample.replay.model_calls or sample.replay.tool_calls:
        yield f"the replay made {sample.replay.model_calls} model and {sample.replay.tool_calls} tool calls again"


# The report.


def _report_lines(samples: Samples, server: str, size: Size) -> Iterator[str]:
    yield f"Python {platform.python_version()}, " + ", ".join(filter(None, map(_version, PACKAGES))) + f", {server}"
    yield f"{size.calls} tool calls and {size.calls + 1} model requests in a run; medians of {size.rounds} rounds"
    if DBOS not in samples[min(samples)]:
        yield "dbos is not installed (`pip install --group bench`): ours is compared with the bare agent alone"
    yield ""
    yield from table_lines(samples)
    if DBOS in samples[min(samples)]:
        yield ""
        yield from ratio_lines(samples)


def table_lines(samples: Samples) -> Iterator[str]:
    """Yield the lines of the table of measurements."""
    yield (
        f"{'messages before':<17}{'':<16}{'run ms':>8}{'added ms/call':>15}{'(lowest - highest)':>20}"
        f"{'records':>9}{'text B/record':>15}{'held B/record':>15}{'replay ms':>11}{'(lowest - highest)':>20}"
    )
    for history, found in samples.items():
        for name, several in found.items():
            run = _median(sample.attempt.seconds * 1000 for sample in several)
            columns = "" if name == BARE else _added_columns(several, found[BARE]) + _stored_columns(several)
            yield f"{history:<17}{name:<16}{run:>8.1f}{columns}".rstrip()


def _added_columns(several: Sequence[Sample], bare: Sequence[Sample]) -> str:
    added = [sample.added(before) for sample, before in zip(several, bare, strict=True)]
    return f"{statistics.median(added):>15.3f}{_range(added, '.3f'):>20}"


def _stored_columns(several: Sequence[Sample]) -> str:
    replays = [sample.replay.seconds * 1000 for sample in several if sample.replay is not None]
    if not replays:
        return ""
    records = max(sample.stored.records for sample in several if sample.stored is not None)
    text, held = (_median(getattr(sample, what) for sample in several) for what in ("text", "held"))
    return f"{records:>9}{text:>15.0f}{held:>15.0f}{statistics.median(replays):>11.1f}{_range(replays, '.1f'):>20}"


def ratio_lines(samples: Samples) -> Iterator[str]:
    """Yield the lines that show ours as a fraction of DBOS's."""
    yield f"{'ratio to dbos':<33}{'added':>8}{'(lowest - highest)':>20}{'run':>8}{'text':>8}{'held':>8}{'replay':>8}"
    for history, found in samples.items():
        bare, theirs = found[BARE], found[DBOS]
        for name in (OURS, SYNCED):
            pairs = list(zip(found[name], theirs, strict=True))
            added = [own.added(before) / other.added(before) for (own, other), before in zip(pairs, bare, strict=True)]
            others = (
                _median(own.attempt.seconds / other.attempt.seconds for own, other in pairs),
                _median(own.text / other.text for own, other in pairs),
                _median(own.held / other.held for own, other in pairs),
                _median(
                    own.replay.seconds / other.replay.seconds
                    for own, other in pairs
                    if own.replay is not None and other.replay is not None
                ),
            )
            yield (
                f"{history:<17}{name:<16}{statistics.median(added):>8.2f}{_range(added, '.2f'):>20}"
                + "".join(f"{ratio:>8.2f}" for ratio in others)
            )


def _median(values: Iterable[float]) -> float:
    return statistics.median(values)


def _range(values: Sequence[float], form: str) -> str:
    return f"{min(values):{form}} - {max(values):{form}}"


def _version(package: str) -> str | None:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    sys.exit(main())
