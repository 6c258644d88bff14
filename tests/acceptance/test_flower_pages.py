"""What a person does with workflows in a real Flower, in a browser."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import flower as flower_of_pypi
import pytest
import requests
from flower.options import default_options
from playwright.sync_api import Page, expect
from redis import Redis
from tornado.web import create_signed_value

from paigeant_celery import ActivitySpec, FunctionSpec, WorkflowDispatcher, WorkflowHandle, for_each
from paigeant_celery.flower.listing import STATES
from tests.support.browser import Browser, picture, put
from tests.support.contrast import faint_texts
from tests.support.flower_pages import FlowerPages, flower_pages, row
from tests.support.processes import Deployment, deployment, eventually
from tests.support.servers import RedisServer

PROMPT, OUTPUT, ERROR, QUESTION = "marzipan", "nougat", "toffee", "praline"  # what only some people may see
MARKUP = '<b class="spilled">bold</b>'  # harmless, and seen as an element only if it is not escaped
WITHIN = 20.0
IN_STATE = 20_000  # milliseconds
STORE_TIMEOUT = 60.0  # seconds, in which nobody else may have to wait

# What a page is told is what the test says, and how long its requests take is known.
STAGED = """
window.staged = {
    sources: [], asked: [], slow: 0,
    tell: (type, data) => staged.sources.at(-1).dispatchEvent(new MessageEvent(type, {data: JSON.stringify(data)})),
    every: (pause, type, data) => setInterval(() => staged.tell(type, data), pause),
};
window.EventSource = class extends EventTarget {
    constructor() { super(); staged.sources.push(this); }
    close() {}
};
const fetched = window.fetch;
window.fetch = async (...given) => {
    const began = performance.now();
    const answer = await fetched(...given);
    await new Promise(done => setTimeout(done, staged.slow));
    staged.asked.push([began, performance.now()]);
    return answer;
};
"""

# A badge of each state in a table of ours.
BADGES = """states => {
    const row = document.querySelector('.wf-page tbody').insertRow();
    states.forEach(state => {
        const badge = document.createElement('span');
        badge.className = `badge wf-badge wf-${state}`;
        badge.textContent = state;
        row.insertCell().append(badge);
    });
}"""
FLOWERS = Path(inspect.getfile(flower_of_pypi)).parent

pytestmark = pytest.mark.together


@pytest.fixture(scope="module")
def made(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    brief = {"paigeant_max_attempts": 2, "paigeant_retry_backoff": 0.0}
    with deployment(redis_url, tmp_path_factory.mktemp("flower"), **brief) as made:
        made.ready_worker("newsroom", pool="threads", slots=8)
        yield made


@pytest.fixture(scope="module")
def flower(made: Deployment) -> Iterator[FlowerPages]:
    """One that asks people to sign in."""
    with flower_pages(made) as flower:
        yield flower


@pytest.fixture(scope="module")
def open_flower(made: Deployment) -> Iterator[FlowerPages]:
    """One that everybody may open."""
    with flower_pages(made, signs_in=False, name="open") as flower:
        yield flower


@pytest.fixture(scope="module")
def earlier(made: Deployment) -> WorkflowHandle:
    """A workflow that ended before the last Flower began."""
    dispatcher, transport = WorkflowDispatcher(), made.transport()
    found = dispatcher.dispatch_workflow_sync(transport, itinerary=[say("kept"), say("too")])
    handle = dispatcher.handle(found, transport)
    handle.result_sync(WITHIN)
    return handle


@pytest.fixture(scope="module")
def late_flower(made: Deployment, earlier: WorkflowHandle) -> Iterator[FlowerPages]:
    """One that begins late, and is read-only."""
    with flower_pages(made, "--read_only=True", name="late") as flower:
        yield flower


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """The file that a step waits for; it appears when the test ends, if not before."""
    gate = tmp_path / "gate"
    yield gate
    gate.touch()


def say(text: str, **options: str) -> FunctionSpec:
    return FunctionSpec("say", {"text": text}, **options)


def check(gate: Path, text: str = ERROR) -> FunctionSpec:
    return FunctionSpec("check", {"path": str(gate), "text": text})


def ask(question: str = QUESTION) -> FunctionSpec:
    return FunctionSpec("headline", {"question": question})


def is_in(handle: WorkflowHandle, state: str) -> None:
    eventually(lambda: handle.status_sync().state == state, within=WITHIN, what=f"not {state}")


def shows(page: Page, state: str) -> None:
    expect(page.locator("#wf-state")).to_have_text(state, timeout=IN_STATE)


def test_the_list_is_one_click_from_flowers_own_pages(flower: FlowerPages, browser: Browser) -> None:
    """Who knows Flower finds the workflows without having read anything."""
    handle = flower.dispatch(say("hello"))
    handle.result_sync(WITHIN)

    with flower.opened(browser, "/tasks") as page:
        page.get_by_role("link", name="Workflows").click()
        page.get_by_role("link", name=handle.correlation_id).click()
        shows(page, "completed")

        picture(page, "completed")


def test_the_list_is_filtered_by_what_people_look_for(flower: FlowerPages, browser: Browser, gate: Path) -> None:
    """Among all workflows the person on call wants those of a state, an activity, a wait or an order."""
    done, parked, asks = (
        flower.dispatch(step, correlation_id=f"filtered-{name}")
        for name, step in (("done", say("x")), ("parked", check(gate)), ("asks", ask()))
    )
    done.result_sync(WITHIN)
    is_in(parked, "parked")
    is_in(asks, "suspended")

    with flower.opened(browser) as page:
        page.get_by_label("Id begins with").fill("filtered-")
        page.get_by_role("button", name="Filter").click()
        rows = page.locator("tbody .wf-id")
        expect(rows).to_have_text(["filtered-asks", "filtered-done", "filtered-parked"])
        picture(page, "filtered")

        page.get_by_role("link", name=re.compile("^Parked")).click()
        expect(rows).to_have_text(["filtered-parked"])
        page.get_by_role("link", name=re.compile("^All")).click()
        page.get_by_label("Waits for").fill("headline")
        page.get_by_role("button", name="Filter").click()
        expect(rows).to_have_text(["filtered-asks"])
        page.get_by_label("Waits for").fill("")
        page.get_by_label("Activity").select_option("check")
        page.get_by_label("Started").select_option("the last hour")
        page.get_by_role("button", name="Filter").click()
        expect(rows).to_have_text(["filtered-parked"])
        page.get_by_label("Started").select_option("more than an hour ago")
        page.get_by_role("button", name="Filter").click()
        expect(page.get_by_text("No workflow matches.")).to_be_visible()
        page.get_by_role("link", name="Clear").click()
        expect(page.get_by_role("link", name="filtered-done")).to_be_visible()
    assert asks.cancel_sync()


def test_the_list_goes_on_page_by_page(flower: FlowerPages, browser: Browser) -> None:
    """There may be a hundred thousand workflows; each is on one page."""
    names = sorted(f"paged-{number:03}" for number in range(60))
    handles = [flower.dispatch(say("x"), correlation_id=name) for name in names]
    for handle in handles:
        handle.result_sync(WITHIN)

    with flower.opened(browser, "/workflows?prefix=paged-") as page:
        rows = page.locator("tbody .wf-id")
        expect(rows).to_have_count(50)
        seen = rows.all_text_contents()
        page.get_by_role("link", name="Next page").click()
        expect(rows).to_have_count(10)
        seen += rows.all_text_contents()
        expect(page.get_by_role("link", name="Next page")).to_have_count(0)
        page.get_by_role("link", name="First page").click()
        expect(rows).to_have_count(50)

    assert seen == names


def test_a_page_shows_the_tree_with_where_each_step_stands(flower: FlowerPages, browser: Browser, gate: Path) -> None:
    """Where did it stop, and why: in one look."""
    block = for_each(
        [FunctionSpec("count_words", {"path": str(gate)}), say("counted")],
        over=["one", "unreadable", "two words"], step_id="readings",
    )  # fmt: skip
    handle = flower.dispatch(say("first", step_id="begin"), block, say("last", step_id="end"))
    is_in(handle, "parked")

    with flower.opened(browser, f"/workflows/{handle.correlation_id}") as page:
        states = {
            "begin": "completed",
            "readings": "parked",
            "readings/0": "completed",
            "readings/0/count_words": "completed",
            "readings/1/count_words": "parked",
            "readings/1/say": "planned",
            "readings/2/say": "completed",
            "end": "planned",
        }
        for path, state in states.items():
            expect(row(page, path).locator(".badge")).to_have_text(state)
        expect(row(page, "readings/1/count_words")).to_contain_text("ValueError: unreadable")
        expect(page.get_by_role("region", name="Failure")).to_contain_text("readings/1/count_words")
        page.get_by_text("Where it was raised").click()
        expect(page.get_by_role("region", name="Failure")).to_contain_text("newsroom.py")
        picture(page, "tree")


def test_retry_lets_only_that_step_go_on(flower: FlowerPages, browser: Browser, gate: Path) -> None:
    """A retry that starts at the first step pays for everything again."""
    block = for_each(
        FunctionSpec("count_words", {"path": str(gate)}), over=["unreadable", "unreadable"], step_id="readings"
    )
    handle = flower.dispatch(block)
    eventually(lambda: [branch.state for branch in handle.status_sync().branches] == ["parked"] * 2, within=WITHIN)
    gate.touch()

    with flower.opened(browser, f"/workflows/{handle.correlation_id}") as page:
        row(page, "readings/1/count_words").get_by_role("button", name="Retry").click()
        expect(page.get_by_text("It goes on, with all attempts")).to_be_visible()
        expect(row(page, "readings/1/count_words").locator(".badge")).to_have_text("completed", timeout=IN_STATE)
        expect(row(page, "readings/0/count_words").locator(".badge")).to_have_text("parked")

        row(page, "readings/0/count_words").get_by_role("button", name="Retry").click()
        shows(page, "completed")

    assert handle.result_sync(WITHIN).output == [1, 1]


def test_a_block_that_is_parked_itself_can_be_retried(flower: FlowerPages, browser: Browser) -> None:
    """It has no branch yet that could be; the person has raised a limit, and now lets it go on."""
    block = for_each(say("x"), over="plan#/many", step_id="readings")
    handle = flower.dispatch(say("no list", step_id="plan"), block)
    is_in(handle, "parked")

    with flower.opened(browser, f"/workflows/{handle.correlation_id}") as page:
        for number, button in enumerate((page.locator("header.wf-head"), row(page, "readings")), start=1):
            button.get_by_role("button", name="Retry", exact=True).click()
            expect(page.get_by_text("It goes on, with all attempts")).to_be_visible()
            expect(page.locator("#wf-happened tr", has_text="redriven")).to_have_count(number, timeout=IN_STATE)
            expect(row(page, "readings").locator(".badge")).to_have_text("parked", timeout=IN_STATE)
        expect(page.get_by_text("make all calls again")).to_have_count(0)
        picture(page, "parked-block")


def test_a_parked_workflow_whose_steps_cannot_be_read_can_be_retried(
    flower: FlowerPages, browser: Browser, gate: Path, redis_url: str
) -> None:
    """There is no row, and yet somebody has mended what was wrong."""
    handle = flower.dispatch(check(gate))
    is_in(handle, "parked")
    with Redis.from_url(redis_url) as client:
        (key,) = (key for key in client.keys(f"*{handle.correlation_id}.0*") if b"envelope" in client.hkeys(key))
        envelope = client.hget(key, "envelope")
        newer = json.loads(envelope)
        newer["spec_version"], newer["slip"]["itinerary"][0]["kind"] = "1.99", "of_tomorrow"
        client.hset(key, "envelope", json.dumps(newer))

        with flower.opened(browser, f"/workflows/{handle.correlation_id}") as page:
            expect(page.get_by_role("alert")).to_contain_text("The steps cannot be read")
            expect(page.locator(".wf-row")).to_have_count(0)
            client.hset(key, "envelope", envelope)
            gate.touch()
            page.get_by_role("button", name="Retry").click()
            shows(page, "completed")


def test_making_all_calls_again_takes_a_second_click(flower: FlowerPages, browser: Browser, gate: Path) -> None:
    """It forgets, and pays once more for, what models have already answered."""
    handle = flower.dispatch(check(gate))
    is_in(handle, "parked")
    gate.touch()

    with flower.opened(browser, f"/workflows/{handle.correlation_id}") as page:
        again = row(page, "check").get_by_role("button", name="Make all calls again")
        expect(again).to_be_hidden()
        row(page, "check").get_by_text("make all calls again…").click()
        expect(row(page, "check")).to_contain_text("paid for")
        assert handle.status_sync().state == "parked"
        again.click()
        shows(page, "completed")

    (redriven,) = [event for event in handle.events_so_far() if event.type == "redriven"]
    assert redriven.fields["journal"] == "discarded"


def test_what_an_agent_says_appears_while_it_says_it(flower: FlowerPages, browser: Browser, gate: Path) -> None:
    """Nobody reloads a page to see whether a run of minutes still does something."""
    handle = flower.dispatch(ActivitySpec("reporter", str(gate)), say("the end"), stream=True)

    with flower.opened(browser, f"/workflows/{handle.correlation_id}") as page:
        agents = page.get_by_role("region", name="Agents")
        expect(agents).to_contain_text("look_up: cats are animals", timeout=IN_STATE)
        expect(agents).to_contain_text("Cats purr")
        expect(agents).not_to_contain_text("content")
        shows(page, "running")
        expect(page.locator("#wf-standing")).to_contain_text("it runs in process", timeout=IN_STATE)
        picture(page, "running")

        gate.touch()

        expect(agents).to_contain_text("Cats purr when they are content.", timeout=IN_STATE)
        shows(page, "completed")
        expect(row(page, "say").locator(".badge")).to_have_text("completed")
        expect(page.get_by_text("the end")).to_be_visible()
        expect(page.locator("#wf-happened")).to_contain_text("workflow_completed")


def test_what_is_open_stays_open_and_all_else_goes_on(flower: FlowerPages, browser: Browser, gate: Path) -> None:
    """Who reads where an error was raised still sees that it is over."""
    block = for_each(
        FunctionSpec("count_words", {"path": str(gate)}), over=["unreadable", "unreadable"], step_id="readings"
    )
    handle = flower.dispatch(block)
    eventually(lambda: [branch.state for branch in handle.status_sync().branches] == ["parked"] * 2, within=WITHIN)
    gate.touch()
    first, second = "readings/0/count_words", "readings/1/count_words"

    with flower.opened(browser, f"/workflows/{handle.correlation_id}") as page:
        again = row(page, first).locator("details")
        again.locator("summary").click()
        page.get_by_text("Where it was raised").click()
        page.get_by_text("Cancel…").click()
        row(page, second).get_by_role("link", name="task").focus()
        assert handle.redrive_sync(second)
        expect(row(page, second).locator(".badge")).to_have_text("completed", timeout=IN_STATE)
        expect(again).to_have_attribute("open", "")
        expect(page.locator("[data-wf-key=cancel]")).to_have_attribute("open", "")
        expect(row(page, second).get_by_role("link", name="task")).to_be_focused()

        assert handle.redrive_sync(first)
        shows(page, "completed")
        expect(row(page, first).locator(".badge")).to_have_text("completed")
        expect(page.get_by_role("region", name="Failure")).to_have_count(0)
        expect(page.get_by_text("Cancel…")).to_have_count(0)


def test_what_is_typed_stays_and_says_that_it_is_not_up_to_date(flower: FlowerPages, browser: Browser) -> None:
    """Nobody loses a long answer because another was faster, and nobody believes that it is still asked for."""
    handle = flower.dispatch(ask())
    is_in(handle, "suspended")

    with flower.opened(browser, f"/workflows/{handle.correlation_id}") as page:
        answer = page.get_by_label("Answer", exact=True)
        answer.fill("a long answer")
        (pending,) = handle.pending_sync()
        assert handle.resolve_sync(pending.token, "theirs").taken
        shows(page, "completed")
        waits = page.get_by_role("region", name="What it waits for")
        expect(waits).to_contain_text("Not up to date: nothing waits for this any more")
        expect(answer).to_have_value("a long answer")
        picture(page, "typed")

        answer.fill("")
        put(page, hidden=True)
        put(page, hidden=False)
        expect(waits).to_have_count(0)


def test_a_page_that_takes_long_is_asked_for_less_often(flower: FlowerPages, browser: Browser) -> None:
    """A workflow of a thousand branches has thousands of events, and Flower has other pages to show."""
    handle = flower.dispatch(ask())
    is_in(handle, "suspended")

    with flower.opened(browser, script=STAGED) as page:
        page.goto(f"/workflows/{handle.correlation_id}")
        eventually(lambda: page.evaluate("staged.sources.length"), within=WITHIN)
        page.evaluate("staged.slow = 400; staged.every(20, 'happened', {at: Date(), type: 'x', path: 'y', fields: {}})")
        eventually(lambda: page.evaluate("staged.asked.length") > 3, within=WITHIN)
        asked = page.evaluate("staged.asked")

    for (began, ended), (begins, _) in itertools.pairwise(asked):
        assert begins - ended >= 2 * (ended - began) - 20
    assert handle.cancel_sync()


def test_a_parked_workflow_is_followed_once(flower: FlowerPages, browser: Browser, gate: Path) -> None:
    """Its page may stay open for a weekend, and nothing happens."""
    handle = flower.dispatch(check(gate))
    is_in(handle, "parked")

    with flower.opened(browser, f"/workflows/{handle.correlation_id}") as page:
        expect(page.locator("#wf-happened")).to_contain_text("parked", timeout=IN_STATE)
        expect(page.locator("#wf-live-state")).to_have_text("")
        followed = list[str]()
        page.on("request", lambda request: followed.append(request.url) if request.url.endswith("/events") else None)
        for _ in range(3):
            put(page, hidden=True)
            with page.expect_event("requestfinished", lambda request: request.url.endswith(handle.correlation_id)):
                put(page, hidden=False)
            page.evaluate("() => new Promise(done => setTimeout(done, 0))")

    assert followed == []


def test_much_that_agents_say_is_cut_with_a_sign(flower: FlowerPages, browser: Browser) -> None:
    """A browser must not stop for the words of a thousand runs, nor show half of a text as if it were all."""
    handle = flower.dispatch(ask())
    is_in(handle, "suspended")
    word = {"path": "writer", "run": "0", "attempt": "1", "as": "text", "begins": False}

    with flower.opened(browser, script=STAGED) as page:
        page.goto(f"/workflows/{handle.correlation_id}")
        eventually(lambda: page.evaluate("staged.sources.length"), within=WITHIN)
        tell = "([event, times]) => { for (let n = 0; n < times; n++) staged.tell('agent', event); }"
        page.evaluate(tell, [{**word, "text": "word " * 400}, 15])
        runs = page.locator(".wf-run")
        expect(runs.locator("p")).to_have_text(re.compile(r"word\s+… \(more is not shown here\)$"))
        for number in range(1, 61):
            page.evaluate(tell, [{**word, "run": str(number), "text": f"run {number}"}, 1])
        expect(runs).to_have_count(50)
        expect(runs.first).to_contain_text("run 60")
        page.evaluate(tell, [{**word, "text": "once more"}, 1])
        expect(runs.first).to_contain_text("once more")
    assert handle.cancel_sync()


def test_a_page_shows_the_first_of_very_many_waits(flower: FlowerPages, browser: Browser) -> None:
    """A thousand forms would be of no use; the command lists them all."""
    handle = flower.dispatch(for_each(ask(), over=list(range(53)), max_at_once=53, step_id="all"))
    eventually(lambda: len(handle.pending_sync()) == 53, within=2 * WITHIN, what="not all wait")

    with flower.opened(browser, f"/workflows/{handle.correlation_id}") as page:
        expect(page.locator("[data-wf-wait]")).to_have_count(50)
        expect(page.locator("#wf-more-pending")).to_have_text(
            "3 more can be answered; celery paigeant inbox lists them."
        )
    assert handle.cancel_sync()


def test_a_page_says_when_it_is_not_up_to_date(made: Deployment, browser: Browser) -> None:
    """A page that stands still looks as if nothing happened."""
    with flower_pages(made, name="ends") as flower:
        handle = flower.dispatch(ask())
        is_in(handle, "suspended")
        for path in ("", f"/{handle.correlation_id}"):
            with flower.opened(browser, f"/workflows{path}", allowed=("ERR_", "401")) as page:
                expect(page.locator("#wf-late")).to_be_hidden()
                page.context.set_offline(True)
                expect(page.locator("#wf-late")).to_be_visible(timeout=IN_STATE)
                page.context.set_offline(False)
                expect(page.locator("#wf-late")).to_be_hidden(timeout=IN_STATE)
    assert handle.cancel_sync()


@pytest.mark.parametrize(
    ("meant", "typed", "gave"), [("Text", "Cats!", "Cats!"), ("JSON", '{"yes": [1]}', {"yes": [1]})]
)
def test_a_question_is_answered(flower: FlowerPages, browser: Browser, meant: str, typed: str, gave: object) -> None:
    """Whoever is asked sees the question and types the answer."""
    handle = flower.dispatch(ask())
    is_in(handle, "suspended")

    with flower.opened(browser, f"/workflows/{handle.correlation_id}") as page:
        expect(page.get_by_text(QUESTION)).to_be_visible()
        picture(page, "question")
        page.get_by_label("Answer", exact=True).fill(typed)
        page.get_by_label("Kind of answer").select_option(meant)
        page.get_by_role("button", name="Answer").click()
        expect(page.get_by_text("The answer counts")).to_be_visible()
        shows(page, "completed")

    assert handle.result_sync(WITHIN).output == gave
    (answered,) = [event for event in handle.events_so_far() if event.type == "answered"]
    assert answered.fields["by"] == "ann"


def test_an_answer_of_the_wrong_form_settles_nothing(flower: FlowerPages, browser: Browser) -> None:
    """A slip of the finger must not end a wait."""
    handle = flower.dispatch(ask())
    is_in(handle, "suspended")

    with flower.opened(browser, f"/workflows/{handle.correlation_id}", allowed=("400",)) as page:
        page.get_by_label("Answer", exact=True).fill("{oops")
        page.get_by_label("Kind of answer").select_option("JSON")
        page.get_by_role("button", name="Answer").click()
        expect(page.get_by_role("alert")).to_contain_text("JSON")
        shows(page, "suspended")

        page.get_by_label("Answer", exact=True).fill("nobody knows")
        page.get_by_label("Kind of answer").select_option("No answer, because…")
        page.get_by_role("button", name="Answer").click()
        expect(page.get_by_role("region", name="Failure")).to_contain_text("nobody knows", timeout=IN_STATE)


def test_a_call_of_a_tool_is_approved_or_denied(flower: FlowerPages, browser: Browser) -> None:
    """The person sees with which arguments the tool would run, and the model reads why it may not."""
    approved, denied = (flower.dispatch(ActivitySpec("chief", PROMPT)) for _ in range(2))
    for handle in (approved, denied):
        is_in(handle, "suspended")

    with flower.opened(browser, f"/workflows/{approved.correlation_id}") as page:
        expect(page.get_by_role("region", name="What it waits for")).to_contain_text('"headline": "Cats purr"')
        picture(page, "approval")
        page.get_by_role("button", name="Approve").click()
        shows(page, "completed")
    with flower.opened(browser, f"/workflows/{denied.correlation_id}") as page:
        page.get_by_label("Reason").fill("not today")
        page.get_by_role("button", name="Deny").click()
        shows(page, "completed")

    assert approved.result_sync(WITHIN).output == "done: published Cats purr"
    assert "not today" in str(denied.result_sync(WITHIN).output)


@pytest.mark.proof
def test_an_answer_that_comes_second_is_told_so(flower: FlowerPages, browser: Browser) -> None:
    """Two people look at the same page."""
    handle = flower.dispatch(ask())
    is_in(handle, "suspended")

    with flower.opened(browser, f"/workflows/{handle.correlation_id}") as page:
        page.get_by_label("Answer", exact=True).fill("mine")
        (pending,) = handle.pending_sync()
        assert handle.resolve_sync(pending.token, "theirs").taken
        handle.result_sync(WITHIN)
        page.get_by_role("button", name="Answer").click()
        expect(page.get_by_role("alert")).to_contain_text("does not count")

    assert handle.result_sync(WITHIN).output == "theirs"


def test_cancel_asks_again_before_it_cancels(flower: FlowerPages, browser: Browser, gate: Path) -> None:
    """It cannot be undone, so one click is not enough."""
    handle = flower.dispatch(ActivitySpec("reporter", str(gate)), say("never"), stream=True)
    is_in(handle, "running")

    with flower.opened(browser, f"/workflows/{handle.correlation_id}") as page:
        page.get_by_text("Cancel…").click()
        assert handle.status_sync().state == "running"
        picture(page, "cancel")
        page.get_by_role("button", name="Cancel the workflow").click()
        expect(page.get_by_text("The workflow is cancelled.")).to_be_visible()
        shows(page, "cancelled")
        expect(page.get_by_text("Cancel…")).to_have_count(0)

    assert handle.status_sync().state == "cancelled"


@pytest.mark.proof
def test_a_fork_leads_to_the_workflow_that_it_was_made_of(flower: FlowerPages, browser: Browser) -> None:
    """Two workflows with nearly the same steps are confusing until one sees which came first."""
    handle = flower.dispatch(say("one", step_id="first"), say("two", step_id="second"))
    handle.result_sync(WITHIN)
    fork = WorkflowHandle(handle.fork_sync("second"), flower.made.transport())
    fork.result_sync(WITHIN)

    with flower.opened(browser, f"/workflows/{fork.correlation_id}") as page:
        expect(page.get_by_text("at step second")).to_be_visible()
        page.get_by_role("link", name=handle.correlation_id).click()
        expect(page.get_by_role("heading", level=1)).to_have_text(handle.correlation_id)


def test_a_page_says_that_no_worker_serves_the_step(flower: FlowerPages, browser: Browser) -> None:
    """Otherwise one waits for ever, for a worker that somebody forgot to start."""
    handle = flower.dispatch(FunctionSpec("nobodys"))

    with flower.opened(browser, f"/workflows/{handle.correlation_id}") as page:
        expect(page.locator("#wf-stuck")).to_contain_text("nobodys", timeout=IN_STATE)
    assert handle.cancel_sync()


def test_a_step_leads_to_its_task(flower: FlowerPages, browser: Browser) -> None:
    """Flower knows the worker and the runtime of each task."""
    handle = flower.dispatch(say("hello"))
    handle.result_sync(WITHIN)
    task = f"{handle.correlation_id}.0"
    eventually(lambda: flower.get(f"/task/{task}").ok, within=WITHIN, what="Flower knows no such task")

    with flower.opened(browser, f"/workflows/{handle.correlation_id}") as page:
        row(page, "say").get_by_role("link", name="task").click()
        expect(page.locator("#taskid")).to_have_text(task)


@pytest.mark.proof
def test_a_long_output_has_a_page_of_its_own(flower: FlowerPages, browser: Browser) -> None:
    """The tree shows the beginning; who wants all of it opens it."""
    handle = flower.dispatch(say("begin " + "very " * 2000 + "end"))
    handle.result_sync(WITHIN)

    with flower.opened(browser, f"/workflows/{handle.correlation_id}") as page:
        expect(page.get_by_text("very")).to_have_count(0)
        row(page, "say").get_by_role("link", name="9.8 KiB").click()
        expect(page.locator("pre")).to_contain_text("very end")


def test_markup_of_others_is_shown_as_text(flower: FlowerPages, browser: Browser, gate: Path) -> None:
    """Models, users and errors write texts; none of them may become part of the page."""
    asks = flower.dispatch(say(MARKUP), ask(MARKUP))
    parked = flower.dispatch(check(gate, MARKUP))
    is_in(asks, "suspended")
    is_in(parked, "parked")

    for handle in (asks, parked):
        with flower.opened(browser, f"/workflows/{handle.correlation_id}") as page:
            expect(page.locator("#wf-happened tr")).not_to_have_count(0)
            expect(page.get_by_text(MARKUP)).not_to_have_count(0)
            expect(page.locator(".spilled")).to_have_count(0)
    with flower.opened(browser, f"/workflows?activity={MARKUP}&waits_for={MARKUP}&prefix=x", allowed=("400",)) as page:
        expect(page.get_by_label("Waits for")).to_have_value(MARKUP)
        expect(page.locator(".spilled")).to_have_count(0)
    with flower.opened(browser, f"/workflows/{asks.correlation_id}/output?path=say") as page:
        expect(page.locator("pre")).to_have_text(MARKUP)
    assert asks.cancel_sync()


def test_pages_load_nothing_from_elsewhere_and_run_nothing_that_stands_in_them(flower: FlowerPages) -> None:
    """A text that were not escaped would still do nothing."""
    answer = flower.get("/workflows")

    policy = dict(part.split(" ", 1) for part in answer.headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert answer.headers["Cache-Control"] == "no-store"
    assert "Access-Control-Allow-Origin" not in answer.headers


def test_nothing_is_lost_when_flower_restarts(made: Deployment, browser: Browser) -> None:
    """Flower forgets the tasks that it has seen; the workflows are in the store."""
    with flower_pages(made, name="restarts") as first:
        handle = first.dispatch(say("kept"), ask())
        is_in(handle, "suspended")
        with first.opened(browser, f"/workflows/{handle.correlation_id}", allowed=("ERR_",)) as page:
            expect(page.get_by_text("kept")).to_be_visible()
            first.process.terminate()
            expect(page.locator("#wf-late")).to_be_visible(timeout=IN_STATE)

            with flower_pages(made, name="again", port=first.port) as second:
                assert second.address == first.address
                assert not second.get(f"/task/{handle.correlation_id}.0").ok
                expect(page.locator("#wf-late")).to_have_count(0, timeout=IN_STATE)
                page.get_by_label("Answer", exact=True).fill("Cats!")
                page.get_by_role("button", name="Answer").click()
                shows(page, "completed")
                page.reload()
                expect(page.get_by_text("kept")).to_be_visible()
                expect(page.locator("#wf-happened")).to_contain_text("workflow_completed")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_texts_can_be_read(
    flower: FlowerPages, browser: Browser, gate: Path, scheme: Literal["light", "dark"]
) -> None:
    """In the night shift as by day: every state, text and error stands out from what is behind it."""
    block = for_each(FunctionSpec("count_words", {"path": str(gate)}), over=["one", "unreadable"], step_id="readings")
    parked = flower.dispatch(say("first", step_id="begin"), block, say("last"), correlation_id=f"{scheme}-parked")
    asks = flower.dispatch(ActivitySpec("chief", PROMPT), correlation_id=f"{scheme}-asks")
    is_in(parked, "parked")
    is_in(asks, "suspended")

    for name, path in {
        "list": f"?prefix={scheme}-", "parked": f"/{parked.correlation_id}", "approval": f"/{asks.correlation_id}",
    }.items():  # fmt: skip
        with flower.opened(browser, f"/workflows{path}", color_scheme=scheme) as page:
            if name != "list":
                expect(page.locator("#wf-happened tr")).not_to_have_count(0)
            picture(page, f"{scheme}-{name}")
            page.evaluate(BADGES, ["planned", "held", *STATES])
            assert faint_texts(page, ".wf-page") == []
    assert asks.cancel_sync()


@pytest.mark.skipif(not (FLOWERS / "static/js/theme.js").exists(), reason="this Flower has no switch")
def test_flowers_own_switch_of_colours_counts(flower: FlowerPages, browser: Browser) -> None:
    """Whoever has chosen dark for Flower does not get a white page of ours."""
    with flower.opened(browser, color_scheme="light") as page:
        card = page.get_by_role("region", name="Workflows")
        colours = list[str]()
        for choice in ("Light", "Dark", "Light"):
            page.get_by_role("button", name="Select theme").click()
            page.get_by_role("button", name=choice, exact=True).click()
            expect(page.locator("html")).to_have_attribute("data-bs-theme", choice.lower())
            page.reload()
            colours.append(card.evaluate("card => getComputedStyle(card).backgroundColor"))
            assert faint_texts(page, ".wf-page") == []

    light, dark, again = colours
    assert light == again != dark


def test_whoever_has_not_signed_in_sees_nothing(flower: FlowerPages) -> None:
    """Flower's own sign-in counts here, too."""
    handle = flower.dispatch(say(OUTPUT))
    handle.result_sync(WITHIN)
    addresses = ["", *(f"/{handle.correlation_id}{more}" for more in ("", "/events", "/output?path=say"))]

    for address in addresses:
        for auth in (None, ("ann", "wrong")):
            assert flower.get(f"/workflows{address}", auth=auth).status_code == 401
    assert requests.post(f"{flower.address}/workflows/{handle.correlation_id}/cancel", timeout=10).status_code in (
        401,
        403,
    )


