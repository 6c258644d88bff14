"""The life of a hop in every store: started, claimed, renewed, closed or given back."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, cast

import pytest

from paigeant_celery.core.flow import Failure
from paigeant_celery.store.port import Claimed, Closing, Dropped, NewWorkflow, RenewAnswer, Sweep
from tests.contract.store.bench import Bench, check_places
from tests.contract.store.given import FAILURE, claim, closing, completion, hop, new, types

# START


def test_a_started_workflow_waits_as_its_first_hop(bench: Bench) -> None:
    """After `dispatch_workflow` returns, the run is recorded, whatever happens to the message."""
    assert bench.store.start(new()) == "started"

    record = bench.store.workflow("w")
    assert record is not None
    assert (record.state, record.hop_id, record.queue, record.envelope) == ("running", "w.0", "q-w.0", "envelope w.0")
    assert (record.running, record.attempt, record.failure, record.content) == (False, 0, None, "same")
    assert record.created_at == record.updated_at
    assert types(bench.store) == ["started"]


def moment(bench: Bench) -> datetime:
    """The store's clock."""
    bench.store.start(new("clock"))
    claimed = bench.store.claim(claim("clock.0", token="clock"))
    assert isinstance(claimed, Claimed)
    return claimed.now


def test_an_adopted_workflow_waits_as_the_hop_of_its_message(bench: Bench) -> None:
    """It goes on where it was, under the same rules as any other."""
    adopted = NewWorkflow(correlation_id="w", content="same", hop=hop("w.3"))
    sent_at = moment(bench) - timedelta(seconds=50)

    assert bench.store.adopt(adopted, sent_at=sent_at, max_age=timedelta(seconds=60)) == "adopted"

    record = bench.store.workflow("w")
    assert record is not None
    assert (record.state, record.hop_id, record.running) == ("running", "w.3", False)
    assert types(bench.store) == ["adopted"]
    assert isinstance(bench.store.claim(claim("w.3")), Claimed)


def test_a_workflow_whose_message_is_too_old_is_not_adopted(bench: Bench) -> None:
    """Its age is judged by the store's clock."""
    sent_at = moment(bench) - timedelta(seconds=61)

    assert bench.store.adopt(new(), sent_at=sent_at, max_age=timedelta(seconds=60)) == "expired"

    assert bench.store.workflow("w") is None
    assert bench.store.claim(claim()) == Dropped(reason="unknown")


@pytest.mark.parametrize("content", ["same", "other"])
def test_a_workflow_that_is_known_is_not_adopted(bench: Bench, content: str) -> None:
    """A stranger's message under its id does not change it."""
    bench.store.start(new())
    before = bench.store.workflow("w")

    stranger = NewWorkflow(correlation_id="w", content=content, hop=hop("w.7"))
    assert bench.store.adopt(stranger, sent_at=moment(bench), max_age=timedelta(days=1)) == "known"

    assert bench.store.workflow("w") == before
    assert bench.store.claim(claim("w.7")) == Dropped(reason="unknown")


def test_the_same_content_again_is_the_existing_workflow(bench: Bench) -> None:
    """A caller that repeats a request with its idempotency key starts nothing twice."""
    bench.store.start(new())
    before = bench.store.workflow("w")

    assert bench.store.start(new()) == "exists"

    assert bench.store.workflow("w") == before
    assert types(bench.store) == ["started"]


def test_other_content_under_a_taken_id_is_a_conflict(bench: Bench) -> None:
    """Two different runs never share an id, so no one reads the other's result."""
    bench.store.start(new())
    before = bench.store.workflow("w")

    assert bench.store.start(new(content="other")) == "conflict"

    assert bench.store.workflow("w") == before


def test_the_content_of_an_ended_workflow_still_decides(bench: Bench) -> None:
    """A repeated request after the end returns the finished run and costs nothing."""
    bench.store.start(new())
    bench.store.complete(completion(closing(bench.store.claim(claim()))))

    assert bench.store.start(new()) == "exists"
    assert bench.store.start(new(content="other")) == "conflict"


# CLAIM


