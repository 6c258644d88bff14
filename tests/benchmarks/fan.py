"""What a fan-out costs: blocks against single workflows and against Celery's chord.

    python tests/benchmarks/fan.py [--rounds N] [--branches N] [--quick]

One run on one server, with workers of threads that run instant agents, each contestant with its own processes:

- fan: 100 agents side by side and a join. Worker CPU of one such block over that of the same 100 agents as single
  workflows, which are sent to a stopped worker. Agents per second, from the first call of a model to the last one,
  over those of a chord of the same agents; and the same ratio of 100 workflows of 5 steps to as many chains, as
  `hop.py` measures it, in the same rounds. Branches must not lose more of the rate than steps do.
- many: a block of 1000 branches, of which 50 go on at the same time: how much the memory of the worker grows beyond
  what the blocks before it needed, and how many bytes of Redis each branch takes beside outputs, when the workflow has
  ended.
- commands: how many commands a script of blocks runs on the server at most, by `INFO commandstats`.

The exit code is 1 if an output was lost or is not what it must be. It never depends on times.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import redis

if not __package__:  # when run by its path: the helpers are found, and the installed package goes first
    sys.path.append(str(Path(__file__).parents[2]))

from paigeant_celery.core.blocks import plan_of
from paigeant_celery.core.flow import Failure
from paigeant_celery.store.branch_port import BranchPage
from paigeant_celery.store.port import Claim, Claimed, Closing, Completion, HopRecord, NewWorkflow, Standing
from paigeant_celery.store.redis import RedisStore
from tests.benchmarks.contestants import prompt_of
from tests.benchmarks.samples import Samples, ratios
from tests.benchmarks.stands import CHAIN, SHORT, SLIP, Place, Ran, Stand, WrongOutput, place, standing, warm_up
from tests.benchmarks.stands import checked as checked_steps
from tests.support.processes import deployment
from tests.support.servers import NoServer, redis_server

SLOTS = 4
AT_ONCE = 50
TIMEOUT = 120.0  # seconds for one workflow
LIMIT = 1800  # seconds for everything
CPU, SINGLE_CPU = "worker CPU ms/agent, in a block", "worker CPU ms/agent, single workflows"
RATE, STEP_RATE = "agents/s, side by side", "hops/s, in slips"
CPU_REACH, RATE_REACH, MEMORY_REACH, BYTES_REACH, COMMANDS_REACH = 1.2, 0.85, 20.0, 3072, 1000
OUTSIDE = {"cmdstat_evalsha", "cmdstat_info", "cmdstat_config|resetstat"}  # what calls scripts, and looks
OWNER = "bench"


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is done."""

    rounds: int = 10
    fan: int = 100  # agents side by side
    fans: int = 3  # in a round, one after the other
    load: int = 100  # workflows of five steps, all at once
    branches: int = 1000  # of the large block


@dataclass(frozen=True, kw_only=True)
class Large:
    """What a block of many branches took: MB of the worker's memory, and bytes of Redis a branch."""

    memory: float
    bytes: float


QUICK = Size(rounds=1, fan=20, fans=1, load=10, branches=60)


def measure_fan(where: Place, size: Size) -> Samples:
    """Run interleaved rounds, in which the contestants take turns to begin."""
    samples = Samples()
    with ExitStack() as stack:
        stands = []
        for index, contestant in enumerate((SLIP, CHAIN)):
            own = where.database(index)
            stand = standing(
                stack, contestant, worker_url=own, client_url=own, pool="threads", slots=SLOTS, folder=where.folder
            )
            stands.append(stand)
            warm_up(stand)
            _fan(stand, size.fan, at_once=AT_ONCE)
        for round_ in range(size.rounds):
            in_turn = stands[:: -1 if round_ % 2 else 1]
            for stand in in_turn:
                _side_by_side(samples, stand, size)
            _single(samples, stands[0], size)
            for stand in in_turn:
                _in_slips(samples, stand, size.load)
    return samples


