"""The page says what the rows say, and nothing that pydantic-ai offers is missing from them."""

from __future__ import annotations

from tests.contract.capabilities.page import PAGE, page
from tests.contract.capabilities.rows import SECTIONS


def test_the_page_is_made_of_the_rows() -> None:
    """Users read what the tests have shown; `python -m tests.contract.capabilities` writes it anew."""
    assert PAGE.read_text(encoding="utf-8") == page()


def test_no_two_rows_have_the_same_name() -> None:
    """A name is what people find a row by."""
    names = [row.name for rows in SECTIONS.values() for row in rows]
    assert len(names) == len({*names})
