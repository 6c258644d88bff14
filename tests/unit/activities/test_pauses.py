"""Outputs that are no results: what counts as a pause wherever it stands, what is said about it, and what does not."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from pydantic import BaseModel, ConfigDict, RootModel
from pydantic_ai import ApprovalRequired, CallDeferred, DeferredToolRequests, ModelResponse, ToolCallPart
from pydantic_ai import output as outputs
from pydantic_ai.messages import TextPart

from paigeant_celery.activities.pauses import MOST_NAMED, pause_in, pause_of
from paigeant_celery.activities.results import result_of
from paigeant_celery.core.errors import Paused

SECRET = "hunter2-hunter2"


def call(name: str, call_id: str = "1") -> ToolCallPart:
    return ToolCallPart(name, {"path": SECRET}, call_id)


ASKED = DeferredToolRequests(approvals=[call("delete")])


class Own(DeferredToolRequests):
    """Of a host, for its own methods."""


class Answer(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True, extra="allow")

    pending: Any = None


@dataclasses.dataclass
class Report:
    pending: object


class Pair(NamedTuple):
    text: str
    pending: object


HELD: dict[str, Callable[[Any], object]] = {
    "itself": lambda pause: pause,
    "in a list": lambda pause: [1, pause],
    "in a tuple": lambda pause: ("done", pause),
    "in a dict": lambda pause: {"a": {"b": [pause]}},
    "in a model": lambda pause: Answer(pending=pause),
    "in an extra field": lambda pause: Answer(other=pause),
    "in a root model": lambda pause: RootModel[Any]([pause]),
    "in a dataclass": Report,
    "in a named tuple": lambda pause: Pair("done", pause),
    "twice": lambda pause: [Report(pause), pause],
}


@pytest.mark.parametrize("hold", HELD.values(), ids=HELD)
@pytest.mark.parametrize("kind", [DeferredToolRequests, Own])
def test_a_request_for_tools_is_a_pause_wherever_it_stands(
    hold: Callable[[Any], object], kind: type[DeferredToolRequests]
) -> None:
    """The next step would otherwise work on the request's JSON as if it were an answer."""
    with pytest.raises(Paused) as caught:
        result_of(hold(kind(approvals=[call("delete")])))

    assert caught.value.reason == "tools_deferred"
    assert caught.value.text.startswith("the run asks for approval of 'delete'; ")


def test_the_tools_are_named_by_what_is_asked_of_them_and_without_arguments() -> None:
    """Whoever is called at night sees what waits, and nothing that is confidential."""
    asked = DeferredToolRequests(
        approvals=[call("delete", "1"), call("delete", "2"), call("send", "3")],
        calls=[call("fetch", "4")],
        metadata={"1": {"why": SECRET}},
    )
    if hasattr(asked, "kind"):
        asked.calls.append(call("ask", "5"))
        asked._kinds["5"] = "question"

    pause = pause_in(asked)

    assert pause is not None
    said = "the run asks for approval of 'delete' (2 times), 'send' and for results of 'fetch'"
    assert pause.text.partition(";")[0] == said + (" and for answers to 'ask'" if hasattr(asked, "kind") else "")
    assert SECRET not in str(pause)


def test_a_long_list_of_tools_is_cut_short() -> None:
    """The text is kept in the store and shown on one line."""
    pause = pause_in(DeferredToolRequests(calls=[call(f"t{n}", str(n)) for n in range(MOST_NAMED + 7)]))

    assert pause is not None
    assert "7 more" in pause.text
    assert len(pause.text) < 1000


PENDING: list[object] = [ModelResponse(parts=[], state="suspended")]
if hasattr(outputs, "PendingModelResponse"):  # since pydantic-ai 2.68
    PENDING.append(outputs.PendingModelResponse(response=ModelResponse(parts=[], state="suspended")))


@pytest.mark.parametrize("pending", PENDING)
def test_a_response_that_the_provider_still_works_on_is_a_pause(pending: object) -> None:
    """A batch or a background response that was only submitted is no answer."""
    with pytest.raises(Paused) as caught:
        result_of([pending])

    assert caught.value.reason == "response_pending"


@pytest.mark.parametrize("error", [ApprovalRequired({"why": SECRET}), CallDeferred()])
def test_a_deferral_that_no_agent_caught_is_a_pause(error: Exception) -> None:
    """Another attempt would only ask again."""
    pause = pause_of(error)

    assert pause is not None
    assert (pause.reason, SECRET in str(pause)) == ("tools_deferred", False)


class DeferredToolRequestsOfAShop(BaseModel):
    approvals: list[str]


def lookalike() -> object:
    """Return an object of a host's own class, which has the library's name by accident."""
    return type("DeferredToolRequests", (Report,), {"__module__": "shop"})(["a"])


RESULTS = {
    "text": "DeferredToolRequests",
    "nothing": None,
    "a request that asks for nothing": DeferredToolRequests(),
    "a class": [DeferredToolRequests],
    "a finished response": ModelResponse(parts=[TextPart("done")]),
    "a host's class": DeferredToolRequestsOfAShop(approvals=["a"]),
    "a host's class of the same name": lookalike(),
    "a cycle": (lambda cycle: cycle.append(cycle) or cycle)([]),  # type: ignore[func-returns-value]
}


@pytest.mark.parametrize("output", RESULTS.values(), ids=RESULTS)
def test_anything_else_is_a_result(output: object) -> None:
    """A step is not stopped for what only looks like a pause."""
    assert pause_in(output) is None


def test_an_event_that_tells_of_requests_is_no_pause() -> None:
    """They may have been answered within the run."""
    messages = pytest.importorskip("pydantic_ai.messages")

    assert pause_in([messages.DeferredToolRequestsEvent(ASKED)]) is None


def test_a_process_without_the_library_looks_for_nothing() -> None:
    """Functions alone load no agent library, and large outputs cost nothing more."""
    script = (
        "import sys; from paigeant_celery.activities.pauses import pause_in;"
        "assert pause_in([object()]) is None; assert 'pydantic_ai' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
