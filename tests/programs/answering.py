"""A program that answers waits and sends signals: reads one per line, and may be killed halfway.

A line is `{"token": …, "payload": …, "by": …}` or `{"workflow": …, "signal": …, "payload": …, "signal_id": …}`; if it
`"decides"`, the payload is `approved` or `denied`. It prints what the store said, or nothing if the reply was lost.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

import failpoints  # noqa: F401 - this module makes it die
from celery import Celery

from paigeant_celery import (
    Inbox,
    SignalRefused,
    TransientError,
    UnknownWait,
    UnknownWorkflow,
    WorkflowHandle,
    get_transport,
)

LOST = ""


def main() -> None:
    app = Celery("answering", set_as_current=False)
    app.config_from_object("celeryconfig")
    transport = get_transport(app=app)
    for line in sys.stdin:
        try:
            said = answer(transport, json.loads(line))
        except (TransientError, UnknownWorkflow):
            said = LOST
        except (UnknownWait, SignalRefused) as error:
            said = type(error).__name__
        print(said, flush=True)


def answer(transport: Any, asked: Mapping[str, Any]) -> str:
    """Answer a wait, or send a signal, and return what became of it."""
    inbox = Inbox(transport)
    if "decides" in asked:
        decide = inbox.approve_sync if asked["payload"] == "approved" else inbox.deny_sync
        return str(decide(asked["token"], by=asked["by"]).outcome)
    if "token" in asked:
        return str(inbox.resolve_sync(asked["token"], asked["payload"], by=asked["by"]).outcome)
    handle = WorkflowHandle(asked["workflow"], transport)
    return str(handle.signal_sync(asked["signal"], asked["payload"], signal_id=asked["signal_id"]).outcome)


if __name__ == "__main__":
    main()
