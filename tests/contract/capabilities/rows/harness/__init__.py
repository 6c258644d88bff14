"""The rows of pydantic-ai-harness."""

from __future__ import annotations

from tests.contract.capabilities.rows.harness import elsewhere, guards, history, tools
from tests.contract.capabilities.rows.harness.offered import HARNESS, VERSION

__all__ = ["HARNESS", "ROWS", "VERSION"]

ROWS = [*tools.ROWS, *history.ROWS, *guards.ROWS, *elsewhere.ROWS]
