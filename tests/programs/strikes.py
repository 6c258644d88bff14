"""Kill points at the calls of a journal: a process that loads this module records each call and dies at one of them.

In the folder `STRIKES`, a file named after a workflow holds lines like `before model 1`. The process that gets there
removes the line and dies, so each line kills once. A call is named by its kind, step or call id, and tool.
"""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ledger import me, note

from paigeant_celery.journal.hop_journal import HopJournal
from paigeant_celery.journal.record import CallKey, Record, parse_key
from paigeant_celery.store.port import Closing
from paigeant_celery.store.redis import RedisStore

__all__ = ["begun", "noted"]


def noted(what: str, hop_id: str, call: str) -> None:
    """Record what happens to a call in a place where no crash can lose it."""
    note(os.environ["CALLS_FILE"], what=what, hop=hop_id, call=call, **me())


def begun(hop_id: str, call: str) -> None:
    """Record that the code of a call runs, and die in it if asked to."""
    noted("begun", hop_id, call)
    strike("during", hop_id, call)


def strike(when: str, hop_id: str, call: str) -> None:
    """End the process silently if the file of the workflow says so."""
    file = Path(os.environ["STRIKES"], hop_id.partition(".")[0])
    line = f"{when} {call}"
    try:
        lines = file.read_text().splitlines()
    except FileNotFoundError:
        return
    if line in lines:
        lines.remove(line)
        file.write_text("\n".join(lines))
        noted("killed", hop_id, line)
        os.kill(os.getpid(), signal.SIGKILL)


def named(key: CallKey) -> str:
    """Return the name of a call, without its workflow."""
    words = [key.kind, key.name, key.call_id or str(key.step)]
    return " ".join(word for word in words if word)


def hold_nothing(self: HopJournal, key: CallKey, text: str) -> bool:
    return False


find, record = HopJournal.find, RedisStore.record


@functools.wraps(find)
def find_or_die(self: HopJournal, key: CallKey, fingerprint: Mapping[str, str]) -> Record | None:
    found = find(self, key, fingerprint)
    if key.kind != "start":
        noted("asked" if found is None else "replayed", self.hop_id, named(key))
        if found is None:
            strike("before", self.hop_id, named(key))
    return found


@functools.wraps(record)
def record_or_die(self: Any, closing: Closing, records: Mapping[str, str], **options: Any) -> Any:
    answer = record(self, closing, records, **options)
    keys = [key for key in map(parse_key, records) if key is not None and key.kind != "start"]
    for key in keys if answer else ():
        noted("recorded", closing.hop_id, named(key))
    for key in keys if answer else ():
        strike("after", closing.hop_id, named(key))
    return answer


HopJournal._hold = hold_nothing  # type: ignore[method-assign]  # there is a place after each record
HopJournal.find = find_or_die  # type: ignore[method-assign]
RedisStore.record = record_or_die  # type: ignore[method-assign]
