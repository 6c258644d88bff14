"""What `check` finds beside what tests with real servers and workers show."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery

from paigeant_celery import activity, install
from paigeant_celery.activities.registry import registry
from paigeant_celery.broker.transport import CeleryTransport
from paigeant_celery.cli import findings
from paigeant_celery.cli.findings import Finding, findings_of
from paigeant_celery.core.errors import Unreachable


@pytest.fixture(autouse=True)
def own_registry() -> Iterator[None]:
    """Give each test an empty registry."""
    with registry.isolated():
        yield


@pytest.fixture
def transport() -> Iterator[CeleryTransport]:
    """One without a store, whose broker no other process reaches."""
    with Celery("shop", broker="memory://localhost//", set_as_current=False) as app:
        yield install(app)


def worker(name: str, **told: Any) -> dict[str, Any]:
    """What `agents` reads of a worker's answer."""
    return {"worker": name, "serves": [], "store": None, "versions": {}, **told}


def of_workers(transport: CeleryTransport, monkeypatch: pytest.MonkeyPatch, *workers: dict[str, Any]) -> list[Finding]:
    monkeypatch.setattr(findings, "ask_workers", lambda transport, timeout: list(workers))
    return list(findings._workers(transport, 1.0))


def texts(found: list[Finding], level: str) -> list[str]:
    return [each.text for each in found if each.level == level]


def test_an_activity_that_nobody_serves_is_named(transport: CeleryTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its workflows would wait for ever, and no log would say why."""

    @activity
    def draft() -> None: ...

    @activity
    def review() -> None: ...

    assert (draft.name, review.name) == ("draft", "review")
    serving = worker("a", store="none", serves=[{"name": "draft", "kind": "function", "queue": "paigeant.draft"}])

    found = of_workers(transport, monkeypatch, serving)

    assert texts(found, "fine") == ["1 answered: a"]
    assert texts(found, "warning") == [
        "nobody serves 'review', which this app loads; start a worker that loads and serves it"
    ]


def test_workers_that_differ_are_named(transport: CeleryTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of a deploy, or a worker with the records of another deployment, looks well until it fails."""
    ours = {"paigeant_celery": "1.1"}
    old = worker("old", versions={"paigeant_celery": "1.0"}, store="none")
    other = worker("other", versions=ours, store="redis://elsewhere")

    first, second = texts(of_workers(transport, monkeypatch, old, other), "warning")

    assert first.startswith("other keeps its records in redis://elsewhere, this app in none;")
    assert second == (
        "they have different versions of paigeant_celery (1 with 1.0, 1 with 1.1); upgrade the older ones"
    )


def test_nobody_who_answers_is_worth_a_warning_and_a_broker_away_an_error(
    transport: CeleryTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deployment is checked before its first worker starts, too."""

    def away(transport: CeleryTransport, timeout: float) -> list[dict[str, Any]]:
        raise Unreachable("broker", "redis://here", "gone")

    (silent,) = of_workers(transport, monkeypatch)
    monkeypatch.setattr(findings, "ask_workers", away)
    (lost,) = findings._workers(transport, 1.0)

    assert (silent.level, lost.level, lost.about) == ("warning", "error", "workers")


def test_a_package_that_is_missing_or_too_old_is_an_error_with_its_remedy(
    transport: CeleryTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An old one fails later, and with a text that names none of them."""
    monkeypatch.setattr(findings, "_requirements", lambda: ["celery>=99", "no-such-package", "x; extra == 'test'"])

    found = [each for each in findings_of(transport, timeout=0.1) if each.about == "packages"]

    assert [each.level for each in found] == ["error", "error"]
    assert [each.text.rpartition("; ")[2] for each in found] == [
        "pip install 'celery>=99'", "pip install 'no-such-package'",
    ]  # fmt: skip


def test_a_mode_that_promises_little_is_worth_a_warning(transport: CeleryTransport) -> None:
    """It may be meant so, but not by everybody."""
    (mode,) = [each for each in findings_of(transport, timeout=0.1) if each.about == "mode"]

    assert mode.level == "warning"
    assert "set `paigeant_store_url`" in mode.text


def test_advice_names_the_setting_before_its_number(transport: CeleryTransport) -> None:
    """A line that began with "4 lets messages wait" would leave a reader asking which four."""
    said = texts(list(findings._advice(transport)), "warning")

    assert "set worker_prefetch_multiplier = 1: 4 lets messages wait in a busy worker while others are idle" in said
