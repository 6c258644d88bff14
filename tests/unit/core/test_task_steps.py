"""Steps that run Celery tasks: what travels of them, and what of Celery's signatures is a step."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from pathlib import Path

import pytest
from celery import Celery, chain, chord, group, signature
from pydantic import SecretStr

from paigeant_celery.core.block_steps import for_each, parallel, sub_workflow
from paigeant_celery.core.errors import InvalidInput, MessageError
from paigeant_celery.core.message import PaigeantMessage, content_digest, encode, parse
from paigeant_celery.core.policy import StepPolicy
from paigeant_celery.core.slip import FunctionSpec, TaskSpec, name_steps
from paigeant_celery.core.task_steps import step_of, steps_of

WIRE = Path(__file__).parents[2] / "data" / "wire" / "tasks.json"
MakeMessage = Callable[..., PaigeantMessage]

app = Celery("shop", set_as_current=False)


@app.task(name="shop.charge", shared=False)
def charge(*args: object, **kwargs: object) -> None:
    """Stand for any task of a host."""


class Colour(StrEnum):
    RED = "red"


def refusal(given: object, path: str = "itinerary[0]") -> tuple[str, str, str]:
    with pytest.raises(InvalidInput) as caught:
        step_of(given, path=path)
    return caught.value.reason, caught.value.path, caught.value.text


def refused_message(path: str, value: object) -> tuple[str, str]:
    """Put a value into the first step of the sample, and say why the message is refused."""
    tree = json.loads(WIRE.read_text(encoding="utf-8"))
    tree["slip"]["itinerary"][0][path] = value
    with pytest.raises(MessageError) as caught:
        parse(json.dumps(tree), max_size=2**20, max_steps=256)
    return caught.value.reason, caught.value.path


def test_a_signature_is_the_step_that_it_says() -> None:
    """Those who have Celery tasks need not write their calls anew."""
    args, kwargs = ("EUR", {"lines": [1, 2.5, None]}), {"order": 17}

    assert step_of(charge.s(*args, **kwargs), path="") == TaskSpec("shop.charge", args, kwargs)
    assert step_of(charge.si(*args), path="") == TaskSpec("shop.charge", args, immutable=True)
    assert step_of(charge.signature(args, kwargs, immutable=True), path="") == TaskSpec(
        "shop.charge", args, kwargs, immutable=True
    )


def test_a_process_without_the_task_names_it() -> None:
    """A web process that dispatches does not load the workers' code."""
    assert step_of(signature("shop.charge", kwargs={"order": 17}), path="") == TaskSpec(
        "shop.charge", kwargs={"order": 17}
    )


def test_the_branches_of_blocks_take_signatures() -> None:
    """What stands on a slip may stand on that of a branch."""
    spec = TaskSpec("shop.charge", (1,))

    blocks = [
        parallel({"a": charge.s(1), "b": [FunctionSpec("count"), charge.s(1)]}),
        for_each(charge.s(1), over="planner"),
        sub_workflow([charge.s(1)]),
    ]

    assert [[branch.steps for branch in block.branches] for block in blocks] == [
        [(spec,), (FunctionSpec("count"), spec)], [(spec,)], [(spec,)],
    ]  # fmt: skip
    with pytest.raises(InvalidInput, match=r"^invalid_input at `branches\['a'\]\[0\]\.options\.queue`"):
        parallel({"a": charge.s(1).set(queue="slow")})


def test_everything_else_on_an_itinerary_stays_what_it_is() -> None:
    """Steps and signatures are mixed; what is neither is refused elsewhere."""
    step, odd = FunctionSpec("count"), object()

    assert list(steps_of([step, charge.s(), odd, {"task": "shop.charge"}])) == [
        step, TaskSpec("shop.charge"), odd, {"task": "shop.charge"},
    ]  # fmt: skip


