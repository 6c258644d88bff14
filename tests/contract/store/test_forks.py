"""Forks in every store: a workflow that begins as copies of another one, recorded with it in one call."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from paigeant_celery.core.conversations import ConversationKey
from paigeant_celery.store.conversations import PIECE
from paigeant_celery.store.limits import LIMITS
from paigeant_celery.store.port import Claimed, NewWorkflow, Said, Store, WorkflowOrigin
from tests.contract.store.bench import Bench, check_places
from tests.contract.store.given import claim, closing, completion, hop, new, types

FROM = WorkflowOrigin(workflow="w", step="critic", place="1")


def fork(**more: Any) -> NewWorkflow:
    return NewWorkflow(correlation_id="f", content="forked", hop=hop("f.1"), origin=FROM, **more)


def original(store: Store, blobs: dict[str, str]) -> None:
    """A workflow of one step, which has ended, with texts in the store."""
    store.start(new(blobs={"sha256:given": "file"}))
    close = closing(store.claim(claim()))
    assert store.complete(completion(close, blobs=blobs)) is not None


def test_a_fork_waits_at_its_place_with_copies_of_what_it_names(bench: Bench) -> None:
    """It must not need the original any more, whose records expire before its own."""
    original(bench.store, {"draft": '"one"', "critic": '"two"', "ran:0": "{}"})

    asked = fork(copied=["draft", "sha256:given", "never"], blobs={"draft": '"changed"', "own": "1"})
    assert bench.store.start(asked) == "started"

    names = ["draft", "critic", "ran:0", "sha256:given", "never", "own"]
    assert bench.store.blobs("f", names) == {"draft": '"changed"', "sha256:given": "file", "own": "1"}
    record = bench.store.workflow("f")
    assert record is not None
    assert (record.state, record.hop_id, record.envelope, record.origin) == ("running", "f.1", "envelope f.1", FROM)
    started, forked = bench.store.events("f", after=None, limit=10)
    assert started.fields == {"type": "started", "hop": "f.1", "queue": "q-f.1"}
    assert forked.fields == {"type": "forked", "hop": "f.1", "step": "critic", "from": "w"}
    assert isinstance(bench.store.claim(claim("f.1")), Claimed)
    check_places(bench)


def test_a_fork_changes_nothing_of_the_original(bench: Bench) -> None:
    """Whoever looks into why it failed finds it as it was."""
    original(bench.store, {"draft": '"one"'})
    before = (bench.store.workflow("w"), list(bench.store.events("w", after=None, limit=10)))

    bench.store.start(fork(copied=["draft"]))
    close = closing(bench.store.claim(claim("f.1")), "f.1")
    bench.store.complete(completion(close, blobs={"draft": '"mine"'}))

    assert (bench.store.workflow("w"), list(bench.store.events("w", after=None, limit=10))) == before
    assert bench.store.blob("w", "draft") == '"one"'
    assert before[0] is not None
    assert before[0].origin is None


def test_a_fork_is_started_once(bench: Bench) -> None:
    """The same id with the same content is the same fork, also after the original has expired."""
    original(bench.short_lived, {"draft": '"one"'})
    bench.store.start(fork(copied=["draft"]))
    bench.expire()

    assert bench.store.workflow("w") is None
    assert bench.store.start(fork(copied=["draft"])) == "exists"
    assert bench.store.blob("f", "draft") == '"one"'
    assert types(bench.store, "f") == ["started", "forked"]


def test_nothing_is_recorded_of_a_fork_of_a_workflow_that_is_gone(bench: Bench) -> None:
    """It would run without the outputs that it was to begin with."""
    assert bench.store.start(fork(copied=["draft"])) == "gone"

    assert bench.store.workflow("f") is None
    assert bench.store.blob("f", "draft") is None


@pytest.mark.parametrize("text", ["one\ntwo \U0001f600\n", "x" * (2 * PIECE + 1) + "\n"], ids=["short", "in pieces"])
def test_a_fork_has_what_was_said_and_goes_on_from_there(bench: Bench, text: str) -> None:
    """A chat that is tried again with another question has its history, and the original gets nothing of it."""
    original(bench.store, {})
    key = ConversationKey("support", "f")

    bench.store.start(fork(said=[Said(conversation=key, text=text)]))
    assert bench.store.conversation(key) == text
    claimed = bench.store.claim(replace(claim("f.1"), conversation=key))
    assert isinstance(claimed, Claimed)
    assert claimed.heard is not None
    assert bench.store.conversation(key, claimed.heard) == text
    said = Said(conversation=key, text="more\n")
    bench.store.complete(completion(closing(claimed, "f.1"), said=said))

    assert bench.store.conversation(key) == f"{text}more\n"
    assert bench.store.conversation(ConversationKey("support", "w")) is None


def test_a_fork_copies_as_many_texts_as_a_large_workflow_has(bench: Bench) -> None:
    """A fan-out of a thousand branches has thousands of them."""
    many = {f"text-{number}": str(number) for number in range(2 * LIMITS.most_fields + 7)}
    original(bench.store, many)

    assert bench.store.start(fork(copied=list(many), blobs={f"own-{name}": name for name in many})) == "started"

    assert bench.store.blobs("f", list(many)) == many
    assert bench.store.blob("f", f"own-text-{2 * LIMITS.most_fields}") == f"text-{2 * LIMITS.most_fields}"


def test_a_fork_copies_large_texts_up_to_a_size(bench: Bench) -> None:
    """One script copies them, and nothing else is done by the server meanwhile."""
    bench.limit(replace(LIMITS, max_copied=8_000, copied_at_once=2_500))
    eighth = "é" * 500
    blobs = {f"text-{number}": eighth for number in range(8)}
    original(bench.store, {**blobs, "small": "y"})

    assert bench.store.start(fork(copied=[*blobs, "small", "never"])) == "too_large"
    assert bench.store.workflow("f") is None
    assert bench.store.blobs("f", ["text-0", "small"]) == {}
    assert bench.store.start(fork(copied=["small", *blobs][:-1])) == "started"
    assert bench.store.blobs("f", ["small", *blobs]) == {"small": "y", **dict.fromkeys(list(blobs)[:-1], eighth)}
    assert bench.store.start(fork(copied=[*blobs, "small", "never"])) == "exists"
    check_places(bench)


def test_an_adopted_workflow_is_no_fork(bench: Bench) -> None:
    """Only its message is known, which does not say so."""
    bench.store.start(new("clock"))
    claimed = bench.store.claim(claim("clock.0", token="clock"))
    assert isinstance(claimed, Claimed)
    adopted = NewWorkflow(correlation_id="f", content="forked", hop=hop("f.1"))

    assert bench.store.adopt(adopted, sent_at=claimed.now, max_age=timedelta(seconds=60)) == "adopted"

    record = bench.store.workflow("f")
    assert record is not None
    assert record.origin is None
