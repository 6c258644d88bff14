"""Records that leave the slip for the store: what stays, and that nothing becomes less strict by it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given

from paigeant_celery import activity, workflow_context
from paigeant_celery.broker.outbox import delivery_of
from paigeant_celery.core.budget import used_by
from paigeant_celery.core.conversations import check_kept
from paigeant_celery.core.errors import MessageError, NewerMessage, StoreCorrupt, UsageError
from paigeant_celery.core.far import FOLDED_AT_ONCE, folded
from paigeant_celery.core.flow import Advance, Completed, Finish, Limits, Park, decide
from paigeant_celery.core.message import PaigeantMessage, encode, parse, reread
from paigeant_celery.core.pages import name_of_page, next_page
from paigeant_celery.core.slip import ActivitySpec
from paigeant_celery.hop.claims import _check_whole
from paigeant_celery.store import earlier
from paigeant_celery.store.earlier import executed_at, executed_of, executed_step
from paigeant_celery.store.memory import MemoryStore
from paigeant_celery.store.pages import all_opened, with_next_page
from paigeant_celery.store.port import HopRecord, NewWorkflow
from paigeant_celery.testing import WorkflowHarness
from tests.support.damage import damaged, drawn

SAMPLES = Path(__file__).parents[2] / "data" / "wire"
NOON = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
LIMITS = Limits(max_steps=400, max_message_size=2**20, inline_log_size=2000)
MakeMessage = Callable[..., PaigeantMessage]


def walked(
    message: PaigeantMessage, steps: int, *, limits: Limits = LIMITS, stored: dict[str, str] | None = None
) -> tuple[PaigeantMessage, dict[str, str]]:
    """Return the message after so many steps, as every worker reads it, and what the store then holds."""
    stored = dict(stored or {})
    for number in range(steps):
        message = whole(message, stored)
        event = Completed(
            place=message.place,
            attempt=1,
            started_at=NOON,
            output={"n": number},
            usage={"requests": number, f"only_{number % 3}": 1},
            cost=Decimal("0.1"),
        )
        decision = decide(message, event, now=NOON, limits=limits)
        assert isinstance(decision, (Advance, Finish)), decision
        assert not stored.keys() & decision.far.keys()
        stored.update(decision.far)
        message = reread(decision.envelope)
    return message, stored


def whole(message: PaigeantMessage, stored: dict[str, str]) -> PaigeantMessage:
    """Return the message with the page that it needs to move on, as a claim brings it."""
    later = next_page(message.slip)
    text = stored[name_of_page(later.page)] if later is not None else None
    return with_next_page(MemoryStore(lease=60, ttl=60), message, brought=text)


def itinerary(count: int) -> list[ActivitySpec]:
    return [ActivitySpec(f"a{number % 2}", "x", conversation="talk") for number in range(count)]


def store_of(blobs: dict[str, str]) -> MemoryStore:
    store = MemoryStore(lease=60, ttl=60)
    hop = HopRecord(hop_id="w-1.0", queue="q", envelope="e", digest="d")
    store.start(NewWorkflow(correlation_id="w-1", content="c", hop=hop, blobs=blobs))
    return store


class Counting(MemoryStore):
    """A store that notes how many blobs each call asks for."""

    def __init__(self, blobs: dict[str, str]) -> None:
        super().__init__(lease=60, ttl=60)
        self._texts, self.asked = blobs, list[int]()

    def blobs(self, correlation_id: str, names: Sequence[str]) -> dict[str, str]:
        self.asked.append(len(names))
        return {name: self._texts[name] for name in names if name in self._texts}


def test_what_is_asked_of_a_slip_is_the_same_wherever_its_records_are(make_message: MakeMessage) -> None:
    """Budgets, the length, the visits, the places and Flower's links must not depend on how long the slip is."""
    first = make_message(*itinerary(30))
    near, nothing = walked(first, 20, limits=replace(LIMITS, inline_log_size=None))
    far, blobs = walked(first, 20)

    assert nothing == {}
    assert (far.slip.earlier.count if far.slip.earlier else 0, len(far.slip.executed)) == (19, 1)
    assert executed_of(store_of(blobs), "w-1", far.slip) == near.slip.executed
    for ask in (
        lambda slip: used_by(slip.executed, earlier=slip.earlier),
        lambda slip: slip.visits,
        lambda slip: (slip.ran, slip.place, slip.length, slip.previous, slip.next_step),
    ):
        assert ask(far.slip) == ask(near.slip)
    assert len(far.slip.itinerary) < len(near.slip.itinerary)
    assert all_opened(store_of(blobs), far).slip.itinerary == near.slip.itinerary
    assert delivery_of(replaced(far), "e", "q", None) == delivery_of(replaced(near), "e", "q", None)
    for message in (near, far):
        with pytest.raises(MessageError, match="what 20 earlier steps said"):
            check_kept(message, ["said"] * 19)
        check_kept(message, ["said"] * 20)


