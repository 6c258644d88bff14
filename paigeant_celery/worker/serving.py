"""What a worker serves, what is checked before it does, and what it prints at its start."""

from __future__ import annotations

import difflib
import logging
import sys
from collections.abc import Iterator

from kombu.entity import Queue

from paigeant_celery.activities.port import Activity
from paigeant_celery.activities.registry import registry
from paigeant_celery.broker.transport import CeleryTransport
from paigeant_celery.core.errors import ConfigurationError, PaigeantError, TransientError
from paigeant_celery.core.settings import SPECIAL_CONSUME

__all__ = ["banner", "longest_step", "printable", "queues_of", "served_activities", "start_checks"]

logger = logging.getLogger(__name__)


def start_checks(transport: CeleryTransport, *, embedded: bool = False) -> bool:
    """Raise `ConfigurationError` with everything that is wrong; say whether the store could be checked."""
    store_seen = True
    mistakes = list(transport.mistakes())
    if transport.in_memory and not embedded:
        mistakes.append(
            "the broker is `memory://`, which no other process can reach; set `PAIGEANT_REDIS_URL` or `broker_url`, "
            "or serve the activity inside your program with `ActivityExecutor`"
        )
    try:
        registry.activities()
        mistakes.extend(_unknown_names(transport))
    except PaigeantError as error:
        mistakes.append(str(error))
    try:
        mistakes.extend(_store_mistakes(transport))
    except TransientError as error:
        logger.warning("%s; hops wait until it is back", error, extra={"action": "store_unreachable"})
        store_seen = False
    if mistakes:
        raise ConfigurationError(mistakes)
    return store_seen


def served_activities(transport: CeleryTransport) -> dict[str, Activity]:
    """Return the loaded activities that this worker serves, as `paigeant_consume` says."""
    consume = transport.settings.consume
    loaded = registry.activities()
    if consume == "no":
        return {}
    if isinstance(consume, tuple):
        return {name: activity for name, activity in loaded.items() if name in consume}
    return loaded


def queues_of(transport: CeleryTransport, served: dict[str, Activity]) -> Iterator[Queue]:
    """Yield the queues of activities: for each the one that is configured, and the default one of its name.

    A process that does not know the activity's own queue sends to the default one.
    """
    publisher = transport.publisher
    names = [publisher.queue_for(name, None) for name in served] + [transport.names.queue(name) for name in served]
    for name in dict.fromkeys(names):
        yield publisher.declared(name)


def longest_step(transport: CeleryTransport, served: dict[str, Activity]) -> float:
    """Return how long an attempt of any served activity may take, in seconds, unless a step has its own timeout."""
    own = [activity.policy.timeout for activity in served.values() if activity.policy is not None]
    return max([transport.settings.step_timeout, *(timeout for timeout in own if timeout is not None)])


def banner(transport: CeleryTransport, served: dict[str, Activity]) -> str:
    """Return what a worker prints at its start."""
    lines = [f"[paigeant_celery] mode: {transport.mode}, store: {transport.store_address}"]
    lines += [
        f"  . {name} ({activity.kind}) from {transport.publisher.queue_for(name, None)}"
        for name, activity in sorted(served.items())
    ]
    lines += [
        f"  . an agent made at {place} has no name and is not served; pass `name=` to it"
        for place in registry.nameless()
    ]
    if not served:
        lines.append("  . no activity is served; name the modules of your agents with `-I` or `imports`")
    return "\n".join(lines)


def printable(text: str) -> str:
    """Return a text that standard output can show: a character that its encoding lacks is written as an escape."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _unknown_names(transport: CeleryTransport) -> Iterator[str]:
    consume, loaded = transport.settings.consume, registry.activities()
    if consume == "only" and not loaded:
        yield "`paigeant_consume` is 'only', but no activity is loaded; add the modules of your agents to `imports`"
    if isinstance(consume, tuple):
        known = ", ".join(sorted(loaded)) or "none"
        for name in consume:
            if name not in loaded:
                close = difflib.get_close_matches(name, [*loaded, *SPECIAL_CONSUME], n=1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                yield f"`paigeant_consume` names {name!r}, which is not loaded; loaded: {known}{hint}"


def _store_mistakes(transport: CeleryTransport) -> Iterator[str]:
    store = transport.store
    if store is None:
        return
    try:
        for warning in store.check(allow_eviction=transport.settings.allow_eviction):
            logger.warning(warning, extra={"action": "store_checked"})
        bound = store.bind_broker(transport.broker_identity)
    except ConfigurationError as error:
        yield from error.mistakes
        return
    if bound != transport.broker_identity:
        yield (
            f"the store {store.address} belongs to the broker {bound} under the prefix "
            f"{transport.settings.prefix!r}, but this worker uses {transport.broker_identity}; choose another "
            "`paigeant_prefix`, or another store"
        )
