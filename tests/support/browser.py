"""A headless Chromium for tests, driven by what a person sees and clicks."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from playwright.sync_api import Browser as PlaywrightBrowser
    from playwright.sync_api import ConsoleMessage, Page, Request

__all__ = ["Browser", "NoBrowser", "chromium", "picture", "put"]

COMMANDS = ("chromium", "chromium-browser", "google-chrome")
# Several browsers share the memory of a container, where `/dev/shm` may have 64 MB.
OPTIONS = ("--disable-dev-shm-usage", "--disable-gpu")
PATIENCE = 30_000  # milliseconds for what a click leads to; other tests run beside
OURS = ("127.0.0.1", "localhost")


class NoBrowser(Exception):
    """There is no Chromium to start."""


class Browser:
    """A running Chromium; each page has cookies of its own."""

    def __init__(self, running: PlaywrightBrowser) -> None:
        self._running = running

    @contextlib.contextmanager
    def page(self, *, allowed: tuple[str, ...] = (), **options: Any) -> Iterator[Page]:
        """Give a page, and check at its end that nothing went wrong in it.

        `options` are those of Playwright's `new_context`, such as `http_credentials` and `color_scheme`. Messages in
        the console that contain one of the texts in `allowed` are no faults: a test that is refused on purpose names
        them.
        """
        context = self._running.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        context.set_default_timeout(PATIENCE)
        faults: list[str] = []

        def said(message: ConsoleMessage) -> None:
            if message.type == "error" and not any(text in message.text for text in allowed):
                faults.append(f"console: {message.text} ({message.location.get('url', '')})")

        def asked(request: Request) -> None:
            address = urlsplit(request.url)
            if address.scheme in ("http", "https", "ws", "wss") and address.hostname not in OURS:
                faults.append(f"asked another machine: {request.url}")

        context.on("console", said)
        context.on("weberror", lambda error: faults.append(f"script: {error.error}"))
        context.on("request", asked)
        try:
            yield context.new_page()
        finally:
            context.close()
        assert not faults, "\n".join(faults)


@contextlib.contextmanager
def chromium(environment: Mapping[str, str] = os.environ) -> Iterator[Browser]:
    """Give a running browser, ended at the end; raises `NoBrowser`."""
    command = _command(environment)
    from playwright.sync_api import sync_playwright  # every process of tests loads this module, and few need it

    # Its sandbox wants rights that root in a container has not; the pages are ours.
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=command, chromium_sandbox=False, args=list(OPTIONS))
        try:
            yield Browser(running)
        finally:
            running.close()


def picture(page: Page, name: str) -> None:
    """Leave a picture of the whole page in the folder `SCREENSHOTS`, if that is set."""
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=Path(folder, f"{name}.png"), full_page=True)


def put(page: Page, *, hidden: bool) -> None:
    """Tell a page what a browser tells it when its tab goes behind another one; a headless one shows all tabs."""
    page.evaluate(
        "hidden => {"
        " Object.defineProperty(document, 'hidden', {configurable: true, get: () => hidden});"
        " document.dispatchEvent(new Event('visibilitychange')); }",
        hidden,
    )


def _command(environment: Mapping[str, str]) -> str:
    chosen = environment.get("CHROMIUM")
    for name in (chosen,) if chosen else COMMANDS:
        if (found := shutil.which(name, path=environment.get("PATH"))) is not None:
            return found
    if chosen:
        raise NoBrowser(f"there is no {chosen!r}, which `CHROMIUM` names")
    raise NoBrowser("no browser: install Chromium (`apt-get install chromium`), or name its command in `CHROMIUM`")
