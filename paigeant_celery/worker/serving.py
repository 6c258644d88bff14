"""What a worker serves, what is checked before it does, and what it prints at its start."""

from __future__ import annotations

import difflib
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial

from kombu.entity import Queue

from paigeant_celery.activities.port import Activity
from paigeant_celery.activities.registry import registry
from paigeant_celery.broker.stand_alone import TRANSPORT_VARIABLE, StandAloneApp
from paigeant_celery.broker.transport import CeleryTransport
from paigeant_celery.core.errors import (
    ConfigurationError,
    DuplicateActivity,
    InvalidInput,
    OutdatedVersion,
    PaigeantError,
    TransientError,
)
from paigeant_celery.core.names import is_queue_name
from paigeant_celery.core.settings import SPECIAL_CONSUME, Consume
from paigeant_celery.hop.surroundings import around_step_of
from paigeant_celery.worker.greenlets import pool_mistakes
from paigeant_celery.worker.selection import NO_SELECTION, Selection
from paigeant_celery.worker.task import HopTask

__all__ = [
    "banner",
    "is_to_serve",
    "listing",
    "loaded_activities",
    "longest_step",
    "printable",
    "queue_names",
    "queues_of",
    "read_now",
    "served_activities",
    "setting_mistakes",
    "start_checks",
    "takes_no_other",
]

MOST_NAMED = 5  # queues in a line of the banner

logger = logging.getLogger(__name__)


def start_checks(transport: CeleryTransport, selection: Selection = NO_SELECTION, *, embedded: bool = False) -> bool:
    """Raise `ConfigurationError` with everything that is wrong; say whether store and broker could be asked.

    For a worker that serves nothing, a store that is away is one of the mistakes.
    """
    seen = False
    mistakes = setting_mistakes(transport, selection, embedded=embedded)
    serves = embedded or is_to_serve(transport, selection)
    try:
        mistakes.extend(_store_mistakes(transport, serves=serves))
        # A worker that will not start must not be the one whose broker the store remembers.
        seen = transport.binding.check_worker(serves=serves and not mistakes)
        if serves and not mistakes and transport.store is not None:
            transport.store.raise_format()
    except ConfigurationError as error:
        mistakes.extend(error.mistakes)
    except OutdatedVersion as error:  # a newer worker has begun since the store was checked
        mistakes.append(str(error))
    except TransientError as error:
        seen = False
        text = f"{error} (`paigeant_store_url`)"
        if serves:
            logger.warning("%s; hops wait until it is back", text, extra={"action": "store_unreachable"})
        else:
            mistakes.append(text)
    if mistakes:
        raise ConfigurationError(mistakes)
    return seen


def setting_mistakes(
    transport: CeleryTransport, selection: Selection = NO_SELECTION, *, embedded: bool = False, empty: bool = False
) -> list[str]:
    """Return what is wrong with the settings and the activities, whatever store and broker say.

    `empty` says that it is no mistake if no activity is loaded.
    """
    mistakes = [*transport.mistakes(), *pool_mistakes()]
    if transport.in_memory and not embedded:
        mistakes.append(
            "the broker is `memory://`, which no other process can reach; set `PAIGEANT_REDIS_URL` or `broker_url`, "
            "or serve the activity inside your program with `ActivityExecutor`; a worker for other tasks alone, as in "
            "the tests of a host, needs `paigeant_consume = 'no'`"
        )
    try:
        registry.activities()
        mistakes.extend(_unknown_names(transport, selection) if registry.names() or not empty else ())
        mistakes.extend(_queue_mistakes(transport))
        mistakes.extend(_task_mistakes(transport))
    except PaigeantError as error:
        mistakes.append(str(error))
    try:
        around_step_of(transport.settings.around_step)
    except ConfigurationError as error:
        mistakes.extend(error.mistakes)
    return mistakes


def is_to_serve(transport: CeleryTransport, selection: Selection = NO_SELECTION) -> bool:
    """Say whether a worker is to serve activities, so that what is wrong must stop it; perhaps none is loaded."""
    consume = _consume(transport, selection)
    named = consume == "only" or (isinstance(consume, tuple) and bool(consume))
    return named or bool(_served_names(transport, selection))


def served_activities(transport: CeleryTransport, selection: Selection = NO_SELECTION) -> dict[str, Activity]:
    """Return the loaded activities that this worker serves, as `paigeant_consume`, `-Q` and `-X` say."""
    return {name: registry.get(name) for name in _served_names(transport, selection)}