def measure_many(where: Place, size: Size) -> Large:
    """Run a block of many branches, after one that has made the worker as large as it is at work."""
    with ExitStack() as stack:
        own = where.database(2)
        stand = standing(stack, SLIP, worker_url=own, client_url=own, pool="threads", slots=SLOTS, folder=where.folder)
        warm_up(stand)
        _fan(stand, min(size.fan, size.branches), at_once=AT_ONCE)
        before, held = stand.worker.usage().peak, _used_memory(stand.database)
        ran = _fan(stand, size.branches, at_once=AT_ONCE)
        outputs = ran.size
        taken = _used_memory(stand.database) - held - outputs
        return Large(memory=(stand.worker.usage().peak - before) / 1e6, bytes=taken / size.branches)


def _fan(stand: Stand, agents: int, *, at_once: int) -> Ran:
    """Ask so many agents side by side; raises `WrongOutput` unless each answered once."""
    prompts = [prompt_of(index) for index in range(agents)]
    outputs = stand.client.outputs(stand.client.fan(prompts, at_once=at_once), timeout=TIMEOUT)
    stand.wait_until_quiet()
    if len(outputs) != agents:
        raise WrongOutput(f"{len(outputs)} answers of {agents} agents")
    ran = [checked_steps([output], [prompt]) for output, prompt in zip(outputs, prompts, strict=True)]
    return Ran(
        begun=[one.begun[0] for one in ran], ended=[one.ended[0] for one in ran], size=sum(one.size for one in ran)
    )


def _side_by_side(samples: Samples, stand: Stand, size: Size) -> None:
    before, rates = stand.worker.usage().cpu, []
    for _ in range(size.fans):
        ran = _fan(stand, size.fan, at_once=min(size.fan, 100))
        rates.append((size.fan - 1) / (max(ran.ended) - min(ran.begun)))
    samples.add(CPU, stand.name, (stand.worker.usage().cpu - before) / (size.fans * size.fan) * 1000)
    samples.add(RATE, stand.name, statistics.median(rates))


def _single(samples: Samples, stand: Stand, size: Size) -> None:
    before, agents = stand.worker.usage().cpu, size.fan * size.fans
    prompts = [prompt_of(0)]
    with stand.worker.paused():
        sent = [stand.client.send(prompts) for _ in range(agents)]
    for one in sent:
        stand.read(one, prompts)
    stand.wait_until_quiet()
    samples.add(SINGLE_CPU, stand.name, (stand.worker.usage().cpu - before) / agents * 1000)


def _in_slips(samples: Samples, stand: Stand, workflows: int) -> None:
    prompts = [prompt_of(index) for index in range(SHORT)]
    with stand.worker.paused():
        sent = [stand.client.send(prompts) for _ in range(workflows)]
    stamps = [stamp for one in sent for stamp in stand.read(one, prompts).ended]
    stand.wait_until_quiet()
    samples.add(STEP_RATE, stand.name, (workflows * SHORT - 1) / (max(stamps) - min(stamps)))


def _used_memory(client: redis.Redis) -> int:
    found: Any = client.info("memory")
    return int(found["used_memory"])


@dataclass(frozen=True, kw_only=True)
class Script:
    """What one call of a script costs the server."""

    commands: int
    milliseconds: float


