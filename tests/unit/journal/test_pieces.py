"""Long entries of a journal, written in pieces."""

from __future__ import annotations

import pytest

from paigeant_celery.journal import pieces
from paigeant_celery.journal.record import parse_key


@pytest.mark.parametrize("length", [0, 1, 9, 10, 11, 20, 25])
def test_an_entry_is_read_whole_or_not_at_all(monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    """One round trip must carry a piece; a crash between two leaves nothing that could be taken for the whole."""
    monkeypatch.setattr(pieces, "PIECE", 10)
    text = "".join(chr(ord("a") + n) for n in range(length))
    written = list(pieces.in_pieces("k", text))
    assert all(len(piece) <= 10 for part in written for piece in part.values())

    records: dict[str, str] = {"other": "one"}
    for part in written:
        assert "k" not in pieces.whole(records)
        records.update(part)

    assert pieces.whole(records) == {"other": "one", "k": text}


def test_versions_that_know_no_pieces_make_the_call_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """They leave out what is no name of a call."""
    monkeypatch.setattr(pieces, "PIECE", 1)

    names = [name for part in pieces.in_pieces('["r", 1, "model", "", "", 0]', "text") for name in part]

    assert [parse_key(name) for name in names] == [None] * 5
