"""The outputs of a workflow: of its own steps, and of those in the branches of its blocks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pydantic import JsonValue

from paigeant_celery.activities.context import StepOutput
from paigeant_celery.core.slip import ExecutedStep
from paigeant_celery.store.earlier import executed_of
from paigeant_celery.store.outputs import outputs_of
from paigeant_celery.store.port import Store
from paigeant_celery.store.steps import manifests_of, slips_of_branches

__all__ = ["outputs_by_path", "outputs_in"]

Placed = tuple[str, ExecutedStep]  # a step with its path


def outputs_in(store: Store, correlation_id: str, executed: Iterable[ExecutedStep]) -> list[StepOutput]:
    """Return what steps gave, those in the branches of a block before the block itself.

    Branches are there that are in the output of their block and have not failed. For the blocks of one depth together
    it makes a round trip for each 50 branches, beside those for outputs that do not travel. Raises `StoreCorrupt`.
    """
    return _with_inner(store, correlation_id, [(record.step_id, record) for record in executed])


def outputs_by_path(store: Store, correlation_id: str, records: Mapping[str, ExecutedStep]) -> Mapping[str, JsonValue]:
    """Return what steps gave, by their paths, also while the workflow goes on. Raises `StoreCorrupt`."""
    values = outputs_of(store, correlation_id, list(records.values()))
    return dict(zip(records, values, strict=True))


def _with_inner(store: Store, correlation_id: str, steps: Sequence[Placed]) -> list[StepOutput]:
    gave = [(path, record) for path, record in steps if record.gives_output]
    values = outputs_of(store, correlation_id, [record for _, record in gave])
    blocks = [(path, record) for path, record in gave if record.is_block]
    inner = _by_block(store, correlation_id, blocks) if blocks else {}
    found: list[StepOutput] = []
    for (path, record), value in zip(gave, values, strict=True):
        found += inner.get(path, [])
        output = StepOutput(step_id=path, activity=record.activity, output=value, content=record.content)
        found.append(output)
    return found


def _by_block(store: Store, correlation_id: str, blocks: Sequence[Placed]) -> dict[str, list[StepOutput]]:
    """Return what the steps in the branches of blocks gave, by the paths of the blocks."""
    manifests = manifests_of(store, correlation_id, [record for _, record in blocks])
    branches = [
        (block, f"{block}/{entry.name}", entry.place)
        for (block, _), manifest in zip(blocks, manifests, strict=True)
        for entry in manifest.branches
        if entry.state == "succeeded"
    ]
    slips = slips_of_branches(store, correlation_id, [place for _, _, place in branches])
    owners: dict[str, str] = {}
    steps: list[Placed] = []
    for block, branch, place in branches:
        for record in executed_of(store, correlation_id, slips[place]):
            owners[path := f"{branch}/{record.step_id}"] = block
            steps.append((path, record))
    found: dict[str, list[StepOutput]] = {}
    for output in _with_inner(store, correlation_id, steps):
        found.setdefault(_block_of(output.step_id, owners), []).append(output)
    return found


def _block_of(path: str, blocks: dict[str, str]) -> str:
    """Return the block of this depth that a step is in, however deep."""
    while path not in blocks:
        path = path.rpartition("/")[0]
    return blocks[path]
