"""How a worker shows a document that it is to dispatch."""

from __future__ import annotations

from typing import Any

from celery.worker.request import Request

from paigeant_celery.worker.dispatch_arguments import shown

__all__ = ["DispatchRequest"]


class DispatchRequest(Request):  # type: ignore[misc]  # Celery ships no types
    """A request that never shows its document, whoever sent it and whatever the message says of its arguments.

    The task gets them from the body of the message. What stands here is told by `inspect`, in events, in logs and in
    extended results.
    """

    def __init__(self, message: Any, **options: Any) -> None:
        super().__init__(message, **options)
        told = shown(self._kwargs)
        self._argsrepr, self._kwargsrepr = "()", repr(told)
        self._request_dict |= {"args": [], "kwargs": told, "argsrepr": "()", "kwargsrepr": repr(told)}

    def info(self, safe: bool = False) -> dict[str, Any]:
        """Describe the request as Flower's pages do."""
        described: dict[str, Any] = super().info(safe=True)
        return described
