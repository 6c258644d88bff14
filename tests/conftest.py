"""Fixtures of all tests."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING, NoReturn, TypeVar

import pytest

from tests.support.browser import Browser, NoBrowser, chromium
from tests.support.hurrying import hurry
from tests.support.sentinels import SentinelGroup, sentinel_group
from tests.support.servers import (
    Certificates,
    NoServer,
    RabbitServer,
    RedisDatabase,
    RedisServer,
    certificates,
    rabbit_server,
    redis_server,
    tls_server,
)
from tests.support.starting import heed_interrupts

if TYPE_CHECKING:
    from playwright.sync_api import Page

S = TypeVar("S")


pytest_plugins = ["tests.support.running"]

heed_interrupts()


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """Return the server of `REDIS_URL`, otherwise one of our own."""
    if given := os.environ.get("REDIS_URL"):
        yield given
        return
    with ExitStack() as stack:
        yield _enter(stack, redis_server()).url


@pytest.fixture
def redis_db(redis_url: str) -> Iterator[RedisDatabase]:
    """Return an unused prefix; the server may hold other people's keys."""
    database = RedisDatabase(redis_url, f"test-{uuid.uuid4().hex[:12]}")
    yield database
    with database.client() as client:
        for key in client.scan_iter(f"{database.prefix}*", count=1000):
            client.delete(key)


@pytest.fixture
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> str:
    """Wait a tenth in this process, and return the module that each worker of the deployment must load as well."""
    hurry(monkeypatch)
    return "hurried"


@pytest.fixture
def own_redis() -> Iterator[Callable[..., RedisServer]]:
    """Start servers that the test may configure, fill and stop; takes command-line options."""
    with ExitStack() as stack:
        yield lambda *options: _enter(stack, redis_server(*options))


@pytest.fixture(scope="session")
def own_authority(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Make a certificate authority that no system knows."""
    try:
        return certificates(tmp_path_factory.mktemp("certificates"))
    except NoServer as error:
        _without(error)


@pytest.fixture
def tls_redis(own_authority: Certificates) -> Iterator[Callable[..., RedisServer]]:
    """Start servers that speak TLS, with certificates for the names of this machine or other ones."""
    with ExitStack() as stack:
        yield lambda *options, **named: _enter(stack, tls_server(own_authority, *options, **named))


@pytest.fixture(scope="module")
def own_sentinels() -> Iterator[Callable[..., SentinelGroup]]:
    """Start groups of two servers and three sentinels, whose primaries the tests may end."""
    with ExitStack() as stack:
        yield lambda *options, **more: _enter(stack, sentinel_group(*options, **more))


@pytest.fixture(scope="session")
def own_rabbit() -> Iterator[RabbitServer]:
    """Start a RabbitMQ broker that a test may stop for a while."""
    with ExitStack() as stack:
        yield _enter(stack, rabbit_server())


@pytest.fixture(scope="session")
def amqp_url(request: pytest.FixtureRequest) -> str:
    """Give the RabbitMQ broker of `AMQP_URL`, else our own."""
    return os.environ.get("AMQP_URL") or request.getfixturevalue("own_rabbit").url


@pytest.fixture(scope="module")
def impatient_rabbit() -> Iterator[RabbitServer]:
    """Start a RabbitMQ broker that takes back what a consumer has not acknowledged within two seconds."""
    with ExitStack() as stack:
        # It checks the time when a channel ticks, by default once a minute.
        yield _enter(stack, rabbit_server(consumer_timeout=2000, channel_tick_interval=1000))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start a headless Chromium. While it runs, this thread has an event loop, so tests of the file start none."""
    with ExitStack() as stack:
        yield _enter(stack, chromium())


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """Open a page without cookies. The test fails if a script of it failed, or anything came from another machine."""
    with browser.page() as opened:
        yield opened


def _enter(stack: ExitStack, server: AbstractContextManager[S]) -> S:
    try:
        return stack.enter_context(server)
    except (NoServer, NoBrowser) as error:
        _without(error)


def _without(error: Exception) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(str(error))
    pytest.skip(str(error))