def loaded_activities(transport: CeleryTransport) -> dict[str, Activity]:
    """Return the activities that are loaded, whoever serves them; what is built in is among them if any is."""
    names = registry.names()
    return {name: registry.get(name) for name in (*names, *(registry.built_in if names else ()))}


def takes_no_other(transport: CeleryTransport, selection: Selection) -> bool:
    """Say whether a worker takes messages from no queue besides those of activities."""
    return _consume(transport, selection) == "only"


def queues_of(
    transport: CeleryTransport, served: Iterable[str], selection: Selection = NO_SELECTION
) -> Iterator[Queue]:
    """Yield the queues of activities: for each the one that is configured, and the default one of its name.

    A process that does not know the activity's own queue sends to the default one.
    """
    names = [name for activity in served for name in queue_names(transport, activity)]
    for name in dict.fromkeys(names):
        if _takes(transport, name, selection):
            yield transport.publisher.declared(name)


def queue_names(transport: CeleryTransport, activity: str) -> list[str]:
    """Return the queues of an activity: the one that is configured, and the default one of its name."""
    names = [name for name in [transport.names.queue(activity)] if is_queue_name(name)]
    with suppress(DuplicateActivity, InvalidInput):  # reported: neither of two is served, and no queue without a name
        names.insert(0, transport.publisher.queue_for(activity, None))
    return list(dict.fromkeys(names))


def read_now(transport: CeleryTransport) -> dict[str, str]:
    """Return the activities whose queue a worker reads now, each with the queue; `celery control` changes them."""
    consumed = transport.app.amqp.queues.consume_from
    found = {}
    for name in sorted((*registry.names(), *registry.built_in)):
        queue = next((queue for queue in queue_names(transport, name) if queue in consumed), None)
        if queue is not None:
            found[name] = queue
    return found


def longest_step(transport: CeleryTransport, served: dict[str, Activity]) -> float:
    """Return how long an attempt of any served activity may take, in seconds, unless a step has its own timeout."""
    own = [activity.policy.timeout for activity in served.values() if activity.policy is not None]
    return max([transport.settings.step_timeout, *(timeout for timeout in own if timeout is not None)])


def banner(transport: CeleryTransport, selection: Selection = NO_SELECTION) -> str:
    """Return what a worker prints at its start."""
    served = served_activities(transport, selection)
    lines = _lines(transport, served, partial(_source, transport, selection=selection))
    if not served:
        lines.append(f"  . no activity is served{_why_none(transport, selection)}")
    elif takes_no_other(transport, selection):
        by_default = "" if transport.settings.consume_is_set else " by default"
        lines.append(f"  . no other queue is served, as `paigeant_consume` is 'only'{by_default}")
    return "\n".join(lines)


def listing(transport: CeleryTransport) -> str:
    """Return what is loaded, also what a worker with these settings does not serve: it may have others."""
    loaded, served = loaded_activities(transport), served_activities(transport)
    if loaded.keys() <= served.keys():
        return banner(transport)
    lines = _lines(transport, loaded, lambda name: queue_names(transport, name)[0])
    which = f"{', '.join(sorted(served))} alone" if served else "none of them"
    lines.append(f"  . a worker with the settings of this shell serves {which}, as `paigeant_consume` says")
    return "\n".join(lines)


