#!/usr/bin/env bash
# pytest-xdist 3.8.0 beside pytest 9.2.0: `@pytest.mark.xdist_group` has no effect with `--dist loadgroup`.
#
# xdist promises that the tests of one group run in the same process. Here four tests of one group are spread over both
# processes, without a warning. xdist notes the group in a private attribute of the item (`_nodeid`), from which the
# item's id was taken. pytest 9.2 keeps the id as a structured value elsewhere (`_id`), so the note is never read, and
# the scheduler sees ids without a group. With pytest 9.1.1 the group is kept.
#
# Seen on 2026-11-28 with Python 3.11.7 on Linux. Exits with 1 if either version behaves in another way.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat > "$work/test_group.py" <<'PYTHON'
import os
import time

import pytest


@pytest.mark.xdist_group("one")
@pytest.mark.parametrize("number", range(4))
def test_which_process(number, worker_id):
    time.sleep(0.5)  # so that neither process could take all of them before the other has begun
    with open(os.environ["SEEN"], "a") as seen:
        seen.write(f"{worker_id}\n")
PYTHON

# Print in how many processes the four tests of the group ran with pytest $1.
processes() {
  python3 -m venv "$work/$1"
  "$work/$1/bin/pip" install -q --disable-pip-version-check "pytest==$1" pytest-xdist==3.8.0
  (cd "$work" && SEEN="$work/seen-$1" "$work/$1/bin/python" -m pytest -q -p no:cacheprovider -n 2 --dist loadgroup test_group.py > "$work/log-$1")
  sort -u "$work/seen-$1" | wc -l
}

before=$(processes 9.1.1) after=$(processes 9.2.0)
echo "processes that ran one group: $before with pytest 9.1.1, $after with pytest 9.2.0 (pytest-xdist 3.8.0)"
[ "$before" = 1 ] && [ "$after" = 2 ]
