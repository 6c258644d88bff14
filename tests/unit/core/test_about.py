"""What a wait is about: it is kept with the wait, and read by other versions."""

from __future__ import annotations

from typing import Any

import pytest

from paigeant_celery.core.about import About, AskedCall, read_about, write_about

REFUND = AskedCall(id="r1", kind="approval", tool="refund", arguments={"order": 17})
PRINT = AskedCall(id="p1", kind="external", tool="print_label", arguments="{}")
ABOUT = About(step="pay", activity="cashier", question="Pay back?", calls=(REFUND, PRINT))


def test_what_a_wait_is_about_is_read_as_it_was_written() -> None:
    """Whoever answers sees what the agent wants to do, and with what."""
    assert read_about(write_about(ABOUT)) == ABOUT
    assert read_about(write_about(About())) == About()


def test_what_a_wait_is_about_has_this_form() -> None:
    """It is kept with the wait: later versions must read it."""
    text = (
        '{"v":1,"step":"pay","activity":"cashier","question":"Pay back?","calls":'
        '[{"id":"r1","kind":"approval","tool":"refund","arguments":{"order":17}}]}'
    )

    assert write_about(About(step="pay", activity="cashier", question="Pay back?", calls=(REFUND,))) == text


@pytest.mark.parametrize(
    ("text", "about"),
    [
        ("", About()),
        ("[]", About()),
        ("{", About()),
        ('{"v":2,"step":3,"question":{"a":1},"calls":{}}', About()),
        ('{"v":9,"step":"s","urgency":1,"calls":[1,{"id":2},{"id":"a","kind":"vote","tool":"t","more":1}]}',
         About(step="s", calls=(AskedCall(id="a", kind="external", tool="t"),))),
    ],
)  # fmt: skip
def test_what_a_later_version_wrote_is_read_as_far_as_it_is_known(text: str, about: About) -> None:
    """An old console shows a wait of a new worker, rather than none at all."""
    assert read_about(text) == about


def deep(levels: int) -> Any:
    return "bottom" if levels == 0 else [deep(levels - 1)]


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ({"a": float("nan"), "b": [float("-inf")]}, {"a": "NaN", "b": ["-Infinity"]}),
        ({"\ud800": "a\udfff", "b": "größe 🐈\0"}, {"\ufffd": "a\ufffd", "b": "größe 🐈\0"}),
        (deep(100), deep(100)),
        ("{not json", "{not json"),
        (None, None),
    ],
)
def test_whatever_a_model_wrote_is_shown_to_who_must_decide(arguments: Any, shown: Any) -> None:
    """Strange arguments are a reason to look closely, and none not to show them."""
    call = AskedCall(id="r1", kind="approval", tool="refund", arguments=arguments)

    text = write_about(About(question="\ud83d", calls=(call,)))

    assert read_about(text) == About(
        question="\ufffd", calls=(AskedCall(id="r1", kind="approval", tool="refund", arguments=shown),)
    )
    assert text.encode()
