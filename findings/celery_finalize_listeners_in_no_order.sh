#!/usr/bin/env bash
# Celery 5.7.0: who is told that an app is finalized is told in no order. The listeners of `connect_on_app_finalize` are
# a set of functions, so their order follows from where they are in memory. A shared task is made by such a listener. One
# that was connected after the task, and uses it, works in some programs and gets `NotRegistered` in others; a line more
# anywhere may decide. `app.on_after_finalize` is sent when all tasks are there.
#
# Seen on 2026-11-29 with Python 3.11.7 on Linux: of 40 listeners that were connected after a shared task, some were told
# before the task was made, and the rest after it. Exits with 1 if all are told after it, in their order.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q --disable-pip-version-check celery==5.7.0
cat > "$work/program.py" <<'PYTHON'
import sys
from functools import partial

from celery import Celery, shared_task
from celery._state import connect_on_app_finalize
from celery.exceptions import NotRegistered


@shared_task(name="shared")
def shared():
    pass


told = []


def listen(number, app):
    try:
        told.append((number, shared.name))
    except NotRegistered as error:
        told.append((number, type(error).__name__))


for number in range(40):
    connect_on_app_finalize(partial(listen, number))
app = Celery("app", broker="memory://")
app.set_current()
later = []
app.on_after_finalize.connect(lambda **_: later.append(shared.name), weak=False)
app.finalize()
early = sum(what == "NotRegistered" for _, what in told)
print(f"told before the task was made: {early} of {len(told)}; in their order: {told == sorted(told)}; {later=}")
sys.exit(told == sorted(told) or later != ["shared"])
PYTHON
"$work/env/bin/python" "$work/program.py"
# The place in memory differs from run to run, and with it what a listener meets.
for _ in 1 2 3 4 5; do "$work/env/bin/python" "$work/program.py"; done | sort | uniq -c