def test_an_open_flower_shows_names_states_times_and_sizes_only(
    open_flower: FlowerPages, browser: Browser, gate: Path
) -> None:
    """Everybody on the network can open it."""
    steps = [say(OUTPUT), ActivitySpec("reporter", PROMPT), ask()]
    asks = open_flower.dispatch(*steps, correlation_id="open-asks", stream=True)
    parked = open_flower.dispatch(check(gate), correlation_id="open-parked")
    is_in(asks, "suspended")
    is_in(parked, "parked")
    (pending,) = asks.pending_sync()

    with open_flower.opened(browser, "/workflows?prefix=open-") as page:
        expect(page.locator("tbody .wf-id")).to_have_text(["open-asks", "open-parked"])
        texts = [page.content()]
        for handle in (asks, parked):
            page.goto(f"/workflows/{handle.correlation_id}")
            expect(page.locator("#wf-happened tr")).not_to_have_count(0)
            expect(page.get_by_role("button", name=re.compile("Retry|Cancel|Answer"))).to_have_count(0)
            expect(page.get_by_text("asks nobody to sign in")).to_be_visible()
            texts.append(page.content())
        picture(page, "open")
    with requests.get(f"{open_flower.address}/workflows/open-asks/events", stream=True, timeout=10) as stream:
        for line in stream.iter_lines(decode_unicode=True):
            texts.append(line)
            if '"suspended"' in line:
                break
    output = open_flower.get("/workflows/open-asks/output?path=say")

    assert output.status_code == 403
    shown = "\n".join([*texts, output.text])
    assert "ValueError" in shown
    assert "reporter" in shown
    for secret in (PROMPT, OUTPUT, ERROR, QUESTION, "Cats purr", "cats are animals", pending.token):
        assert secret not in shown
    assert asks.cancel_sync()


