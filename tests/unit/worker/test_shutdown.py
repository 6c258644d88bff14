"""The end of a worker, as its processes see it."""

from __future__ import annotations

import os

from paigeant_celery.worker.shutdown import Shutdown


def test_nothing_is_over_before_somebody_asks() -> None:
    """A grace period of zero does not stop a worker that nobody stops."""
    shutdown = Shutdown(grace=0)

    assert (shutdown.asked, shutdown.over) == (False, False)


def test_the_grace_begins_with_the_first_that_asks() -> None:
    """An impatient second signal does not extend it."""
    brief, long = Shutdown(grace=0), Shutdown(grace=3600)

    for shutdown in (brief, long):
        shutdown.ask()
        shutdown.ask()

    assert (brief.asked, brief.over) == (True, True)
    assert (long.asked, long.over) == (True, False)


def test_another_worker_of_the_process_begins_anew() -> None:
    """Tests and programs start a worker on an app whose previous one has ended."""
    shutdown = Shutdown(grace=0)
    shutdown.ask()

    shutdown.begin()

    assert (shutdown.asked, shutdown.over) == (False, False)


def test_a_forked_process_learns_of_it() -> None:
    """Celery tells only the main process of a prefork pool."""
    shutdown = Shutdown(grace=0)
    said, answer = os.pipe()
    go, start = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(go, 1)
        os.write(answer, b"yes" if shutdown.over else b"no")
        os._exit(0)

    shutdown.ask()
    os.write(start, b"!")

    assert os.read(said, 3) == b"yes"
    os.waitpid(child, 0)
    for end in (said, answer, go, start):
        os.close(end)
