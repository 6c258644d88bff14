"""Dispatches that must be refused: each call with the reason, the field and the text of its error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from pydantic import BaseModel, SecretStr

from paigeant_celery.activities.context import WorkflowDependencies
from paigeant_celery.agents.agent import PaigeantAgent
from paigeant_celery.core.block_steps import for_each, parallel, sub_workflow
from paigeant_celery.core.flow_steps import sleep_for, sleep_until, wait_for
from paigeant_celery.core.names import ACTIVITY_NAME_RULE
from paigeant_celery.core.policy import StepPolicy
from paigeant_celery.core.slip import ActivitySpec, FunctionSpec

__all__ = ["CASES", "SECRET", "agents"]

SECRET = "hunter2-hunter2"


class Order(BaseModel):
    customer: str
    lines: list[int]


class Credentials(WorkflowDependencies):
    token: SecretStr


@dataclass(frozen=True)
class Nested:
    inner: list[dict[str, SecretStr]]


def agents() -> tuple[PaigeantAgent[Any, str], PaigeantAgent[Any, str]]:
    ordering = PaigeantAgent("test", name="ordering", deps_type=Order)
    plain = PaigeantAgent("test", name="plain")
    return ordering, plain


def spec(name: str = "a", prompt: str = "x", **fields: Any) -> Callable[[], dict[str, Any]]:
    """A dispatch of one step, which is made only inside the checked call."""
    return lambda: {"itinerary": [ActivitySpec(name, prompt, **fields)]}


def options(**given: Any) -> Callable[[], dict[str, Any]]:
    """A dispatch of a good step with these arguments."""
    return lambda: {"itinerary": [ActivitySpec("a", "x")], **given}


def step(make: Callable[..., Any], *given: Any, **fields: Any) -> Callable[[], dict[str, Any]]:
    """A dispatch of one step that waits, which is made only inside the checked call."""
    return lambda: {"itinerary": [make(*given, **fields)]}


def deep(levels: int) -> object:
    value: object = SECRET
    for _ in range(levels):
        value = [value]
    return value


def case(row: str, what: str, call: Callable[[], dict[str, Any]], reason: str, path: str, text: str) -> Any:
    return pytest.param(call, reason, path, text, id=f"row{row}-{what}")


ID_TEXT = "use 1 to 128 of A-Z, a-z, 0-9, '_' and '-'"
NAME_TEXT = f"a name has {ACTIVITY_NAME_RULE}"
SECRET_TEXT = "a pydantic secret would travel as asterisks; leave it out and make it on the worker with `deps_factory`"
LIMIT_TEXT = "must be a whole number from 0 to 1000"
WAIT_TEXT = "it has 1 to 128 characters, not only spaces, and no control characters"
YEARS_TEXT = "must be from 0 to 316224000 seconds, which is ten years"
EMPTY_TEXT = "there is no step to run; call `add_to_runway(…)` since the last dispatch, or pass `itinerary=[…]`"

A = ActivitySpec("a", "x")
BRANCH_TEXT = "the name of a branch has 1 to 128 printable characters, not only spaces, and no '/'"

BLOCKS: list[tuple[str, Callable[..., Any], tuple[object, ...], dict[str, Any], str, str, str]] = [
    (
        "branches-in-a-list",
        parallel,
        ([A],),
        {},
        "invalid_block",
        "branches",
        "maps names to steps or lists of steps; a list is none",
    ),
    (
        "no-branches",
        parallel,
        ({},),
        {},
        "invalid_block",
        "branches",
        "is empty; leave the block out, or give it a branch",
    ),
    ("no-steps", parallel, ({"a": []},), {}, "invalid_block", "branches['a']", "has no steps"),
    ("name-of-a-branch", parallel, ({"a/b": A},), {}, "invalid_block", "branches['a/b']", BRANCH_TEXT),
    (
        "no-step",
        sub_workflow,
        ([A, 5],),
        {},
        "invalid_input",
        "steps[1]",
        "a step is what `agent.activity(…)` or `function.activity(…)` returns, not a int",
    ),
    (
        "join-of-nobody",
        parallel,
        ({"a": A},),
        {"join": 0},
        "invalid_block",
        "join",
        "is 'all', 'any' or how many branches must succeed, not 0",
    ),
    (
        "join-of-too-many",
        parallel,
        ({"a": A},),
        {"join": 2},
        "invalid_block",
        "join",
        "too few branches for the join: 1, of which 2 must succeed",
    ),
    (
        "fail-with-a-number",
        parallel,
        ({"a": A},),
        {"join": 1, "on_failure": "fail"},
        "invalid_block",
        "on_failure",
        "'fail' goes with the join 'all'; a number says itself how many branches may fail",
    ),
    (
        "too-many-at-once",
        for_each,
        (A,),
        {"over": [1], "max_at_once": 101},
        "invalid_block",
        "max_at_once",
        "is a number from 1 to 100",
    ),
    (
        "over-a-mapping",
        for_each,
        (A,),
        {"over": {"a": 1}},
        "invalid_over",
        "over",
        "is a list of JSON values, or names a step; a dict is neither",
    ),
    (
        "over-no-pointer",
        for_each,
        (A,),
        {"over": "a#b"},
        "invalid_over",
        "over",
        "'b' is no JSON Pointer: one is empty, or begins with '/'",
    ),
]


def deep_block(levels: int) -> Any:
    """Return a step inside so many blocks."""
    inner: Any = A
    for _ in range(levels):
        inner = sub_workflow(inner)
    return inner


CASES = [
    case("16", "empty-itinerary", lambda: {"itinerary": []}, "empty_itinerary", "itinerary", EMPTY_TEXT),
    case("16", "empty-runway", dict, "empty_itinerary", "itinerary", EMPTY_TEXT),
    case(
        "16", "no-step", lambda: {"itinerary": ["a"]}, "invalid_input", "itinerary[0]",
        "a step is an `ActivitySpec` or `FunctionSpec`, as `agent.activity(…)` and `function.activity(…)` return, "
        "not a str",
    ),
    case(
        "16", "no-list", lambda: {"itinerary": ActivitySpec("a", SECRET)}, "invalid_input", "itinerary",
        "is a list of steps, not a ActivitySpec; put the step into one",
    ),
    *(
        case("43", f"wait-name-{what}", step(wait_for, name), "invalid_wait", "name", text)
        for what, name, text in [
            ("empty", "", f"it is empty or too long; {WAIT_TEXT}"),
            ("too-long", "a" * 129, f"it is empty or too long; {WAIT_TEXT}"),
            ("control", f"{SECRET}\n", f"it has a character that no name can have; {WAIT_TEXT}"),
            ("no-text", [SECRET], "must be a text, not a list"),
        ]
    ),
    *(
        case("43", f"{make.__name__}-{given!r}", step(make, *before, **{name: given}), "invalid_wait", name, text)
        for make, before, name in [(wait_for, ["paid"], "timeout"), (sleep_for, [], "seconds")]
        for given, text in [
            *[(wrong, YEARS_TEXT) for wrong in (-1, float("nan"), float("inf"), 1e300, timedelta.max)],
            (True, "must be seconds or a `timedelta`, not a bool"),
            (SECRET, "must be seconds or a `timedelta`, not a str"),
        ]
    ),
    case("43", "beyond-any-clock", step(sleep_for, 10**400), "invalid_wait", "seconds", YEARS_TEXT),
    case(
        "43", "naive", step(sleep_until, datetime(2099, 1, 1)), "naive_datetime", "when",
        "give it a time zone, as in `datetime.now(UTC)`",
    ),
    case("43", "no-datetime", step(sleep_until, SECRET), "invalid_wait", "when", "must be a `datetime`, not a str"),
    case(
        "43", "beyond-any-calendar", step(sleep_until, datetime.max.replace(tzinfo=timezone(-timedelta(hours=1)))),
        "invalid_wait", "until", "it is beyond what a calendar can tell in UTC",
    ),
    case(
        "43", "not-its-activity", spec("_flow", SECRET), "invalid_envelope", "itinerary[0].kind",
        "'_flow' is the activity of waits, sleeps and blocks; agents and functions have other names",
    ),
    *(
        case("44", what, step(make, *given, **more), reason, path, text)
        for what, make, given, more, reason, path, text in BLOCKS
    ),
    case(
        "44", "over-the-id-of-a-later-step",
        lambda: {"itinerary": [ActivitySpec("a", "x", step_id="plan"), for_each(A, over="plane")]},
        "invalid_over", "itinerary[1].over", "no step 'plane' is before the block; did you mean 'plan'?",
    ),
    case(
        "44", "over-a-step-of-a-branch",
        lambda: {"itinerary": [parallel({"b": A}), for_each(A, over="a")]},
        "invalid_over", "itinerary[1].over", "no step 'a' is before the block",
    ),
    case(
        "44", "ids-twice-in-a-branch",
        lambda: {"itinerary": [sub_workflow([ActivitySpec("a", "x", step_id="s")] * 2)]},
        "duplicate_step_id", "step_id", "'s' is used twice in the workflow",
    ),
    case(
        "44", "too-deep", lambda: {"itinerary": [deep_block(9)]},
        "too_many_blocks", "itinerary[0]" + ".branches[0].steps[0]" * 8, "more than 8 blocks are inside each other",
    ),
    case(
        "44", "too-many-items", lambda: {"itinerary": [for_each(A, over=[1] * 1001)]},
        "too_many_branches", "itinerary[0]",
        "1001 branches, and a block may have 1000 (`paigeant_max_branches`)",
    ),
    case(
        "44", "too-many-steps", lambda: {"itinerary": [sub_workflow([A] * 257)]},
        "too_many_steps", "itinerary[0].branches[0].steps", "more than 256 steps (`paigeant_max_steps`)",
    ),
    case(
        "23", "deadline-no-datetime", options(deadline=SECRET), "invalid_input", "deadline",
        "must be a `datetime`, not a str",
    ),
    *(
        case("18", what, spec(name), "bad_agent_name", "agent_name", NAME_TEXT)
        for what, name in {
            "empty": "", "control": f"{SECRET}\x07", "space": f"{SECRET} b", "path": "../etc/passwd",
            "too-long": "a" * 129, "homoglyph": "аgent", "newline": f"{SECRET}\n", "digit-first": "1st",
        }.items()
    ),
    case("18", "function", lambda: {"itinerary": [FunctionSpec("a b")]}, "bad_agent_name", "function_name", NAME_TEXT),
    case(
        "19", "missing-field", spec("ordering", deps={"customer": SECRET}), "invalid_deps", "itinerary[0].deps.lines",
        "Field required",
    ),
    case(
        "19", "nested-field", spec("ordering", deps={"customer": "c", "lines": [1, SECRET]}), "invalid_deps",
        "itinerary[0].deps.lines.1", "Input should be a valid integer, unable to parse string as an integer",
    ),
    case(
        "19", "left-out", spec("ordering"), "invalid_deps", "itinerary[0].deps",
        "Input should be an object",
    ),
    case(
        "19", "unexpected", spec("plain", deps={"x": SECRET}), "unexpected_deps", "itinerary[0].deps",
        "the agent 'plain' takes no deps; give it a `deps_type`, or leave out the deps",
    ),
    case(
        "19", "no-json", spec(deps={"pool": object()}), "invalid_deps", "deps.pool",
        "a `object` has no JSON form; pass what it has as JSON, or make it on the worker",
    ),
    case(
        "19", "not-finite", spec(deps=[1, float("nan")]), "invalid_deps", "deps[1]",
        "a number is not finite; leave it out, or let its model write and read it as text (`ser_json_inf_nan`)",
    ),
    case("19", "too-deep", spec(deps=deep(25)), "invalid_deps", "deps", f"more than 24 levels at {'[0]' * 24!r}"),
    case(
        "20", "10-MiB-prompt", spec(prompt="x" * 10 * 2**20), "too_large", "",
        "the envelope has more than 1048576 bytes (`paigeant_max_message_size`)",
    ),
    case(
        "20", "10-MiB-part", spec(prompt=["x" * 10 * 2**20]), "too_large", "",
        "the envelope has more than 1048576 bytes (`paigeant_max_message_size`)",
    ),
    case(
        "20", "large-file", spec(prompt=[{"kind": "binary", "media_type": "a/b", "data": b"x" * 13 * 2**20}]),
        "too_large", "itinerary[0].prompt[0]",
        "its data has 18175320 bytes as base64, which exceed `paigeant_max_output_size` (16777216)",
    ),
    *(
        case("20", f"empty-prompt-{prompt!r}", spec(prompt=prompt), "empty_prompt", "prompt", "an agent needs a prompt")
        for prompt in ("", " \n\t", [], ["", " "])
    ),
    case(
        "20", "no-part", spec(prompt=["x", {"secret": SECRET}]), "invalid_prompt", "prompt[1]",
        "a dict is no part of a prompt; a prompt is a text, or a list of texts, URLs and files, such as pydantic-ai's "
        "`ImageUrl` and `BinaryContent`",
    ),
    case(
        "20", "no-such-part", spec("plain", prompt=["x", {"kind": "image-url", "link": SECRET}]), "invalid_prompt",
        "itinerary[0].prompt[1]", "is no 'image-url' that pydantic-ai takes (url: Field required)",
    ),
    case(
        "21", "257-steps", lambda: {"itinerary": [ActivitySpec("a", "x")] * 257}, "too_many_steps", "itinerary",
        "257 steps exceed `paigeant_max_steps` (256)",
    ),
    *(
        case(
            "22", f"limit-{limit}", lambda limit=limit: PaigeantAgent("test", name="x", max_added_steps=limit),
            "invalid_limit", "max_added_steps", LIMIT_TEXT,
        )
        for limit in (-1, True, 10**9, 1.0, "3", None)
    ),
    *(
        case("22", f"timeout-{seconds}", lambda s=seconds: StepPolicy(timeout=s), "invalid_policy", "timeout", text)
        for seconds, text in {
            0: "Input should be greater than 0", -1: "Input should be greater than 0",
            10**9: "Input should be less than or equal to 2592000", float("nan"): "Input should be a finite number",
            "5": "Input should be a valid number", True: "Input should be a valid number",
        }.items()
    ),
    case(
        "22", "attempts", lambda: StepPolicy(max_attempts=0), "invalid_policy", "max_attempts",
        "Input should be greater than or equal to 1",
    ),
    case(
        "23", "naive", options(deadline=datetime(2099, 1, 1)), "naive_datetime", "deadline",
        "give it a time zone, as in `datetime.now(UTC)`",
    ),
    case(
        "23", "start-naive", options(start_at=datetime(2099, 1, 1)), "naive_datetime", "start_at",
        "give it a time zone, as in `datetime.now(UTC)`",
    ),
    case(
        "23", "start-no-datetime", options(start_at=SECRET), "invalid_wait", "start_at",
        "must be a `datetime`, not a str",
    ),
    case(
        "23", "start-after-the-deadline",
        options(start_at=datetime(2100, 1, 1, tzinfo=UTC), deadline=datetime(2100, 1, 1, tzinfo=UTC)),
        "deadline_passed", "deadline", "2100-01-01T00:00:00+00:00 is not after `start_at`",
    ),
    case(
        "23", "past", options(deadline=datetime(2026, 1, 1, tzinfo=UTC)), "deadline_passed", "deadline",
        "2026-01-01T00:00:00+00:00 is in the past",
    ),
    *(
        case("26", what, options(correlation_id=text), "bad_correlation_id", "correlation_id", ID_TEXT)
        for what, text in {
            "empty": "", "dots": f"{SECRET}.1", "braces": "{a}", "newline": "a\n", "NUL": "a\0", "1-KiB": "a" * 1024,
            "unicode": "é",
        }.items()
    ),
    case(
        "26", "no-text", options(correlation_id=17), "bad_correlation_id", "correlation_id",
        f"must be a string, not a int; {ID_TEXT}",
    ),
    case(
        "27", "NUL-queue", spec(queue=f"{SECRET}\0"), "invalid_text", "queue",
        "the queue's name contains a NUL character",
    ),
    case(
        "27", "surrogate-prompt", spec(prompt=f"{SECRET}\ud800"), "invalid_text", "prompt",
        "the prompt contains a lone surrogate",
    ),
    case(
        "27", "surrogate-deps", spec(deps={"a": "\udfff"}), "invalid_text", "deps.a",
        "contains a lone surrogate; replace it before you pass it on",
    ),
    case(
        "27", "NUL-variables", options(variables={f"{SECRET}\0": 1}), "invalid_text", "variables",
        "the name of a variable contains a NUL character",
    ),
    case(
        "27", "surrogate-variables", options(variables={"\ud800": 1}), "invalid_text", "variables",
        "contains a lone surrogate",
    ),
    case(
        "22", "stream", options(stream=SECRET), "invalid_input", "stream",
        "must be True or False, not a str",
    ),
    case(
        "22", "limits-no-limits", options(usage_limits=SECRET), "invalid_usage_limits", "usage_limits",
        "must be `UsageLimits`, `WorkflowLimits` or a mapping, not a str",
    ),
    case(
        "22", "limits-unknown", options(usage_limits={"money": SECRET}), "invalid_usage_limits", "usage_limits.money",
        "is not known; the limits are request_limit, tool_calls_limit, input_tokens_limit, output_tokens_limit, "
        "total_tokens_limit, cost_limit",
    ),
    *(
        case(
            "22", f"{name}-{limit}", options(usage_limits={name: limit}), "invalid_usage_limits",
            f"usage_limits.{name}", text,
        )
        for name, limit, text in (
            ("request_limit", -1, "Input should be greater than or equal to 0"),
            ("total_tokens_limit", "5", "Input should be a valid integer"),
            ("tool_calls_limit", True, "Input should be a valid integer"),
            ("cost_limit", "-0.1", "Input should be greater than or equal to 0"),
            ("cost_limit", SECRET, "Input should be a valid decimal"),
        )
    ),
    case(
        "27", "variables-no-mapping", options(variables=[SECRET]), "invalid_variables", "variables",
        "must be a mapping, not a list",
    ),
    *(
        case("32", what, spec(deps=deps), "secret_without_encryption", "deps", SECRET_TEXT)
        for what, deps in {
            "field": Credentials(token=SecretStr(SECRET)), "in-list": [SecretStr(SECRET)],
            "in-dataclass": Nested([{"a": SecretStr(SECRET)}]),
        }.items()
    ),
    case(
        "32", "variables", options(variables={"t": SecretStr(SECRET)}), "secret_without_encryption", "variables",
        SECRET_TEXT,
    ),
    case(
        "32", "arguments", lambda: {"itinerary": [FunctionSpec("f", {"t": SecretStr(SECRET)})]},
        "secret_without_encryption", "arguments", SECRET_TEXT,
    ),
]  # fmt: skip
