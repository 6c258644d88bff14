"""How pages in Flower follow a workflow: over few connections, after breaks, and while there is something to see."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from playwright.sync_api import Page, expect

from paigeant_celery import FunctionSpec, WorkflowHandle
from paigeant_celery.flower.live import MOST_AT_ONCE
from tests.support.browser import Browser, put
from tests.support.flower_pages import FlowerPages, flower_pages
from tests.support.processes import Deployment, deployment, eventually

WITHIN = 30.0
IN_STATE = 30_000  # milliseconds
CONNECTIONS = 6  # of a browser to a server, for all tabs
LIVE = "#wf-live-state"

pytestmark = pytest.mark.together


@pytest.fixture(scope="module")
def made(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    brief = {"paigeant_max_attempts": 1}
    with deployment(redis_url, tmp_path_factory.mktemp("following"), **brief) as made:
        made.ready_worker("newsroom", pool="threads", slots=8)
        yield made


@pytest.fixture(scope="module")
def flower(made: Deployment) -> Iterator[FlowerPages]:
    with flower_pages(made) as flower:
        yield flower


@pytest.fixture
def asks(flower: FlowerPages) -> Iterator[WorkflowHandle]:
    """A workflow that waits for an answer."""
    handle = flower.dispatch(FunctionSpec("headline", {"question": "Cats?"}))
    is_in(handle, "suspended")
    yield handle
    handle.cancel_sync()


def is_in(handle: WorkflowHandle, state: str) -> None:
    eventually(lambda: handle.status_sync().state == state, within=WITHIN, what=f"not {state}")


def shows(page: Page, selector: str, text: str) -> None:
    expect(page.locator(selector)).to_have_text(text, timeout=IN_STATE)


def ids(text: str) -> list[str]:
    return re.findall(r"^id: (.+)$", text, re.MULTILINE)


def test_tabs_that_are_not_in_front_hold_no_connection(
    flower: FlowerPages, browser: Browser, asks: WorkflowHandle
) -> None:
    """A browser has six connections to a server; whoever opens a workflow in each of seven tabs must still see them."""
    path = f"/workflows/{asks.correlation_id}"
    with flower.opened(browser, path) as first:
        shows(first, LIVE, "live")
        for _ in range(CONNECTIONS):
            put(first.context.pages[-1], hidden=True)
            page = first.context.new_page()
            page.goto(f"{flower.address}{path}")
            shows(page, LIVE, "live")
        (pending,) = asks.pending_sync()
        assert asks.resolve_sync(pending.token, "Cats!").taken
        asks.result_sync(WITHIN)
        shows(first, "#wf-state", "suspended")

        put(first, hidden=False)

        shows(first, "#wf-state", "completed")
        happened = [event.type for event in asks.events_so_far()]
        expect(first.locator("#wf-happened tr td:nth-child(2)")).to_have_text(happened[::-1])


def test_a_parked_workflow_is_followed_again_when_it_goes_on(
    flower: FlowerPages, browser: Browser, tmp_path: Path
) -> None:
    """It may be parked for days; whoever has its page open then sees what a colleague lets go on."""
    gate = tmp_path / "gate"
    handle = flower.dispatch(FunctionSpec("check", {"path": str(gate), "text": "not yet"}))
    is_in(handle, "parked")

    whole = flower.get(f"/workflows/{handle.correlation_id}/events").text
    with flower.opened(browser, f"/workflows/{handle.correlation_id}") as page:
        expect(page.locator("#wf-happened")).to_contain_text("parked", timeout=IN_STATE)
        shows(page, LIVE, "")
        gate.touch()
        assert handle.redrive_sync()

        shows(page, "#wf-state", "completed")
        happened = [event.type for event in handle.events_so_far()]
        expect(page.locator("#wf-happened tr td:nth-child(2)")).to_have_text(happened[::-1], timeout=IN_STATE)

    assert whole.endswith('event: over\ndata: "parked"\n\n')


def test_a_page_that_finds_no_place_says_so_and_follows_when_one_is_free(
    flower: FlowerPages, browser: Browser, asks: WorkflowHandle
) -> None:
    """Each page that is followed costs Flower a look a second, so there is a limit; those who leave give way."""
    path = f"/workflows/{asks.correlation_id}"
    with contextlib.ExitStack() as streams:
        for _ in range(MOST_AT_ONCE):
            stream = flower.get(f"{path}/events", stream=True, timeout=WITHIN)
            streams.enter_context(contextlib.closing(stream))
            assert stream.status_code == 200
        refused = flower.get(f"{path}/events")

        with flower.opened(browser, path, allowed=("503",)) as page:
            expect(page.get_by_role("region", name="History")).to_contain_text("not connected", timeout=IN_STATE)
            streams.close()
            shows(page, LIVE, "live")
            expect(page.locator("#wf-happened")).to_contain_text("suspended")

    assert refused.status_code == 503
    assert "Too many pages" in refused.text


def test_a_stream_on_which_nothing_happens_begins_at_once(flower: FlowerPages, asks: WorkflowHandle) -> None:
    """Until headers come, a browser does not know that it is connected, and a proxy may give up."""
    last = asks.events_so_far()[-1].cursor
    resumed = {"Last-Event-ID": last}

    answer = flower.get(f"/workflows/{asks.correlation_id}/events", headers=resumed, stream=True, timeout=10)

    with contextlib.closing(answer):
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        assert next(answer.iter_lines(decode_unicode=True)) == ": "


@pytest.mark.parametrize("named", ["header", "parameter"])
def test_events_are_read_on_from_the_one_that_is_named(flower: FlowerPages, named: str) -> None:
    """A browser that tries again sends a header; a page that connects anew cannot."""
    handle = flower.dispatch(FunctionSpec("say", {"text": "x"}))
    handle.result_sync(WITHIN)

    def read(after: str) -> requests.Response:
        how = {"headers": {"Last-Event-ID": after}} if named == "header" else {"params": {"after": after}}
        return flower.get(f"/workflows/{handle.correlation_id}/events", **how)

    whole = ids(flower.get(f"/workflows/{handle.correlation_id}/events").text)
    answers = {name: read(cursor) for name, cursor in (("second", whole[1]), ("last", whole[-1]), ("bad", "yesterday"))}
    unknown = read("9999999999999-0")

    assert ids(answers["second"].text) == whole[2:]
    assert ids(answers["last"].text) == []
    assert answers["bad"].status_code == 400
    assert "cursor" in answers["bad"].text
    assert ids(unknown.text) == whole


def test_a_button_that_a_proxy_breaks_says_how_to_mend_it(flower: FlowerPages, asks: WorkflowHandle) -> None:
    """A proxy that asks Flower by another name makes each form look like one of another site."""
    page = f"{flower.address}/workflows/{asks.correlation_id}"
    with requests.Session() as session:
        session.auth = ("ann", "secret")
        session.get(page, timeout=10)
        form = {"_xsrf": session.cookies.get("_xsrf", "")}
        session.headers["Cookie"] = f"_xsrf={form['_xsrf']}"
        outside = {"Origin": "http://monitor.example"}
        refused = session.post(f"{page}/cancel", data=form, headers=outside, timeout=10, allow_redirects=False)
        named = {**outside, "Host": "monitor.example"}
        done = session.post(f"{page}/cancel", data=form, headers=named, timeout=10, allow_redirects=False)

    assert refused.status_code == 403
    assert "Host $http_host" in refused.text
    assert done.status_code == 303
