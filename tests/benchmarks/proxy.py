"""A proxy in front of a Redis server that counts turns and bytes, and says what the turns were for."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeAlias

__all__ = ["CountingProxy", "Turns", "running_proxy"]

Turns: TypeAlias = Counter[tuple[str, str]]  # how often each (kind, commands) was seen

CHUNK = 1 << 16  # bytes read at once
START_TIMEOUT = 10.0  # seconds
NOTHING = (b"*-1\r\n", b"_\r\n")  # a blocking pop that ended without a message, in both protocols
BROUGHT = ("hop", "BRPOP")  # a blocking pop that brought a message
OBSERVING = (b".celeryev", b".pidbox")  # parts of the channel names of Celery's events and remote control


class CountingProxy:
    """Forwards connections on 127.0.0.1 to a server and counts turns by kind and by the commands in them.

    A turn begins with the first request byte after a reply (or at the connection's start) and ends with the reply
    that comes after its last command is sent: a pipeline is one turn, and what the server pushes unasked is not a
    turn. Kinds: `event` (what Celery publishes for observers), `poll` (a blocking pop that brought nothing),
    `connect` (handshakes), and `hop` for everything else. Commands are the names in a turn, joined by `+`; a script
    is named by its digest.

    Bytes are those of both directions and all connections. They are cut when a blocking pop brings a message: its reply
    is the first that belongs to the new part. With one slot a part is a hop.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._turns: Turns = Counter()
        self._parts = [0]
        self._lock = threading.Lock()
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="proxy", daemon=True)
        self.port = 0

    def start(self) -> None:
        """Listen."""
        self._thread.start()
        if not self._ready.wait(START_TIMEOUT):
            raise RuntimeError("the proxy did not start")

    def stop(self) -> None:
        """Close the listener and every connection."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_TIMEOUT)

    def turns(self) -> Turns:
        """Return what has been seen so far."""
        with self._lock:
            return self._turns.copy()

    def parts(self) -> list[int]:
        """Return the bytes before the first message that was brought, and then from each message to the next."""
        with self._lock:
            return self._parts.copy()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._connected, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target)
        turn = _Turn()
        try:
            await asyncio.gather(
                self._forward_requests(reader, server_writer, turn), self._forward_replies(server_reader, writer, turn)
            )
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            server_writer.close()

    async def _forward_requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, turn: _Turn) -> None:
        while data := await reader.read(CHUNK):
            turn.request(data)
            with self._lock:
                self._parts[-1] += len(data)
            writer.write(data)
            await writer.drain()
        writer.close()

    async def _forward_replies(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, turn: _Turn) -> None:
        while data := await reader.read(CHUNK):
            found = turn.reply(data)
            with self._lock:
                if found is not None:
                    self._turns[found] += 1
                if found == BROUGHT:
                    self._parts.append(0)
                self._parts[-1] += len(data)
            writer.write(data)
            await writer.drain()
        writer.close()


class _Turn:
    """What one connection is asking for at the moment."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._open = False
        self._commands: list[list[bytes]] = []

    def request(self, data: bytes) -> None:
        if not self._open:
            self._open, self._commands = True, []
        self._buffer += data
        self._commands += _taken_commands(self._buffer)

    def reply(self, data: bytes) -> tuple[str, str] | None:
        """Return kind and commands of the turn that these bytes answer, or None."""
        if not self._open or self._unfinished():
            return None
        self._open = False
        names = [command[0].decode(errors="replace").upper() for command in self._commands]
        return self._kind(names, data), "+".join(map(_shown, self._commands))

    def _unfinished(self) -> bool:
        # A long pipeline comes in parts, and the server answers the beginning while the client is still sending.
        names = [command[0].upper() for command in self._commands]
        return bool(self._buffer) or names.count(b"MULTI") > names.count(b"EXEC")

    def _kind(self, names: list[str], data: bytes) -> str:
        if names == ["BRPOP"] and data.startswith(NOTHING):
            return "poll"
        if names and all(name in {"HELLO", "CLIENT", "SELECT", "AUTH"} for name in names):
            return "connect"
        return "event" if names and all(_is_for_observers(command) for command in self._commands) else "hop"


def _shown(command: list[bytes]) -> str:
    name = command[0].decode(errors="replace").upper()
    return f"{name} {command[1].decode(errors='replace')}" if name == "EVALSHA" else name


def _is_for_observers(command: list[bytes]) -> bool:
    return command[0].upper() == b"PUBLISH" and any(part in command[1] for part in OBSERVING)


def _taken_commands(buffer: bytearray) -> Iterator[list[bytes]]:
    """Take the complete commands from the buffer and yield each as its words."""
    while (end := _end_of_command(buffer)) is not None:
        words, stop = end
        del buffer[:stop]
        yield words


def _end_of_command(buffer: bytearray) -> tuple[list[bytes], int] | None:
    """Return the words of the first command and its end, or None if it is not complete."""
    line = buffer.find(b"\r\n")
    if line < 0:
        return None
    if buffer[:1] != b"*":
        return bytes(buffer[:line]).split() or [b"?"], line + 2
    words, at = [], line + 2
    for _ in range(int(buffer[1:line])):
        line = buffer.find(b"\r\n", at)
        if line < 0:
            return None
        start = line + 2
        at = start + int(buffer[at + 1 : line]) + 2
        if len(buffer) < at:
            return None
        words.append(bytes(buffer[start : at - 2]))
    return words, at


@contextmanager
def running_proxy(port: int) -> Iterator[CountingProxy]:
    """Yield a proxy in front of the server on `port` of this host."""
    proxy = CountingProxy(port)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()
