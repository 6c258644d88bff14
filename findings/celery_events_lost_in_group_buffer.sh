#!/usr/bin/env bash
# Celery 5.6.3: task events that wait in the group buffer of an `EventDispatcher` (`buffer_group={"task"}`, as workers with
# an event loop have it) are lost if the broker is away when they are flushed. The dispatcher keeps the message that
# could not be sent for later, but that message is the list of the buffer itself, which `flush` empties in the next
# line. Once the broker is back, an empty list is sent, and no error is seen. Celery 5.7.0 sends a copy.
#
# Seen on 2026-11-29 with Python 3.11.7 and Kombu 5.6.2 on Linux. Exits with 1 if this version behaves in another way.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q --disable-pip-version-check celery==5.6.3 kombu==5.6.2
"$work/env/bin/python" - <<'PYTHON'
import sys

from celery import Celery
from celery.events.dispatcher import EventDispatcher
from kombu.exceptions import OperationalError

app = Celery("app", broker="memory://")
got = []
with app.connection_for_write() as connection:
    events = EventDispatcher(connection, app=app, buffer_group={"task"}, buffer_limit=10)
    publish = events.producer.publish

    def away(*_, **__):
        raise OperationalError("the broker is away")

    events.producer.publish = away
    events.send("task-received", uuid="1")
    events.send("task-started", uuid="1")
    events.flush()
    events.producer.publish = lambda body, **options: (got.append(body), publish(body, **options))
    events.flush()

print(f"of 2 events that were sent while the broker was away, the message after it has {[len(body) for body in got if isinstance(body, list)]}")
sys.exit(not got or any(got))
PYTHON
