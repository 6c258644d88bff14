"""The rows of the table, by the headings of its page. Add a module of rows here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.contract.capabilities.row import Row
from tests.contract.capabilities.rows import outputs, tools

__all__ = ["SECTIONS"]

SECTIONS: Mapping[str, Sequence[Row]] = {
    "Outputs": outputs.ROWS,
    "Tools": tools.ROWS,
}