def test_the_list_shows_no_content_to_those_who_have_signed_in_either(
    flower: FlowerPages, browser: Browser, gate: Path
) -> None:
    """Content is for who opens one workflow; a list stands on a screen in the office, with the texts of all of them."""
    steps = [say(OUTPUT), ActivitySpec("reporter", PROMPT), ask()]
    asks = flower.dispatch(*steps, correlation_id="listed-asks", stream=True)
    parked = flower.dispatch(check(gate), correlation_id="listed-parked")
    is_in(asks, "suspended")
    is_in(parked, "parked")
    (pending,) = asks.pending_sync()

    with flower.opened(browser, "/workflows?prefix=listed-") as page:
        expect(page.locator("tbody .wf-id")).to_have_text(["listed-asks", "listed-parked"])
        texts = [page.content()]
        page.get_by_role("link", name=re.compile("^Parked")).click()
        expect(page.locator("tbody .wf-id")).to_have_text(["listed-parked"])
        texts.append(page.content())

    shown = "\n".join([*texts, flower.get("/workflows").text])
    assert "ValueError" in shown
    assert "waits for headline" in shown
    for secret in (PROMPT, OUTPUT, ERROR, QUESTION, "Cats purr", "cats are animals", pending.token):
        assert secret not in shown
    assert asks.cancel_sync()


