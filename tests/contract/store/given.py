"""Workflows, claims and closings for the store tests: they differ only in what a test is about."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from paigeant_celery.core.budget import Usage
from paigeant_celery.core.causes import Cause, Frame
from paigeant_celery.core.flow import Failure
from paigeant_celery.store.port import (
    Claim,
    Claimed,
    Closing,
    Completion,
    DeadLetter,
    HopRecord,
    NewWorkflow,
    Store,
    StoredEvent,
)
from tests.contract.store.bench import Bench

CAUSE = Cause(
    error_class="ValueError",
    text="no such 'topic' \U0001f600",
    frames=(Frame(file="/app/steps.py", line=7, function="draft", skipped=3),),
    notes=("see the handbook",),
    raised_from=Cause(error_class="KeyError", raised_from=Cause(error_class="OSError"), direct=False),
    group=(Cause(error_class="TypeError"),),
)
FAILURE = Failure(step_id="draft", error_class="ValueError", text="no such 'topic' \U0001f600 \0", cause=CAUSE)


def hop(hop_id: str = "w.0", *, envelope: str | None = None, queue: str | None = None) -> HopRecord:
    return HopRecord(
        hop_id=hop_id, queue=queue or f"q-{hop_id}", envelope=envelope or f"envelope {hop_id}", digest=f"d-{hop_id}"
    )


def new(correlation_id: str = "w", *, content: str = "same", queue: str | None = None, **more: Any) -> NewWorkflow:
    first = hop(f"{correlation_id}.0", queue=queue)
    return NewWorkflow(correlation_id=correlation_id, content=content, hop=first, **more)


def claim(
    hop_id: str = "w.0",
    *,
    owner: str = "ann",
    token: str = "t1",
    max_attempts: int = 5,
    digest: str | None = "recorded",
    used: Usage | None = None,
) -> Claim:
    digest = f"d-{hop_id}" if digest == "recorded" else digest
    return Claim(hop_id=hop_id, owner=owner, token=token, max_attempts=max_attempts, digest=digest, used=used)


def closing(claimed: object, hop_id: str = "w.0", *, owner: str = "ann") -> Closing:
    assert isinstance(claimed, Claimed)
    return Closing(hop_id=hop_id, owner=owner, fence=claimed.fence)


def completion(close: Closing, *, next_hop: HopRecord | None = None, **more: Any) -> Completion:
    return Completion(closing=close, envelope=next_hop.envelope if next_hop else "final", next_hop=next_hop, **more)


def types(store: Store, correlation_id: str = "w") -> list[str]:
    return [event.fields["type"] for event in store.events(correlation_id, after=None, limit=1000)]


def letter(letter_id: str = "a") -> DeadLetter:
    return DeadLetter(
        letter_id=letter_id, reason="too_deep", text="nests too deep", hop_id="w.0", correlation_id="w",
        activity="draft", queue=None, size=5, sha256="00", sample="xxxxx", worker="ann",
    )  # fmt: skip


def ending(bench: Bench, close: Closing) -> Mapping[str, Callable[[], object]]:
    """All ways to close a hop or give it back."""
    return {
        "complete": lambda: bench.store.complete(completion(close, next_hop=hop("w.1"))),
        "fail": lambda: bench.store.fail(close, FAILURE),
        "retry_at": lambda: bench.store.retry_at(close, FAILURE, delay=60),
        "park": lambda: bench.store.park(close, FAILURE),
        "cancel": lambda: bench.store.cancel("w"),
        "release": lambda: bench.store.release(close),
    }


def told(number: int) -> dict[str, str]:
    return {"event": "text", "data": f"part {number}"}


def numbers(events: Sequence[StoredEvent]) -> list[int]:
    return [int(event.fields["data"].split()[1]) for event in events if event.fields["type"] == "agent"]