def count_commands(store: RedisStore, client: redis.Redis) -> Iterator[tuple[str, Script]]:
    """Yield what a script of blocks is asked for at most, and what it then costs the server."""

    def count(call: Callable[[], object]) -> Script:
        client.config_resetstat()
        call()
        stats: Any = client.info("commandstats")
        calls = sum(found["calls"] for name, found in stats.items() if name not in OUTSIDE)
        return Script(commands=calls, milliseconds=stats["cmdstat_evalsha"]["usec"] / 1000)

    plan = plan_of(100, join="all", collects=False, at_once=100)
    block = _block(store, "opened")
    yield "HOLD of 100 branches", count(lambda: store.hold(block, _page("opened", 100)))
    yield "OPEN of 100 branches", count(lambda: store.open_block(block, plan))
    store.suspend(block, Standing(branches=True))
    one = _claimed(store, "opened.0-0.0")
    yield "CLAIM in a branch", count(lambda: _claimed(store, "opened.0-1.0"))
    done = Completion(closing=one, envelope="", next_hop=None, step="s", end="{}")
    yield "COMPLETE of a branch", count(lambda: store.complete(done))
    parked = _claimed(store, "opened.0-2.0")
    yield "PARK of a branch", count(lambda: store.park(parked, Failure(step_id="s", error_class="E", text="")))
    yield "CANCEL above 98 live branches", count(lambda: store.cancel("opened"))
    many = _opened(store, "many", 1000)
    last = Completion(closing=many, envelope="{}", next_hop=None, step="s")
    yield "COMPLETE above 1000 branches", count(lambda: store.complete(last))
    yield "SWEEP that closes some of them", count(lambda: store.sweep(host="bench", queues={"q": False}))
    other = _opened(store, "other", 1000)
    failure = Failure(step_id="s", error_class="E", text="")
    yield "FAIL above 1000 branches", count(lambda: store.fail(other, failure))
    _opened(store, "third", 1000)
    yield "CANCEL above 1000 branches", count(lambda: store.cancel("third"))
    yield "READ of 100 branches", count(lambda: store.branches("third.0", first=0, limit=100))


def _block(store: RedisStore, workflow: str) -> Closing:
    hop = HopRecord(hop_id=f"{workflow}.0", queue="q", envelope="{}", digest="d")
    store.start(NewWorkflow(correlation_id=workflow, content="c", hop=hop))
    return _claimed(store, hop.hop_id)


def _claimed(store: RedisStore, hop_id: str) -> Closing:
    answer = store.claim(Claim(hop_id=hop_id, owner=OWNER, token=os.urandom(8).hex(), max_attempts=9, digest="d"))
    if not isinstance(answer, Claimed):
        raise WrongOutput(f"{hop_id} was not claimed: {answer}")
    return Closing(hop_id=hop_id, owner=OWNER, fence=answer.fence)


def _page(workflow: str, count: int, *, first: int = 0) -> BranchPage:
    hops = [
        HopRecord(hop_id=f"{workflow}.0-{number}.0", queue="q", envelope="{}", digest="d")
        for number in range(first, first + count)
    ]
    return BranchPage(first=first, hops=hops)


def _opened(store: RedisStore, workflow: str, branches: int) -> Closing:
    """Return a block that still runs, with so many branches, of which 100 are live."""
    block = _block(store, workflow)
    for first in range(0, branches, 100):
        store.hold(block, _page(workflow, 100, first=first))
    store.open_block(block, plan_of(branches, join="all", collects=False, at_once=100))
    return block


def main() -> int:
    """Measure, and print the tables; 1 if something was lost or wrong, 2 without a server."""
    size = _size()
    for ending in (signal.SIGALRM, signal.SIGTERM):
        signal.signal(ending, _give_up)
    signal.alarm(LIMIT)
    packages = ("paigeant_celery", "celery", "kombu", "redis", "pydantic-ai-slim")
    print(f"Python {platform.python_version()}, " + ", ".join(f"{package} {version(package)}" for package in packages))
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            with place(folder) as where:
                print("\n".join(fan_lines(measure_fan(where, size))), flush=True)
                print("\n".join(many_lines(measure_many(where, size), size)), flush=True)
            with (
                redis_server() as server,
                deployment(server.url, folder / "commands") as other,
                redis.Redis.from_url(server.url) as client,
            ):
                store = other.transport().store
                assert isinstance(store, RedisStore)
                print("\n".join(command_lines(dict(count_commands(store, client)))), flush=True)
    except NoServer as error:
        print(error, file=sys.stderr)
        return 2
    except (WrongOutput, TimeoutError) as error:
        print(f"wrong or lost: {error}", file=sys.stderr)
        return 1
    return 0


