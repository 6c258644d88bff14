"""The activities of this process, by name: the package's only module-level state."""

from __future__ import annotations

import difflib
import gc
import os
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from paigeant_celery.activities.builtin import FlowActivity
from paigeant_celery.activities.port import Activity
from paigeant_celery.activities.real_threads import real
from paigeant_celery.core.errors import DuplicateActivity, InvalidInput, UnknownActivity, UsageError
from paigeant_celery.core.names import ACTIVITY_NAME_RULE, QUEUE_RULE, is_activity_name, is_free_name, queue_fault
from paigeant_celery.core.policy import StepPolicy

__all__ = ["Registry", "check_name", "registry"]

Subscriber = Callable[[], None]


class Registry:
    """Holds activities weakly: one that nothing else holds is no longer served, unless it was added to be kept.

    An activity may be added before it has a name. Its name is asked for when the registry is read, because a
    global variable gets its value only after the constructor has returned. Those that are `built_in` can be found, but
    are not among the others: a process that has loaded nothing else serves nothing.
    """

    def __init__(self, built_in: Iterable[Activity] = ()) -> None:
        self._built_in = {activity.name: activity for activity in built_in}
        self._lock = real().RLock()
        self._entries: list[Callable[[], Activity | None]] = []
        self._subscribers: list[Subscriber] = []
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._after_fork)

    def _after_fork(self) -> None:
        self._lock = real().RLock()  # another thread of the parent may have held it, as each dispatch does

    def add(self, activity: Activity, *, holder: object) -> None:
        """Add an activity for as long as `holder` (its agent or function) lives.

        Raises `InvalidInput` if its queue is not a queue name or its policy is not a `StepPolicy`.
        """
        _check(activity)
        kept: list[Activity] = getattr(holder, "_paigeant_activities", [])
        # The holder keeps its activities alive; it may have several, under different names.
        setattr(holder, "_paigeant_activities", [*kept, activity])  # noqa: B010
        self._add(weakref.ref(activity))

    def keep(self, activity: Activity) -> None:
        """Add an activity for good, because nothing of the user's holds it. Raises as `add`."""
        _check(activity)
        self._add(lambda: activity)

    def _add(self, entry: Callable[[], Activity | None]) -> None:
        with self._lock:
            self._entries.append(entry)
            subscribers = list(self._subscribers)
        for notify in subscribers:
            notify()

    def subscribe(self, notify: Subscriber) -> None:
        """Call `notify` after each addition, without the activity: its name may not be known yet."""
        with self._lock:
            self._subscribers.append(notify)

    def activities(self) -> dict[str, Activity]:
        """Return the named activities; of one that was made again, the newer one.

        Raises `DuplicateActivity` if two different ones share a name.
        """
        return {name: self._only(name, activities) for name, activities in self._by_name().items()}

    def names(self) -> list[str]:
        """Return the names of all activities, even of those that are there twice."""
        return list(self._by_name())

    @property
    def built_in(self) -> tuple[str, ...]:
        """The names of the activities that every process has."""
        return tuple(self._built_in)

    def nameless(self) -> list[str]:
        """Return where the activities were made that have no name, so that no slip can name them."""
        return sorted({activity.origin for activity in self._live() if _name_of(activity) is None})

    def find(self, name: str) -> Activity | None:
        """Return the activity of this name, or None; raises `DuplicateActivity` if there are two."""
        if name in self._built_in:
            return self._built_in[name]
        found = self._by_name()
        return self._only(name, found[name]) if name in found else None

    def get(self, name: str) -> Activity:
        """Return the activity of this name; raises `UnknownActivity` with close names, or `DuplicateActivity`."""
        activity = self.find(name)
        if activity is None:
            loaded = sorted(self.names())
            searched = f"{len(loaded)} loaded: {', '.join(loaded[:20]) or 'none'}"
            if nameless := self.nameless():
                searched += (
                    f"; agents or tasks without a name, which need `name=`, were made at {', '.join(nameless[:20])}"
                )
            raise UnknownActivity(name, searched, difflib.get_close_matches(name, loaded, n=3))
        return activity

    @contextmanager
    def isolated(self) -> Iterator[None]:
        """Start with an empty registry inside the block and restore it afterwards."""
        with self._lock:
            kept, self._entries = self._entries, []
        try:
            yield
        finally:
            with self._lock:
                self._entries = kept

    def _by_name(self) -> dict[str, list[Activity]]:
        found: dict[str, list[Activity]] = {}
        for activity in self._live():
            if (name := _name_of(activity)) is not None:
                found.setdefault(name, []).append(activity)
        return found

    def _only(self, name: str, activities: list[Activity]) -> Activity:
        """Return the newest activity if it replaces all others; raises `DuplicateActivity` if there is a second one."""
        if _second(activities) is not None:
            # A replaced one may only be waiting for the garbage collector: agent and activity hold each other.
            activities.clear()
            gc.collect()
            activities = self._by_name()[name]
        newest, second = activities[-1], _second(activities)
        if second is None:
            return newest
        places = (second.origin, newest.origin)
        if second.origin == newest.origin:
            places = (second.making.place(second.origin), newest.making.place(newest.origin))
        raise DuplicateActivity(name, *places)

    def _live(self) -> list[Activity]:
        with self._lock:
            live = [(entry, activity) for entry in self._entries if (activity := entry()) is not None]
            self._entries = [entry for entry, _ in live]
            return [activity for _, activity in live]


def _second(activities: list[Activity]) -> Activity | None:
    """Return an activity that the newest one does not replace."""
    newest = activities[-1]
    return next((other for other in activities[:-1] if not newest.making.replaces(other.making)), None)


def check_name(name: object) -> None:
    """Raise `InvalidInput` if an activity cannot have this name."""
    if not isinstance(name, str):
        raise InvalidInput("bad_agent_name", "name", f"must be a string, not a {type(name).__name__}")
    if not is_activity_name(name):
        text = f"{name[:64]!r} cannot name a queue and a task; a name has {ACTIVITY_NAME_RULE}. Pass another `name=`"
        raise InvalidInput("bad_agent_name", "name", text)
    if not is_free_name(name):
        text = f"{name!r} is the name of a task of our own. Pass another `name=`"
        raise InvalidInput("bad_agent_name", "name", text)


def _name_of(activity: Activity) -> str | None:
    """Return the name of an activity, or None if it has none yet, or never gets one: a slip cannot name it either."""
    try:
        return activity.name
    except UsageError:
        return None


def _check(activity: Activity) -> None:
    queue, policy = activity.queue, activity.policy
    if queue is not None and not isinstance(queue, str):
        raise InvalidInput("invalid_queue", "queue", f"must be the name of a Celery queue, which has {QUEUE_RULE}")
    if queue is not None and (fault := queue_fault(queue)):
        raise InvalidInput("invalid_queue", "queue", fault)
    if policy is not None and not isinstance(policy, StepPolicy):
        raise InvalidInput("invalid_policy", "policy", f"must be a `StepPolicy`, not a {type(policy).__name__}")


registry = Registry([FlowActivity()])
