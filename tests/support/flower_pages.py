"""A real Flower with the pages of workflows, and what a person does on them."""

from __future__ import annotations

import contextlib
import dataclasses
from base64 import b64encode
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Any

import requests
from playwright.sync_api import Locator, Page

from paigeant_celery import WorkflowDispatcher, WorkflowHandle
from tests.support.browser import Browser
from tests.support.processes import START_WITHIN, Deployment, Process, eventually
from tests.support.servers import free_port

__all__ = ["ANN", "FlowerPages", "flower_pages", "row"]

ANN = {"username": "ann", "password": "secret"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlowerPages:
    """A running Flower."""

    made: Deployment
    process: Process
    port: int
    signs_in: bool

    @property
    def address(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def dispatch(self, *steps: Any, correlation_id: str | None = None, **options: Any) -> WorkflowHandle:
        """Dispatch a workflow of these steps."""
        dispatcher, transport = WorkflowDispatcher(), self.made.transport()
        found = dispatcher.dispatch_workflow_sync(transport, itinerary=steps, correlation_id=correlation_id, **options)
        return dispatcher.handle(found, transport)

    @contextlib.contextmanager
    def opened(self, browser: Browser, path: str = "", *, script: str = "", **options: Any) -> Iterator[Page]:
        """Give a page at this address, signed in if one must; `script` runs before any of the page's own."""
        credentials = {"http_credentials": ANN} if self.signs_in else {}
        with browser.page(base_url=self.address, **{**credentials, **options}) as page:
            page.add_init_script(script)
            page.goto(path or "/workflows")
            yield page

    def get(self, path: str, **options: Any) -> requests.Response:
        """Ask for a page without a browser."""
        auth = ("ann", "secret") if self.signs_in else None
        return requests.get(f"{self.address}{path}", **{"auth": auth, "timeout": 10, **options})

    def asked(self, path: str) -> HTTPConnection:
        """Ask for a page, and leave its answer to be read later."""
        connection = HTTPConnection(self.address.removeprefix("http://"), timeout=60)
        secret = b64encode(b"ann:secret").decode()
        connection.request("GET", path, headers={"Authorization": f"Basic {secret}"} if self.signs_in else {})
        return connection


def row(page: Page, path: str) -> Locator:
    """Return the row of a step or a branch."""
    return page.locator(f"tr[data-wf-path='{path}']")


@contextlib.contextmanager
def flower_pages(
    made: Deployment,
    *options: str,
    signs_in: bool = True,
    name: str = "flower",
    root: str = "",
    port: int | None = None,
) -> Iterator[FlowerPages]:
    """Give a running Flower with our pages, with `options` of its command line; without a `port` on a free one."""
    folder = made.configured(name)
    (folder / "flowerconfig.py").write_text("import paigeant_celery.flower\n")
    port = port or free_port()
    access = ["--basic_auth=ann:secret"] if signs_in else []
    process = made.run(
        "-A", "paigeant_celery", "flower", "--address=127.0.0.1", f"--port={port}", *access, *options,
        folder=folder, name=name, cold=True,
    )  # fmt: skip
    shown = FlowerPages(made=made, process=process, port=port, signs_in=signs_in)

    def answers() -> bool:
        with contextlib.suppress(requests.RequestException):
            return shown.get(f"{root}/healthcheck", timeout=5).ok
        return not process.running

    try:
        eventually(answers, within=START_WITHIN)
        assert process.running, process.log()
        yield shown
    finally:
        process.kill()
