"""Steps that open several slips at once, and go on when enough of them have ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Literal

from pydantic import JsonValue

from paigeant_celery.core.crossing import cross
from paigeant_celery.core.errors import InvalidInput
from paigeant_celery.core.steps import (
    AT_ONCE,
    MOST_AT_ONCE,
    BlockSpec,
    Branch,
    Form,
    OnFailure,
    Step,
    branch_name_fault,
    is_step,
    over_fault,
)
from paigeant_celery.core.task_steps import TaskSignature, step_of
from paigeant_celery.core.wait_inputs import checked_seconds

__all__ = ["for_each", "parallel", "sub_workflow"]


def parallel(
    branches: Mapping[str, Step | TaskSignature | Sequence[Step | TaskSignature]],
    *,
    join: Literal["all", "any"] | int = "all",
    on_failure: OnFailure | None = None,
    max_at_once: int = AT_ONCE,
    timeout: float | timedelta | None = None,
    step_id: str | None = None,
) -> BlockSpec:
    """Return a step that runs several branches side by side and goes on when its join is met.

    `branches` maps a name to a step or a list of steps; each gets the output before the block. The output of the block
    is a mapping of the last output of each branch by its name.

    `join` is `"all"`, `"any"` (1) or how many branches must succeed; with a number the others are cut off as soon as so
    many have. `on_failure` is `"fail"` by default: the first branch that fails for good fails the workflow. With
    `"collect"`, or a number, `{"failed": class, "text": …}` stands for a branch that failed; if too few can still
    succeed, the step fails with `JoinMissed`. A parked branch can still succeed: nobody waits in a worker for it.

    At most `max_at_once` branches go on at the same time (1 to 100). `timeout` is that of the whole block, in seconds
    or a `timedelta`. `step_id` is `parallel` by default.

    Raises `InvalidInput` (`invalid_block`, `invalid_wait`, `bad_step_id`).
    """
    if not isinstance(branches, Mapping):
        text = f"maps names to steps or lists of steps; a {type(branches).__name__} is none"
        raise InvalidInput("invalid_block", "branches", text)
    if not branches:
        raise InvalidInput("invalid_block", "branches", "is empty; leave the block out, or give it a branch")
    made = [_branch(name, steps, path=f"branches[{name!r}]") for name, steps in branches.items()]
    return _block("parallel", made, None, join, on_failure, max_at_once, timeout, step_id)


def for_each(
    steps: Step | TaskSignature | Sequence[Step | TaskSignature],
    *,
    over: str | Sequence[object],
    join: Literal["all", "any"] | int = "all",
    on_failure: OnFailure | None = None,
    max_at_once: int = AT_ONCE,
    timeout: float | timedelta | None = None,
    step_id: str | None = None,
) -> BlockSpec:
    """Return a step that runs the same steps once for each item, and goes on when its join is met.

    `over` is a list of JSON values, or the id of an earlier step whose output is one; a JSON Pointer (RFC 6901) after
    `#` says where in it: `"planner#/sources"`. The first step of each branch gets its item as the previous output. The
    output of the block is a list of the last outputs, in the order of the items; over nothing it is empty. If there is
    no list when the block begins, it is parked.

    All else is as in `parallel`. `step_id` is `for-each` by default.
    """
    if isinstance(over, str):
        if fault := over_fault(over):
            raise InvalidInput("invalid_over", "over", fault)
        items: str | tuple[JsonValue, ...] = over
    elif isinstance(over, Sequence) and not isinstance(over, (bytes, bytearray)):
        tree: Any = cross(list(over), path="over").tree
        items = tuple(tree)
    else:
        text = f"is a list of JSON values, or names a step; a {type(over).__name__} is neither"
        raise InvalidInput("invalid_over", "over", text)
    return _block(
        "for_each", [_branch("each", steps, path="steps")], items, join, on_failure, max_at_once, timeout, step_id
    )


def sub_workflow(
    steps: Step | TaskSignature | Sequence[Step | TaskSignature],
    *,
    timeout: float | timedelta | None = None,
    step_id: str | None = None,
) -> BlockSpec:
    """Return a step that runs steps in a slip of their own, whose last output is its output.

    Their ids need to differ only from each other, and `timeout` is that of all together. `step_id` is `sub-workflow`
    by default. Raises as `parallel`.
    """
    return _block("sub_workflow", [_branch("sub", steps, path="steps")], None, "all", None, 1, timeout, step_id)


def _branch(name: object, steps: Step | TaskSignature | Sequence[Step | TaskSignature], *, path: str) -> Branch:
    if not isinstance(name, str) or (fault := branch_name_fault(name)):
        text = fault if isinstance(name, str) else f"the name of a branch is a string, not a {type(name).__name__}"
        raise InvalidInput("invalid_block", path, text)
    listed: list[Any] = list(steps) if isinstance(steps, Sequence) else [steps]
    if not listed:
        raise InvalidInput("invalid_block", path, "has no steps")
    for index, given in enumerate(listed):
        listed[index] = step = step_of(given, path=f"{path}[{index}]")
        if not is_step(step):
            text = f"a step is what `agent.activity(…)` or `function.activity(…)` returns, not a {type(step).__name__}"
            raise InvalidInput("invalid_input", f"{path}[{index}]", text)
    return Branch(name=name, steps=tuple(listed))


def _block(
    form: Form,
    branches: Sequence[Branch],
    over: str | tuple[JsonValue, ...] | None,
    join: object,
    on_failure: object,
    max_at_once: object,
    timeout: float | timedelta | None,
    step_id: str | None,
) -> BlockSpec:
    needed: Any = 1 if join == "any" else join
    if needed != "all" and (not isinstance(needed, int) or isinstance(needed, bool) or needed < 1):
        text = f"is 'all', 'any' or how many branches must succeed, not {join!r}"
        raise InvalidInput("invalid_block", "join", text)
    if form == "parallel" and needed != "all" and needed > len(branches):
        text = f"too few branches for the join: {len(branches)}, of which {needed} must succeed"
        raise InvalidInput("invalid_block", "join", text)
    if on_failure not in (None, "fail", "collect"):
        raise InvalidInput("invalid_block", "on_failure", f"is 'fail' or 'collect', not {on_failure!r}")
    if needed != "all" and on_failure == "fail":
        text = "'fail' goes with the join 'all'; a number says itself how many branches may fail"
        raise InvalidInput("invalid_block", "on_failure", text)
    if not isinstance(max_at_once, int) or isinstance(max_at_once, bool) or not 1 <= max_at_once <= MOST_AT_ONCE:
        raise InvalidInput("invalid_block", "max_at_once", f"is a number from 1 to {MOST_AT_ONCE}")
    failing: Any = on_failure or ("fail" if needed == "all" else "collect")
    return BlockSpec(
        form,
        branches,
        over=over,
        join=needed,
        on_failure=failing,
        max_at_once=max_at_once,
        timeout=checked_seconds(timeout, "timeout"),
        step_id=step_id,
    )
