"""What is right and what is wrong with an app, its broker, its store, its workers and what is installed.

Nothing is changed by looking, and what is wrong in one place keeps nobody from looking at the next.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from paigeant_celery.cli.workers import ask_workers

if TYPE_CHECKING:
    from paigeant_celery.broker.transport import CeleryTransport

__all__ = ["Finding", "findings_of"]

MODES = {
    "message only": "there is no store, so nothing but messages says where a workflow stands, and no command shows it; "
    'set `paigeant_store_url` (`"broker"` for the broker\'s own Redis)',
    "in-process": "the store is this process's memory, which ends with it, and nobody else sees it; set "
    "`paigeant_store_url` to a Redis",
}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that was looked at: `text` says what is so and, unless it is `fine`, what to do about it."""

    level: Literal["error", "warning", "fine"]
    about: Literal["settings", "broker", "store", "mode", "packages", "workers"]
    text: str


def findings_of(transport: CeleryTransport, *, timeout: float) -> Iterator[Finding]:
    """Yield what is found; workers are given `timeout` seconds to answer."""
    yield from _settings(transport)
    yield from _mode(transport)
    reached = True
    for finding in _broker(transport):
        reached = reached and finding.level != "error"
        yield finding
    yield from _store(transport)
    yield from _packages()
    if reached and not transport.in_memory:
        yield from _workers(transport, timeout)


def _settings(transport: CeleryTransport) -> Iterator[Finding]:
    from paigeant_celery.activities.registry import registry
    from paigeant_celery.worker.serving import setting_mistakes

    mistakes = setting_mistakes(transport, empty=True)
    yield from (Finding(level="error", about="settings", text=mistake) for mistake in mistakes)
    if not mistakes:
        yield Finding(level="fine", about="settings", text="a worker would start with them")
    if not registry.names():
        text = "no activity is loaded, so none is checked; name the modules of your agents with `-I` or `imports`"
        yield Finding(level="warning", about="settings", text=text)


def _mode(transport: CeleryTransport) -> Iterator[Finding]:
    if transport.faults:
        return  # what the store would be is not known
    text = MODES.get(transport.mode, f"the store is {transport.store_address}")
    level: Literal["warning", "fine"] = "warning" if transport.mode in MODES else "fine"
    yield Finding(level=level, about="mode", text=f"{transport.mode}: {text}")


def _broker(transport: CeleryTransport) -> Iterator[Finding]:
    from paigeant_celery.broker.reach import Link, reaching_broker
    from paigeant_celery.core.errors import PaigeantError

    if transport.in_memory:
        return  # a mistake of the settings
    within = transport.settings.publish_timeout
    try:
        with reaching_broker(transport.app):
            link = Link(transport.app, timeout=within)
            try:
                link.connect(within=within)
            finally:
                link.close()
    except PaigeantError as error:
        yield Finding(level="error", about="broker", text=str(error))
        return
    yield Finding(level="fine", about="broker", text=f"{transport.broker} answers")
    yield from _advice(transport)


def _advice(transport: CeleryTransport) -> Iterator[Finding]:
    from paigeant_celery.worker.broker_advice import Faster, Found, Recommended, advise
    from paigeant_celery.worker.serving import longest_step, served_activities

    found = advise(
        transport,
        longest_step=longest_step(transport, served_activities(transport)),
        prefetch=transport.app.conf.worker_prefetch_multiplier,
        threads=False,
        hiredis=find_spec("hiredis") is not None,
    )
    for each in found:
        match each:
            case Found(text=text):
                yield Finding(level="fine", about="broker", text=text)
            case Recommended():
                text = f"set {each.setting} = {each.value}: {each.reason}"
                yield Finding(level="warning", about="broker", text=text)
            case Faster():
                text = f"{each.reason}; pip install '{each.install}'"
                yield Finding(level="warning", about="packages", text=text)


def _store(transport: CeleryTransport) -> Iterator[Finding]:
    from paigeant_celery.core.errors import ConfigurationError, PaigeantError

    store = transport.store
    if store is None:
        return
    try:
        warnings = store.check(allow_eviction=transport.settings.allow_eviction)
        yield from (Finding(level="warning", about="store", text=text) for text in warnings)
        transport.binding.check_worker(serves=False)
    except ConfigurationError as error:
        yield from (Finding(level="error", about="store", text=mistake) for mistake in error.mistakes)
        return
    except PaigeantError as error:
        yield Finding(level="error", about="store", text=str(error))
        return
    yield Finding(level="fine", about="store", text=f"{store.address} answers, and this version can read its records")


def _packages() -> Iterator[Finding]:
    from packaging.requirements import Requirement
    from packaging.version import Version

    from paigeant_celery.worker.versions import PACKAGES, versions_here

    wanted = [Requirement(text) for text in _requirements()]
    wrong = 0
    for requirement in wanted:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        have = _version(requirement.name)
        if have is None or not requirement.specifier.contains(Version(have), prereleases=True):
            wrong += 1
            text = f"{requirement.name} {have or 'is not installed'}, but paigeant_celery needs {requirement}"
            yield Finding(level="error", about="packages", text=f"{text}; pip install '{requirement}'")
    if not wrong:
        here = versions_here()
        known = ", ".join(f"{name} {here[name]}" for name in ("python", *PACKAGES) if name in here)
        yield Finding(level="fine", about="packages", text=known)


def _requirements() -> Sequence[str]:
    try:
        return requires("paigeant_celery") or ()
    except PackageNotFoundError:  # it is on the path all the same, as in a source tree
        return ()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _workers(transport: CeleryTransport, timeout: float) -> Iterator[Finding]:
    from paigeant_celery.activities.registry import registry
    from paigeant_celery.core.errors import PaigeantError

    try:
        workers = ask_workers(transport, timeout)
    except PaigeantError as error:
        yield Finding(level="error", about="workers", text=str(error))
        return
    if not workers:
        text = f"none that serves activities answered within {timeout:g} s; start one, or wait longer with `--timeout`"
        yield Finding(level="warning", about="workers", text=text)
        return
    yield Finding(level="fine", about="workers", text=f"{len(workers)} answered: {_names(workers)}")
    served = {each["name"] for worker in workers for each in worker["serves"]}
    for name in sorted(set(registry.names()) - served):
        text = f"nobody serves {name!r}, which this app loads; start a worker that loads and serves it"
        yield Finding(level="warning", about="workers", text=text)
    yield from _differences(transport, workers)


def _differences(transport: CeleryTransport, workers: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Yield in what workers differ from this process or from each other."""
    for worker in workers:
        if worker["store"] is not None and worker["store"] != transport.store_address:
            text = (
                f"{worker['worker']} keeps its records in {worker['store']}, this app in {transport.store_address}; "
                "if that is not the same server, correct `paigeant_store_url` in one of them"
            )
            yield Finding(level="warning", about="workers", text=text)
    versions = Counter(worker["versions"].get("paigeant_celery") for worker in workers)
    if len(versions) > 1:
        told = ", ".join(f"{count} with {found or 'an unknown version'}" for found, count in versions.items())
        text = f"they have different versions of paigeant_celery ({told}); upgrade the older ones"
        yield Finding(level="warning", about="workers", text=text)


def _names(workers: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(worker["worker"] for worker in workers)
