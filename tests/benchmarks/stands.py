"""What stands ready in the benchmarks of a hop: a contestant's worker, its client and its database."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import redis

from tests.benchmarks.contestants import padding_of, prompt_of
from tests.benchmarks.proxy import CountingProxy, running_proxy
from tests.benchmarks.workers import Client, Contestant, Worker, running_client, running_worker
from tests.support.servers import redis_server

__all__ = [
    "CHAIN",
    "LEAN",
    "LONG",
    "SHORT",
    "SLIP",
    "Place",
    "Ran",
    "Size",
    "Stand",
    "WrongOutput",
    "checked",
    "place",
    "proxied",
    "standing",
    "warm_up",
]

SLIP, CHAIN = Contestant(name="slip", kind="slip"), Contestant(name="chain", kind="chain")
LEAN = Contestant(name="lean", kind="lean")
LONG, SHORT = 20, 5  # steps of a workflow
WARM_UP = 24  # short workflows sent at once, so that every slot has warmed up its code and connections
TIMEOUT = 60.0  # seconds for one workflow, however many wait before it
QUIET_TIMEOUT = 10.0  # seconds for a worker to acknowledge what it finished
UNACKNOWLEDGED = "unacked"  # Kombu's key of unacknowledged messages


class WrongOutput(Exception):
    """A workflow's outputs are not what they must be."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is run."""

    rounds: int
    slips: int = 4  # long workflows of a contestant in a round, one after the other
    load: int = 150  # short workflows of a contestant in a round, all at once
    counted: int = 25  # long workflows of a contestant whose round trips are counted
    steps: int = 200  # of a workflow whose outputs add up
    output: int = 2048  # bytes of each of these outputs
    short: int = 20  # short workflows beside each of them
    agents: int = 500  # in flight in one process
    window: float = 5.0  # seconds for which an idle worker and waiting agents are looked at
    limit: int = 1800  # seconds for one case of one contestant


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a case runs: its own server, and a folder for logs."""

    url: str
    folder: Path

    def database(self, index: int) -> str:
        """Return a database; none is used by two contestants, because a store remembers its broker's address."""
        return f"{self.url.rpartition('/')[0]}/{index}"


@contextmanager
def place(folder: Path) -> Iterator[Place]:
    """Yield a place with a server of its own; raises `NoServer`."""
    with redis_server() as server:
        yield Place(url=server.url, folder=folder)


@dataclass(frozen=True, kw_only=True)
class Ran:
    """What the outputs of a workflow say: when the model of each step was called and answered, and their bytes."""

    begun: list[float]
    ended: list[float]
    size: int


@dataclass(frozen=True, kw_only=True)
class Stand:
    """A contestant that is ready."""

    name: str
    worker: Worker
    client: Client
    database: redis.Redis

    def run(self, workflows: int, *, steps: int, output: int = 0) -> list[Ran]:
        """Run workflows one after the other."""
        prompts = [prompt_of(index, size=output) for index in range(steps)]
        ran = [self.read(self.client.send(prompts), prompts) for _ in range(workflows)]
        self.wait_until_quiet()
        return ran

    def read(self, sent: str, prompts: Sequence[str], *, timeout: float = TIMEOUT) -> Ran:
        """Wait for a workflow; raises `WrongOutput` or `TimeoutError`."""
        return checked(self.client.outputs(sent, timeout=timeout), prompts)

    def wait_until_quiet(self) -> None:
        """Wait until the worker has acknowledged what it finished."""
        deadline = time.monotonic() + QUIET_TIMEOUT
        while self.database.exists(UNACKNOWLEDGED):
            if time.monotonic() > deadline:
                raise TimeoutError(f"the worker acknowledged nothing for {QUIET_TIMEOUT:g} s")
            time.sleep(0.01)

    def server_cpu(self) -> float:
        """Return the seconds of CPU that the server has used."""
        found: Any = self.database.info("cpu")
        return float(found["used_cpu_user"]) + float(found["used_cpu_sys"])


def standing(
    stack: ExitStack, contestant: Contestant, *, worker_url: str, client_url: str, pool: str, slots: int, folder: Path
) -> Stand:
    """Start a contestant's worker and client, which end with the stack."""
    worker = stack.enter_context(running_worker(contestant, broker=worker_url, pool=pool, slots=slots, folder=folder))
    database = stack.enter_context(redis.Redis.from_url(client_url))
    client = stack.enter_context(running_client(contestant, client_url))
    return Stand(name=contestant.name, worker=worker, client=client, database=database)


def proxied(
    stack: ExitStack, contestant: Contestant, place: Place, index: int, *, slots: int
) -> tuple[Stand, CountingProxy]:
    """Start and warm up a contestant whose worker, of threads, reaches the server through a counting proxy."""
    own = place.database(index)
    proxy = stack.enter_context(running_proxy(urlsplit(own).port or 6379))
    counted = own.replace(urlsplit(own).netloc, f"127.0.0.1:{proxy.port}")
    stand = standing(
        stack, contestant, worker_url=counted, client_url=own, pool="threads", slots=slots, folder=place.folder
    )
    warm_up(stand)
    return stand, proxy


def warm_up(stand: Stand) -> None:
    """Run some workflows that nobody measures."""
    prompts = [prompt_of(index) for index in range(SHORT)]
    for sent in [stand.client.send(prompts) for _ in range(WARM_UP)]:
        stand.read(sent, prompts)
    stand.wait_until_quiet()


def checked(outputs: Sequence[object], prompts: Sequence[str]) -> Ran:
    """Return what the outputs say; raises `WrongOutput` unless every step returned what it must, in order."""
    texts = [str(output) for output in outputs]
    words = [text.split("|") for text in texts]
    found = [(said[0], said[-1]) for said in words]
    expected = [(f"done {prompt}", padding_of(prompt, _size(prompt))) for prompt in prompts]
    if found != expected or any(len(said) != 4 for said in words):
        raise WrongOutput(f"{len(outputs)} outputs, not the {len(prompts)} of {prompts[0]!r} and its followers")
    begun, ended = [float(said[1]) for said in words], [float(said[2]) for said in words]
    if ended != sorted(ended):
        raise WrongOutput(f"steps ran in another order than they stand: {ended!r}")
    return Ran(begun=begun, ended=ended, size=sum(map(len, texts)))


def _size(prompt: str) -> int:
    return int(prompt.partition("size=")[2].split()[0])
