"""What must hold of a block, whatever was hit: of its opening, its branches, its join and its output."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic import JsonValue

from tests.proof.chaos.history import Block, Event, Violation, Workflow

__all__ = ["is_in_branch", "of_blocks"]

FAILED = "NotImplementedError"  # the error of a branch that always fails


def of_blocks(workflow: Workflow) -> Iterator[Violation]:
    """Yield everything that does not hold of the blocks of a workflow."""
    for block in workflow.all_blocks:
        yield from _of_block(block, workflow.events)
    if workflow.state == workflow.end == "completed":
        for block in workflow.blocks:
            for about, seen in _faults_of(workflow.outputs.get(block.step), block):
                yield Violation(kind="wrong output", about=about, seen=seen)


def _of_block(block: Block, events: Sequence[Event]) -> Iterator[Violation]:
    """Find what is wrong with one block; one in a branch that lost may be left at any moment."""
    about = block.hop_id
    ends = [at for at, event in enumerate(events) if event.hop_id == about and event.type in {"completed", "failed"}]
    joins = [at for at, event in enumerate(events) if event.hop_id == about and event.type == "joined"]
    opened = sum(event.hop_id == about and event.type == "branches_opened" for event in events)
    if opened > 1:
        yield Violation(kind="opened twice", about=about, seen=f"{opened} times")
    if len(joins) > 1:
        yield Violation(kind="joined twice", about=about, seen=f"{len(joins)} times")
    if ends and not joins:
        yield Violation(kind="never joined", about=about, seen=f"{events[ends[0]].type} without a join")
    if joins:
        yield from _of_join(block, events[: joins[0] + 1])
    if ends:
        late = [event for event in events[ends[0] + 1 :] if event.hop_id.startswith(f"{about}-")]
        yield from (Violation(kind="outlived its block", about=event.hop_id, seen=event.type) for event in late)
    for branch in block.branches:
        completed = [event.hop_id for event in events if event.type == "completed" and event.hop_id in branch.hops]
        may = branch.hops[: len(branch.hops) - branch.doomed]
        if tuple(dict.fromkeys(completed)) != may[: len(set(completed))]:
            yield Violation(kind="out of order", about=f"{about} {branch.name}", seen=f"hops completed as {completed}")
        if (times := len([event for event in _ends_in(events) if event.hop_id in branch.hops])) > 1:
            yield Violation(kind="branch ended twice", about=f"{about} {branch.name}", seen=f"{times} times")


def _of_join(block: Block, events: Sequence[Event]) -> Iterator[Violation]:
    """Find what is wrong with a join, which is the last of these events."""
    last_hops = {hop for branch in block.branches for hop in branch.hops}
    ended = [event.type for event in _ends_in(events) if event.hop_id in last_hops]
    succeeded, how = ended.count("branch_completed"), "missed" if block.misses else "met"
    if block.misses:
        is_due = ended[-1:] == ["branch_failed"] and ended.count("branch_failed") == 1
    elif block.collects:
        is_due = len(ended) == len(block.branches)
    else:
        is_due = succeeded == block.needed and ended[-1:] == ["branch_completed"]
    if events[-1].how != how or not is_due:
        seen = f"{events[-1].how} with {succeeded} of {len(ended)} branches that had ended"
        yield Violation(kind="joined wrongly", about=block.hop_id, seen=seen)


def _ends_in(events: Sequence[Event]) -> Iterator[Event]:
    yield from (event for event in events if event.type in {"branch_completed", "branch_failed"})


def _faults_of(output: JsonValue, block: Block) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with the output of a block, and of which one."""
    if not isinstance(output, dict):
        yield block.hop_id, f"{output!r}"
        return
    branches = {branch.name: branch for branch in block.branches}
    whole = block.collects or block.needed == len(block.branches)
    if output.keys() != branches.keys() if whole else not output.keys() <= branches.keys():
        yield block.hop_id, f"has {sorted(output)}"
    if not block.collects and sum(not _is_failure(value) for value in output.values()) < block.needed:
        yield block.hop_id, f"fewer than {block.needed} have succeeded: {output}"
    for name in output.keys() & branches.keys():
        branch, value = branches[name], output[name]
        if _is_failure(value) or branch.doomed:
            if not (branch.doomed and isinstance(value, dict) and value.get("failed") == FAILED):
                yield f"{block.hop_id} {name}", f"{value!r}"
        elif branch.block is not None:
            yield from _faults_of(value, branch.block)
        elif branch.output not in {None, value if isinstance(value, str) else ""}:
            yield f"{block.hop_id} {name}", f"{value!r}"


def _is_failure(value: JsonValue) -> bool:
    return isinstance(value, dict) and "failed" in value


def is_in_branch(hop: str) -> bool:
    """Say whether a hop is in a branch; it is `workflow.3-1.0` in branch 1 of a block at place 3."""
    return "-" in hop.partition(".")[2]
