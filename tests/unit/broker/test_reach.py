"""One connection to the broker."""

from __future__ import annotations

from celery import Celery

from paigeant_celery.broker.reach import Link


def test_what_publishes_waits_for_no_sentinel_that_is_away() -> None:
    """redis-py would try each of them four times, and a dispatch has ten seconds."""
    given = {"master_name": "main", "sentinel_kwargs": {"password": "p", "socket_timeout": 3}}
    app = Celery("shop", broker="sentinel://h", set_as_current=False)
    app.conf.broker_transport_options = given

    options = Link(app, timeout=10).connection.transport_options

    assert options["sentinel_kwargs"] == {
        "password": "p", "socket_timeout": 3, "socket_connect_timeout": 1.0, "retry": None
    }  # fmt: skip
    assert given["sentinel_kwargs"] == {"password": "p", "socket_timeout": 3}
