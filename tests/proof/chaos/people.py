"""The people and programs outside: they answer what steps ask, twice, and send signals early and late."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from paigeant_celery import Inbox, TransientError
from paigeant_celery.broker.transport import CeleryTransport
from tests.proof.chaos.history import Asked, Awaited, Told, asked_in

__all__ = ["WAYS", "People", "end", "waits_of"]

SOON = 1.5  # seconds; as `heed` waits for what nobody answers, or perhaps somebody
LOOK_EVERY = 0.05  # seconds
MOST_TRIES = 100  # of one answer
ANSWER_WITHIN = (0.0, 1.0)  # seconds after somebody is asked: before the step is suspended, or after
CONTESTED_WITHIN = (SOON - 0.3, SOON + 0.3)

WORD = Awaited(hop_id="", name="word", ending="answered")
PAID = Awaited(hop_id="", name="paid", ending="answered", asks=False)
NEVER = Awaited(hop_id="", name="never", ending="timed out")
EITHER = Awaited(hop_id="", name="either", ending="either")
APPROVAL = Awaited(hop_id="", name="deferred_tool_calls", ending="answered")

# What each way of `heed` waits for; `approved` is the agent's.
WAYS: Mapping[str, tuple[Awaited, ...]] = {
    "asked": (WORD,),
    "signalled": (PAID,),
    "unanswered": (NEVER,),
    "contested": (EITHER,),
    "slept": (),
    "beside": (WORD, PAID),
    "in turn": (WORD, PAID, NEVER),
    "approved": (APPROVAL,),
}


def end(program: subprocess.Popen[str]) -> None:
    """End a program that answers lines, and close its pipes."""
    program.kill()
    program.wait()
    for pipe in (program.stdin, program.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def waits_of(way: str, hop_id: str) -> tuple[Awaited, ...]:
    """Return what a step of a hop must wait for."""
    return tuple(replace(wait, hop_id=hop_id) for wait in WAYS[way])


@dataclass(order=True)
class _Saying:
    """Something to say at a time: an answer under a token, or a signal; `again` if it was said before."""

    at: float
    hop_id: str = field(compare=False)
    name: str = field(compare=False)
    token: str | None = field(compare=False, default=None)
    again: bool = field(compare=False, default=False)
    tries: int = field(compare=False, default=0)


class People:
    """Say everything twice, and once more whenever they do not hear what became of it.

    The second answer differs, and so does each that follows a lost reply, because a person types it; what was approved
    is denied. `told` is what they heard. What they use dies on command, and is then started again by `start`.
    """

    def __init__(
        self,
        transport: CeleryTransport,
        asked_file: Path,
        rng: random.Random,
        start: Callable[[], subprocess.Popen[str]],
    ) -> None:
        self._inbox, self._asked_file, self._rng, self._start = Inbox(transport), asked_file, rng, start
        self._program: subprocess.Popen[str] | None = None
        self._sayings: list[_Saying] = []
        self._asked = 0  # how many lines of the file are known
        self._late: set[str] = set()  # hops whose signal is sent once they wait for it
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._live, name="people", daemon=True)
        self.told: list[Told] = []
        self.found: dict[str, Asked] = {}  # by token: approvals that nobody was told of, but that are pending
        self.failure: BaseException | None = None

    def begin(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def note_sent(self, hop_id: str, way: str) -> None:
        """Learn of a workflow in which this hop waits: half of the signals are sent before it does."""
        if PAID not in WAYS[way]:
            return
        if self._rng.random() < 0.5:
            self._say(hop_id, PAID.name, within=ANSWER_WITHIN)
        else:
            with self._lock:
                self._late.add(hop_id)

    def end(self) -> None:
        """Say no more."""
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join(30.0)
        if self._program is not None:
            end(self._program)

    def _live(self) -> None:
        try:
            while not self._over.wait(LOOK_EVERY):
                self._look()
                for saying in self._due():
                    self._speak(saying)
        except BaseException as error:
            self.failure = error
            raise

    def _look(self) -> None:
        asked = asked_in(self._asked_file)
        for each in asked[self._asked :]:
            if each.name != NEVER.name:
                within = CONTESTED_WITHIN if each.name == EITHER.name else ANSWER_WITHIN
                self._say(each.hop_id, each.name, token=each.token, within=within)
        self._asked = len(asked)
        with contextlib.suppress(TransientError):  # the server is away
            for wait in self._inbox.pending_sync(limit=1000):
                if wait.kind == "signal" and wait.hop_id in self._late:
                    with self._lock:
                        self._late.discard(wait.hop_id)
                    self._say(wait.hop_id, wait.name, within=ANSWER_WITHIN)
                if wait.name == APPROVAL.name and wait.token not in self.found:
                    self.found[wait.token] = Asked(hop_id=wait.hop_id, name=wait.name, token=wait.token)
                    self._say(wait.hop_id, wait.name, token=wait.token, within=ANSWER_WITHIN)

    def _say(self, hop_id: str, name: str, *, within: tuple[float, float], token: str | None = None) -> None:
        with self._lock:
            self._sayings.append(_Saying(time.monotonic() + self._rng.uniform(*within), hop_id, name, token))

    def _due(self) -> list[_Saying]:
        with self._lock:
            due = sorted(saying for saying in self._sayings if saying.at <= time.monotonic())
            self._sayings = [saying for saying in self._sayings if saying not in due]
        return due

    def _speak(self, saying: _Saying) -> None:
        """Say it, and again later: as something else if that was heard, otherwise until it is."""
        outcome = self._said(saying)
        later = replace(saying, at=time.monotonic() + self._rng.uniform(*ANSWER_WITHIN), tries=saying.tries + 1)
        if outcome and not saying.again:
            later = replace(later, again=True)
        elif outcome or saying.tries > MOST_TRIES:
            return
        with self._lock:
            self._sayings.append(later)

    def _said(self, saying: _Saying) -> str:
        payload, asked = f"{saying.name} {saying.tries}", dict[str, object]()
        if saying.name == APPROVAL.name:
            payload = "denied" if saying.again else "approved"
            asked = {"decides": True, "token": saying.token, "by": f"person {saying.tries}"}
        elif saying.token is None:
            asked = {"workflow": saying.hop_id.partition(".")[0], "signal": saying.name, "signal_id": saying.hop_id}
        else:
            asked = {"token": saying.token, "by": f"person {saying.tries}"}
        outcome = self._asked_of_program({**asked, "payload": payload})
        self.told.append(Told(hop_id=saying.hop_id, name=saying.name, payload=payload, outcome=outcome))
        return outcome

    def _asked_of_program(self, asked: Mapping[str, object]) -> str:
        """Return what the program printed; nothing if it died."""
        program = self._program = self._program or self._start()
        assert program.stdin is not None
        assert program.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            program.stdin.write(json.dumps(asked) + "\n")
            program.stdin.flush()
        if line := program.stdout.readline():
            return line.strip()
        died = program.wait(10.0)
        assert died == -signal.SIGKILL, "what people answer with ended by itself; see its log"
        end(program)
        self._program = None
        return ""
