"""The numbers of the protocol, each once: stores are made with them, and they are written in front of the scripts."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

__all__ = ["LIMITS", "Limits", "written"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How long the stores wait, in milliseconds, and how much they do at once and keep."""

    due_after: int = 5_000  # then a queued hop's message is overdue; each time again after twice as long
    due_after_most: int = 80_000
    long_unswept: int = 2_500  # at least; a pass is made about every second
    pass_every: int = 900  # a second, less what clocks and timers differ
    most_at_once: int = 100  # hops that one pass sends again, and owners whose hops it queues
    most_bytes: int = 4 * 1024 * 1024  # of envelopes in one answer, which one round trip must carry
    most_looked_at: int = 1_000  # queued hops in one pass, which takes some 10 ms
    max_events: int = 1_000  # of one workflow, about
    max_streamed: int = 10_000  # events of one workflow's agents, about
    max_letters: int = 10_000  # of refused messages; the oldest give way
    letters_at_once: int = 100  # that one look at an index reads

    def hurried(self, times: int) -> Limits:
        """Return these with waits that are as many times as short, for deployments under test.

        No setting leads here: a program of the tests puts the result in the place of `LIMITS` before a store opens.
        """
        return replace(
            self,
            due_after=self.due_after // times,
            due_after_most=self.due_after_most // times,
            long_unswept=self.long_unswept // times,
            pass_every=self.pass_every // times,
        )


LIMITS = Limits()  # those of the stores that `open_store` opens


def written(limits: Limits) -> str:
    """Return the limits as the scripts begin: local names in capital letters."""
    return "".join(f"local {name.upper()} = {value}\n" for name, value in asdict(limits).items())
