"""The rows of the table, by the headings of its page. Add a module of rows here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.contract.capabilities.row import Row
from tests.contract.capabilities.rows import (
    capabilities,
    failures,
    harness,
    hooks,
    models,
    outputs,
    runs,
    tools,
    toolsets,
    values,
    waiting,
)

__all__ = ["SECTIONS"]

SECTIONS: Mapping[str, Sequence[Row]] = {
    "Capabilities": capabilities.ROWS,
    "Hooks, operations and workspaces": hooks.ROWS,
    "Outputs": outputs.ROWS,
    "Tools": tools.ROWS,
    "Toolsets": toolsets.ROWS,
    "Runs": runs.ROWS,
    "Models": models.ROWS,
    "Values and prompts": values.ROWS,
    "Waiting": waiting.ROWS,
    "Errors and limits": failures.ROWS,
    f"{harness.HARNESS} {harness.VERSION}": harness.ROWS,
}