def printable(text: str) -> str:
    """Return a text that standard output can show: a character that its encoding lacks is written as an escape."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _consume(transport: CeleryTransport, selection: Selection) -> Consume | None:
    """Return what `paigeant_consume` says, or its default; None if `-Q` says it instead."""
    if transport.settings.consume_is_set:
        return transport.settings.consume
    return transport.consume_by_default if selection.chosen is None else None


def _served_names(transport: CeleryTransport, selection: Selection) -> list[str]:
    """Return the names of the served activities, even of those that are there twice."""
    consume, loaded = _consume(transport, selection), registry.names()
    if consume == "no":
        return []
    wanted = [name for name in loaded if name in consume] if isinstance(consume, tuple) else loaded
    served = [
        name for name in wanted
        if any(_takes(transport, queue, selection) for queue in queue_names(transport, name))
    ]  # fmt: skip
    return [*served, *_built_in_served(transport, selection, serves=bool(served))]


def _built_in_served(transport: CeleryTransport, selection: Selection, *, serves: bool) -> Iterator[str]:
    """Yield what is built in: a worker that serves anything serves it, unless `-X` excludes its queue.

    One that serves nothing else does so if it is named.
    """
    consume = _consume(transport, selection)
    for name in registry.built_in:
        queue = transport.names.queue(name)
        named = name in consume if isinstance(consume, tuple) else queue in (selection.chosen or ())
        if (serves or named) and queue not in selection.excluded:
            yield name


def _takes(transport: CeleryTransport, queue: str, selection: Selection) -> bool:
    """Say whether a worker takes messages from a queue of an activity that it may serve."""
    if queue in selection.excluded:
        return False
    if transport.names.activity(queue) in registry.built_in:
        return True  # asked only if it is served
    return _consume(transport, selection) is not None or queue in (selection.chosen or ())


def _lines(transport: CeleryTransport, activities: Mapping[str, Activity], source: Callable[[str], str]) -> list[str]:
    """Return the mode, the store, the activities with their queues, and what has no name."""
    lines = [f"[paigeant_celery] mode: {transport.mode}, store: {transport.store_address}"]
    lines += _about_defaults(transport)
    lines += [
        f"  . {name} ({activity.kind}) from {source(name)}" for name, activity in sorted(activities.items(), key=_rank)
    ]
    lines += [
        f"  . an agent or a task made at {place} has no name and is not served; pass `name=` to it"
        for place in registry.nameless()
    ]
    return lines


def _rank(served: tuple[str, Activity]) -> tuple[bool, str]:
    name, _ = served
    return name in registry.built_in, name


def _source(transport: CeleryTransport, activity: str, selection: Selection) -> str:
    return next(name for name in queue_names(transport, activity) if _takes(transport, name, selection))


def _about_defaults(transport: CeleryTransport) -> Iterator[str]:
    """Yield what is so only because nobody has said otherwise."""
    app = transport.app
    if not isinstance(app, StandAloneApp):
        return
    if transport.store is None and not transport.faults and not transport.settings.store_is_set:
        yield "  . this broker can hold no store; set `paigeant_store_url` to have one"
    if app.redis_by_default:
        yield (
            f"  . the broker is {transport.broker} by default; programs send to it with "
            f"`PAIGEANT_REDIS_URL={transport.broker}`, and without it to their own memory"
        )
    if os.environ.get(TRANSPORT_VARIABLE) not in (None, "", "redis"):
        yield f"  . programs that find `{TRANSPORT_VARIABLE}` send to what it names; a worker does not read it"


def _queue_mistakes(transport: CeleryTransport) -> Iterator[str]:
    """Yield which activities the host's routes, or prefix and name, send to queues that no broker can have."""
    for name in registry.names():
        try:
            transport.publisher.queue_for(name, None)
        except InvalidInput as error:
            yield f"the activity {name!r} has no queue: {error.text}"


def _task_mistakes(transport: CeleryTransport) -> Iterator[str]:
    """Yield which activities cannot have the Celery task of their name, because the host has one."""
    for name in registry.names():
        task_name = transport.names.task(name)
        task = transport.app.tasks.get(task_name)
        if task is not None and not isinstance(task, HopTask):
            yield (
                f"the hops of the activity {name!r} are the Celery task {task_name!r}, but the app has a task of its "
                "own under that name; rename one of them, or set `paigeant_prefix`"
            )


def _unknown_names(transport: CeleryTransport, selection: Selection) -> Iterator[str]:
    consume, loaded = _consume(transport, selection), registry.names()
    if consume == "only" and not loaded:
        yield (
            "`paigeant_consume` is 'only', but no activity is loaded; name the modules of your agents with `-I` or "
            "`imports`"
        )
    if isinstance(consume, tuple):
        known = ", ".join(sorted(loaded)) or "none"
        for name in consume:
            if name not in (*loaded, *registry.built_in):
                close = difflib.get_close_matches(name, [*loaded, *SPECIAL_CONSUME], n=1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                yield f"`paigeant_consume` names {name!r}, which is not loaded; loaded: {known}{hint}"


def _store_mistakes(transport: CeleryTransport, *, serves: bool) -> Iterator[str]:
    """Yield what is wrong with the store; log what is only worth knowing."""
    store = transport.store
    if store is None:
        return
    try:
        for warning in store.check(allow_eviction=transport.settings.allow_eviction):
            if serves:
                logger.warning(warning, extra={"action": "store_checked"})
    except ConfigurationError as error:
        yield from error.mistakes


def _why_none(transport: CeleryTransport, selection: Selection) -> str:
    if transport.settings.consume == "no" or transport.settings.consume == ():
        return ", as `paigeant_consume` says"
    loaded = registry.names()
    if not loaded:
        return "; name the modules of your agents with `-I` or `imports`"
    queues = [queue for name in sorted(loaded) for queue in queue_names(transport, name)][:MOST_NAMED]
    return f", as `-Q` or `-X` says; their queues are {', '.join(dict.fromkeys(queues))}"