def test_an_open_flower_changes_nothing(open_flower: FlowerPages, gate: Path) -> None:
    """Nobody knows who pressed the button."""
    parked = open_flower.dispatch(check(gate))
    is_in(parked, "parked")
    gate.touch()

    for action in ("cancel", "retry", "approve", "deny", "answer"):
        assert post(open_flower, parked, action).status_code == 403
    assert parked.status_sync().state == "parked"


@pytest.mark.skipif("read_only" not in default_options, reason="Flower 2.0 cannot be read-only")
def test_a_read_only_flower_changes_nothing(late_flower: FlowerPages, browser: Browser, gate: Path) -> None:
    """Those who may look are not always those who may act."""
    parked = late_flower.dispatch(check(gate))
    is_in(parked, "parked")
    gate.touch()

    with late_flower.opened(browser, f"/workflows/{parked.correlation_id}") as page:
        expect(page.get_by_text("Flower is read-only.")).to_be_visible()
        expect(page.get_by_text(ERROR)).not_to_have_count(0)
        expect(page.get_by_role("button", name=re.compile("Retry|Cancel|Answer"))).to_have_count(0)
    for action in ("cancel", "retry", "approve", "deny", "answer"):
        assert post(late_flower, parked, action).status_code == 403
    assert parked.status_sync().state == "parked"


