"""The course that the runs of a step took in earlier attempts, and whether this attempt still follows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from paigeant_celery.core.errors import NonDeterminismError
from paigeant_celery.journal.record import ASLEEP, CUT_OFF, PLACELESS, CallKey, number_of, parse_key, parse_record
from paigeant_celery.journal.survival import AFTER_MODEL

__all__ = ["Course"]


class Course:
    """How far each run of a step came before, and how far it came now. The caller keeps threads apart."""

    def __init__(self, records: Mapping[str, str], *, step_id: str) -> None:
        self._records, self._step_id = records, step_id
        self._keys: dict[str, list[CallKey]] = {}
        for text in records:
            key = parse_key(text)
            if key is not None and key.kind not in PLACELESS:
                self._keys.setdefault(key.run, []).append(key)
        self._last = {run: max(map(_place, keys)) for run, keys in self._keys.items()}
        self._ahead = {run: set(filter(_is_request, keys)) for run, keys in self._keys.items()}
        self._asked: dict[str, CallKey] = {}  # run -> its latest model request in this attempt

    def go_on(self, key: CallKey) -> None:
        """Note that a call begins now."""
        if _is_request(key):
            self._asked[key.run] = key

    def step_of(self, run: str) -> int:
        """Return the step that a run has come to: that of its latest model request."""
        asked = self._asked.get(run)
        return asked.step if asked is not None else 0

    def knows(self, run: str) -> bool:
        """Say whether an earlier attempt recorded calls of a run."""
        return run in self._last

    def meet(self, key: CallKey) -> None:
        """Note that a recorded call is replayed."""
        self._ahead.get(key.run, set()).discard(key)

    def is_behind(self, run: str) -> bool:
        """Say whether a run has yet to come to a recorded model request."""
        return bool(self._ahead.get(run))

    def check_new(self, key: CallKey) -> None:
        """Raise `NonDeterminismError` if a call that is not recorded comes before others of its run that are.

        A call that had begun and not ended when the run went on is made again. Older records do not say which had:
        there each tool that the recorded answers call may have.
        """
        last = self._last.get(key.run)
        if last is None or (key.step, key.kind != "model") >= last:  # a call that may come before or after counts so
            return
        if str(key) not in self._open(key.run) and not (key.kind in AFTER_MODEL and self._is_unknown(key)):
            text = "it was not made when an earlier attempt of the run went on from there"
            raise NonDeterminismError(self._step_id, key.label, text)

    def check_end(self, run: str) -> None:
        """Raise `NonDeterminismError` if a run gives its result although it went on from here before.

        A model request shows that, and so do calls of a later step. Calls that were cut off do not, nor do operations,
        which may follow the end of a run, nor tools of its last step, which may have run beside it.
        """
        reached = self._asked.get(run) or CallKey(run=run, step=0, kind="model", occurrence=-1)
        for key in self._keys.get(run, ()):
            ahead = key.step > reached.step and (_is_request(key) or key.kind in AFTER_MODEL)
            again = key.step == reached.step and _is_request(key) and key.occurrence > reached.occurrence
            if (ahead or again) and not self._is_cut_off(key):
                text = "an earlier attempt of the run went on to it, but now the run ended before it"
                raise NonDeterminismError(self._step_id, key.label, text)

    def is_next_recorded(self, run: str) -> bool:
        """Say whether the request is recorded that continues the run's latest one."""
        latest = self._asked.get(run)
        return latest is not None and str(replace(latest, occurrence=latest.occurrence + 1)) in self._records

    def is_given_up(self, run: str) -> bool:
        """Say whether a run was cut off in its sleep after its latest request, and an earlier attempt went on."""
        latest = self._asked.get(run)
        key = replace(latest, name="cancel", occurrence=0) if latest is not None else None
        if key is None or str(key) not in self._records or self.is_next_recorded(run):
            return False
        return bool(parse_record(self._records[str(key)], step_id=self._step_id, key=key).result == ASLEEP)

    def _is_unknown(self, key: CallKey) -> bool:
        """Say whether no record of a later step says what was open: versions that numbered no calls made them all."""
        later = (other for other in self._keys.get(key.run, ()) if other.step > key.step)
        return all(number_of(self._records[str(other)]) is None for other in later)

    def _open(self, run: str) -> set[str]:
        keys = self._keys.get(run, ())
        return {
            text for key in keys for text in parse_record(self._records[str(key)], step_id=self._step_id, key=key).open
        }

    def _is_cut_off(self, key: CallKey) -> bool:
        failure = parse_record(self._records[str(key)], step_id=self._step_id, key=key).failure
        return failure is not None and failure.error_class == CUT_OFF and failure.form is None


def _place(key: CallKey) -> tuple[int, bool]:
    """Return a call's step, and whether it comes after that step's model answer."""
    return key.step, key.kind in AFTER_MODEL


def _is_request(key: CallKey) -> bool:
    return key.kind == "model" and not key.name  # a named one compacts messages or cancels a job
