"""What a process says at its end about the workflows in its memory."""

from __future__ import annotations

import pytest

from paigeant_celery.broker.left_behind import said_of


@pytest.mark.parametrize(
    ("workflows", "said"),
    [
        (["a"], "1 workflow in the memory of this process has not ended and is lost with it: a. Set "),
        (["b", "a", "b"], "2 workflows in the memory of this process have not ended and are lost with it: b, a. Set "),
        (list("abcdefg"), "7 workflows in the memory of this process have not ended and are lost with it: a, b, c, d, "
                          "e and 2 more. Set "),
    ],
)  # fmt: skip
def test_some_ids_are_named(workflows: list[str], said: str) -> None:
    """A thousand of them would hide what to do."""
    assert said_of(workflows).startswith(f"paigeant_celery: {said}")