def test_a_step_has_the_full_name_of_its_task() -> None:
    """`outputs["shop.charge"]` is found by whoever knows the task."""
    named = name_steps([TaskSpec("shop.charge"), TaskSpec("shop.charge"), TaskSpec("shop.thank", step_id="thanks")])

    assert [step.step_id for step in named] == ["shop.charge", "shop.charge-2", "thanks"]
    assert {step.activity for step in named} == {"shop.charge", "shop.thank"}


@pytest.mark.parametrize(
    ("made", "kind", "remedy"),
    [
        (lambda: chain(charge.s(), charge.s()), "chain", "put its tasks into the itinerary one after the other"),
        (lambda: charge.s() | charge.s(), "chain", "put its tasks into the itinerary one after the other"),
        (lambda: group(charge.s(), charge.s()), "group", "`parallel(…)` or `for_each(…)`"),
        (lambda: chord([charge.s()], charge.s()), "chord", "`parallel(…)` or `for_each(…)`"),
        (lambda: charge.map([1, 2]), "xmap", "`for_each(…)`"),
        (lambda: charge.starmap([(1, 2)]), "xstarmap", "`for_each(…)`"),
        (lambda: charge.chunks([(1,), (2,)], 1), "chunks", "`for_each(…)`"),
    ],
)
def test_the_forms_of_the_canvas_are_refused_with_what_stands_for_them(
    made: Callable[[], object], kind: str, remedy: str
) -> None:
    """A group that were taken for one task would lose the others."""
    reason, path, text = refusal(made())

    assert (reason, path) == ("invalid_input", "itinerary[0]")
    assert text.startswith(f"`{kind}` of Celery is no step; ")
    assert remedy in text


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("queue", "slow", "`register_task`, as `queue=`"),
        ("routing_key", "slow", "`register_task`, as `queue=`"),
        ("countdown", 5, "put `sleep_for(…)` in front of the step"),
        ("countdown", 0, "put `sleep_for(…)` in front of the step"),
        ("eta", datetime(2026, 1, 2, tzinfo=UTC), "put `sleep_until(…)` in front of the step"),
        ("expires", timedelta(hours=1), "give the workflow a `deadline=`"),
        ("link", charge.s(), "put what comes next into the itinerary"),
        ("link_error", [charge.s()], "`handle.status()`"),
        ("chord", charge.s(), "`parallel(…)`"),
        ("time_limit", 5, "`policy=StepPolicy(timeout=…)`"),
        ("soft_time_limit", 5, "`policy=StepPolicy(timeout=…)`"),
        ("retry_policy", {"max_retries": 1}, "`StepPolicy`"),
        ("max_retries", 3, "`StepPolicy`"),
        ("task_id", "mine", "has the id of its hop"),
        ("priority", 3, "leave it out"),
        ("headers", {"tenant": 1}, "leave it out"),
        ("whatever", False, "leave it out"),
    ],
)
def test_an_option_of_execution_is_refused_by_its_name_with_the_remedy(name: str, value: object, remedy: str) -> None:
    """An option that were dropped silently would be missed when it matters: a charge on the wrong queue, or at once."""
    reason, path, text = refusal(charge.s(1).set(**{name: value}))

    assert (reason, path) == ("invalid_input", f"itinerary[0].options.{name}")
    assert text.startswith(f"a step has no `{name}` of Celery; ")
    assert remedy in text


def test_an_option_that_says_nothing_is_no_option() -> None:
    """Code that sets all options, most of them to nothing, need not be changed."""
    assert step_of(charge.s(1).set(queue=None, link=[], link_error=()), path="") == TaskSpec("shop.charge", (1,))


@pytest.mark.parametrize("name", ["my task", "shop:charge", "1st", "", "a..b", "é", "x" * 129])
def test_a_task_whose_name_no_slip_can_have_is_refused(name: str) -> None:
    """It names a queue and a task on every broker."""
    reason, path, text = refusal(signature(name))

    assert (reason, path) == ("bad_agent_name", "itinerary[0].task")
    assert text.endswith("Give the task a `name=`")


