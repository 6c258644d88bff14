"""Which recorded operation a call is: known by what it is called with, because its place in the run is not known.

Hooks call operations with contexts that may say nothing of where the run is, and hooks of parallel tools call them in
any order. So operations take no part in the check for calls that were not made before.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

from paigeant_celery.core.errors import NonDeterminismError
from paigeant_celery.journal.record import CallKey, parse_key, parse_record

__all__ = ["ALIKE", "ARGUMENTS", "Operations"]

ARGUMENTS = "arguments"  # in a fingerprint: the digest of what a call was made with; earlier versions had none
ALIKE = "arguments/2"  # the same without times and the like in texts and numbers, which each attempt may make anew


class Operations:
    """Gives each call of an operation the key under which it was, or will be, recorded. Not for several threads."""

    def __init__(self, records: Mapping[str, str]) -> None:
        self._records = records
        self._recorded: defaultdict[CallKey, set[int]] = defaultdict(set)
        for key in map(parse_key, records):
            if key is not None and key.kind == "operation":
                self._recorded[replace(key, occurrence=0)].add(key.occurrence)
        self._free: dict[CallKey, dict[int, Mapping[str, str]]] = {}
        self._next: dict[CallKey, int] = {}

    def key(self, first: CallKey, digests: Mapping[str, str], *, ahead: bool) -> CallKey:
        """Return the key of the call that begins now; `first` is that of the first such call.

        It is a recorded one with the same arguments, or with such as are alike, or else a new one. While recorded model
        requests are still ahead, the earlier attempt made every call that is made now: arguments that differ are the
        same call's, in order.
        """
        free = self._free_of(first)
        equal = [
            number for name in (ARGUMENTS, ALIKE) for number, recorded in free.items()
            if recorded.get(name) == digests[name]
        ]  # fmt: skip
        equal += [number for number, recorded in free.items() if ARGUMENTS not in recorded or ahead]
        if equal:
            del free[equal[0]]
            return replace(first, occurrence=equal[0])
        number = self._next[first]
        self._next[first] += 1
        return replace(first, occurrence=number)

    def _free_of(self, first: CallKey) -> dict[int, Mapping[str, str]]:
        """Return the recorded calls that no call of this attempt has yet been found to be, in order."""
        if first not in self._free:
            numbers = sorted(self._recorded[first])
            self._free[first] = {number: self._digests_of(replace(first, occurrence=number)) for number in numbers}
            self._next[first] = max(numbers, default=-1) + 1
        return self._free[first]

    def _digests_of(self, key: CallKey) -> Mapping[str, str]:
        try:
            return parse_record(self._records[str(key)], step_id="", key=key).fingerprint
        except NonDeterminismError:  # it is damaged, which is said when it is replayed
            return {}
