"""Where a store is: what its URL may be, and what crosses to another process."""

from __future__ import annotations

import json
import ssl
from pathlib import Path

import pytest

from paigeant_celery.core.errors import ConfigurationError
from paigeant_celery.store.endpoint import Endpoint, plain_options, read_url

SECRET = "hunter2"
VERIFIED = {"ssl_check_hostname": True, "ssl_cert_reqs": "required"}


@pytest.mark.parametrize(
    ("url", "endpoint", "address"),
    [
        ("redis://", Endpoint(hosts=(("localhost", 6379),)), "redis://localhost:6379/0"),
        (
            f"redis://me:{SECRET}%40@h:7000/2?socket_timeout=3",
            Endpoint(
                hosts=(("h", 7000),), database=2, username="me", password=f"{SECRET}@", options={"socket_timeout": "3"}
            ),
            "redis://h:7000/2",
        ),
        ("redis://[::1]/?db=3", Endpoint(hosts=(("::1", 6379),), database=3), "redis://[::1]:6379/3"),
        ("rediss://h", Endpoint(hosts=(("h", 6379),), tls=VERIFIED), "rediss://h:6379/0"),
        (
            "rediss://h/?ssl_ca_certs=/ca.pem&ssl_check_hostname=false",
            Endpoint(
                hosts=(("h", 6379),), tls={**VERIFIED, "ssl_ca_certs": "/ca.pem", "ssl_check_hostname": "false"}
            ),
            "rediss://h:6379/0",
        ),
        (
            "rediss://h?ssl_cert_reqs=CERT_NONE",
            Endpoint(hosts=(("h", 6379),), tls={"ssl_cert_reqs": "none"}),
            "rediss://h:6379/0",
        ),
        (f"unix://:{SECRET}@/s?db=1", Endpoint(path="/s", database=1, password=SECRET), "unix:///s?db=1"),
        ("redis+socket:///s?virtual_host=4", Endpoint(path="/s", database=4), "unix:///s?db=4"),
        (
            f"sentinel://a;sentinel://:{SECRET}@b:1/2?master_name=main&sentinel_password=x&socket_timeout=2",
            Endpoint(
                hosts=(("a", 26379), ("b", 1)), master_name="main", database=2, password=SECRET,
                options={"socket_timeout": "2"}, sentinel_options={"password": "x"},
            ),
            "sentinel://a:26379;sentinel://b:1/2?master_name=main",
        ),
        (
            "sentinel://a?master_name=main&ssl=true&sentinel_ssl_cert_reqs=none",
            Endpoint(
                hosts=(("a", 26379),), master_name="main", tls=VERIFIED,
                sentinel_options={"ssl_cert_reqs": "none", "ssl": True},
            ),
            "sentinel://a:26379/0?master_name=main",
        ),
    ],
)  # fmt: skip
def test_a_url_names_one_place(url: str, endpoint: Endpoint, address: str) -> None:
    """Whoever opens it, here or in another process, reaches the same records."""
    read = read_url(url)

    assert (read, read.address) == (endpoint, address)
    assert Endpoint.from_plain(json.loads(json.dumps(read.as_plain()))) == read
    assert SECRET not in f"{read!r} {read} {read.address}"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("h:6379", "it is not a URL; use 'redis://host:6379/0'"),
        ("valkey://h", "the scheme 'valkey' is not supported; write 'redis://…' instead, with the same server"),
        ("VALKEYS://h", "the scheme 'valkeys' is not supported; write 'rediss://…' instead"),
        ("amqp://h", "the scheme 'amqp' is not supported; use 'redis://host:6379/0'"),
        (f"redis://:{SECRET}@h;redis://:{SECRET}@g", "it is a list, but a store is one server"),
        (f"sentinel://:{SECRET}@h;sentinel://g", "it names sentinels but not what they watch; add `?master_name=…`"),
        (f"sentinel://:{SECRET}@h:port?master_name=m", "it is not understood"),
        (f"unix://{SECRET}/s", "it is not understood"),
        (f"rediss://h?ssl_cert_reqs={SECRET}", "it is not understood"),
    ],
)
def test_a_url_that_names_none_is_refused_with_what_to_write(url: str, said: str) -> None:
    """The mistake is found at the start, and no password is repeated."""
    with pytest.raises(ConfigurationError) as caught:
        read_url(url)

    (mistake,) = caught.value.mistakes
    assert mistake.startswith(said)
    assert SECRET not in mistake


@pytest.mark.parametrize(
    ("given", "word"),
    [
        (ssl.CERT_REQUIRED, "required"), (ssl.CERT_OPTIONAL, "optional"), (0, "none"), (None, "none"),
        ("required", "required"), ("CERT_NONE", "none"), ("ssl.CERT_REQUIRED", "required"),
        ("VerifyMode.CERT_OPTIONAL", "optional"),
    ],
)  # fmt: skip
def test_every_word_for_how_a_certificate_is_verified_is_known(given: object, word: str) -> None:
    """Celery, redis-py and Python have a word of their own each."""
    assert plain_options({"ssl_cert_reqs": given}) == {"ssl_cert_reqs": word}


def test_options_cross_as_plain_values() -> None:
    """Python's own constants have a form that another process reads."""
    given = {
        "ssl_ca_certs": Path("/ca.pem"),
        "ssl_ca_data": b"-----BEGIN",
        "ssl_min_version": ssl.TLSVersion.TLSv1_3,
        "ssl_include_verify_flags": [ssl.VerifyFlags.VERIFY_X509_STRICT],
        "ssl_check_hostname": False,
    }

    plain = plain_options(given)

    assert json.loads(json.dumps(plain)) == {
        "ssl_ca_certs": "/ca.pem",
        "ssl_ca_data": "-----BEGIN",
        "ssl_min_version": 772,
        "ssl_include_verify_flags": [32],
        "ssl_check_hostname": False,
    }


@pytest.mark.parametrize("value", [object(), ssl.create_default_context(), {"a": 1}])
def test_an_option_that_cannot_cross_is_named(value: object) -> None:
    """Its value, which may be a key, is not."""
    with pytest.raises(ValueError, match=r"^ssl_ocsp_context$"):
        plain_options({"ssl_ocsp_context": value})
