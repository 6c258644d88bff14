"""The recipe for many documents in one step: what was paid for is not paid for again."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, TextPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from paigeant_celery import WorkflowContext
from paigeant_celery.core.errors import HopLost
from paigeant_celery.testing import WorkflowHarness
from tests.support.journalled_hop import JournalledHop

pytestmark = pytest.mark.anyio

PAGE = Path(__file__).parents[2] / "docs" / "agents-and-functions.md"
DOCUMENTS = {f"a {name}": f"text of {name}" for name in ("one", "two:", "ключ", "4", "five", "six")}


class Provider:
    """A model that counts who pays, and that is away for some documents."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.away: set[str] = set()
        self.model = FunctionModel(self._answer, model_name="local")

    async def _answer(self, messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        first = messages[0]
        assert isinstance(first, ModelRequest)
        text = str(first.parts[-1].content)
        self.asked[text] += 1
        await asyncio.sleep(0)
        if text in self.away:
            raise ConnectionError("away")
        return ModelResponse(parts=[TextPart(text.upper())])


@pytest.fixture
def provider() -> Provider:
    """Give a model that answers everything."""
    return Provider()


@pytest.fixture
def library(provider: Provider) -> dict[str, Any]:
    """Load the module that the page shows, with a model that counts."""
    (shown,) = (block for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
                if "# library.py" in block)  # fmt: skip
    module: dict[str, Any] = {"__name__": "library"}
    exec(compile(shown, "/library.py", "exec"), module)
    module["reader"].model = provider.model
    return module


def expected() -> dict[str, str]:
    return {name: text.upper() for name, text in DOCUMENTS.items()}


@pytest.mark.parametrize("at_once", [1, 2, 8])
async def test_an_attempt_after_an_error_asks_only_for_what_failed(
    library: dict[str, Any], provider: Provider, workflow_harness: WorkflowHarness, at_once: int
) -> None:
    """The provider was away for two documents; the other four are paid for once."""
    provider.away = {"text of two:", "text of five"}
    handle = workflow_harness.dispatch([library["read_all"].activity(DOCUMENTS, at_once)])

    outcomes = await workflow_harness.deliver(1)
    first, provider.away = dict(provider.asked), set()
    outcomes += await workflow_harness.deliver(1)

    assert outcomes == ["retrying", "workflow_completed"]
    assert first == dict.fromkeys(DOCUMENTS.values(), 1)
    assert provider.asked == Counter(first) + Counter(["text of two:", "text of five"])
    assert handle.result_sync(0).output == expected()


@pytest.mark.parametrize("cut_after", [1, 3, 5])
@pytest.mark.parametrize("at_once", [1, 8])
async def test_an_attempt_after_a_crash_asks_only_for_what_was_not_finished(
    library: dict[str, Any],
    provider: Provider,
    make_context: Callable[..., WorkflowContext],
    at_once: int,
    cut_after: int,
) -> None:
    """The worker dies after some documents; the records of those are used, in whatever order the rest begins."""
    hop, context = JournalledHop(), make_context()
    backwards = dict(reversed(DOCUMENTS.items()))
    with hop.attempt(cut_after=cut_after), pytest.raises(ExceptionGroup) as lost:
        await library["read_all"](context, DOCUMENTS, at_once)
    finished = len(hop.records)
    before = provider.asked.total()

    with hop.attempt() as journal:
        answers = await library["read_all"](context, backwards, at_once)

    assert lost.group_contains(HopLost)
    assert answers == expected()
    assert finished == cut_after
    assert journal.replayed == cut_after
    assert provider.asked.total() - before == len(DOCUMENTS) - cut_after
