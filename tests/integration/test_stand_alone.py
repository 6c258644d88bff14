"""Workers of the stand-alone app whose configuration says little."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from paigeant_celery import FunctionSpec, WorkflowDispatcher, get_transport
from tests.support.processes import START_WITHIN, deployment, eventually
from tests.support.servers import RedisServer

WITHIN = 20.0
TWO = """
from paigeant_celery import activity

@activity
def dig() -> str:
    return "a hole"

@activity
def plant(hole: str) -> str:
    return f"a tree in {hole}"
"""


def test_a_file_with_a_schedule_leaves_a_durable_worker_that_serves_what_it_is_told(
    own_redis: Callable[..., RedisServer], tmp_path: Path
) -> None:
    """One worker for each agent, with a number of slots of its own; and one more agent for it without a restart."""
    url = own_redis().url
    (tmp_path / "two.py").write_text(TWO)
    (tmp_path / "celeryconfig.py").write_text(f"broker_url = {url!r}\nbeat_schedule = {{}}\n")
    transport, dispatcher = get_transport(url), WorkflowDispatcher()
    with deployment(url, tmp_path) as made:
        made.variables["PAIGEANT_REDIS_URL"] = ""
        arguments = ("-A", "paigeant_celery", "worker", "-P", "solo", "-I", "two", "-l", "INFO")
        worker = made.run(*arguments, "-Q", "mail,paigeant.dig", folder=tmp_path, name="digging")
        said = worker.wait_for_log(" ready.", within=START_WITHIN)
        itinerary = [FunctionSpec("dig"), FunctionSpec("plant", {"hole": "a hole"})]
        handle = dispatcher.handle(dispatcher.dispatch_workflow_sync(transport, itinerary=itinerary), transport)

        half = eventually(lambda: (status := handle.status_sync()).executed == ("dig",) and status, within=WITHIN)
        waiting = eventually(lambda: transport.publisher.waiting("paigeant.plant"), within=WITHIN)
        transport.app.control.add_consumer("paigeant.plant")
        result = handle.result_sync(WITHIN)

    assert f"[paigeant_celery] mode: durable, store: {url}\n  . dig (function) from paigeant.dig\n" in said
    assert "plant" not in said.partition("[paigeant_celery]")[2].partition("settings:")[0]
    assert (half.remaining, waiting) == (("plant",), 1)
    assert result.output == "a tree in a hole"
