#!/usr/bin/env bash
# Celery 5.7.0: no MCP server over stdio can be started inside a worker with default settings.
#
# A worker puts one `LoggingProxy` in the place of `sys.stdout` and `sys.stderr` (`worker_redirect_stdouts`, True by
# default). It has no `fileno`, so everything that passes one of them on to a process fails: the stdio client of `mcp`
# (its `errlog` is `sys.stderr`), `subprocess.run(…, stderr=sys.stderr)`, `faulthandler.enable()`. It has no `buffer` and
# no `encoding` either.
#
# Seen on 2026-11-28 with Python 3.11.7 on Linux. Exits with 1 if this version behaves in another way.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q --disable-pip-version-check celery==5.7.0
"$work/env/bin/python" - <<'PYTHON'
import subprocess
import sys

from celery import Celery

original = sys.stdout
Celery("any", broker="memory://").log.redirect_stdouts()  # what a worker does when it starts
missing = [name for name in ("fileno", "buffer", "encoding") if not hasattr(sys.stderr, name)]
try:
    subprocess.run([sys.executable, "-c", "pass"], stderr=sys.stderr)
    raised = "nothing"
except AttributeError as error:
    raised = str(error)
print(f"missing: {', '.join(missing)}; raised: {raised}", file=original)
sys.exit(missing != ["fileno", "buffer", "encoding"] or "fileno" not in raised)
PYTHON
