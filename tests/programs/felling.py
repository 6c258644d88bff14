"""A worker that loads this module dies at a point of a block if the folder `AXES` has a file of its name.

Each file kills once. Blocks are recorded in pages of three branches.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from paigeant_celery.core.names import block_of
from paigeant_celery.hop import step_blocks
from paigeant_celery.store.redis import RedisStore

AXES = Path(os.environ["AXES"])

step_blocks.PAGE = 3


def die_at(name: str) -> None:
    """End the process silently if it is the one that is meant."""
    try:
        (AXES / name).unlink()
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def around(method: str, before: Callable[[Any], str], after: Callable[[Any, Any], str]) -> None:
    """Die before or after a call of the store, at the points that its arguments and its answer are."""
    original = getattr(RedisStore, method)

    def wrapped(self: RedisStore, closing: Any, *args: Any, **options: Any) -> Any:
        about = args[0] if args else closing
        die_at(before(about))
        answer = original(self, closing, *args, **options)
        die_at(after(about, answer))
        return answer

    setattr(RedisStore, method, wrapped)


def is_arrival(completion: Any) -> bool:
    return bool(completion.end)


def is_join(completion: Any) -> bool:
    return block_of(completion.closing.hop_id) is None and completion.closing.hop_id.endswith(".0")


def arriving(completion: Any) -> str:
    return "arriving" if is_arrival(completion) else "joining" if is_join(completion) else "nowhere"


def arrived(completion: Any, closed: Any) -> str:
    if not is_arrival(completion):
        return "joined" if is_join(completion) else "nowhere"
    woken = closed is not None and any(block_of(hop.hop_id) is None for hop in closed.hops)
    return "woken" if woken else "arrived"


around("hold", lambda page: f"page {page.first}", lambda page, _: f"page {page.first} recorded")
around("open_block", lambda _: "opening", lambda *_: "opened")
around(
    "suspend",
    lambda standing: "suspending" if standing.branches else "nowhere",
    lambda standing, _: "suspended" if standing.branches else "nowhere",
)
around("complete", arriving, arrived)
