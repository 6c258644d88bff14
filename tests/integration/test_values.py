"""Values that pydantic does not read as it writes them, over a real server, worker and dispatching process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from paigeant_celery import WorkflowDispatcher
from paigeant_celery.activities.registry import registry
from paigeant_celery.core.errors import InvalidInput, WorkflowFailed
from tests.support.processes import Deployment, deployment, run_script
from tests.support.servers import RedisServer, redis_server

WITHIN = 30  # seconds for a workflow of a few steps
PROGRAMS = Path(__file__).parents[1] / "programs"

pytestmark = pytest.mark.together

DISPATCH = """
import sys
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from celery import Celery
from paigeant_celery import ActivitySpec, FunctionSpec, WorkflowConflict, WorkflowDispatcher, get_transport
from pydantic import BaseModel

class Wish(BaseModel):
    at: datetime
    price: Decimal
    tags: set[str]

url, prefix, hours, price, *tags = sys.argv[1:]
app = Celery("dispatching", broker=url)
app.conf.update(paigeant_store_url="broker", paigeant_prefix=prefix)
zone = timezone(timedelta(hours=int(hours)))
at = datetime(2099, 6, 1, 12, tzinfo=timezone.utc).astimezone(zone)
wish = Wish(at=at, price=Decimal(price), tags=set(tags))
steps = [ActivitySpec("nobody", "x", deps=wish), FunctionSpec("nothing", {"wish": wish, "tags": set(tags)})]
try:
    print(WorkflowDispatcher().dispatch_workflow_sync(
        get_transport(app=app), itinerary=steps, correlation_id="wish", deadline=at,
        variables={"wish": [wish], "tags": frozenset(tags), "at": [at]},
    ), list(set(tags)))
except WorkflowConflict:
    print("conflict", list(set(tags)))
"""


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as started:
        yield started


@pytest.fixture(scope="module")
def made(server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with deployment(server.url, tmp_path_factory.mktemp("values")) as made:
        yield made


def test_values_arrive_as_they_were_given_or_are_refused(made: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit of 3 is 3 in the worker's deps, arguments and variables, and in what a function returned."""
    monkeypatch.syspath_prepend(PROGRAMS)
    transport, dispatcher = made.transport(), WorkflowDispatcher()
    with registry.isolated():
        import parcels
        from parcels import Parcel, compare, draw, facts_of, relabel, weigh

        made.ready_worker("parcels", slots=1)
        at = datetime(2026, 1, 2, 12, tzinfo=UTC)
        parcel = Parcel(limit=3, at=at, price=Decimal("1.50"), tags=frozenset({"b", "a"}), sizes="[1, 2]")
        days = {date(2026, 1, 2): {1, 2}}
        steps = [weigh.activity("go", deps=parcel), relabel.activity(parcel, days), compare.activity()]
        sent = dispatcher.dispatch_workflow_sync(transport, itinerary=steps, variables={"parcel": parcel})
        drawn = dispatcher.dispatch_workflow_sync(transport, itinerary=[draw.activity()])
        with pytest.raises(InvalidInput) as refused:
            relabel.activity(parcel, {None: {1}})

        result = dispatcher.handle(sent, transport).result_sync(WITHIN)
        with pytest.raises(WorkflowFailed) as failed:
            dispatcher.handle(drawn, transport).result_sync(WITHIN)

        relabelled = parcel.model_copy(update={"limit": 5})
        assert result.outputs["weigh"] == facts_of(parcel)
        assert result.output == [facts_of(relabelled), facts_of(parcel)]
        assert result.output_as(Parcel, step_id="relabel") == relabelled
        assert refused.value.path == "arguments.days"
        assert failed.value.error_class == "output_not_serializable"
        assert "`output[0].radius`: `Circle` comes back as `Shape`" in failed.value.text
        del parcels, sys.modules["parcels"]


def test_processes_with_other_hash_seeds_and_zones_ask_for_the_same_workflow(made: Deployment) -> None:
    """The second server of a web application repeats a request of the first."""
    words = ["pear", "apple", "fig", "plum", "quince", "kiwi"]

    def asked(seed: int, hours: int, price: str, *tags: str) -> tuple[str, str]:
        arguments = (made.url, made.prefix, str(hours), price, *tags)
        answer, _, order = run_script(DISPATCH, *arguments, cold=True, PYTHONHASHSEED=str(seed)).partition(" ")
        return answer, order

    first, same = asked(1, 0, "1.50", *words), asked(2, -6, "1.5", *words)
    other = asked(1, 0, "1.50", *words[1:])

    assert first[1] != same[1], "the seeds give one order, and show nothing"
    assert (first[0], same[0], other[0]) == ("wish", "wish", "conflict")
