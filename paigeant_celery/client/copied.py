"""What a fork takes over of the steps before it: the names of their texts in the store, and what they said."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile

from paigeant_celery.core.conversations import ConversationKey
from paigeant_celery.core.far import name_of_note, name_of_record
from paigeant_celery.core.forks import name_of_ran
from paigeant_celery.core.manifests import name_of_slip
from paigeant_celery.core.names import split_hop_id
from paigeant_celery.core.slip import ExecutedStep, RoutingSlip
from paigeant_celery.store.earlier import executed_of
from paigeant_celery.store.port import Said, Store
from paigeant_celery.store.steps import manifests_of, slips_of_branches

__all__ = ["StepsBefore", "is_said_from", "said_before"]


class StepsBefore:
    """The steps of a workflow before a fork, with those in the branches of blocks among them.

    It takes round trips for blocks only: for those of one depth together one for each 50 branches. Raises
    `StoreCorrupt`.
    """

    def __init__(self, store: Store, correlation_id: str, records: Sequence[ExecutedStep]) -> None:
        self._store, self._correlation_id = store, correlation_id
        self._names = dict.fromkeys(name_of_ran(record.place) for record in records)
        self._spoken: set[str] = set()
        self._take(records)

    @property
    def names(self) -> Sequence[str]:
        """The names of all texts that later steps, or whoever reads the workflow, may ask for."""
        return list(self._names)

    @property
    def conversations(self) -> Sequence[str]:
        """The names of the workflow's own conversations in which they may have said something."""
        return sorted(self._spoken)

    def _take(self, records: Sequence[ExecutedStep]) -> None:
        self._add(record.output_name for record in records if record.output_ref is not None)
        self._spoken.update(
            record.conversation
            for record in records
            if record.conversation is not None and record.conversation_id is None
        )
        blocks = [record for record in records if record.is_block]
        places: list[str] = []
        for manifest in manifests_of(self._store, self._correlation_id, blocks):
            for entry in manifest.branches:
                if entry.output is not None and entry.output.name is not None:
                    self._add([entry.output.name])
                if entry.state == "succeeded":
                    places.append(entry.place)
        inner: list[ExecutedStep] = []
        for slip in slips_of_branches(self._store, self._correlation_id, places).values():
            inner += self._branch(slip)
        if inner:
            self._take(inner)

    def _branch(self, slip: RoutingSlip) -> Iterator[ExecutedStep]:
        self._add([name_of_slip(slip)])
        given = slip.branch.given if slip.branch is not None else None
        if given is not None and given.output_ref is not None:
            self._add([given.output_name])
        records = executed_of(self._store, self._correlation_id, slip)
        for record in records[: slip.earlier.count if slip.earlier is not None else 0]:
            self._add([name_of_record(record.place), slip.name_in_store(name_of_note(record.step_id))])
        yield from records

    def _add(self, names: Iterable[str]) -> None:
        self._names.update(dict.fromkeys(names))


def said_before(store: Store, correlation_id: str, names: Iterable[str], number: int, *, fork: str) -> list[Said]:
    """Return what was said in the conversations of a workflow before the step of this number, for those of a fork."""
    found: list[Said] = []
    for name in names:
        history = store.conversation(ConversationKey(name, correlation_id)) or ""
        batches = takewhile(lambda batch: not is_said_from(batch, number), history.split("\n")[:-1])
        if text := "".join(f"{batch}\n" for batch in batches):
            found.append(Said(conversation=ConversationKey(name, fork), text=text))
    return found


def is_said_from(batch: str, number: int, *, workflow: str | None = None) -> bool:
    """Say whether a step from this number on has said it, of one workflow if several share the conversation.

    The ids of runs begin with those of their hops.
    """
    for message in json.loads(batch)["messages"]:
        ids = split_hop_id(str(message.get("run_id", "")).partition(":")[0])
        if ids is not None and workflow not in (None, ids[0]):
            return False
        if ids is not None:
            return int(ids[1].partition("-")[0]) >= number
    return False
