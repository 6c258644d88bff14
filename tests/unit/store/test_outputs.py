"""What of outputs travels, and how the rest is read back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import pytest

from paigeant_celery.core.errors import StoreCorrupt
from paigeant_celery.core.message import sha256
from paigeant_celery.core.slip import ExecutedStep, OutputRef
from paigeant_celery.store.conversations import AT_ONCE
from paigeant_celery.store.memory import MemoryStore
from paigeant_celery.store.outputs import checked, outputs_of

AT = datetime(2026, 1, 2, 13, 0, tzinfo=UTC)


class Shelf(MemoryStore):
    """A store with blobs, which remembers how they were asked for."""

    def __init__(self, blobs: Mapping[str, str]) -> None:
        super().__init__(lease=10, ttl=60)
        self.kept, self.trips = blobs, list[list[str]]()

    def blobs(self, correlation_id: str, names: Sequence[str]) -> Mapping[str, str]:
        self.trips.append(list(names))
        return {name: self.kept[name] for name in names if name in self.kept}


def executed(index: int, text: str, *, size: int | None = None) -> ExecutedStep:
    return ExecutedStep(
        step_id=f"s{index}", place=str(index), kind="function", activity="repeat", attempt=1, started_at=AT,
        finished_at=AT, output_ref=OutputRef(size=size if size is not None else len(text), sha256=sha256(text)),
    )  # fmt: skip


def test_the_outputs_of_a_workflow_are_read_in_few_round_trips() -> None:
    """The client waits a second for an answer, so very large ones do not come together."""
    texts = [json.dumps(f"output {index}") for index in range(5)]
    sizes = [10, AT_ONCE, AT_ONCE // 2, AT_ONCE // 2, 10]
    records = [executed(index, text, size=size) for index, (text, size) in enumerate(zip(texts, sizes, strict=True))]
    travels = records[0].model_copy(update={"step_id": "inline", "output_ref": None, "output": 7})
    shelf = Shelf({f"s{index}": text for index, text in enumerate(texts)})

    found = outputs_of(shelf, "w", [*records, travels])

    assert found == [*map(json.loads, texts), 7]
    assert shelf.trips == [["s0"], ["s1"], ["s2", "s3"], ["s4"]]


@pytest.mark.parametrize("found", [None, '"another"'], ids=["missing", "changed"])
def test_an_output_that_is_not_as_it_was_recorded_is_none(found: str | None) -> None:
    """No step works with another output than the one before it gave, however it came."""
    with pytest.raises(StoreCorrupt) as caught:
        checked("w", executed(0, '"recorded"'), found)

    assert caught.value.args == ("w: output of s0", "missing or not as recorded")