def replaced(message: PaigeantMessage) -> PaigeantMessage:
    return message.model_copy(update={"trace_context": {}})


def test_the_envelope_stays_flat_once_its_slip_is_too_long(make_message: MakeMessage) -> None:
    """The 190th step of a workflow costs what the 10th does."""
    first = make_message(*itinerary(300))

    early, late = (walked(first, count)[0].slip for count in (110, 290))

    assert max(len(slip.model_dump_json()) for slip in (early, late)) < 2000 + 1000


def test_a_short_slip_travels_whole_and_so_does_one_without_a_store(make_message: MakeMessage) -> None:
    """What is not far is written as before."""
    first = make_message(*itinerary(3))

    short, stored = walked(first, 2, limits=replace(LIMITS, inline_log_size=4096))
    long, kept = walked(make_message(*itinerary(30)), 29, limits=replace(LIMITS, inline_log_size=None))

    assert (stored, kept) == ({}, {})
    assert "earlier" not in json.loads(encode(short))["slip"]
    assert len(long.slip.executed) == 29


def test_a_short_slip_is_written_once(make_message: MakeMessage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its envelope, which is recorded and sent, shows that it is short."""
    monkeypatch.setattr("paigeant_celery.core.far.dumps", lambda *_: pytest.fail("the slip is written once more"))

    _, stored = walked(make_message(*itinerary(3)), 3, limits=replace(LIMITS, inline_log_size=4096))

    assert stored == {}


def test_only_the_slip_counts_not_what_else_is_in_its_envelope(make_message: MakeMessage) -> None:
    """A workflow with large variables keeps its records as long as any other."""
    first = make_message(*itinerary(4)).model_copy(update={"variables": {"text": "x" * 4096}})

    whole, stored = walked(first, 3, limits=replace(LIMITS, inline_log_size=4096))

    assert len(encode(whole)) > 4096
    assert (len(whole.slip.executed), stored) == (3, {})


def test_a_long_log_of_an_older_version_leaves_in_parts(make_message: MakeMessage) -> None:
    """No script writes more than some hundred fields, however long the log was when the first new worker met it."""
    message = walked(make_message(*itinerary(300)), 250, limits=replace(LIMITS, inline_log_size=None))[0]

    again, stored = walked(message, 1)
    slip, rest = walked(again, 3)[0].slip, walked(again, 3)[1]

    assert len([name for name in stored if name.startswith(("executed:", "at:"))]) == 2 * FOLDED_AT_ONCE
    assert executed_of(store_of({**stored, **rest}), "w-1", slip)[:250] == message.slip.executed


def test_the_length_of_a_workflow_is_limited_as_before(make_message: MakeMessage) -> None:
    """A loop of insertions ends, even if nobody has the whole log."""
    message = walked(make_message(*itinerary(30)), 20)[0]
    event = Completed(place="20", attempt=1, started_at=NOON, output=None, inserted=(ActivitySpec("b", "x"),))

    full = decide(message, event, now=NOON, limits=replace(LIMITS, max_steps=30))
    fits = decide(message, event, now=NOON, limits=replace(LIMITS, max_steps=31))

    assert isinstance(full, Park)
    assert full.failure.error_class == "loop_limit"
    assert isinstance(fits, Advance)
    assert [step.step_id for step in fits.message.slip.itinerary][:1] == ["b-20.1"]
    with pytest.raises(MessageError, match="too_many_steps"):
        parse(encode(message), max_size=2**20, max_steps=29)


def test_an_inserted_step_with_an_id_of_its_own_is_refused_once_ids_are_far(make_message: MakeMessage) -> None:
    """It could be that of a step whose record is in the store, and hide its output."""
    message = walked(make_message(*itinerary(30)), 20)[0]
    inserted = (ActivitySpec("b", "x", step_id="a0"),)
    event = Completed(place="20", attempt=1, started_at=NOON, output=None, inserted=inserted)

    decision = decide(message, event, now=NOON, limits=LIMITS)

    assert isinstance(decision, Park)
    assert decision.failure.error_class == "duplicate_step_id"


def test_one_record_is_found_by_its_id_or_place(make_message: MakeMessage) -> None:
    """A step reads the output of any earlier one."""
    message, blobs = walked(make_message(*itinerary(30)), 20)
    store, records = store_of(blobs), executed_of(store_of(blobs), "w-1", message.slip)

    for place, record in enumerate(records):
        assert executed_step(store, "w-1", message.slip, record.step_id) == record
        assert executed_at(store, "w-1", message.slip, str(place)) == record
    assert executed_at(store, "w-1", message.slip, "20") is None
    without = store_of({name: text for name, text in blobs.items() if not name.startswith("at:")})
    assert executed_step(without, "w-1", message.slip, "a1") == records[1]
    with pytest.raises(UsageError, match="no step 'ghost' ran before"):
        executed_step(store, "w-1", message.slip, "ghost")


@pytest.mark.parametrize("damage", [None, "{}", "no JSON", "swap"])
def test_a_record_that_is_missing_or_changed_is_never_passed_on(make_message: MakeMessage, damage: str | None) -> None:
    """Outputs, usage and order are what was recorded, or nobody gets them."""
    message, blobs = walked(make_message(*itinerary(30)), 20)
    if damage is None:
        del blobs["executed:3"]
    elif damage == "swap":
        blobs["executed:3"] = blobs["executed:3"].replace('"n":3', '"n":4')
    else:
        blobs["executed:3"] = damage

    with pytest.raises(StoreCorrupt, match="w-1: records of earlier steps"):
        executed_of(store_of(blobs), "w-1", message.slip)
    with pytest.raises(StoreCorrupt):
        executed_step(store_of(blobs), "w-1", message.slip, "a1-2")


@pytest.mark.parametrize("place", ["1", "1 00", "x y", "9" * 5000, "٣ 00", "3"])
def test_a_damaged_note_of_a_place_hides_no_record(make_message: MakeMessage, place: str) -> None:
    """The records themselves are sound, and say where each step ran."""
    message, blobs = walked(make_message(*itinerary(30)), 20)

    found = executed_step(store_of({**blobs, "at:a1-2": place}), "w-1", message.slip, "a1-2")

    assert (found.step_id, found.place) == ("a1-2", "3")


def test_what_an_earlier_run_of_the_same_id_has_left_is_no_step_that_ran(make_message: MakeMessage) -> None:
    """A store that has lost only a part of its data may have records of steps that are still to run."""
    _, old = walked(make_message(*itinerary(30)), 25)
    message, blobs = walked(make_message(*itinerary(30)), 20)

    with pytest.raises(UsageError, match="no step 'a1-12' ran before"):
        executed_step(store_of({**old, **blobs}), "w-1", message.slip, "a1-12")
    assert executed_step(store_of({**old, **blobs}), "w-1", message.slip, "a1-9").place == "17"


def test_records_are_read_in_parts(make_message: MakeMessage, monkeypatch: pytest.MonkeyPatch) -> None:
    """One call for all of 100 000 steps would stop the server for everybody else."""
    message, blobs = walked(make_message(*itinerary(30)), 20)
    monkeypatch.setattr(earlier, "READ_AT_ONCE", 8)
    store, asked = Counting(blobs), message.slip

    assert len(executed_of(store, "w-1", asked)) == 20
    assert store.asked == [8, 8, 3]
    del blobs["executed:2"]
    with pytest.raises(StoreCorrupt, match="executed:2 is missing"):
        executed_of(Counting(blobs), "w-1", asked)


def test_a_message_whose_sums_cannot_be_true_is_refused(make_message: MakeMessage) -> None:
    """Visits are capped by them, and a decimal of a million digits stops whoever adds to it."""
    tree = json.loads(encode(walked(make_message(*itinerary(30)), 20)[0]))
    sums = tree["slip"]["earlier"]
    assert sum(sums["visits"].values()) == sums["count"] == 19

    for change, reason in (
        ({"visits": {}}, "inconsistent_slip"),
        ({"count": 18, "visits": {"a0": 10, "a1": 8}}, "inconsistent_slip"),
        ({"visits": {"a0": -81, "a1": 100}}, "invalid_envelope"),
        ({"cost": "1e999999"}, "invalid_envelope"),
        ({"spoken": {"name:talk": -1}}, "invalid_envelope"),
    ):
        tree["slip"]["earlier"] = {**sums, **change}
        with pytest.raises(MessageError) as refused:
            parse(json.dumps(tree), max_size=2**20, max_steps=400)
        assert refused.value.reason == reason, change


@pytest.mark.parametrize("place", [3, 28])
def test_a_slip_stays_whole_while_an_inserted_step_may_get_an_id_that_is_in_use(
    make_message: MakeMessage, place: int
) -> None:
    """Users may give such ids; another step of the same id would hide its output, so it gets the next number."""
    first = make_message(*itinerary(40))
    steps = list(first.slip.itinerary)
    steps[place] = steps[place].identified("b-25.1")
    first = first.model_copy(update={"slip": first.slip.model_copy(update={"itinerary": tuple(steps)})})
    message, stored = walked(first, 25)
    event = Completed(place="25", attempt=1, started_at=NOON, output=None, inserted=(ActivitySpec("b", "x"),))

    decision = decide(message, event, now=NOON, limits=LIMITS)

    assert stored == {}
    assert isinstance(decision, Advance)
    assert decision.message.step.step_id == "b-25.2"
    assert walked(message, 1)[0].slip.earlier is not None


def test_a_step_that_was_inserted_leaves_like_any_other(make_message: MakeMessage) -> None:
    """Its id names a place that is over, so that no other step can get it."""
    message, stored = walked(make_message(*itinerary(30)), 20)
    event = Completed(place="20", attempt=1, started_at=NOON, output=None, inserted=(ActivitySpec("b", "x"),))
    inserted = decide(whole(message, stored), event, now=NOON, limits=LIMITS)
    assert isinstance(inserted, Advance)

    later = walked(inserted.message, 3, stored={**stored, **inserted.far})[0]

    assert (later.slip.earlier.count if later.slip.earlier else 0, len(later.slip.executed)) == (23, 1)


def test_a_workflow_whose_records_were_in_a_lost_store_is_not_adopted(make_message: MakeMessage) -> None:
    """Its result would lack steps."""
    message = walked(make_message(*itinerary(30)), 20)[0]

    with pytest.raises(MessageError) as lost:
        _check_whole(message)

    assert (lost.value.reason, lost.value.path) == ("store_lost", "slip.earlier")


@drawn(100)
@given(tree=damaged(json.loads((SAMPLES / "far.json").read_text())["slip"]))
def test_a_damaged_slip_is_refused_or_answers_all_that_is_asked_of_it(tree: object) -> None:
    """Anything may lie in a queue; what a worker accepts it can count, encode and send on."""
    whole = json.loads((SAMPLES / "far.json").read_text())
    try:
        message = parse(json.dumps({**whole, "slip": tree}), max_size=2**20, max_steps=400)
    except MessageError:
        return

    slip = message.slip
    assert sum(slip.visits.values()) == slip.length
    assert used_by(slip.executed, earlier=slip.earlier).counters is not None
    assert reread(encode(message)) == message


def test_a_slip_without_the_record_of_its_last_step_is_refused(make_message: MakeMessage) -> None:
    """The previous output and the parent in Flower come from it."""
    message = walked(make_message(*itinerary(30)), 20)[0]
    tree = json.loads(encode(message))
    tree["slip"]["executed"] = []
    tree["message_id"] = "w-1.19"

    with pytest.raises(MessageError, match="inconsistent_slip"):
        parse(json.dumps(tree), max_size=2**20, max_steps=400)


def test_a_worker_of_version_1_2_leaves_such_a_slip_to_newer_ones(make_message: MakeMessage) -> None:
    """It does not know `earlier`, so that the slip seems to stand at another place than the id says."""
    message = walked(make_message(*itinerary(30)), 20)[0]
    tree = json.loads(encode(message))
    # As any version reads a slip of a newer one, with a field that it does not know.
    tree["slip"]["unknown"], tree["spec_version"] = tree["slip"].pop("earlier"), "1.9"

    with pytest.raises(NewerMessage, match="the slip stands at place 1, but the id says otherwise"):
        parse(json.dumps(tree), max_size=2**20, max_steps=400)


def test_folding_what_is_folded_changes_nothing(make_message: MakeMessage) -> None:
    """A decision that is made again writes the same bytes."""
    slip = walked(make_message(*itinerary(30)), 20)[0].slip

    assert folded(slip, most=2000) == (slip, {})


def test_a_long_workflow_is_seen_from_outside_and_inside_as_a_short_one(workflow_harness: WorkflowHarness) -> None:
    """Nobody who reads results, states or outputs notices what travelled."""

    @activity
    async def said(text: str) -> str:
        if len(text) == 500:
            return text
        first = await workflow_context().output("said")
        return f"{text} after {first.output}"

    texts = ["x" * 500, *map(str, range(30))]
    handle = workflow_harness.dispatch([said.activity(text=text) for text in texts])

    asyncio.run(workflow_harness.deliver())

    names = ["said", *(f"said-{number}" for number in range(2, 32))]
    result, status = handle.result_sync(0), handle.status_sync()
    record = handle._record("test")
    assert reread(record.envelope).slip.earlier is not None
    assert list(result.outputs) == list(status.executed) == names
    assert [result.outputs[name] for name in names[1:]] == [f"{n} after {'x' * 500}" for n in range(30)]
