"""The example `fastapi_service`, as its clients use it: workers die, connections break, people decide."""

from __future__ import annotations

import json
import os
import re
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests
from playwright.sync_api import Page, expect

from tests.support.browser import Browser, picture, put
from tests.support.processes import START_WITHIN, Process, eventually, script_environment
from tests.support.servers import RedisServer, free_port
from tests.support.ui_protocols import ag_ui_screen

ROOT = Path(__file__).parents[2]
WITHIN = 90.0  # seconds; another worker has to start, on a machine that other tests use
NOTES = "Bees make honey in the hive. A hive <b>holds</b> much honey & more. Bears like it."
SCRIPT = "<img src=x onerror=alert(1)> Bees sting. "
BEGINNING = "Honey, Hive, Bears: what we know"

pytestmark = pytest.mark.together


class Sent(NamedTuple):
    """A server-sent event."""

    id: str
    data: dict[str, Any]


class Service:
    """The running example."""

    def __init__(self, address: str, process: Process) -> None:
        self.address, self.process = address, process

    def get(self, path: str, **headers: str) -> requests.Response:
        return requests.get(f"{self.address}/{path}", headers=headers, timeout=WITHIN)

    def post(self, path: str, body: object, **headers: str) -> requests.Response:
        return requests.post(f"{self.address}/{path}", json=body, headers=headers, timeout=WITHIN)

    def start(self, text: str = NOTES) -> str:
        answer = self.post("workflows", {"text": text})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def state(self, workflow: str) -> str:
        return str(self.get(f"workflows/{workflow}").json()["state"])

    def question(self, workflow: str) -> dict[str, Any]:
        """Wait until a person is asked, and return what."""
        (asked,) = eventually(lambda: self.get(f"workflows/{workflow}/questions").json(), within=WITHIN)
        return dict(asked)

    def approve(self, workflow: str, **given: Any) -> requests.Response:
        call = self.question(workflow)["call"]
        return self.post(f"workflows/{workflow}/answers", {"call": call, "approve": True, "by": "Ann", **given})

    @contextmanager
    def opened(self, path: str, last: str | None = None) -> Iterator[Iterator[Sent]]:
        """Read a stream; whoever leaves the block breaks the connection."""
        headers = {"Last-Event-ID": last} if last else {}
        with requests.get(f"{self.address}/{path}", headers=headers, stream=True, timeout=WITHIN) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream"), answer.text
            yield _events(answer)

    def whole(self, path: str) -> list[Sent]:
        """Read a stream to its end."""
        with self.opened(path) as events:
            return list(events)