def post(flower: FlowerPages, handle: WorkflowHandle, action: str, **changed: object) -> requests.Response:
    """Send a form as a page of ours would, but for what is changed."""
    with requests.Session() as session:
        session.auth = ("ann", "secret") if flower.signs_in else None
        address = f"{flower.address}/workflows/{handle.correlation_id}"
        session.get(address, timeout=10)
        form = {"_xsrf": session.cookies.get("_xsrf", "")}
        options = {"data": form, "headers": {"Origin": flower.address, "Sec-Fetch-Site": "same-origin"}, **changed}
        return session.post(f"{address}/{action}", timeout=10, allow_redirects=False, **options)


FORGED: dict[str, dict[str, object]] = {
    "no token": {"data": {}},
    "another token": {"data": {"_xsrf": "2|12345678|4f2e8a5b0c1d2e3f4a5b6c7d8e9f0a1b|1700000000"}},
    "another site": {"headers": {"Sec-Fetch-Site": "cross-site"}},
    "a site beside it": {"headers": {"Sec-Fetch-Site": "same-site"}},
    "another origin": {"headers": {"Origin": "http://elsewhere.example"}},
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
def test_a_forged_request_changes_nothing(flower: FlowerPages, gate: Path, forged: dict[str, object]) -> None:
    """The browser of somebody who is signed in sends its password along, whoever wrote the page that asks for it."""
    parked = flower.dispatch(check(gate))
    is_in(parked, "parked")

    assert post(flower, parked, "cancel", **forged).status_code == 403
    assert parked.status_sync().state == "parked"
    assert post(flower, parked, "cancel").status_code == 303
    assert parked.status_sync().state == "cancelled"


@pytest.mark.proof
def test_a_person_of_a_provider_is_known_by_the_cookie(made: Deployment) -> None:
    """With `auth` Flower knows people by a cookie of its own, which browsers send along whoever asks."""
    provider = "--auth_provider=flower.views.auth.GoogleAuth2LoginHandler"
    options = (provider, "--auth=ann@example.com", "--cookie_secret=of the test")
    cookie = create_signed_value("of the test", "user", "ann@example.com").decode()
    with flower_pages(made, *options, signs_in=False, name="provider") as flower, requests.Session() as session:
        handle = flower.dispatch(ask())
        is_in(handle, "suspended")
        page = f"{flower.address}/workflows/{handle.correlation_id}"
        stranger = requests.get(page, timeout=10, allow_redirects=False)
        session.cookies.set("user", cookie)
        shown = session.get(page, timeout=10, allow_redirects=False).text
        names = re.findall(r'data-wf-wait="(\w+)"', shown)
        form = {"wait": names[0], "text": "Cats!", "as": "text"}
        forged = session.post(f"{page}/answer", data=form, timeout=10, allow_redirects=False)
        form["_xsrf"] = session.cookies.get("_xsrf", "")
        taken = session.post(f"{page}/answer", data=form, timeout=10, allow_redirects=False)

    assert (stranger.status_code, forged.status_code, taken.status_code) == (302, 403, 303)
    assert QUESTION in shown
    assert handle.result_sync(WITHIN).output == "Cats!"
    (answered,) = [event for event in handle.events_so_far() if event.type == "answered"]
    assert answered.fields["by"] == "ann@example.com"


def test_events_go_on_where_the_browser_has_read_them(flower: FlowerPages) -> None:
    """A connection breaks in a tunnel; nothing is missing after it, and nothing is there twice."""
    handle = flower.dispatch(say("one"), say("two"))
    handle.result_sync(WITHIN)
    address = f"/workflows/{handle.correlation_id}/events"

    whole = flower.get(address).text
    ids = re.findall(r"^id: (.+)$", whole, re.MULTILINE)
    rest = flower.get(address, headers={"Last-Event-ID": ids[2]}).text

    assert len(ids) == len(set(ids)) == len(handle.events_so_far())
    assert re.findall(r"^id: (.+)$", rest, re.MULTILINE) == ids[3:]
    assert rest.endswith('event: over\ndata: "completed"\n\n')


@pytest.mark.proof
def test_an_unknown_workflow_is_not_found(flower: FlowerPages, browser: Browser) -> None:
    """An id is pasted from a log of last month."""
    with flower.opened(browser, "/workflows/nobody", allowed=("404",)) as page:
        expect(page.get_by_role("heading", name="Not Found")).to_be_visible()
        expect(page.get_by_role("alert")).to_contain_text("nobody")


@pytest.mark.proof
def test_it_works_below_a_prefix_of_addresses(made: Deployment, browser: Browser, gate: Path) -> None:
    """Many run Flower behind a proxy, at an address such as /flower."""
    with flower_pages(made, "--url_prefix=monitor", name="prefixed", root="/monitor") as flower:
        handle = flower.dispatch(check(gate))
        is_in(handle, "parked")
        gate.touch()

        with flower.opened(browser, f"/monitor/workflows/{handle.correlation_id}") as page:
            expect(page.locator("#wf-happened tr")).not_to_have_count(0)
            row(page, "check").get_by_role("button", name="Retry").click()
            shows(page, "completed")
            page.get_by_role("navigation").get_by_role("link", name="Workflows").click()
            expect(page.get_by_role("link", name=handle.correlation_id)).to_be_visible()


def test_a_store_that_does_not_answer_does_not_stop_flower(
    own_redis: Callable[..., RedisServer], redis_url: str, tmp_path: Path
) -> None:
    """Flower has one event loop; a call that waits there would stop every page for everybody."""
    store = own_redis()
    slow = f"{store.url}?socket_timeout={STORE_TIMEOUT}"
    with deployment(redis_url, tmp_path, store=slow) as made, flower_pages(made) as flower:
        assert flower.get("/workflows").ok
        assert store.pid is not None
        os.kill(store.pid, signal.SIGSTOP)
        try:
            with contextlib.closing(flower.asked("/workflows")) as waiting:
                for _ in range(10):  # the page has been begun before the second, whatever is read first
                    assert flower.get("/healthcheck", timeout=STORE_TIMEOUT / 2).ok
                os.kill(store.pid, signal.SIGCONT)
                answered = waiting.getresponse().status
        finally:
            os.kill(store.pid, signal.SIGCONT)
        store.stop()
        gone = flower.get("/workflows", timeout=60)
        healthy = flower.get("/healthcheck")
        store.start()
        again = flower.get("/workflows")

    assert [answered, gone.status_code, healthy.status_code, again.status_code] == [200, 503, 200, 200]