def test_a_queued_hop_is_given_to_the_first_who_asks(bench: Bench) -> None:
    """One worker runs the step, and the handle shows that it runs."""
    bench.store.start(new())

    claimed = bench.store.claim(claim())

    assert isinstance(claimed, Claimed)
    assert (claimed.fence, claimed.attempt, claimed.exhausted) == (1, 1, False)
    record = bench.store.workflow("w")
    assert record is not None
    assert (record.running, record.attempt, record.envelope) == (True, 1, "envelope w.0")
    assert record.updated_at == claimed.now
    assert types(bench.store) == ["started", "claimed"]


def test_a_claim_repeated_with_its_token_gets_the_same_answer(bench: Bench) -> None:
    """The client repeats a call whose reply was lost; otherwise nobody would run the hop."""
    bench.store.start(new())
    first = bench.store.claim(claim())

    assert bench.store.claim(claim()) == first

    assert types(bench.store) == ["started", "claimed"]


@pytest.mark.parametrize(("owner", "token"), [("ben", "t2"), ("ann", "t2"), ("ben", "t1")])
def test_a_running_hop_is_given_to_no_other_delivery(bench: Bench, owner: str, token: str) -> None:
    """A copy of the message does not pay the model twice, not even in the same worker."""
    bench.store.start(new())
    bench.store.claim(claim())

    assert bench.store.claim(claim(owner=owner, token=token)) == Dropped(reason="running")


def test_an_unknown_hop_is_not_run(bench: Bench) -> None:
    """A message from another deployment or from long ago does nothing here."""
    assert bench.store.claim(claim("nobody.0")) == Dropped(reason="unknown")


@pytest.mark.parametrize("token", ["t1", "t2"])
def test_a_closed_hop_is_not_run_again(bench: Bench, token: str) -> None:
    """The broker may deliver a finished step again; it stays finished."""
    bench.store.start(new())
    bench.store.complete(completion(closing(bench.store.claim(claim())), next_hop=hop("w.1")))
    bench.store.fail(closing(bench.store.claim(claim("w.1")), "w.1"), FAILURE)

    assert bench.store.claim(claim(token=token)) == Dropped(reason="finished")
    assert bench.store.claim(claim("w.1", token=token)) == Dropped(reason="finished")


def test_an_altered_envelope_is_refused_and_changes_nothing(bench: Bench) -> None:
    """Someone who writes to the broker cannot change what a recorded step does."""
    bench.store.start(new())
    before = bench.store.workflow("w")

    assert bench.store.claim(claim(digest="of another envelope")) == Dropped(reason="altered")

    assert bench.store.workflow("w") == before
    assert types(bench.store) == ["started"]


def test_a_claim_without_digest_skips_the_comparison(bench: Bench) -> None:
    """A message that cannot be read can still fail its workflow instead of leaving it waiting forever."""
    bench.store.start(new())

    assert isinstance(bench.store.claim(claim(digest=None)), Claimed)


def test_a_hop_of_a_lapsed_owner_is_taken_over_with_a_higher_fence(bench: Bench) -> None:
    """A step of a killed worker runs again elsewhere."""
    bench.store.start(new())
    bench.brief.claim(claim())
    bench.lapse()

    taken = bench.store.claim(claim(owner="ben", token="t2"))

    assert isinstance(taken, Claimed)
    assert (taken.fence, taken.attempt, taken.exhausted) == (2, 2, False)
    assert bench.store.claim(claim(token="t1")) == Dropped(reason="running")


def test_an_owner_takes_its_own_lapsed_hop_for_another_delivery(bench: Bench) -> None:
    """A worker that stood still for a while can run the redelivered step itself."""
    bench.store.start(new())
    bench.brief.claim(claim())
    bench.lapse()

    taken = bench.store.claim(claim(token="t2"))

    assert isinstance(taken, Claimed)
    assert (taken.fence, taken.attempt) == (2, 2)


def test_a_token_repeated_after_a_lapse_revives_the_claim(bench: Bench) -> None:
    """A slow reply does not cause a second run."""
    bench.store.start(new())
    first = bench.brief.claim(claim())
    bench.lapse()

    assert bench.store.claim(claim()) == first

    assert bench.store.claim(claim(owner="ben", token="t2")) == Dropped(reason="running")


