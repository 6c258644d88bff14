"""Steps to come that do not travel, read back from the store page by page."""

from __future__ import annotations

from paigeant_celery.core.errors import NewerMessage, StoreCorrupt
from paigeant_celery.core.message import PaigeantMessage
from paigeant_celery.core.pages import name_of_page, next_page, opened, page_in
from paigeant_celery.core.slip import Later
from paigeant_celery.store.port import HopStore

__all__ = ["all_opened", "with_next_page"]


def with_next_page(store: HopStore, message: PaigeantMessage, *, brought: str | None = None) -> PaigeantMessage:
    """Return the message with the steps that it needs to move on; `brought` is the page, if it is at hand.

    Raises `StoreCorrupt` if the page is missing or not as it was recorded, and `NewerMessage` if a newer version has
    written it and this one cannot read it.
    """
    later = next_page(message.slip)
    return _opened(store, message, later, brought) if later is not None else message


def all_opened(store: HopStore, message: PaigeantMessage) -> PaigeantMessage:
    """Return the message with all steps to come, with a round trip for each page; raises like `with_next_page`."""
    while (later := message.slip.later) is not None:
        message = _opened(store, message, later, None)
    return message


def _opened(store: HopStore, message: PaigeantMessage, later: Later, text: str | None) -> PaigeantMessage:
    if text is None:
        text = store.blob(message.correlation_id, name_of_page(later.page))
    try:
        page = page_in(text, later)
    except (LookupError, ValueError) as error:
        if message.is_newer and isinstance(error, ValueError):
            raise NewerMessage("newer_version", "slip.later", str(error)) from error
        raise StoreCorrupt(f"{message.correlation_id}: steps to come", str(error)) from error
    return message.model_copy(update={"slip": opened(message.slip, page)})
