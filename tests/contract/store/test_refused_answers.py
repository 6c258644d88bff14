"""Answers and signals that must be refused: each row of the page on operating, over every store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from paigeant_celery.broker.port import Delivery, Transport
from paigeant_celery.broker.sending import Sending
from paigeant_celery.client.handle import WorkflowHandle
from paigeant_celery.client.inbox import Inbox
from paigeant_celery.core.about import About, AskedCall, write_about
from paigeant_celery.core.errors import InvalidInput
from paigeant_celery.core.settings import Settings
from paigeant_celery.core.wait_errors import InvalidAnswer, SignalRefused, UnknownWait
from paigeant_celery.core.waits import make_token
from paigeant_celery.store.limits import LIMITS
from paigeant_celery.store.port import NewWait, Standing, Store
from tests.contract.store.bench import Bench, MemoryBench
from tests.contract.store.given import FAILURE, claim, closing, new

PAGE = Path(__file__).parents[3] / "docs" / "operating.md"
SECRET = "hunter2-hunter2"
CALLS = (
    AskedCall(id="r1", kind="approval", tool="refund", arguments={"order": 17}),
    AskedCall(id="p1", kind="external", tool="print_label"),
)
TOKEN, OTHER = (make_token(f"{workflow}.0", "s3cret") for workflow in ("w", "other"))


@dataclass
class Publisher:
    """Keeps what it is to send."""

    sent: list[str] = field(default_factory=list)

    def begin(self, delivery: Delivery) -> Sending[None]:
        return Sending.made(lambda: self.sent.append(delivery.hop_id))


@dataclass
class Scene:
    """Two workflows that are suspended at calls of tools, seen from outside."""

    bench: Bench
    publisher: Publisher = field(default_factory=Publisher)
    settings: Settings = field(default_factory=Settings)
    letters: None = None

    def __post_init__(self) -> None:
        about = write_about(About(step="pay", activity="pay", calls=CALLS))
        for workflow, token in (("w", TOKEN), ("other", OTHER)):
            self.store.start(new(workflow))
            close = closing(self.store.claim(claim(f"{workflow}.0")), f"{workflow}.0")
            wait = NewWait(
                wait_id="1", token=token, kind="token", name="refunds", timeout=3600, parts=("r1", "p1"), about=about
            )
            assert self.store.wait(close, wait) is not None
            assert self.store.suspend(close, Standing(tokens=[token], names=["refunds"])) is not None

    @property
    def store(self) -> Store:
        return self.bench.store

    @property
    def inbox(self) -> Inbox:
        return Inbox(cast("Transport", self))

    @property
    def handle(self) -> WorkflowHandle:
        return WorkflowHandle("w", cast("Transport", self))

    def check_dispatch(self) -> None:
        """Check nothing."""

    def check_broker(self) -> None:
        """Check nothing."""

    def serves(self, activity: str) -> bool:
        """Say no: nothing runs here."""
        return False

    def discard_journal(self) -> None:
        """Let the first workflow begin anew."""
        self.inbox.fail_sync(TOKEN, "no")
        close = closing(self.store.claim(claim(token="t2")))
        assert self.store.park(close, FAILURE)
        assert self.store.redrive("w", discard_journal=True) == "redriven"

    def keep_signals(self) -> None:
        for number in range(LIMITS.max_signals):
            assert self.bench.raw.signal("w", "paid", "1", by="", call=str(number)).outcome == "kept"


Call = Callable[[Scene], Any]


@dataclass(frozen=True)
class Row:
    """What is refused, and with what: an error, or the outcome that is told."""

    gets: type[Exception] | str
    calls: tuple[Call, ...]
    before: Callable[[Scene], object] = lambda scene: None


ROWS = {
    "a token that nobody made": Row(UnknownWait, (
        lambda scene: scene.inbox.approve_sync(make_token("w.0", "guessed")),
        lambda scene: scene.inbox.deny_sync(make_token("nobody.0", "s3cret")),
        lambda scene: scene.handle.resolve_sync("", 1),
        lambda scene: scene.handle.fail_sync("w.0~\0", "no"),
    )),
    "a token of a step that began anew with a discarded journal": Row(UnknownWait, (
        lambda scene: scene.handle.approve_sync(TOKEN),
    ), Scene.discard_journal),
    "a token of another workflow than the handle's": Row(UnknownWait, (
        lambda scene: scene.handle.approve_sync(OTHER),
    )),
    "a token of another deployment": Row(UnknownWait, (
        lambda scene: Scene(MemoryBench()).inbox.approve_sync(make_token("w.0", "of-another")),
    )),
    "a second answer": Row("answered", (
        lambda scene: scene.inbox.approve_sync(TOKEN),
        lambda scene: scene.inbox.deny_sync(TOKEN, "r1"),
        lambda scene: scene.inbox.resolve_sync(TOKEN, {"approvals": {"r1": False}, "calls": {"p1": 2}}),
        lambda scene: scene.inbox.fail_sync(TOKEN, "no"),
    ), lambda scene: scene.inbox.resolve_sync(TOKEN, {"approvals": {"r1": True}, "calls": {"p1": 1}}, by="ann")),
    "an answer after the step or its workflow has ended": Row("late", (
        lambda scene: scene.inbox.approve_sync(TOKEN),
        lambda scene: scene.inbox.fail_sync(TOKEN, "no"),
    ), lambda scene: scene.store.cancel("w")),
    "an answer of more than 1 MiB": Row(InvalidAnswer, (
        lambda scene: scene.inbox.resolve_sync(TOKEN, {"calls": {"p1": SECRET * 2**17}}),
        lambda scene: scene.inbox.approve_sync(TOKEN, "r1", override_args={"why": SECRET * 2**17}),
        lambda scene: scene.inbox.deny_sync(TOKEN, message=SECRET * 2**17),
    )),
    "an answer of the wrong shape, or for a call that is not pending": Row(InvalidAnswer, (
        lambda scene: scene.inbox.resolve_sync(TOKEN, SECRET),
        lambda scene: scene.inbox.resolve_sync(TOKEN, {"approvals": {"r1": SECRET}}),
        lambda scene: scene.inbox.resolve_sync(TOKEN, {"approvals": {"r1": True}, "calls": {"r9": 1}}),
        lambda scene: scene.inbox.resolve_sync(TOKEN, {"approval": {"r1": True}}),
        lambda scene: scene.inbox.approve_sync(TOKEN, "p1"),
    )),
    "an answer that is no JSON, such as NaN, a lone surrogate or an object of a class": Row(InvalidAnswer, (
        lambda scene: scene.inbox.resolve_sync(TOKEN, {"calls": {"p1": float("nan")}}),
        lambda scene: scene.inbox.resolve_sync(TOKEN, {"calls": {"p1": f"{SECRET}\ud800"}}),
        lambda scene: scene.inbox.resolve_sync(TOKEN, {"calls": {"p1": {1, 2}}}),
        lambda scene: scene.inbox.resolve_sync(TOKEN, {"calls": {"p1": {1: SECRET}}}),
    )),
    "a signal for a workflow that has ended": Row(SignalRefused, (
        lambda scene: scene.handle.signal_sync("paid", SECRET),
    ), lambda scene: scene.store.cancel("w")),
    "a signal more than the 1000 that are kept": Row(SignalRefused, (
        lambda scene: scene.handle.signal_sync("paid", SECRET),
        lambda scene: scene.handle.signal_sync("other", SECRET),
    ), Scene.keep_signals),
    "a signal of more than 32 KiB": Row(InvalidAnswer, (
        lambda scene: scene.handle.signal_sync("paid", SECRET * 2**12),
    )),
    "a name, `by` or `signal_id` that is no short text": Row(InvalidInput, (
        lambda scene: scene.handle.signal_sync("", 1),
        lambda scene: scene.handle.signal_sync("paid", 1, signal_id="a" * 129),
        lambda scene: scene.handle.signal_sync("paid", 1, by="a\nb"),
        lambda scene: scene.inbox.approve_sync(TOKEN, by="\x1b[2K"),
    )),
}  # fmt: skip


@pytest.mark.parametrize("what", ROWS)
def test_what_is_refused_changes_nothing_and_says_why(bench: Bench, what: str) -> None:
    """A wrong link, a double click or a wild sender does no harm, whatever the store."""
    scene, row = Scene(bench), ROWS[what]
    row.before(scene)
    before = (scene.store.workflow("w"), scene.store.waits("w.0"), list(scene.publisher.sent))

    for call in row.calls:
        if isinstance(row.gets, str):
            told = call(scene)
            assert (told.outcome, told.taken) == (row.gets, False)
            assert (told.first is not None and told.first.by == "ann") == (row.gets == "answered")
            continue
        with pytest.raises(row.gets) as caught:
            call(scene)
        assert type(caught.value) is row.gets
        assert not any(secret in f"{caught.value!s} {caught.value!r}" for secret in (SECRET, "s3cret"))

    assert (scene.store.workflow("w"), scene.store.waits("w.0"), list(scene.publisher.sent)) == before


def test_an_answer_after_the_time_is_told_so_and_the_step_goes_on(bench: Bench) -> None:
    """Whoever notes that the time is over lets the step know at once."""
    scene = Scene(bench)
    bench.pass_time(3601)

    assert scene.inbox.approve_sync(TOKEN).outcome == "late"
    assert scene.inbox.approve_sync(TOKEN).outcome == "late"

    record = scene.store.workflow("w")
    assert record is not None
    assert (record.suspended, [wait.state for wait in record.waits]) == (False, ["timed_out"])


def test_the_page_has_each_row_with_what_it_gets() -> None:
    """Those who build a page of answers read there what can go wrong."""
    lines = iter(PAGE.read_text(encoding="utf-8").splitlines())
    assert any(line == "| a wrong answer or signal | gets |" for line in lines)
    next(lines)
    shown = {}
    while (line := next(lines, "")).startswith("|"):
        what, gets = (cell.strip() for cell in line.strip("|").split("|"))
        shown[what] = gets.strip("`")

    assert shown == {what: row.gets if isinstance(row.gets, str) else row.gets.__name__ for what, row in ROWS.items()}