def test_a_hop_begun_too_often_may_only_be_closed(bench: Bench) -> None:
    """A step that kills its worker each time ends as failed instead of taking down one worker after another."""
    bench.store.start(new())
    for number in (1, 2):
        assert isinstance(bench.brief.claim(claim(token=f"t{number}", max_attempts=2)), Claimed)
        bench.lapse()

    spent = bench.store.claim(claim(token="t3", max_attempts=2))

    assert isinstance(spent, Claimed)
    assert (spent.fence, spent.attempt, spent.exhausted) == (3, 2, True)
    assert bench.store.claim(claim(token="t3", max_attempts=2)) == spent
    assert bench.store.fail(closing(spent), FAILURE)


def test_of_many_who_claim_at_once_one_wins(bench: Bench) -> None:
    """Copies of a message on many workers are one run."""
    bench.store.start(new())
    raw = cast("Any", bench).raw
    together = threading.Barrier(8)

    def race(number: int) -> object:
        together.wait(10)
        return raw.claim(claim(owner=f"owner-{number}", token=f"t{number}"))

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(race, range(8)))

    assert sum(isinstance(answer, Claimed) for answer in answers) == 1
    assert answers.count(Dropped(reason="running")) == 7
    check_places(bench)


# RENEW


def test_a_renewed_lease_keeps_the_hop(bench: Bench) -> None:
    """A step may run far longer than the lease."""
    bench.store.start(new())
    claimed = bench.brief.claim(claim())
    bench.spend(0.5)

    assert bench.store.renew("ann", {"w.0": closing(claimed).fence}) == RenewAnswer(lost=frozenset())

    bench.spend(0.75)
    assert bench.store.claim(claim(owner="ben", token="t2")) == Dropped(reason="running")


def test_renewing_revives_lapsed_hops_that_nobody_took(bench: Bench) -> None:
    """An unnoticed pause of a worker costs nothing."""
    bench.store.start(new())
    claimed = bench.brief.claim(claim())
    bench.lapse()

    assert bench.store.renew("ann", {"w.0": closing(claimed).fence}) == RenewAnswer(lost=frozenset())

    assert bench.store.claim(claim(owner="ben", token="t2")) == Dropped(reason="running")
    assert bench.store.complete(completion(closing(claimed)))


def test_renewing_reports_hops_that_are_no_longer_the_owners(bench: Bench) -> None:
    """A worker that comes back late cancels the run it lost and keeps the others."""
    bench.store.start(new("kept"))
    bench.store.start(new("taken"))
    bench.store.start(new("ended"))
    kept, taken, ended = (bench.brief.claim(claim(f"{name}.0")) for name in ("kept", "taken", "ended"))
    bench.lapse()
    bench.store.claim(claim("taken.0", owner="ben"))
    bench.store.fail(closing(bench.store.claim(claim("ended.0", owner="ben")), "ended.0", owner="ben"), FAILURE)

    answer = bench.store.renew(
        "ann",
        {
            "kept.0": closing(kept).fence,
            "taken.0": closing(taken).fence,
            "ended.0": closing(ended).fence,
        },
    )

    assert answer == RenewAnswer(lost=frozenset({"taken.0", "ended.0"}))


def test_a_hop_that_its_own_claim_closed_is_not_lost(bench: Bench) -> None:
    """A renewal between the commit and the end of the run cancels nothing."""
    bench.store.start(new())
    claimed = bench.store.claim(claim())
    bench.store.complete(completion(closing(claimed), next_hop=hop("w.1")))

    assert bench.store.renew("ann", {"w.0": closing(claimed).fence}) == RenewAnswer(lost=frozenset())


def test_an_owner_that_runs_nothing_keeps_no_lease_alive(bench: Bench) -> None:
    """A hop whose claim's reply was lost is taken over, although its owner is alive."""
    bench.store.start(new())
    bench.brief.claim(claim())
    bench.lapse()

    assert bench.store.renew("ann", {}) == RenewAnswer(lost=frozenset(), stray={"w.0": 1})
    assert bench.store.renew("stranger", {}) == RenewAnswer(lost=frozenset())

    assert isinstance(bench.store.claim(claim(owner="ben", token="t2")), Claimed)


