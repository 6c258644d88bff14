"""Steps of a slip as they are written in a document."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from paigeant_celery.core.document_steps import Policy
from paigeant_celery.core.errors import InvalidInput
from paigeant_celery.core.flow_steps import SleepSpec, WaitSpec
from paigeant_celery.core.steps import ActivitySpec, BlockSpec, FunctionSpec, Step, TaskSpec

__all__ = ["moment_text", "tree_of"]


def tree_of(step: Step) -> dict[str, Any]:
    """Return a step of a slip as it stands in a document, without what it does not say."""
    common: dict[str, Any] = {"step_id": step.step_id, "added_by": step.added_by, "queue": step.queue}
    if step.policy is not None:
        common["policy"] = step.policy.model_dump(mode="json", include=set(Policy.model_fields), exclude_none=True)
    return {name: value for name, value in (_own_tree(step) | common).items() if value is not None}


def _own_tree(step: Step) -> dict[str, Any]:
    match step:
        case ActivitySpec():
            prompt = step.prompt if isinstance(step.prompt, str) else list(step.prompt)
            quiet = {} if step.previous_output else {"previous_output": False}
            talks = {"conversation": step.conversation, "conversation_id": step.conversation_id}
            return {"agent": step.agent_name, "prompt": prompt, "deps": step.deps, **quiet, **talks}
        case FunctionSpec():
            return {"function": step.function_name, "arguments": step.arguments or None}
        case TaskSpec():
            given = {"args": list(step.args) or None, "kwargs": step.kwargs or None}
            return {"task": step.task_name, **given, "immutable": step.immutable or None}
        case WaitSpec():
            return {"wait_for": step.name, "timeout": step.timeout}
        case SleepSpec(until=datetime() as until):
            return {"sleep_until": moment_text(until)}
        case SleepSpec():
            return {"sleep_for": step.seconds}
        case BlockSpec():
            return _block_tree(step)
    raise InvalidInput("invalid_document", step.step_id or "", "this version cannot write the step")


def _block_tree(block: BlockSpec) -> dict[str, Any]:
    branches = {branch.name: [tree_of(step) for step in branch.steps] for branch in block.branches}
    (first, *_) = branches.values()
    if block.form == "sub_workflow":
        return {"sub_workflow": first, "timeout": block.timeout}
    own: dict[str, Any] = {"parallel": branches}
    if block.form == "for_each":
        own = {"for_each": first, "over": block.over if isinstance(block.over, str) else list(block.over or ())}
    failing = "fail" if block.join == "all" else "collect"
    default = BlockSpec.model_fields["max_at_once"].default
    joining = {
        "join": block.join if block.join != "all" else None,
        "on_failure": block.on_failure if block.on_failure != failing else None,
        "max_at_once": block.max_at_once if block.max_at_once != default else None,
        "timeout": block.timeout,
    }
    return own | joining


def moment_text(time: datetime) -> str:
    """Return a time as documents have it."""
    return time.isoformat().replace("+00:00", "Z")
