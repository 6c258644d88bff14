"""Steps to come that do not travel: how they leave the slip for the store in pages, and how the next page is opened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from pydantic import ValidationError

from paigeant_celery.core.errors import MessageError
from paigeant_celery.core.jsonable import dumps, loads
from paigeant_celery.core.message import sha256
from paigeant_celery.core.slip import Later, RoutingSlip, Step, WireModel

__all__ = ["Page", "name_of_page", "next_page", "opened", "page_in", "paged"]

PAGED_AT_ONCE = 100  # pages, so that a script that records them stays short


class Page(WireModel):
    """Some steps in their order, and what travels of those after them. It is never changed; its name is its digest."""

    steps: tuple[Step, ...]
    then: Later | None = None


def name_of_page(page: str) -> str:
    """Return the name under which the store has a page; no step id has a colon."""
    return f"steps:{page}"


def next_page(slip: RoutingSlip) -> Later | None:
    """Return what must be opened before the slip moves on: nothing, unless its next step is the last that travels."""
    return slip.later if len(slip.itinerary) <= 1 else None


def paged(slip: RoutingSlip, *, most: int) -> tuple[RoutingSlip, Mapping[str, str]]:
    """Return the slip that travels, and the pages that the store must hold.

    If the steps to come have more than `most` bytes of JSON, about half as much of them travels on. A page has as much,
    or one step. A slip that has all its records is left as it is: older versions could not tell that steps are missing.
    """
    if slip.earlier is None or sum(map(_size, slip.itinerary)) <= most:
        return slip, {}
    groups = list(_groups(slip.itinerary, most // 2))
    leaving = groups[1:][-PAGED_AT_ONCE:]
    pages: dict[str, str] = {}
    later = slip.later
    for steps in reversed(leaving):
        text = dumps(Page(steps=tuple(steps), then=later).model_dump(mode="json"))
        later = _before(later, steps, text)
        pages[name_of_page(later.page)] = text
    left = slip.itinerary[: len(slip.itinerary) - sum(map(len, leaving))]
    return slip.model_copy(update={"itinerary": left, "later": later}), pages


def opened(slip: RoutingSlip, page: Page) -> RoutingSlip:
    """Return the slip with the steps of its next page."""
    return slip.model_copy(update={"itinerary": (*slip.itinerary, *page.steps), "later": page.then})


def page_in(text: str | None, later: Later) -> Page:
    """Read a page.

    Raises `LookupError` if it is missing or not as it was recorded, and `ValueError` if this version cannot read it.
    """
    if text is None or sha256(text) != later.page:
        raise LookupError(f"{name_of_page(later.page)} is missing or not as recorded")
    try:
        return Page.model_validate(loads(text, invalid="store_corrupt"))
    except (ValidationError, MessageError) as error:
        raise ValueError(f"{name_of_page(later.page)} cannot be read") from error


def _groups(steps: Sequence[Step], most: int) -> Iterator[list[Step]]:
    group: list[Step] = []
    size = 0
    for step in steps:
        own = _size(step)
        if group and size + own > most:
            yield group
            group, size = [], 0
        group.append(step)
        size += own
    yield group


def _size(step: Step) -> int:
    return len(step.model_dump_json().encode())


def _before(later: Later | None, steps: Sequence[Step], text: str) -> Later:
    visits = Counter(later.visits if later is not None else ())
    visits.update(step.activity for step in steps)
    count = len(steps) + (later.count if later is not None else 0)
    return Later(count=count, page=sha256(text), size=len(text.encode()), visits=dict(visits))