# COMPLETE and FAIL


def test_a_completed_hop_hands_over_to_the_next_one_in_one_step(bench: Bench) -> None:
    """No crash can leave a finished step without its successor, or a successor without its output."""
    bench.store.start(new())
    claimed = bench.store.claim(claim())

    notes = [{"type": "itinerary_edited", "added": "1"}]
    done = completion(closing(claimed), next_hop=hop("w.1"), blobs={"draft": '"grün"'}, notes=notes)
    assert bench.store.complete(done)

    record = bench.store.workflow("w")
    assert record is not None
    assert (record.state, record.hop_id, record.queue, record.envelope) == ("running", "w.1", "q-w.1", "envelope w.1")
    assert (record.running, record.attempt) == (False, 0)
    assert bench.store.blob("w", "draft") == '"grün"'
    events = [event.fields for event in bench.store.events("w", after=None, limit=10)]
    assert events[2:] == [
        {"type": "itinerary_edited", "hop": "w.0", "added": "1"},
        {"type": "completed", "hop": "w.0", "next_hop": "w.1"},
    ]
    assert isinstance(bench.store.claim(claim("w.1", owner="ben")), Claimed)


def test_completing_the_last_hop_completes_the_workflow(bench: Bench) -> None:
    """The result can be read from the store alone."""
    bench.store.start(new())
    claimed = bench.store.claim(claim())

    assert bench.store.complete(completion(closing(claimed), blobs={"draft": "1"}))

    record = bench.store.workflow("w")
    assert record is not None
    assert (record.state, record.envelope, record.hop_id, record.queue) == ("completed", "final", "w.0", "q-w.0")
    assert (record.running, record.attempt, record.failure) == (False, 1, None)
    assert bench.store.blob("w", "draft") == "1"
    assert types(bench.store) == ["started", "claimed", "completed", "workflow_completed"]


def test_a_completion_may_be_repeated(bench: Bench) -> None:
    """A commit whose reply was lost is repeated and forwards the workflow once."""
    bench.store.start(new())
    done = completion(closing(bench.store.claim(claim())), next_hop=hop("w.1"), notes=[{"type": "edited"}])
    assert bench.store.complete(done)
    bench.store.claim(claim("w.1"))
    before = bench.store.workflow("w"), types(bench.store)

    assert bench.store.complete(done)

    assert (bench.store.workflow("w"), types(bench.store)) == before


def test_the_last_completion_may_be_repeated(bench: Bench) -> None:
    """The end of a workflow is recorded once."""
    bench.store.start(new())
    done = completion(closing(bench.store.claim(claim())))
    assert bench.store.complete(done)
    before = bench.store.workflow("w"), types(bench.store)

    assert bench.store.complete(done)
    assert not bench.store.fail(done.closing, FAILURE)

    assert (bench.store.workflow("w"), types(bench.store)) == before


def test_a_late_completion_that_nobody_overtook_is_accepted(bench: Bench) -> None:
    """A paid answer is not thrown away because a lease ended a moment earlier."""
    bench.store.start(new())
    claimed = bench.brief.claim(claim())
    bench.lapse()

    assert bench.store.complete(completion(closing(claimed), next_hop=hop("w.1")))


def test_an_overtaken_owner_can_close_nothing(bench: Bench) -> None:
    """Of two runs of one step only one is forwarded."""
    bench.store.start(new())
    late = closing(bench.brief.claim(claim()))
    bench.lapse()
    taken = bench.store.claim(claim(owner="ben", token="t2"))
    before = bench.store.workflow("w"), types(bench.store)

    assert not bench.store.complete(completion(late, next_hop=hop("w.1")))
    assert not bench.store.fail(late, FAILURE)

    assert (bench.store.workflow("w"), types(bench.store)) == before
    assert bench.store.complete(completion(closing(taken, owner="ben"), next_hop=hop("w.1")))
    assert not bench.store.complete(completion(late, next_hop=hop("w.1")))


