"""The page on limits: what it says of names, ids and numbers is what the package accepts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from paigeant_celery import (
    ActivitySpec,
    FunctionSpec,
    InvalidInput,
    PaigeantAgent,
    StepPolicy,
    WorkflowDispatcher,
    activity,
    parallel,
    register_agent,
    sleep_for,
    sub_workflow,
    wait_for,
)
from paigeant_celery.client.answering import check_size
from paigeant_celery.core.about import About
from paigeant_celery.core.answers import answers_of
from paigeant_celery.core.errors import ConfigurationError
from paigeant_celery.core.events import PART
from paigeant_celery.core.jsonable import MAX_VALUE_DEPTH
from paigeant_celery.core.settings import read_settings
from paigeant_celery.core.steps import Step
from paigeant_celery.core.wait_inputs import checked_by, checked_signal_id, checked_wait_name
from paigeant_celery.core.waits import WHOLE
from paigeant_celery.journal import event_feed
from paigeant_celery.store.limits import LIMITS as STORE
from paigeant_celery.testing import WorkflowHarness

KIB = 1024
MIB = 1024 * KIB

PAGE = Path(__file__).parents[2] / "docs" / "limits.md"


def rows(header: str) -> dict[str, list[str]]:
    """Return the rows of the table of the page that has this header, by their first cell."""
    lines = iter(PAGE.read_text(encoding="utf-8").splitlines())
    assert any(line == header for line in lines), f"there is no table {header}"
    next(lines)
    found = {}
    while (line := next(lines, "")).startswith("|"):
        first, *others = [cell.strip() for cell in line.strip("|").split("|")]
        found[first] = others
    return found


PATTERNS = rows("| what | pattern | longest | an error has |")
LIMITS = rows("| what | limit | an error has |")


def dispatched(*steps: Step, **options: Any) -> object:
    itinerary = steps or [ActivitySpec("writer", "x")]
    return WorkflowDispatcher().dispatch_workflow_sync(WorkflowHarness().transport, itinerary=itinerary, **options)


def block(name: str = "a", *, at_once: int = 20) -> Callable[[], object]:
    return lambda: parallel({name: ActivitySpec("a", "x")}, max_at_once=at_once)


def deep(blocks: int) -> Callable[[], object]:
    step: Step = ActivitySpec("a", "x")
    for _ in range(blocks):
        step = sub_workflow(step)
    return lambda: dispatched(step)


# Each way to give a name of a kind: where the page says one thing, all of them do.
WAYS: dict[str, list[Callable[[str], object]]] = {
    "correlation id": [lambda text: dispatched(correlation_id=text)],
    "`step_id=`": [lambda text: ActivitySpec("a", "x", step_id=text), lambda text: FunctionSpec("a", step_id=text)],
    "name of an agent or function": [
        lambda text: ActivitySpec(text, "x"),
        lambda text: FunctionSpec(text),
        lambda text: PaigeantAgent("test", name=text),
        lambda text: register_agent(PaigeantAgent("test", name="x"), name=text),
        lambda text: activity(name=text)(lambda: None),
    ],
    "`paigeant_prefix`": [lambda text: read_settings({"paigeant_prefix": text})],
}


def probes(longest: int) -> Iterator[str]:
    """Yield short texts with each character that may be special, and texts that are as long as allowed, or longer."""
    for character in [*map(chr, range(128)), "é", "ａ", "\u212a", "٣", "\u00a0", "\ud800", "🦜"]:
        yield from (character, f"a{character}", f"{character}a", f"a{character}a", f"a{character}{character}a")
    yield from ("", "a" * longest, "a" * (longest + 1), "a." * (longest // 2), "a." * (longest // 2 - 1) + "aa")


def fault(way: Callable[[str], object], text: str) -> str | None:
    """Return what the error says if the text is refused."""
    try:
        way(text)
    except (InvalidInput, ConfigurationError) as error:
        return str(error)
    return None


def test_the_page_has_a_row_for_each_kind_of_name() -> None:
    """A row without a check would be believed, and a check without a row not found."""
    assert set(PATTERNS) == set(WAYS)


@pytest.mark.parametrize("what", PATTERNS)
def test_a_name_is_accepted_exactly_if_the_page_says_so(what: str) -> None:
    """People make ids of what they have: numbers of orders, mail addresses, names of files."""
    pattern, longest, code = PATTERNS[what]
    expected, most = re.compile(pattern.strip("`")), int(longest.split()[0])
    wrong = []
    for way in WAYS[what]:
        for text in probes(most):
            allowed = expected.fullmatch(text) is not None and len(text) <= most
            if (fault(way, text) is None) != allowed:
                wrong.append(text)

    assert wrong == []
    for way in WAYS[what]:
        told = fault(way, "a b") or ""
        assert code.strip("`") in told or "configuration" in told
        assert f"1 to {most} of A-Z, a-z, 0-9, '_'" in told


def policy(**limits: Any) -> Callable[[], object]:
    return lambda: StepPolicy(**limits)


def nested(levels: int) -> dict[str, object]:
    value: dict[str, object] = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


def queue(name: str) -> list[Callable[[], object]]:
    return [
        lambda: ActivitySpec("a", "x", queue=name),
        lambda: PaigeantAgent("test", name="a", queue=name),
        lambda: activity(name="a", queue=name)(lambda: None),
    ]


def answer(levels: int) -> Callable[[], object]:
    return partial(answers_of, nested(levels), parts=(WHOLE,), about=About())


WORDS_OF_WAITS = (checked_wait_name, checked_signal_id, checked_by)

# For each row: the numbers that its text has, and calls that are just within the limit and just beyond it.
EDGES: dict[str, tuple[list[str], list[Callable[[], object]], list[Callable[[], object]]]] = {
    "`queue=`": (["1", "255"], [*queue("q"), *queue("é" * 127)], [*queue(""), *queue(" \t"), *queue("é" * 128)]),
    "`conversation=`, `conversation_id=`": (
        ["1", "128"],
        [
            lambda: ActivitySpec("a", "x", conversation="a b: é 🦜"),
            lambda: ActivitySpec("a", "x", conversation_id="a" * 128),
        ],
        [
            lambda: ActivitySpec("a", "x", conversation=" "),
            lambda: ActivitySpec("a", "x", conversation_id="a" * 129),
            lambda: ActivitySpec("a", "x", conversation_id="a\n"),
        ],
    ),
    "`timeout=` of `wait_for`, time of `sleep_for`": (
        ["0", "316224000", "10"],
        [lambda: wait_for("a", timeout=0), lambda: sleep_for(0), lambda: sleep_for(316224000)],
        [lambda: wait_for("a", timeout=-0.001), lambda: wait_for("a", timeout=316224001), lambda: sleep_for(316224001)],
    ),
    "names of `variables=`": (
        [],
        [lambda: dispatched(variables={"": 1, "ключ 🦜 $": 1})],
        [lambda: dispatched(variables={"\ud800": 1}), lambda: dispatched(variables={"\0": 1})],
    ),
    "keys and text in deps, arguments and variables": (
        [],
        [
            lambda: dispatched(variables={"a": {"ключ\0 🦜": "\0"}}),
            lambda: ActivitySpec("a", "x", {"\0": "\0"}),
            lambda: FunctionSpec("a", {"a": {"\0": "\0"}}),
        ],
        [
            lambda: dispatched(variables={"a": {"\ud800": 1}}),
            lambda: ActivitySpec("a", "x", {"\ud800": 1}),
            lambda: FunctionSpec("a", {"a": "\ud800"}),
        ],
    ),
    "prompt": (
        [],
        [lambda: ActivitySpec("a", "🦜\u202e\0"), lambda: ActivitySpec("a", ["", {"kind": "image-url", "url": "u"}])],
        [
            lambda: ActivitySpec("a", " \n"),
            lambda: ActivitySpec("a", ["", {"kind": "cache-point"}]),
            lambda: ActivitySpec("a", ["x", 5]),
            lambda: ActivitySpec("a", ["\ud800"]),
        ],
    ),
    "`variables=`, deps, arguments or an output": (
        ["24"],
        [lambda: dispatched(variables=nested(24)), lambda: ActivitySpec("a", "x", nested(24))],
        [lambda: dispatched(variables=nested(25)), lambda: FunctionSpec("a", nested(25))],
    ),
    "name of a wait or a signal, `signal_id=`, `by=`": (
        ["1", "128"],
        [partial(check, text) for check in WORDS_OF_WAITS for text in ("é", "a" * 128)],
        [partial(check, text) for check in WORDS_OF_WAITS for text in (" ", "a" * 129, "a\n", "\ud800")],
    ),
    "an answer to a wait": (
        ["1", "24"],
        [answer(24), partial(check_size, ["é" * (MIB // 2)], STORE.max_answer)],
        [answer(25), partial(check_size, ["é" * (MIB // 2), "a"], STORE.max_answer)],
    ),
    "a signal": (
        ["32", "24", str(STORE.max_signals)],
        [partial(check_size, ["a" * 32 * KIB], STORE.max_signal)],
        [partial(check_size, ["a" * 32 * KIB + "a"], STORE.max_signal)],
    ),
    "name of a branch": (["1", "128"], [block("é 🦜"), block("a" * 128)], [block(" "), block("a/b"), block("a" * 129)]),
    "`max_at_once=` of a block": (
        ["1", "100"], [block(at_once=1), block(at_once=100)], [block(at_once=0), block(at_once=101)],
    ),
    "blocks in each other": (["8"], [deep(8)], [deep(9)]),
    "`max_added_steps=`": (
        ["0", "1000"],
        [lambda: PaigeantAgent("test", max_added_steps=0), lambda: PaigeantAgent("test", max_added_steps=1000)],
        [lambda: PaigeantAgent("test", max_added_steps=-1), lambda: PaigeantAgent("test", max_added_steps=1001)],
    ),
    "`StepPolicy(timeout=…)`": (
        ["0", "2592000", "30"], [policy(timeout=0.001), policy(timeout=30 * 86400)],
        [policy(timeout=0), policy(timeout=30 * 86400 + 1)],
    ),
    "`StepPolicy(max_attempts=…)`": (
        ["1", "1000"], [policy(max_attempts=1), policy(max_attempts=1000)],
        [policy(max_attempts=0), policy(max_attempts=1001)],
    ),
    "`StepPolicy(backoff=…)`": (
        ["0", "86400"], [policy(backoff=0), policy(backoff=86400)], [policy(backoff=-1), policy(backoff=86401)],
    ),
    "a class in `retry_on=` or `final_on=`": (
        ["1", "128"], [policy(retry_on=["E"]), policy(final_on=["E" * 128])],
        [policy(retry_on=[""]), policy(final_on=["E" * 129])],
    ),
}  # fmt: skip
ELSEWHERE = {  # settings; their page is compared with the code by another test
    "all of these together, with the outputs so far": "`paigeant_max_message_size`",
    "a file in a prompt, as base64": "`paigeant_max_output_size`",
    "all files of a workflow that are stored, as base64": "eight times that",
    "steps of a workflow, or of a branch of a block": "`paigeant_max_steps`",
    "branches of a block": "`paigeant_max_branches`",
    "outputs, files and records that a fork copies": f"{STORE.max_copied // MIB} MiB",
    "hops of a workflow with blocks": f"{STORE.max_hops:,}".replace(",", " "),
    "history of a conversation": "`paigeant_max_conversation_size`",
    "open waits of a step": str(STORE.max_waits),
}


def test_the_page_has_a_row_for_each_limit_that_is_checked_here() -> None:
    """None stands there unchecked."""
    assert set(LIMITS) == {*EDGES, *ELSEWHERE}
    assert all(LIMITS[what][0].startswith(setting) for what, setting in ELSEWHERE.items())
    assert MAX_VALUE_DEPTH == 24


@pytest.mark.parametrize("what", EDGES)
def test_a_limit_is_where_the_page_says(what: str) -> None:
    """The last allowed value works; the next one is refused with a code of the row."""
    numbers, within, beyond = EDGES[what]
    text, codes = LIMITS[what]

    assert [*map(str, re.findall(r"\d+", text.replace("UTF-8", "")))] == numbers
    for call in within:
        call()
    for call in beyond:
        with pytest.raises(InvalidInput) as caught:
            call()
        assert f"`{caught.value.reason}`" in codes


def test_what_is_kept_for_watchers_is_bounded_as_the_page_says() -> None:
    """Whoever sizes a store or a worker computes with it."""
    kept = rows("| what | limit | beyond it |")
    numbers = {
        what: [int(text) for text in re.findall(r"\d+", row[0].replace("10 000", "10000"))]
        for what, row in kept.items()
    }

    assert numbers == {
        "events of type `agent` of a workflow in the store": [
            STORE.max_streamed, PART // KIB, round(STORE.max_streamed * PART / MIB, -1),
        ],
        "data of an event": [event_feed.MOST_BYTES // MIB, PART // KIB],
        "what waits in a worker for the store, for each step": [
            event_feed.MOST_WAITING, event_feed.MOST_BYTES_WAITING // MIB,
        ],
    }  # fmt: skip
