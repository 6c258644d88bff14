"""Each row of the table is true: tried plain, in a hop, with a late failure, and with a death at every point.

Some rows are always tried, the others with `--proof=full`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract.capabilities.row import CORE, Row
from tests.contract.capabilities.rows import SECTIONS
from tests.contract.capabilities.schemas import schemas_kept
from tests.contract.capabilities.verdict import faults_of


def cases() -> Iterator[object]:
    for rows in SECTIONS.values():
        for row in rows:
            marks = [] if row.brief else [pytest.mark.proof]
            if row.wrong:
                marks.append(pytest.mark.xfail(reason=row.wrong, strict=True, raises=AssertionError))
            if row.package == CORE and row.is_here and not row.waits:  # which a test of its own shows
                yield pytest.param(row, marks=marks, id=row.name)


@pytest.mark.parametrize("row", [*cases()])
def test_a_row_is_true(row: Row) -> None:
    """Whatever the process dies at, nothing that was recorded is done again, and the result is that of a whole run."""
    with schemas_kept():
        assert faults_of(row) == []