@pytest.mark.parametrize("wrong", [{"fence": 2}, {"owner": "ben"}])
def test_only_the_claim_itself_closes_a_hop(bench: Bench, wrong: Mapping[str, Any]) -> None:
    """A mistake in one worker does not end another's step."""
    bench.store.start(new())
    bench.store.claim(claim())
    stranger = Closing(**{"hop_id": "w.0", "owner": "ann", "fence": 1, **wrong})

    assert not bench.store.complete(completion(stranger))
    assert not bench.store.fail(stranger, FAILURE)

    assert types(bench.store) == ["started", "claimed"]


def test_a_queued_hop_cannot_be_closed(bench: Bench) -> None:
    """What was never claimed has no outcome."""
    bench.store.start(new())

    assert not bench.store.complete(completion(Closing(hop_id="w.0", owner="", fence=0)))
    assert not bench.store.fail(Closing(hop_id="w.0", owner="", fence=0), FAILURE)


@pytest.mark.parametrize("failure", [FAILURE, Failure(step_id=None, error_class="too_deep", text="lone \udc80")])
def test_a_failed_hop_fails_its_workflow_and_keeps_the_envelope(bench: Bench, failure: Failure) -> None:
    """The caller learns which step failed and why, and the outputs so far are not lost."""
    bench.store.start(new())
    claimed = bench.store.claim(claim())

    assert bench.store.fail(closing(claimed), failure)
    assert bench.store.fail(closing(claimed), failure)
    assert not bench.store.complete(completion(closing(claimed)))

    record = bench.store.workflow("w")
    assert record is not None
    assert (record.state, record.failure, record.envelope) == ("failed", failure, "envelope w.0")
    assert types(bench.store) == ["started", "claimed", "failed", "workflow_failed"]
    last = bench.store.events("w", after=None, limit=10)[-1]
    assert last.fields == {
        "type": "workflow_failed",
        "hop": "w.0",
        "step": failure.step_id or "",
        "error": failure.error_class,
        **({"where": "/app/steps.py:7 in draft"} if failure.cause is not None else {}),
    }


def test_a_large_text_comes_back_unchanged(bench: Bench) -> None:
    """Outputs in any language and of megabytes survive the store."""
    bench.store.start(new())
    text = '"' + "é\U0001f600\u202e" * 200_000 + '"'

    done = completion(closing(bench.store.claim(claim())), next_hop=hop("w.1", envelope=text), blobs={"draft": text})
    assert bench.store.complete(done)

    record = bench.store.workflow("w")
    assert record is not None
    assert record.envelope == text
    assert bench.store.blob("w", "draft") == text


def test_the_files_of_a_new_workflow_are_kept_with_it_and_go_with_it(bench: Bench) -> None:
    """Their steps may run much later, and again; nothing of an ended workflow stays for ever."""
    files = {"sha256:a": "iVBORw0=" * 100_000, "sha256:b": ""}

    assert bench.store.start(new(blobs=files)) == "started"
    assert bench.store.start(new(blobs={"sha256:a": "other"})) == "exists"
    assert bench.store.start(new(content="other", blobs={"sha256:c": "other"})) == "conflict"
    assert bench.store.start(new("without")) == "started"
    bench.store.complete(completion(closing(bench.store.claim(claim())), next_hop=hop("w.1"), blobs={"draft": "1"}))

    kept = {name: bench.store.blob("w", name) for name in ("draft", "sha256:a", "sha256:b", "sha256:c")}
    assert kept == {"draft": "1", **files, "sha256:c": None}
    bench.short_lived.complete(completion(closing(bench.store.claim(claim("w.1")), "w.1")))
    bench.expire()
    assert bench.store.blob("w", "sha256:a") is None


# What is left to read


def test_what_is_not_there_is_none(bench: Bench) -> None:
    """A mistyped id is not mistaken for an empty result."""
    bench.store.start(new())

    assert bench.store.workflow("other") is None
    assert bench.store.blob("w", "draft") is None
    assert bench.store.blob("other", "draft") is None
    assert list(bench.store.events("other", after=None, limit=10)) == []


