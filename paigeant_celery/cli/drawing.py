"""How the tree of a workflow is drawn as a flowchart of Mermaid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from paigeant_celery.client.outline import Outline, OutlinedBlock, OutlinedBranch, OutlinedStep

__all__ = ["FORMS", "flowchart"]

IN_LABELS = " _.-/,:()"  # beside letters and digits; Mermaid gives other characters a meaning, or cannot take them
STYLES = {
    "planned": "fill:#ffffff,stroke:#999999,stroke-dasharray:4 3,color:#666666",
    "held": "fill:#eeeeee,stroke:#999999,color:#333333",
    "queued": "fill:#fff4cc,stroke:#c49a00,color:#333333",
    "running": "fill:#cce5ff,stroke:#0066cc,color:#333333",
    "retrying": "fill:#ffe0b3,stroke:#cc7a00,color:#333333",
    "suspended": "fill:#e6dcff,stroke:#6b3fd4,color:#333333",
    "parked": "fill:#ffd6e7,stroke:#c2185b,color:#333333",
    "completed": "fill:#d7f5dd,stroke:#2e8b45,color:#333333",
    "failed": "fill:#ffcccc,stroke:#cc0000,color:#333333",
    "cancelled": "fill:#dddddd,stroke:#555555,color:#555555",
}
FORMS = {"parallel": "parallel", "for_each": "for each", "sub_workflow": "sub-workflow"}


def flowchart(outline: Outline) -> Iterator[str]:
    """Yield the lines of a flowchart in Mermaid's language: blocks are subgraphs, states are classes."""
    chart = _Flowchart()
    yield "flowchart TD"
    yield from chart.chain(outline, "s", "  ")
    for state in sorted(chart.members):
        yield f"  classDef {state} {STYLES[state]}"
        yield f"  class {','.join(chart.members[state])} {state}"


class _Flowchart:
    def __init__(self) -> None:
        self.members: dict[str, list[str]] = {}

    def chain(self, steps: Sequence[OutlinedStep], begins: str, indent: str) -> Iterator[str]:
        """Yield steps, and the arrows between them."""
        for number, step in enumerate(steps):
            yield from self._step(step, f"{begins}{number}", indent)
        for number in range(len(steps) - 1):
            yield f"{indent}{begins}{number} --> {begins}{number + 1}"

    def _step(self, step: OutlinedStep, node: str, indent: str) -> Iterator[str]:
        self._is(node, step.state)
        if step.block is None:
            of = f" ({step.activity})" if step.activity not in ("", "_flow", step.step_id) else ""
            yield f'{indent}{node}["{_label(step.step_id + of)}"]'
            return
        yield f'{indent}subgraph {node}["{_label(f"{step.step_id} ({FORMS[step.block.form]})")}"]'
        yield from self._branches(step.block, node, f"{indent}  ")
        yield f"{indent}end"

    def _branches(self, block: OutlinedBlock, node: str, indent: str) -> Iterator[str]:
        for number, branch in enumerate(block.branches):
            yield from self._branch(branch, f"{node}b{number}", indent)
        for number, (state, count) in enumerate(block.more.items()):
            self._is(f"{node}m{number}", state)
            yield f'{indent}{node}m{number}["{count} more {state}"]'
        if not block.branches:
            yield f'{indent}{node}n["no branches"]'

    def _branch(self, branch: OutlinedBranch, node: str, indent: str) -> Iterator[str]:
        self._is(node, branch.state)
        label = _label(f"{branch.name}: {branch.state}")
        if not branch.steps:
            yield f'{indent}{node}["{label}"]'
            return
        yield f'{indent}subgraph {node}["{label}"]'
        yield from self.chain(branch.steps, f"{node}s", f"{indent}  ")
        yield f"{indent}end"

    def _is(self, node: str, state: str) -> None:
        self.members.setdefault(state, []).append(node)


def _label(text: str) -> str:
    """Return a text as a label has it: any character that might end it, or begin something, by its number."""
    return "".join(each if each.isalnum() or each in IN_LABELS else f"#{ord(each)};" for each in text)
