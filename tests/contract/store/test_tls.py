"""TLS to the store, verified or not, and what is said if a handshake fails."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from celery import Celery

from paigeant_celery import ActivitySpec, WorkflowDispatcher
from paigeant_celery.broker.transport import CeleryTransport, transport_of
from paigeant_celery.core.errors import ConfigurationError, NotPublished, Unreachable
from paigeant_celery.store import open_store
from paigeant_celery.store.port import Store
from tests.contract.store.given import new
from tests.support.servers import Certificates, RedisServer

Serve = Callable[..., RedisServer]

FOR_OTHERS = "DNS:elsewhere.example"


def opened(server: RedisServer, options: str = "", *, host: str = "localhost", scheme: str = "rediss") -> Store:
    return open_store(f"{scheme}://{host}:{server.tls_port}/0{options}", prefix="p", lease=10, ttl=60)


def of_broker(url: str, **settings: object) -> CeleryTransport:
    app = Celery("shop", broker=url, set_as_current=False)
    app.conf.update({"paigeant_store_url": "broker", **settings})
    return transport_of(app)


def refused(store: Store) -> str:
    """Return why a start ends, and see that the same is waited out later."""
    with pytest.raises(ConfigurationError) as at_start:
        store.check(allow_eviction=False)
    with pytest.raises(Unreachable) as later:
        store.start(new())
    store.close()
    assert str(later.value) in str(at_start.value)
    assert "start or fix it" not in str(later.value)
    return str(later.value)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_certificate_of_a_known_authority_is_accepted(
    tls_redis: Serve, own_authority: Certificates, host: str
) -> None:
    """The name and the number of a host may both stand in it."""
    store = opened(tls_redis(), f"?ssl_ca_certs={own_authority.authority}", host=host)

    assert store.start(new()) == "started"
    assert [warning for warning in store.check(allow_eviction=False) if "TLS" in warning] == []
    store.close()


def test_a_certificate_that_is_not_accepted_is_named_with_the_setting(
    tls_redis: Serve, own_authority: Certificates
) -> None:
    """Nobody starts another Redis because of it."""
    mine, others = tls_redis(), tls_redis(names=FOR_OTHERS)
    known = f"?ssl_ca_certs={own_authority.authority}"

    of_nobody = refused(opened(mine))
    of_another = refused(opened(others, known))
    unreadable = refused(opened(mine, "?ssl_ca_certs=/nowhere/ca.pem"))

    assert of_nobody.startswith(
        f"cannot use the store at rediss://localhost:{mine.tls_port}/0 (its certificate is not "
    )
    assert "self" in of_nobody
    assert "name the authority that signed it: `ssl_ca_certs` =" in of_nobody
    assert "Hostname mismatch, certificate is not valid for 'localhost'" in of_another
    assert "`ssl_check_hostname`" in of_another
    assert "a file of TLS cannot be read: '/nowhere/ca.pem'" in unreadable


def test_what_a_url_leaves_open_can_be_said(tls_redis: Serve, own_authority: Certificates) -> None:
    """A name that no certificate has, or no verification at all, are choices, and the second is told."""
    others = tls_redis(names=FOR_OTHERS)
    any_name = opened(others, f"?ssl_ca_certs={own_authority.authority}&ssl_check_hostname=false")
    anybody = opened(others, "?ssl_cert_reqs=none")

    assert any_name.start(new("v")) == "started"
    assert anybody.start(new("w")) == "started"
    assert ["verifies its certificate" in warning for warning in any_name.check(allow_eviction=False)] == [False]
    assert ["verifies its certificate" in warning for warning in anybody.check(allow_eviction=False)] == [True, False]
    for store in (any_name, anybody):
        store.close()


def test_a_server_that_wants_a_certificate_of_ours_says_so(tls_redis: Serve, own_authority: Certificates) -> None:
    """Since TLS 1.3 it does so after the handshake, and perhaps breaks off before anybody reads why."""
    asking = ("--tls-auth-clients", "yes")
    server, older = tls_redis(*asking), tls_redis(*asking, "--tls-protocols", "TLSv1.2")
    known = f"?ssl_ca_certs={own_authority.authority}"
    certificate, key = own_authority.signed("DNS:worker")
    store, without = opened(server, f"{known}&ssl_certfile={certificate}&ssl_keyfile={key}"), opened(server, known)

    assert store.start(new()) == "started"
    with pytest.raises(Unreachable, match="a certificate of ours: set `ssl_certfile` and `ssl_keyfile`"):
        without.start(new())
    assert "wants a certificate of ours: set `ssl_certfile` and `ssl_keyfile`" in refused(opened(older, known))
    for each in (store, without):
        each.close()


def test_no_tls_at_a_port_of_tls_is_named(tls_redis: Serve) -> None:
    """The server breaks off whatever does not begin a handshake."""
    store = opened(tls_redis(), scheme="redis")

    with pytest.raises(
        Unreachable, match=r"broke the connection off.*if it speaks TLS on this port, write `rediss://`"
    ):
        store.start(new())
    store.close()


def test_tls_at_a_port_without_it_is_named(own_redis: Serve) -> None:
    """The server waits for more of what it takes for a command."""
    server = own_redis()
    store = open_store(f"rediss://127.0.0.1:{server.port}/0?socket_timeout=0.2", prefix="p", lease=10, ttl=60)

    with pytest.raises(Unreachable, match=r"nobody answers in TLS.*write `redis://`"):
        store.start(new())
    store.close()


@pytest.mark.parametrize("spelled", ["dict", "url"])
def test_the_store_does_as_the_brokers_options_say(tls_redis: Serve, own_authority: Certificates, spelled: str) -> None:
    """Broker and store never differ about one URL."""
    server, others = tls_redis(), tls_redis(names=FOR_OTHERS)
    authority = own_authority.authority
    # redis-py before 6 checks no name of a host unless it is told to.
    options = {"ssl_cert_reqs": "required", "ssl_ca_certs": authority, "ssl_check_hostname": True}
    in_url = f"?ssl_cert_reqs=required&ssl_ca_certs={authority}&ssl_check_hostname=true"

    def transport(to: RedisServer) -> CeleryTransport:
        if spelled == "url":
            return of_broker(f"rediss://localhost:{to.tls_port}/0{in_url}")
        return of_broker(f"redis://localhost:{to.tls_port}/0", broker_use_ssl=options)

    accepted, mismatched = transport(server), transport(others)
    assert accepted.store is not None
    assert mismatched.store is not None

    assert accepted.store.start(new()) == "started"
    assert accepted.publisher.waiting("nobody") == 0
    assert "Hostname mismatch" in refused(mismatched.store)
    with pytest.raises(Unreachable, match=r"cannot use the broker at .*Hostname mismatch"):
        mismatched.publisher.waiting("nobody")
    accepted.store.close()


def test_without_options_neither_broker_nor_store_verifies(tls_redis: Serve) -> None:
    """Kombu does not, so a store that did would be away while the broker works."""
    transport = of_broker(f"rediss://localhost:{tls_redis(names=FOR_OTHERS).tls_port}/0")
    assert transport.store is not None

    assert transport.store.start(new()) == "started"
    assert transport.publisher.waiting("nobody") == 0
    assert any("verifies its certificate" in warning for warning in transport.store.check(allow_eviction=False))
    transport.store.close()


def test_a_dispatch_names_the_certificate_of_a_broker(tls_redis: Serve, own_authority: Certificates) -> None:
    """The store may be elsewhere, so that only the broker is refused."""
    server = tls_redis()
    transport = of_broker(
        f"rediss://localhost:{server.tls_port}/0?ssl_cert_reqs=required", paigeant_store_url="memory://"
    )

    with pytest.raises(NotPublished, match="name the authority that signed it"):
        WorkflowDispatcher().dispatch_workflow_sync(transport, itinerary=[ActivitySpec("a", "b")])