def test_an_ended_workflow_goes_away_after_its_time(bench: Bench) -> None:
    """The store does not grow forever, and a running workflow is never removed."""
    bench.store.start(new("running"))
    bench.store.start(new())
    bench.store.complete(completion(closing(bench.store.claim(claim())), next_hop=hop("w.1"), blobs={"draft": "1"}))
    bench.short_lived.complete(completion(closing(bench.store.claim(claim("w.1")), "w.1")))
    bench.expire()

    assert bench.store.workflow("w") is None
    assert bench.store.blob("w", "draft") is None
    assert types(bench.store) == []
    assert bench.store.claim(claim()) == Dropped(reason="unknown")
    assert bench.store.workflow("running") is not None
    assert bench.store.start(new(content="other")) == "started"


# RELEASE


def test_a_hop_that_its_owner_does_not_run_is_named_by_renew(bench: Bench) -> None:
    """The reply to a claim was lost forever, and the worker is busy with other steps."""
    for name in ("v", "w"):
        bench.store.start(new(name))
        bench.store.claim(claim(f"{name}.0"))

    assert bench.store.renew("ann", {"v.0": 1}) == RenewAnswer(lost=frozenset(), stray={"w.0": 1})
    assert bench.store.renew("ann", {"v.0": 1, "w.0": 1}) == RenewAnswer(lost=frozenset())


def test_a_released_hop_is_sent_by_the_next_sweep_and_has_its_attempt_back(bench: Bench) -> None:
    """Nobody ran it, so the attempt must not count, and nobody waits for a lease."""
    bench.store.start(new())
    claimed = bench.store.claim(claim())

    assert bench.store.release(closing(claimed))

    assert bench.store.sweep(host="there") == Sweep(overdue=(hop(),))
    again = bench.store.claim(claim(owner="ben", token="t2"))
    assert isinstance(again, Claimed)
    assert (again.fence, again.attempt) == (2, 1)
    assert types(bench.store) == ["started", "claimed", "released", "resent", "claimed"]


def test_a_hop_that_was_given_back_is_sent_after_a_wait_that_doubles(bench: Bench) -> None:
    """Its worker is too old to read it. It comes again until a newer worker has it, and no attempt is spent."""
    bench.store.start(new())
    waited = []
    for number in range(7):
        claimed = bench.store.claim(claim(owner="ann", token=f"t{number}"))
        assert isinstance(claimed, Claimed)
        assert claimed.attempt == 1
        before = claimed.now
        assert bench.store.give_back(closing(claimed), FAILURE)
        assert bench.store.give_back(closing(claimed), FAILURE)  # the reply was lost, and the client asks again
        record = bench.store.workflow("w")
        assert record is not None
        assert record.retry_at is not None
        assert (record.state, record.running, record.attempt, record.failure) == ("running", False, 0, FAILURE)
        waited.append(round((record.retry_at - before).total_seconds()))
        assert bench.store.claim(claim(owner="ben", token="copy")) == Dropped(reason="waiting")
        bench.overdue("w.0")
        if number:
            bench.next_second()
        assert [found.hop_id for found in bench.store.sweep(host="there").overdue] == ["w.0"]
        record = bench.store.workflow("w")
        assert record is not None
        assert (record.state, record.retry_at, record.failure) == ("running", None, FAILURE)

    assert waited == [5, 10, 20, 40, 80, 80, 80]
    assert types(bench.store)[:4] == ["started", "claimed", "given_back", "resent"]
    assert isinstance(bench.store.claim(claim(owner="ben", token="able")), Claimed)


def test_a_retry_or_a_release_shows_that_a_worker_could_read_the_hop(bench: Bench) -> None:
    """Who looks then sees what the hop waits for now, and no longer that it was given back."""
    for name, left in (("w", lambda held: bench.store.retry_at(held, FAILURE, delay=0)), ("v", bench.store.release)):
        bench.store.start(new(name))
        assert bench.store.give_back(closing(bench.store.claim(claim(f"{name}.0")), f"{name}.0"), FAILURE)
        bench.overdue(f"{name}.0")
        bench.next_second() if name == "v" else None
        bench.store.sweep(host="there")
        assert left(closing(bench.store.claim(claim(f"{name}.0", token="t2")), f"{name}.0"))
        bench.next_second()
        assert [found.hop_id for found in bench.store.sweep(host="there").overdue] == [f"{name}.0"]
        record = bench.store.workflow(name)
        assert record is not None
        assert record.failure is None


