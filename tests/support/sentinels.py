"""Two servers of which one follows the other, and three sentinels that put the other in its place when it dies."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.processes import eventually
from tests.support.servers import RedisServer, free_port, redis_binary

__all__ = ["MASTER", "SentinelGroup", "sentinel_group"]

MASTER = "main"  # what the sentinels call the primary
DOWN_AFTER = 300  # milliseconds without an answer after which a sentinel takes the primary for dead
WITHIN = 30.0  # seconds; a failover takes about one


class SentinelGroup:
    """A primary, its replica, and three sentinels; `options` are those of both servers."""

    def __init__(self, *options: str, sentinel_options: str = "") -> None:
        self.servers: list[RedisServer] = []
        self._options, self._sentinel_options = options, sentinel_options
        self._folder = Path(tempfile.mkdtemp(prefix="sentinels-"))
        self._sentinels: list[subprocess.Popen[bytes]] = []
        self.ports: list[int] = []
        try:
            self._start()
        except BaseException:
            self.remove()
            raise

    @property
    def url(self) -> str:
        """The sentinels as Kombu writes them; `broker_transport_options` name the primary."""
        return ";".join(f"sentinel://127.0.0.1:{port}" for port in self.ports) + "/0"

    @property
    def store_url(self) -> str:
        """The same as the URL of a store."""
        return f"{self.url}?master_name={MASTER}"

    def primary(self) -> RedisServer:
        """Return the server that a sentinel names now."""
        with self._asked() as sentinel:
            _, port = sentinel.sentinel_get_master_addr_by_name(MASTER)  # type: ignore[misc]
        return next(server for server in self.servers if server.port == port)

    def client(self) -> redis.Redis:
        """Return a client of the present primary, which the test closes."""
        return redis.Redis.from_url(self.primary().url, decode_responses=True)

    def let_replica_catch_up(self) -> None:
        """Wait until the replica has received all that has been written so far."""
        with self.client() as client:
            client.set("caught-up", "1")  # `WAIT` waits for the last write of its own connection
            assert client.wait(1, 5000) == 1

    def fail_over(self) -> None:
        """Let the sentinels change the primary while both servers live, and wait for it."""
        before = self.primary()
        with self._asked() as sentinel:
            sentinel.execute_command("SENTINEL", "FAILOVER", MASTER)
        eventually(lambda: self.primary() is not before, within=WITHIN, what="the sentinels named no other primary")
        eventually(lambda: self.follows(before), within=WITHIN, what="the old primary does not follow the new one")

    def kill_primary(self) -> RedisServer:
        """End the primary at once, wait until the sentinels name the other one, and return what has died."""
        dead = self.primary()
        dead.stop()
        eventually(lambda: self.primary() is not dead, within=WITHIN, what="the sentinels named no other primary")
        return dead

    def follows(self, server: RedisServer) -> bool:
        """Say whether a server has all that its primary has, up to what is on its way."""
        with redis.Redis.from_url(server.url) as client:
            return client.info("replication").get("master_link_status") == "up"

    def remove(self) -> None:
        """End all processes and remove what they wrote."""
        for process in self._sentinels:
            process.kill()
            process.wait()
        for server in self.servers:
            server.remove()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self) -> None:
        primary = RedisServer("--repl-diskless-sync-delay", "0", *self._options)
        self.servers.append(primary)
        self.servers.append(RedisServer(*self._options, "--replicaof", f"127.0.0.1 {primary.port}"))
        self.ports = [free_port() for _ in range(3)]
        for port in self.ports:
            self._start_sentinel(port, primary)
        eventually(lambda: self.follows(self.servers[1]), within=WITHIN, what="the replica does not follow")
        for port in self.ports:
            eventually(
                lambda port=port: self._knows_all(port), within=WITHIN, what="the sentinels do not know each other"
            )

    def _start_sentinel(self, port: int, primary: RedisServer) -> None:
        config, log = self._folder / f"{port}.conf", self._folder / f"{port}.log"
        config.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {self._folder}\n"
            f"sentinel monitor {MASTER} 127.0.0.1 {primary.port} 2\n"
            f"sentinel down-after-milliseconds {MASTER} {DOWN_AFTER}\n"
            f"sentinel failover-timeout {MASTER} 3000\n{self._sentinel_options}\n"
        )
        with log.open("wb") as output:
            command = [redis_binary(), str(config), "--sentinel"]
            self._sentinels.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output))

    def _knows_all(self, port: int) -> bool:
        try:
            with self._asked(port) as sentinel:
                found = sentinel.sentinel_master(MASTER)
        except redis.RedisError:
            return False
        return bool(found["num-other-sentinels"] == 2 and found["num-slaves"] == 1)

    def _asked(self, port: int | None = None) -> redis.Redis:
        password = self._sentinel_options.partition("requirepass ")[2] or None
        return redis.Redis(
            port=port or self.ports[0], password=password, decode_responses=True, retry=Retry(NoBackoff(), 0)
        )


@contextlib.contextmanager
def sentinel_group(*options: str, sentinel_options: str = "") -> Iterator[SentinelGroup]:
    """Give a group of our own, removed at the end; raises `NoServer`."""
    group = SentinelGroup(*options, sentinel_options=sentinel_options)
    try:
        yield group
    finally:
        group.remove()
