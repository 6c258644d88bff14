"""What every page of ours does: Flower's sign-in, calls to the store beside the event loop, headers, and errors."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from base64 import b64decode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from flower.views import BaseHandler
from tornado.web import HTTPError, RequestHandler

from paigeant_celery.broker.transport import CeleryTransport, get_transport
from paigeant_celery.core.errors import ConfigurationError, InvalidInput, PaigeantError, UnknownWorkflow
from paigeant_celery.flower.templates import Templates

__all__ = ["Page", "status_of"]

T = TypeVar("T")

STATIC = Path(__file__).parent / "static"
THREADS = 8  # calls to the store at the same time; Flower's own threads may all wait for workers that do not answer
STATE = "paigeant"  # where an application keeps what is ours, in its settings

# Nothing is loaded from elsewhere, and no script or style stands in a page, so that no text in it can be one. Images
# of Bootstrap are data.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

# A browser sends no Sec-Fetch-Site over plain HTTP, so the names are compared; a proxy may have put in its own.
OTHER_ORIGIN = (
    "The origin of the form is not the host that Flower was asked for. If there is a proxy in front of Flower, let it "
    "pass the name of the host on: `proxy_set_header Host $http_host;` in nginx"
)

logger = logging.getLogger(__name__)


class _State:
    """What the pages of an application share."""

    def __init__(self) -> None:
        self.threads = ThreadPoolExecutor(THREADS, thread_name_prefix="paigeant-flower")
        self.transport: CeleryTransport | None = None
        self.followers = 0


class Page(BaseHandler):  # type: ignore[misc]
    """A page about workflows.

    Without any sign-in configured in Flower everybody who reaches it is let in. Then names, states, times and sizes are
    shown, and nothing can be changed.
    """

    def set_default_headers(self) -> None:
        """Keep pages out of caches, frames and other origins, whatever Flower allows for its own."""
        self.set_header("Content-Security-Policy", POLICY)
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("X-Frame-Options", "DENY")
        self.set_header("Referrer-Policy", "same-origin")
        self.set_header("Cache-Control", "no-store")

    def options(self, *_: object, **__: object) -> None:
        """Answer nobody who asks whether another origin may call."""
        raise HTTPError(405)

    def create_template_loader(self, template_path: str) -> Templates:
        """Find our templates also if the application was not made by Flower's command."""
        return Templates(template_path)

    def get_template_path(self) -> str:
        """Name the folder in another way than Flower's pages, which share loaders by this name."""
        return f"{self.application.settings['template_path']}/"

    @property
    def signs_in(self) -> bool:
        """Whether Flower lets only some people in, who may then see content."""
        options = self.application.options
        return bool(options.basic_auth or options.auth)

    @property
    def may_act(self) -> bool:
        """Whether whoever asks may change something; the option is new in Flower 2.1."""
        return self.signs_in and not getattr(self.application.options, "read_only", False)

    @property
    def person(self) -> str:
        """Who asks, as Flower knows them; empty if it knows nobody."""
        if isinstance(self.current_user, str):
            return self.current_user
        try:
            basic, credentials = self.request.headers.get("Authorization", "").split()
            return b64decode(credentials).decode().partition(":")[0] if basic == "Basic" else ""
        except ValueError:
            return ""

    @property
    def shared(self) -> _State:
        """What the pages of this application share."""
        settings = self.application.settings
        if STATE not in settings:
            settings[STATE] = _State()
        state: _State = settings[STATE]
        return state

    async def ask(self, question: Callable[[CeleryTransport], T]) -> T:
        """Return what a call that may block answers, from a thread."""
        state = self.shared

        def call() -> T:
            if state.transport is None:
                state.transport = get_transport(app=self.capp)
            if state.transport.faults:
                raise ConfigurationError(state.transport.faults)
            return question(state.transport)

        return await asyncio.get_running_loop().run_in_executor(state.threads, call)

    def check_xsrf_cookie(self) -> None:
        """Do nothing at Flower's own call, which some versions make never, and others not always."""

    def check_not_forged(self) -> None:
        """Raise unless the form comes from a page of ours: it has the token of the cookie, and comes from here."""
        site, origin = (self.request.headers.get(name) for name in ("Sec-Fetch-Site", "Origin"))
        if site is not None and site != "same-origin":
            raise HTTPError(403, "The request comes from another site")
        if site is None and origin is not None and urlsplit(origin).netloc != self.request.host:
            raise HTTPError(403, OTHER_ORIGIN)
        RequestHandler.check_xsrf_cookie(self)

    def asset(self, name: str) -> str:
        """Return the address of a file of ours; it changes with its content."""
        return f"{self.reverse_url('workflows_static', name)}?v={_version(name)}"

    def show(self, template: str, **values: Any) -> None:
        """Show a template with what all of them use."""
        self.render(
            template,
            asset=self.asset,
            signs_in=self.signs_in,
            may_act=self.may_act,
            read_only=bool(getattr(self.application.options, "read_only", False)),
            **values,
        )

    def write_error(self, status_code: int, **details: Any) -> None:
        """Say what went wrong, but not with which values: error texts may quote prompts."""
        if status_code == HTTPStatus.UNAUTHORIZED:
            super().write_error(status_code, **details)
            return
        error = details.get("exc_info", (None, None, None))[1]
        text = ""
        if isinstance(error, PaigeantError):
            self.set_status(status_code := status_of(error))
            text = str(error)
        elif isinstance(error, HTTPError):
            text = error.log_message or ""
        title = HTTPStatus(status_code).phrase if status_code in HTTPStatus._value2member_map_ else "Error"
        self.current_user = getattr(self, "_current_user", None)  # nobody is asked to sign in for an error
        self.show("paigeant_error.html", title=title, text=text)

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """Log errors that are told to the person as one line."""
        if isinstance(value, PaigeantError):
            logger.warning("a page of workflows failed: %s", value, extra={"action": "page_failed"})
            return
        super().log_exception(typ, value, tb)


def status_of(error: PaigeantError) -> int:
    """Return the status of an answer that tells of an error."""
    if isinstance(error, UnknownWorkflow):
        return HTTPStatus.NOT_FOUND
    if isinstance(error, InvalidInput):
        return HTTPStatus.BAD_REQUEST
    return HTTPStatus.SERVICE_UNAVAILABLE


@cache
def _version(name: str) -> str:
    return hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]