@pytest.mark.parametrize(
    ("given", "path", "text"),
    [
        (charge.s((1, 2)), "args[0]", "gets JSON, and no `tuple`"),
        (charge.s(a={"b": [1, {"c": (1,)}]}), "kwargs.a.b[1].c", "gets JSON, and no `tuple`"),
        (charge.s(date(2026, 1, 2)), "args[0]", "gets JSON, and no `date`"),
        (charge.s(Colour.RED), "args[0]", "gets JSON, and no `Colour`"),
        (charge.s(on=object()), "kwargs.on", "has no JSON form"),
        (charge.s({"a": float("nan")}), "args[0].a", "not finite"),
        (charge.s(a={1: 2}), "kwargs.a", "its keys do not come back as they are"),
    ],
)
def test_an_argument_that_would_not_arrive_as_it_is_is_refused_with_its_path(
    given: object, path: str, text: str
) -> None:
    """Nothing on the worker makes a date of a text again; Celery's own messages would."""
    reason, where, why = refusal(given)

    assert (reason, where) == ("invalid_arguments", f"itinerary[0].{path}")
    assert text in why


@pytest.mark.parametrize(
    ("given", "reason", "path"),
    [
        (charge.s("\ud800"), "invalid_text", "itinerary[0].args[0]"),
        (charge.s(key=SecretStr("x")), "secret_without_encryption", "itinerary[0].kwargs"),
    ],
)
def test_what_no_step_may_carry_is_refused_in_arguments_too(given: object, reason: str, path: str) -> None:
    """A secret would travel as asterisks, and not every store keeps a lone surrogate."""
    assert refusal(given)[:2] == (reason, path)


@pytest.mark.parametrize(
    ("make", "path"),
    [
        (lambda: TaskSpec("shop.charge", "abc"), "args"),
        (lambda: TaskSpec("shop.charge", {"a": 1}), "args"),  # type: ignore[arg-type]
        (lambda: TaskSpec("shop.charge", (), [1]), "kwargs"),  # type: ignore[arg-type]
    ],
)
def test_arguments_are_lists_and_mappings(make: Callable[[], TaskSpec], path: str) -> None:
    """A text would be taken apart into its letters."""
    with pytest.raises(InvalidInput) as caught:
        make()

    assert (caught.value.reason, caught.value.path) == ("invalid_arguments", path)


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("task_name", "a b", ("bad_agent_name", "slip.itinerary[0].task_name")),
        ("args", {"0": 1}, ("invalid_envelope", "slip.itinerary[0].args")),
        ("args", "abc", ("invalid_envelope", "slip.itinerary[0].args")),
        ("kwargs", [], ("invalid_envelope", "slip.itinerary[0].kwargs")),
        ("immutable", 1, ("invalid_envelope", "slip.itinerary[0].immutable")),
        ("options", {"queue": "x"}, ("unknown_field", "slip.itinerary[0].options")),
    ],
)
def test_a_message_with_another_task_step_is_refused(path: str, value: object, expected: tuple[str, str]) -> None:
    """What arrives was perhaps written by somebody else."""
    assert refused_message(path, value) == expected


def test_the_digest_of_a_task_step_is_that_of_what_it_calls(make_message: MakeMessage) -> None:
    """A repeated dispatch gets the same workflow, and one with another argument a conflict."""
    spec = TaskSpec("shop.charge", (1, {"a": 2.0}), {"order": 17})
    same = TaskSpec("shop.charge", [1.0, {"a": 2}], {"order": 17}, queue="slow", policy=StepPolicy(timeout=1))
    others = [
        TaskSpec("shop.charge", (1, {"a": 2}), {"order": 18}),
        TaskSpec("shop.charge", (1,), {"order": 17}),
        TaskSpec("shop.charge", (1, {"a": 2}), {"order": 17}, immutable=True),
        TaskSpec("shop.refund", (1, {"a": 2}), {"order": 17}),
    ]

    first = content_digest(make_message(spec))

    assert content_digest(make_message(same)) == first
    assert content_digest(parse(encode(make_message(spec)), max_size=2**20, max_steps=9)) == first
    assert len({first, *(content_digest(make_message(other)) for other in others)}) == 5
