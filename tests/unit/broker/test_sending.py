"""What is told to those who wait for a call to the broker."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Future

import pytest

from paigeant_celery.broker.sending import Sending


def test_a_call_that_its_maker_gives_up_is_late() -> None:
    """The thread may look at the clock a moment before the one that waits; a dispatch is then told the same."""
    future: Future[None] = Future()
    sending = Sending(future, end=time.monotonic() + 60)

    future.cancel()

    with pytest.raises(TimeoutError):
        sending.wait()
    with pytest.raises(TimeoutError):
        asyncio.run(sending.arrived())