def _events(answer: requests.Response) -> Iterator[Sent]:
    """Read server-sent events until the one that says that no more will come."""
    fields: dict[str, str] = {}
    for line in answer.iter_lines(chunk_size=1):
        name, _, value = line.decode().partition(": ")
        if line and name:  # a line without a name is a comment
            fields[name] = value
        elif fields.get("event") == "end":
            return
        elif "data" in fields:
            yield Sent(fields["id"], json.loads(fields["data"]))
            fields = {}
    raise AssertionError("the stream ended without saying so")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The example as it is started by hand, with the button that kills its worker."""
    command = [sys.executable, str(ROOT / "examples" / "fastapi_service"), "--kill", "--port", "0"]
    process = Process(
        command, folder=tmp_path_factory.mktemp("service"), name="service", cold=True,
        environment={**script_environment(), "NEWSROOM_PACE": "0.02"},
    )  # fmt: skip
    try:
        eventually(lambda: "page " in process.log() or not process.running, within=WITHIN, what="there is no page")
        if "there is no Redis" in process.log() and not os.environ.get("CI"):
            pytest.skip(process.log())
        found = re.search(r"http://127\.0\.0\.1:\d+", process.log())
        assert found, process.log()
        yield Service(found[0], process)
        process.terminate(within=START_WITHIN)
    finally:
        process.kill()


def told(events: list[Sent]) -> list[Sent]:
    """Return events without the time at which they were made for a reader."""
    return [Sent(id_, {**data, "timestamp": 0}) for id_, data in events]


@pytest.mark.parametrize("stream", ["events", "ag-ui"])
def test_a_stream_that_breaks_goes_on_without_loss_or_repeat(service: Service, stream: str) -> None:
    """A phone changes its network in the middle of a sentence."""
    workflow = service.start()
    path, seen, ended = f"workflows/{workflow}/{stream}", list[Sent](), False
    approved, connections = False, 0

    while not ended:
        most, connections = 5 + len(seen) % 7, connections + 1
        assert connections < 200, "it never gets any further"
        with service.opened(path, seen[-1].id if seen else None) as events:
            for number, event in enumerate(events, 1):
                seen.append(event)
                if not approved and event.data.get("toolCallName", event.data["type"]) in ("publish", "suspended"):
                    assert service.approve(workflow).status_code == 204
                    approved = True
                if number == most:
                    break
            else:
                ended = True

    whole = service.whole(path)
    assert connections > 5
    assert told(seen) == told(whole)
    assert len({event.id for event in whole}) == len(whole)
    if stream == "ag-ui":
        screen = ag_ui_screen([event.data for event in whole])
        assert [text for text in screen.texts if text.startswith(BEGINNING)] == [service_text(service, workflow)]
    else:
        assert [event.data["path"] for event in whole if event.data["type"] == "completed"] == [
            "reporter", "writer", "publisher",
        ]  # fmt: skip
    assert service.state(workflow) == "completed"


def service_text(service: Service, workflow: str) -> str:
    """Return what the writer wrote."""
    return str(service.get(f"workflows/{workflow}/result").json()["outputs"]["writer"])


def test_a_stream_goes_on_after_the_worker_is_killed_in_the_middle_of_a_sentence(service: Service) -> None:
    """Whoever watches sees where it was broken off and what comes instead, and the article is published once."""
    workflow = service.start("A worker dies. " + "Nobody minds. " * 200)  # there is time to kill it

    screen, said, killed = list[Sent](), "", False
    with service.opened(f"workflows/{workflow}/ag-ui") as events:
        for event in events:
            screen.append(event)
            said += event.data.get("delta", "")
            if "what we know\n" in said and not killed:
                assert service.post("worker/kill", {}).status_code == 204
                killed = True
            if event.data.get("toolCallName") == "publish":
                assert service.approve(workflow, arguments={"headline": "Dead", "body": workflow}).status_code == 204

    happened = [event.data for event in service.whole(f"workflows/{workflow}/events")]
    claimed = [(one["path"], one["fields"]["attempt"]) for one in happened if one["type"] == "claimed"]
    assert claimed == [("reporter", "1"), ("writer", "1"), ("writer", "2"), ("publisher", "1"), ("publisher", "1")]
    steps = [(one.data["type"], one.data["stepName"]) for one in screen if one.data["type"].startswith("STEP_")]
    assert steps == [
        (f"STEP_{what}", step)
        for step in ("reporter", "writer", "writer", "publisher")
        for what in ("STARTED", "FINISHED")
    ]
    texts = ag_ui_screen([event.data for event in screen]).texts
    headline, _, _ = service_text(service, workflow).partition("\n")
    broken, article = (text for text in texts if text.startswith(headline))
    assert article == service_text(service, workflow)
    assert article.startswith(broken)
    assert len(broken) < len(article)
    assert [one["headline"] for one in service.get("articles").json() if one["body"] == workflow] == ["Dead"]


def test_a_cancelled_workflow_ends_on_each_stream(service: Service) -> None:
    """Nobody waits for a page that spins for ever."""
    workflow = service.start()
    with service.opened(f"workflows/{workflow}/ag-ui") as events:
        screen = [next(events), next(events)]
        assert service.post(f"workflows/{workflow}/cancel", {}).status_code == 204
        screen += events

    assert service.state(workflow) == "cancelled"
    assert service.whole(f"workflows/{workflow}/events")[-1].data["type"] == "workflow_cancelled"
    assert ag_ui_screen([event.data for event in screen]).error is None
    assert screen[-1].data["type"] == "RUN_FINISHED"
    result = service.get(f"workflows/{workflow}/result")
    assert (result.status_code, result.json()["detail"]) == (409, f"workflow {workflow} was cancelled")


def test_what_is_denied_is_not_published_and_only_the_first_answer_counts(service: Service) -> None:
    """Two people have the page open."""
    workflow = service.start()
    question = service.question(workflow)
    said_no = {"call": question["call"], "approve": False, "by": "Bob", "reason": "too many bees"}

    first = service.post(f"workflows/{workflow}/answers", said_no)
    second = service.post(f"workflows/{workflow}/answers", {**said_no, "approve": True, "by": "Ann"})

    assert "token" not in question
    assert (first.status_code, second.status_code) == (204, 404)
    eventually(lambda: service.state(workflow) == "completed", within=WITHIN)
    output = service.get(f"workflows/{workflow}/result").json()["output"]
    assert output == "Not published: too many bees"
    assert "<b>holds</b>" in question["arguments"]["body"]
    assert question["arguments"]["body"] not in [one["body"] for one in service.get("articles").json()]


def test_what_nobody_can_answer_gets_an_error_before_a_stream_begins(service: Service) -> None:
    """A browser that gets a stream believes that all is well, and one that gets an error does not come again."""
    workflow, key = service.start(), uuid.uuid4().hex
    paths = ["", "/result", "/events", "/ag-ui", "/questions"]

    unknown = [service.get(f"workflows/nobody{path}").status_code for path in paths]
    refused = service.get(f"workflows/{workflow}/events", **{"Last-Event-ID": "yesterday"})
    empty = service.post("workflows", {"text": "  "})
    same = [service.post("workflows", {"text": NOTES}, **{"Idempotency-Key": key}) for _ in range(2)]
    other = service.post("workflows", {"text": "Bears."}, **{"Idempotency-Key": key})
    misspelt = service.post("workflows", {"text": NOTES}, **{"Idempotency-Key": "../x"})
    foreign = service.get("", Host="newsroom.example")

    assert unknown == [404] * len(paths)
    assert (refused.status_code, "cursor" in refused.json()["detail"]) == (422, True)
    assert [empty.status_code, other.status_code, misspelt.status_code, foreign.status_code] == [422, 409, 422, 400]
    assert [(answer.status_code, answer.json()) for answer in same] == [(202, {"id": key})] * 2
    assert service.get("").headers["content-security-policy"].startswith("default-src 'self'")
    for started in (workflow, key):
        assert service.post(f"workflows/{started}/cancel", {}).status_code == 204


def test_a_store_that_is_away_is_said_whatever_is_asked_for(
    own_redis: Callable[..., RedisServer], tmp_path: Path
) -> None:
    """A client that gets 503 asks again; one that gets 500 believes that its request is wrong."""
    store, port, key = own_redis(), free_port(), {"Idempotency-Key": uuid.uuid4().hex}
    process = Process(
        [sys.executable, "-m", "uvicorn", "examples.fastapi_service.service:web", "--port", str(port)],
        folder=tmp_path, name="web", cold=True, environment={**script_environment(), "PAIGEANT_REDIS_URL": store.url},
    )  # fmt: skip
    try:
        web = Service(f"http://127.0.0.1:{port}", process)
        eventually(lambda: "running on" in process.log(), within=WITHIN, what="there is no service")
        workflow = web.start()
        store.stop()
        away = [web.post("workflows", {"text": NOTES}, **key)]
        away += [web.get(f"workflows/{workflow}{path}") for path in ("", "/result", "/events", "/ag-ui", "/questions")]
        answer = {"call": "1", "approve": True}
        bodies = {"answers": answer, "cancel": {}, "redrive": {}}
        away += [web.post(f"workflows/{workflow}/{path}", body) for path, body in bodies.items()]
        store.start()
        again = web.post("workflows", {"text": NOTES}, **key)

        assert [answer.status_code for answer in away] == [503] * 9
        assert "Dispatch again" in away[0].json()["detail"]
        assert (again.status_code, again.json()["id"]) == (202, key["Idempotency-Key"])
        process.terminate(within=START_WITHIN)
    finally:
        process.kill()


@pytest.mark.parametrize(
    "foreign",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://else.example"},
        {"Origin": "null"},
    ],
    ids=str,
)
def test_a_form_of_another_site_changes_nothing(service: Service, foreign: dict[str, str]) -> None:
    """A page that somebody opens in another tab may send forms to any address that it guesses."""
    workflow = service.start()
    paths = [f"workflows/{workflow}/{what}" for what in ("answers", "cancel", "redrive")]

    refused = [service.post(path, {}, **foreign).status_code for path in ("workflows", *paths, "worker/kill")]
    shown = service.get(f"workflows/{workflow}", **foreign)
    own = service.post(f"workflows/{workflow}/cancel", {}, Origin=service.address, **{"Sec-Fetch-Site": "same-origin"})

    assert refused == [403] * 5
    assert shown.json()["state"] != "cancelled"
    assert own.status_code == 204


def opened(page: Page, service: Service, text: str) -> None:
    """Start a workflow as a person does."""
    page.set_default_timeout(WITHIN * 1000)
    expect.set_options(timeout=WITHIN * 1000)
    page.goto(service.address)
    page.get_by_label("Your notes").fill(text)
    page.get_by_role("button", name="Write an article").click()


def step(page: Page, name: str) -> Any:
    """Return the card of a step."""
    return page.locator("#steps li", has_text=name)


def lines(page: Page) -> list[str]:
    """Return what the page says has happened, without the times."""
    return page.locator("#log span").all_inner_texts()


def test_a_page_goes_on_while_its_worker_is_killed_and_a_person_publishes(page: Page, service: Service) -> None:
    """Nobody has to know that anything went wrong, and what a text says is never run."""
    opened(page, service, SCRIPT + "Nobody minds. " * 200)
    screen, state = page.locator("#screen"), page.locator("#state")
    expect(screen.locator(".step", has_text="writer")).to_contain_text("what we know")
    page.get_by_role("button", name="Kill the worker").click()
    picture(page, "newsroom-killed")

    expect(step(page, "writer")).to_contain_text("running, attempt 2")
    expect(screen.locator("p.cut")).to_have_count(1)
    expect(screen.get_by_role("heading", name="writer, begun again")).to_be_visible()
    expect(state).to_have_text("suspended")
    picture(page, "newsroom-asks")

    page.reload()
    expect(step(page, "publisher")).to_contain_text("waits for a person")
    expect(screen.locator("p.cut")).to_have_count(1)
    asked = page.locator(".question")
    expect(asked.get_by_label("Text")).to_have_value(re.compile("<img src=x onerror"))
    asked.get_by_label("Headline").fill("<i>Bees</i> sting")
    asked.get_by_label("Your name").fill("Ann")
    asked.get_by_role("button", name="Publish", exact=True).click()

    expect(state).to_have_text("completed")
    article = page.locator("#articles article", has=page.get_by_role("heading", name="<i>Bees</i> sting"))
    expect(article).to_contain_text("<img src=x onerror=alert(1)>")
    expect(page.get_by_role("button", name="Cancel")).to_be_hidden()
    expect(asked).to_have_count(0)
    assert page.locator("main img").count() == 0
    seen = lines(page)
    assert "writer: a worker takes it over, attempt 2" in seen
    assert seen[-4:] == [
        "publisher: a worker takes it",
        "publisher: goes on from its record: 1 calls replayed, 3 made",
        "publisher: done",
        "the workflow is complete",
    ]
    picture(page, "newsroom-published")

    page.reload()
    expect(state).to_have_text("completed")
    expect(page.locator("#log li")).to_have_count(len(seen))
    assert lines(page) == seen


def test_a_person_cancels_and_another_page_that_shows_the_workflow_learns_of_it(page: Page, service: Service) -> None:
    """A shared link shows the same as the page of whoever began."""
    opened(page, service, "Nobody minds. " * 200)
    expect(page.locator("#screen .step", has_text="writer")).to_be_visible()
    second = page.context.new_page()
    second.goto(page.url)
    expect(step(second, "writer")).to_contain_text("running, attempt 1")

    page.get_by_role("button", name="Cancel").click()

    for each in (page, second):
        expect(each.locator("#state")).to_have_text("cancelled")
        expect(step(each, "writer")).to_contain_text("cancelled")
        expect(step(each, "publisher")).to_contain_text("planned")
        expect(each.locator("#screen .open")).to_have_count(0)
        assert lines(each)[-1] == "the workflow was cancelled"
    picture(page, "newsroom-cancelled")


def test_a_person_says_no_and_no_other_page_asks_any_more(page: Page, service: Service) -> None:
    """Two people have the page open."""
    opened(page, service, NOTES)
    asked = page.locator(".question")
    expect(asked).to_be_visible()
    second = page.context.new_page()
    second.goto(page.url)
    other = second.locator(".question")
    expect(other).to_be_visible()

    asked.get_by_label("Your name").fill("Bob")
    asked.get_by_label("Reason").fill("too many bees")
    asked.get_by_role("button", name="Do not publish").click()

    for each in (page, second):
        expect(each.locator("#state")).to_have_text("completed")
    expect(other).to_have_count(0)
    expect(page.locator("#screen")).to_contain_text("Not published: too many bees")
    assert "publisher: answered by Bob" in lines(page)
    picture(page, "newsroom-denied")


def test_tabs_that_are_not_in_front_hold_no_connection(page: Page, service: Service) -> None:
    """A browser has six connections to a server, and a page reads two streams: a fourth tab would never be shown."""
    opened(page, service, NOTES)
    expect(step(page, "publisher")).to_contain_text("waits for a person")
    for _ in range(4):
        put(page.context.pages[-1], hidden=True)
        other = page.context.new_page()
        other.goto(page.url)
        expect(step(other, "publisher")).to_contain_text("waits for a person")
    asked = other.locator(".question")
    asked.get_by_label("Your name").fill("Ann")
    asked.get_by_role("button", name="Publish", exact=True).click()
    expect(other.locator("#state")).to_have_text("completed")
    expect(page.locator("#state")).to_have_text("suspended")

    put(page, hidden=False)

    expect(page.locator("#state")).to_have_text("completed")
    assert lines(page) == lines(other)
    screens = [one.locator("#screen").inner_text() for one in (page, other)]
    assert screens[0] == screens[1]


def test_a_page_of_an_unknown_workflow_says_so(browser: Browser, service: Service) -> None:
    """Links outlive what they lead to."""
    with browser.page(allowed=("404",)) as page:
        page.goto(f"{service.address}/#nobody")

        expect(page.get_by_role("alert")).to_contain_text("nobody")
        expect(page.locator("#workflow")).to_be_hidden()