def fan_lines(samples: Samples) -> Iterator[str]:
    """Yield the table of a fan, with what it should reach."""
    yield ""
    yield f"{'':<42}{SLIP.name:>10}{'chord':>10}"
    for measure in (CPU, RATE, STEP_RATE):
        yield f"{measure:<42}" + "".join(
            f"{statistics.median(samples.of(measure, name)):>10.2f}" for name in (SLIP.name, CHAIN.name)
        )
    yield f"{SINGLE_CPU:<42}{statistics.median(samples.of(SINGLE_CPU, SLIP.name)):>10.2f}"
    cpu = ratios(samples.of(CPU, SLIP.name), samples.of(SINGLE_CPU, SLIP.name))
    of_chord = ratios(samples.of(RATE, SLIP.name), samples.of(RATE, CHAIN.name))
    of_chain = ratios(samples.of(STEP_RATE, SLIP.name), samples.of(STEP_RATE, CHAIN.name))
    against = [mine / theirs for mine, theirs in zip(of_chord, of_chain, strict=True)]
    yield f"\n{'':<52}{'ratio':>8}{'(lowest - highest)':>20}{'reach':>8}"
    yield _row("worker CPU, a block / single workflows", cpu, CPU_REACH)
    yield _row("agents per second, a block / a chord", of_chord, None)
    yield _row("hops per second, slips / chains", of_chain, None)
    yield _row("the former / the latter (more is better)", against, RATE_REACH, at_least=True)


def _row(title: str, values: Sequence[float], reach: float | None, *, at_least: bool = False) -> str:
    ratio, spread = statistics.median(values), f"{min(values):.2f} - {max(values):.2f}"
    wanted = "" if reach is None else f"{reach:>8g}  {_verdict(ratio, reach, at_least=at_least)}"
    return f"{title:<52}{ratio:>8.2f}{spread:>20}{wanted}"


def many_lines(large: Large, size: Size) -> Iterator[str]:
    """Yield what a large block took."""
    yield f"\n{f'{size.branches} branches, {AT_ONCE} at the same time':<52}{'':>8}{'reach':>28}"
    for title, value, reach in (
        ("MB more of the worker", large.memory, MEMORY_REACH),
        ("bytes of Redis a branch", large.bytes, BYTES_REACH),
    ):
        yield f"{title:<52}{value:>8.1f}{reach:>28g}  {_verdict(value, reach)}"


def command_lines(scripts: Mapping[str, Script]) -> Iterator[str]:
    """Yield the table of commands."""
    yield f"\n{'':<50}{'ms':>8}{'commands':>10}{'reach':>8}"
    for name, found in scripts.items():
        verdict = _verdict(found.commands, COMMANDS_REACH)
        yield f"{name:<50}{found.milliseconds:>8.2f}{found.commands:>10}{COMMANDS_REACH:>8}  {verdict}"


def _verdict(value: float, reach: float, *, at_least: bool = False) -> str:
    return "reached" if (value >= reach if at_least else value <= reach) else "missed"


def _size() -> Size:
    parser = argparse.ArgumentParser(description="What a fan-out costs.")
    parser.add_argument("--rounds", type=int, help="interleaved rounds (default 10, quick 1)")
    parser.add_argument("--branches", type=int, help="of the large block (default 1000, quick 60)")
    parser.add_argument("--quick", action="store_true", help="very little of all, for a look")
    arguments = parser.parse_args()
    size = QUICK if arguments.quick else Size()
    return replace(size, rounds=arguments.rounds or size.rounds, branches=arguments.branches or size.branches)


def _give_up(number: int, _frame: object) -> None:
    """End on a signal as on any error, so that workers and servers also end."""
    for ending in (signal.SIGALRM, signal.SIGTERM):
        signal.signal(ending, signal.SIG_IGN)
    sys.exit(f"ended by {signal.Signals(number).name}")


if __name__ == "__main__":
    sys.exit(main())
