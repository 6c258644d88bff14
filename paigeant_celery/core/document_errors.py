"""What is wrong with a document of a slip: all findings together, each with its path and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from paigeant_celery.core.errors import InvalidInput, UsageError

__all__ = ["EditRefused", "Finding", "InvalidDocument"]


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with a document.

    `reason` is a fixed code, `path` the field that it is about ("" for the whole), and `remedy` what to do. Neither
    `text` nor `remedy` has a value of the document, but for names.
    """

    reason: str
    path: str
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        where = f"`{self.path}`: " if self.path else ""
        remedy = f"; {self.remedy}" if self.remedy else ""
        return f"{where}{self.text}{remedy} ({self.reason})"


class InvalidDocument(InvalidInput):
    """A document of a slip cannot be used.

    `reason`, `path` and `text` are those of the first finding; `findings` are all.
    """

    def __init__(self, reason: str, path: str, text: str, remedy: str = "", more: Sequence[Sequence[str]] = ()) -> None:
        super().__init__(reason, path, text)
        self.remedy, self.more = remedy, [list(each) for each in more]
        # Celery makes an error again from its arguments, and these must be JSON.
        self.args = (reason, path, text, remedy, self.more)
        self.findings = (Finding(reason, path, text, remedy), *(Finding(*each) for each in more))

    @classmethod
    def of(cls, findings: Sequence[Finding]) -> InvalidDocument:
        """Return the error that tells all findings, of which there is at least one."""
        first, *rest = findings
        more = [[each.reason, each.path, each.text, each.remedy] for each in rest]
        return cls(first.reason, first.path, first.text, first.remedy, more)

    def __str__(self) -> str:
        if len(self.findings) == 1:
            return f"the document is wrong: {self.findings[0]}"
        listed = "".join(f"\n- {finding}" for finding in self.findings)
        return f"the document has {len(self.findings)} mistakes:{listed}"


class EditRefused(UsageError):
    """The steps to come of a workflow cannot be edited as things stand.

    `reason` is a fixed code: `stale_revision`, `workflow_goes_on`, `workflow_ended`, `step_begun`.
    """

    def __init__(self, reason: str, correlation_id: str, text: str) -> None:
        super().__init__(reason, correlation_id, text)
        self.reason, self.correlation_id, self.text = reason, correlation_id, text

    def __str__(self) -> str:
        return f"{self.reason}: workflow {self.correlation_id!r} was not edited: {self.text}"
