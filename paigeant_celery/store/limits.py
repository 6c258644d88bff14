"""The numbers of the protocol, each in one place: for the stores, and written into the scripts."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace

__all__ = ["LIMITS", "StoreLimits", "with_limits"]

_CAPITALS = re.compile(r"(?<!['\w])[A-Z][A-Z_]+\b")  # not at the beginning of a text


@dataclass(frozen=True, kw_only=True)
class StoreLimits:
    """How long the stores wait, in milliseconds, how much they do at once and keep, and the format of the records."""

    format: int = 4  # grows with new states, fields and keys, which change none; older workers then begin nothing more
    due_after: int = 5_000  # then a queued hop's message is overdue; the wait doubles each time
    due_after_most: int = 80_000
    long_unswept: int = 2_500  # at least; there is a pass about every second
    pass_every: int = 900  # one second, less the difference between clocks and timers
    most_at_once: int = 100  # hops that one pass sends again, and owners whose hops it queues
    most_bytes: int = (
        4 * 1024 * 1024
    )  # of envelopes to send, and of late ones, in one answer that a round trip must carry
    most_looked_at: int = 1_000  # queued hops in one pass; it takes about 10 ms
    max_hops: int = 10_000  # of one workflow with blocks
    max_events: int = 10_000  # of one workflow, approximately; a thousand branches have three each
    max_streamed: int = 10_000  # events of one workflow's agents, approximately
    max_letters: int = 10_000  # of refused messages; the oldest are dropped
    letters_at_once: int = 100  # read at once from an index
    expired_at_once: int = 200  # hops of a workflow that ends; those of a larger one are left to sweeps, in pages
    longest_sleep: int = 86_400_000  # then a suspended hop is looked at, whatever it waits for
    woken_at_once: int = 50  # suspended hops that one pass looks at
    most_fields: int = 2_000  # in one command; Lua passes on at most some 8000 values
    max_copied: int = 64 * 1024 * 1024  # bytes of texts that a fork takes over, because one script copies them
    copied_at_once: int = 1024 * 1024  # bytes of them in one command, unless one text is larger
    most_timed_out: int = 500  # waits that one pass gives up, of all hops, before it leaves the rest to the next one
    max_waits: int = 100  # of one hop that are open
    max_signals: int = 1_000  # of one workflow that are kept for waits to come
    max_calls: int = 10_000  # signals of one workflow whose ids are remembered, so that none counts twice
    max_signal: int = 32 * 1024  # bytes
    max_answer: int = 1024 * 1024  # bytes of one answer
    most_counted: int = 2**53 - 1  # of tokens, calls, or units of cost; every number of a script holds it exactly
    most_superseded: int = 20  # digests of earlier envelopes that a hop keeps; `core/hops.py` has the same
    most_traces: int = 8  # of earlier attempts of a hop, which a later one is linked to
    asked_at_once: int = 100  # waits read at once from the index of those that are open
    listed_at_once: int = 100  # workflows read at once from the index
    numbers_below: int = (
        100  # of branches, the first and the last ones, among which a list looks for some that are open
    )
    looked_below: int = 10  # open branches of a workflow that a list looks at, because a page has many workflows
    asking_below: int = 2  # of those, whose waits it names
    most_scanned: int = 5_000  # of the index, in search of some with a prefix
    looked_over: int = 10  # texts of the index that one pass compares with the records
    expired_listed: int = 200  # workflows that leave the index at once
    most_buckets: int = 25  # that have an upper end, of a histogram of times
    day: int = 86_400_000
    days_kept: int = 7  # of times, beside the one that goes on
    days_served: int = 30  # since a queue was served last, until that is forgotten

    def hurried(self, times: int) -> StoreLimits:
        """Return the same limits with waits divided by `times`, for deployments under test.

        No setting does this. A test program replaces `LIMITS` with the result before a store opens.
        """
        return replace(
            self,
            due_after=self.due_after // times,
            due_after_most=self.due_after_most // times,
            long_unswept=self.long_unswept // times,
            pass_every=self.pass_every // times,
        )


LIMITS = StoreLimits()  # used by `open_store`


def with_limits(script: str, limits: StoreLimits) -> str:
    """Return a script with the limits in the place of their names in capital letters.

    They are no local names of it, because it may have only 200 of those.
    """
    numbers = {name.upper(): str(value) for name, value in asdict(limits).items()}
    return _CAPITALS.sub(lambda found: numbers.get(found[0], found[0]), script)
