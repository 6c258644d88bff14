"""The activities of this process, by name. The package's one module-level state."""

from __future__ import annotations

import difflib
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from paigeant_celery.errors import DuplicateActivity, InvalidInput, UnknownActivity, UsageError
from paigeant_celery.policy import StepPolicy
from paigeant_celery.ports import Activity

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
        found: dict[str, Activity] = {}
        for activity in self._live():
            try:
                name = activity.name
            except UsageError:
                continue  # has no name yet, or never gets one: it cannot stand on a slip either
            other = found.get(name)
            if other is not None and other.origin != activity.origin:
                raise DuplicateActivity(name, other.origin, activity.origin)
            found[name] = activity
        return found

    def find(self, name: str) -> Activity | None:
        """Return the activity of this name, or None."""
        return self.activities().get(name)

    def get(self, name: str) -> Activity:
        """Return the activity of this name; raises `UnknownActivity` with close names."""
        activities = self.activities()
        if name not in activities:
            searched = f"{len(activities)} loaded: {', '.join(sorted(activities)[:20]) or 'none'}"
            raise UnknownActivity(name, searched, difflib.get_close_matches(name, activities, n=3))
        return activities[name]

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
