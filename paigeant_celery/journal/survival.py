"""Failed calls whose run went on: their records are written with the call that shows it, so that a replay fails too.

The failure that ended a run must not be recorded, because then no retry would get further.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from paigeant_celery.journal.record import CallKey

__all__ = ["AFTER_MODEL", "Unwritten"]

# Calls that a step makes only after its model has answered; events may come before.
AFTER_MODEL = ("tool", "validator")


@dataclass(frozen=True)
class _Ended:
    """A call's record, whether the call failed, and how many runs and calls had begun when it ended."""

    text: str
    is_failure: bool
    runs: int
    calls: int


class Unwritten:
    """Records that wait for a later call of the hop. Not for several threads."""

    def __init__(self) -> None:
        self._ended: dict[CallKey, _Ended] = {}
        self._runs: dict[str, int] = {}  # how many runs began before it
        self._around: dict[str, str] = {}  # run -> the one in whose code it began
        self._calls: dict[CallKey, int] = {}  # how many calls began before it; a key may begin again
        self._begun = 0

    def run_begins(self, run: str) -> None:
        """Note that a run begins now."""
        self._runs[run] = len(self._runs)

    def run_is_in(self, run: str, outer: str) -> None:
        """Note that a run began in the code of another: in a hook, or in a tool that is not recorded."""
        self._around[run] = outer

    def is_inside(self, run: str) -> bool:
        """Say whether a run began in the code of another."""
        return run in self._around

    def call_begins(self, key: CallKey) -> None:
        """Note that a call begins now."""
        self._calls[key] = self._begun
        self._begun += 1

    def add(self, key: CallKey, text: str, *, is_failure: bool) -> None:
        """Keep the record of a call that ended now."""
        self._ended[key] = _Ended(text, is_failure, runs=len(self._runs), calls=self._begun)

    def shown_by(self, key: CallKey) -> Mapping[CallKey, str]:
        """Return the records of calls that the step survived, as `key` shows."""
        return {earlier: ended.text for earlier, ended in self._ended.items() if self._is_survived(earlier, ended, key)}

    def not_shown_by(self, key: CallKey) -> set[CallKey]:
        """Return the calls that have ended, but of which `key` does not show that the step survived them."""
        return set(self._ended) - set(self.shown_by(key))

    def failed_in(self, run: str | None) -> Mapping[CallKey, str]:
        """Return the records of the calls that failed in a run or in its code, or anywhere."""
        found = {key: ended.text for key, ended in self._ended.items() if ended.is_failure}
        return {key: text for key, text in found.items() if run is None or self._is_of(key.run, run)}

    def forget(self, keys: Iterable[CallKey]) -> None:
        """Drop records, because they are written."""
        for key in keys:
            self._ended.pop(key, None)

    def _is_survived(self, earlier: CallKey, ended: _Ended, key: CallKey) -> bool:
        """A run that began since a call failed shows that the step went on, and so may a later call of its run.

        So does a later request or wait of the run in whose code the call's run was, and a later wait of the step's own
        code: whoever is asked must be asked again when it is made again.
        """
        began_after = self._calls.get(key, -1) >= ended.calls
        if key.run == earlier.run:
            return _shows_survival(key, earlier, began_after=began_after)
        if began_after and key.kind == "wait" and (not key.run or self._is_of(earlier.run, key.run)):
            return True
        if self._is_of(earlier.run, key.run) and began_after and key.kind == "model" and key.name != "cancel":
            return True
        return self._runs.get(key.run, -1) >= ended.runs

    def _is_of(self, run: str, outer: str) -> bool:
        """Say whether a run is another one, or one that began in the code of that one, or in the code of such a run."""
        inner: str | None = run
        while inner is not None and inner != outer:
            inner = self._around.get(inner)
        return inner is not None


def _shows_survival(later: CallKey, failed: CallKey, *, began_after: bool) -> bool:
    """Say whether a call shows that its run survived an earlier one that failed.

    Model requests show it, and so does what belongs to the same tool call or to a later step. What runs in parallel
    does not, nor does an operation: code that tidies up after a failure calls operations, too. The step of a failed
    operation may be too low.
    """
    if failed.kind == "start":
        return True
    if not began_after:  # it ran beside the failed one, as a later step does beside a tool in the background
        return False
    if failed.kind != "operation" and later.step > failed.step:
        return True
    if later.kind == "model":
        return later.name != "cancel"
    if later.kind not in AFTER_MODEL:
        return False
    if failed.kind == "model":
        return later.step == failed.step
    return bool(later.call_id) and later.call_id == failed.call_id
