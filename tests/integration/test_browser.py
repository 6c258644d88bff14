"""The browser that tests click through pages with."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from playwright.sync_api import Page

from tests.support.browser import Browser, NoBrowser, chromium

SOUND = b"<!doctype html><button onclick=\"document.title = 'pressed'\">Press</button>"
BROKEN = b"<!doctype html><title>broken</title><script>throw new Error('spilled')</script>"


class _Pages(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(BROKEN if self.path == "/broken" else SOUND)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def address() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Pages)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with contextlib.closing(server.socket):
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_test_sees_what_a_click_did(page: Page, address: str) -> None:
    """Otherwise tests would read the page that a server sends, and not what people get."""
    page.goto(address)

    page.get_by_role("button", name="Press").click()

    assert page.title() == "pressed"


def test_a_script_that_fails_fails_the_test(browser: Browser, address: str) -> None:
    """A page may look right while what is behind a button is broken."""

    def look() -> None:
        with browser.page() as page:
            page.goto(f"{address}/broken")
            assert page.title() == "broken"

    with pytest.raises(AssertionError, match="spilled"):
        look()


def test_a_missing_browser_is_named_with_the_remedy() -> None:
    """Whoever runs the tests without it must see why some were left out."""
    with pytest.raises(NoBrowser, match="apt-get install chromium"), chromium({"PATH": "/nowhere"}):
        pass