def test_a_late_give_back_takes_nothing_away(bench: Bench) -> None:
    """Another worker has the hop by then, or has closed it."""
    bench.store.start(new())
    first = lapsed_of(bench, bench.store.claim(claim(owner="here:7")))
    second = bench.store.claim(claim(owner="ben", token="t2"))
    overtaken = bench.store.give_back(first, FAILURE)
    bench.store.complete(completion(closing(second, owner="ben")))

    assert not overtaken
    assert not bench.store.give_back(closing(second, owner="ben"), FAILURE)


def test_a_redrive_begins_the_waits_again(bench: Bench) -> None:
    """A person has deployed what was missing, and waits for it."""
    bench.store.start(new())
    assert bench.store.give_back(closing(bench.store.claim(claim())), FAILURE)
    bench.overdue("w.0")
    bench.store.sweep(host="there")
    assert bench.store.park(closing(bench.store.claim(claim(token="t2"))), FAILURE)
    assert bench.store.redrive("w") == "redriven"
    claimed = bench.store.claim(claim(token="t3"))
    assert isinstance(claimed, Claimed)
    assert bench.store.give_back(closing(claimed), FAILURE)

    record = bench.store.workflow("w")
    assert record is not None
    assert record.retry_at is not None
    assert round((record.retry_at - claimed.now).total_seconds()) == 5


def test_the_owner_of_a_released_hop_can_write_nothing(bench: Bench) -> None:
    """It said that it does not run the hop; a late claim gets it again."""
    bench.store.start(new())
    claimed = bench.store.claim(claim())
    bench.store.release(closing(claimed))

    assert not bench.store.release(closing(claimed))
    assert not bench.store.complete(completion(closing(claimed)))
    assert not bench.store.fail(closing(claimed), FAILURE)
    assert bench.store.renew("ann", {"w.0": 1}) == RenewAnswer(lost=frozenset({"w.0"}))
    late = bench.store.claim(claim())
    assert isinstance(late, Claimed)
    assert (late.fence, late.attempt) == (2, 1)


def test_only_a_claim_that_is_open_is_released(bench: Bench) -> None:
    """A release that comes late takes nothing away."""
    bench.store.start(new())
    first = lapsed_of(bench, bench.store.claim(claim(owner="here:7")))
    second = bench.store.claim(claim(owner="ben", token="t2"))
    overtaken = bench.store.release(first)
    bench.store.complete(completion(closing(second, owner="ben")))

    assert not overtaken
    assert not bench.store.release(closing(second, owner="ben"))


def lapsed_of(bench: Bench, claimed: object) -> Closing:
    """A claim whose hop was sent again because its process is gone."""
    close = closing(claimed, owner="here:7")
    bench.store.sweep(host="here", dead=["here:7"])
    return close


def test_a_claim_brings_the_blobs_that_it_asks_for(bench: Bench) -> None:
    """A step gets the previous output without another round trip, also if the reply to its claim was lost."""
    bench.store.start(new())
    first = bench.store.claim(claim())
    bench.store.complete(completion(closing(first), next_hop=hop("w.1"), blobs={"draft": '"grün"', "other": "1"}))
    asking = replace(claim("w.1"), wanted=("draft", "missing"))

    answer, repeated = bench.store.claim(asking), bench.store.claim(asking)

    assert isinstance(answer, Claimed)
    assert answer.brought == {"draft": '"grün"'}
    assert repeated == answer


def test_a_claim_that_asks_for_nothing_brings_nothing(bench: Bench) -> None:
    """Outputs are read when somebody needs them."""
    bench.store.start(new(blobs={"draft": "1"}))

    claimed = bench.store.claim(claim())

    assert isinstance(claimed, Claimed)
    assert claimed.brought == {}


def test_several_blobs_are_read_in_one_call(bench: Bench) -> None:
    """A result of hundreds of outputs takes few round trips. What is not there is left out."""
    bench.store.start(new(blobs={"draft": "1", "essay": '"grün"', "notes": "2"}))

    assert bench.store.blobs("w", ["draft", "essay", "missing"]) == {"draft": "1", "essay": '"grün"'}
    assert bench.store.blobs("w", []) == {}
    assert bench.store.blobs("unknown", ["draft"]) == {}
