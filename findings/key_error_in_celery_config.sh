#!/usr/bin/env bash
# Celery 5.7.0: a `KeyError` that a configuration module raises is lost, and every setting then reads as missing.
#
# A configuration that reads `os.environ["SHOP_RESULTS"]` without that variable should end with that KeyError. Instead
# `app.conf.get("broker_url")` is None, although the line above had set it, and a worker ends with `AttributeError:
# 'Settings' object has no attribute 'worker_pool'`, a setting that nobody wrote. Neither the variable nor the file is
# named. Celery loads the module when a setting is first looked up in a chain of mappings, and that lookup takes any
# KeyError for "not in this mapping". Other errors, such as a ZeroDivisionError in the same line, come through.
#
# Seen on 2026-11-28 with Python 3.11.7 on Linux. Exits with 1 if it behaves in another way.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check celery==5.7.0
cat > "$work/settings_of_shop.py" <<'PYTHON'
import os

broker_url = "redis://127.0.0.1:6379/3"
result_backend = os.environ["SHOP_RESULTS"]
PYTHON
sed 's/os.environ.*/1 \/ 0/' "$work/settings_of_shop.py" > "$work/divides.py"
cat > "$work/shop.py" <<'PYTHON'
from celery import Celery

app = Celery("shop")
app.config_from_object("settings_of_shop")
PYTHON
cat > "$work/look.py" <<'PYTHON'
from celery import Celery
from shop import app

print(f"broker_url: {app.conf.get('broker_url')!r}")
other = Celery("other")
other.config_from_object("divides")
try:
    other.conf.get("broker_url")
except ZeroDivisionError:
    print("a ZeroDivisionError comes through")
PYTHON
cd "$work"
unset SHOP_RESULTS
seen=$("$work/venv/bin/python" look.py)
worker=$("$work/venv/bin/celery" -A shop worker --pool solo 2>&1 | tail -1 || true)
printf '%s\nlast line of a worker: %s\n' "$seen" "$worker"
[ "$seen" = $'broker_url: None\na ZeroDivisionError comes through' ] && [ "$worker" = "AttributeError: 'Settings' object has no attribute 'worker_pool'" ]
