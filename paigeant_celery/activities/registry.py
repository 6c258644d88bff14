"""The activities of this process, by name. The package's one module-level state."""

from __future__ import annotations

import difflib
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from paigeant_celery.activities.port import Activity
from paigeant_celery.core.errors import DuplicateActivity, InvalidInput, UnknownActivity, UsageError
from paigeant_celery.core.policy import StepPolicy

__all__ = ["Registry", "registry"]

Subscriber = Callable[[], None]


class Registry:
    """Holds activities weakly: one that nobody keeps any more is no longer served.

    An activity may be added before it has a name. Its name is asked for when the registry is read, for a
    global variable gets its value only after the constructor returned.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._entries: list[weakref.ref[Activity]] = []
        self._subscribers: list[Subscriber] = []

    def add(self, activity: Activity, *, holder: object) -> None:
        """Add an activity for as long as `holder` (the agent or function behind it) lives.

        Raises `InvalidInput` where its queue or policy is none.
        """
        _check(activity)
        kept: list[Activity] = getattr(holder, "_paigeant_activities", [])
        # The holder keeps its activities alive, of which it may have several, by different names.
        setattr(holder, "_paigeant_activities", [*kept, activity])  # noqa: B010
        with self._lock:
            self._entries.append(weakref.ref(activity))
            subscribers = list(self._subscribers)
        for notify in subscribers:
            notify()

    def subscribe(self, notify: Subscriber) -> None:
        """Call `notify` after each addition, without saying which: its name may not be known yet."""
        with self._lock:
            self._subscribers.append(notify)

    def activities(self) -> dict[str, Activity]:
        """Return the named activities; the newest one where two of the same origin have one name.

        Raises `DuplicateActivity` where two of different origin do.
        """
        return {name: self._only(name, activities) for name, activities in self._by_name().items()}

    def names(self) -> list[str]:
        """Return the names of all activities, also of those that stand twice."""
        return list(self._by_name())

    def find(self, name: str) -> Activity | None:
        """Return the activity of this name, or None; raises `DuplicateActivity` where there are two."""
        found = self._by_name()
        return self._only(name, found[name]) if name in found else None

    def get(self, name: str) -> Activity:
        """Return the activity of this name; raises `UnknownActivity` with close names, or `DuplicateActivity`."""
        activity = self.find(name)
        if activity is None:
            loaded = sorted(self.names())
            searched = f"{len(loaded)} loaded: {', '.join(loaded[:20]) or 'none'}"
            raise UnknownActivity(name, searched, difflib.get_close_matches(name, loaded, n=3))
        return activity

    @contextmanager
    def isolated(self) -> Iterator[None]:
        """Begin with an empty registry inside the block, and restore it afterwards."""
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
            with suppress(UsageError):  # has no name yet, or never gets one: it cannot stand on a slip either
                found.setdefault(activity.name, []).append(activity)
        return found

    def _only(self, name: str, activities: list[Activity]) -> Activity:
        """Return the newest of activities of one origin; raises where there is a second origin."""
        if len({activity.origin for activity in activities}) > 1:
            # One that was replaced may only wait for the collector: agent and activity hold each other.
            activities.clear()
            gc.collect()
            activities = self._by_name()[name]
        for other in activities[:-1]:
            if other.origin != activities[-1].origin:
                raise DuplicateActivity(name, other.origin, activities[-1].origin)
        return activities[-1]

    def _live(self) -> list[Activity]:
        with self._lock:
            live = [(entry, activity) for entry in self._entries if (activity := entry()) is not None]
            self._entries = [entry for entry, _ in live]
            return [activity for _, activity in live]


def _check(activity: Activity) -> None:
    queue, policy = activity.queue, activity.policy
    if queue is not None and not (isinstance(queue, str) and queue.strip()):
        raise InvalidInput("invalid_queue", "queue", "is the name of a Celery queue, or None")
    if policy is not None and not isinstance(policy, StepPolicy):
        raise InvalidInput("invalid_policy", "policy", f"must be a `StepPolicy`, not a {type(policy).__name__}")


registry = Registry()
