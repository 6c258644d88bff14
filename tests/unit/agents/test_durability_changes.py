"""Code that changed between two attempts: what is still replayed, and what parks the hop."""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import suppress
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, ModelRetry, NativeOutput
from pydantic_ai.exceptions import UsageLimitExceeded
from pydantic_ai.usage import UsageLimits

from paigeant_celery.agents.durability import CeleryDurability
from paigeant_celery.core.errors import HopLost, NonDeterminismError
from paigeant_celery.journal import turns
from tests.support.journalled_hop import JournalledHop, calls, scripted

pytestmark = pytest.mark.anyio


class Facts(BaseModel):
    facts: int


class Edition:
    """One version of an agent's code."""

    def __init__(self, **changes: Any) -> None:
        self.asked: Counter[str] = Counter()
        answers = (calls("look"), calls("look"), "done", "more")
        model = scripted(self.asked, *answers, name=changes.get("model", "m"))
        self.agent: Agent[None, Any] = Agent(
            model,
            name=changes.get("name", "worker"),
            instructions=changes.get("instructions"),
            output_type=changes.get("output_type", str),
            capabilities=[CeleryDurability[None]()],
        )
        tools = changes.get("tools", [self.look])
        for tool in tools:
            self.agent.tool_plain(
                tool,
                name=tool.__name__.removesuffix("_otherwise"),
                description=changes.get("description", "Look around."),
                args_validator=changes.get("validator"),
            )

    def look(self) -> str:
        self.asked["look"] += 1
        return "seen"


def look_otherwise(far: int = 0) -> str:
    raise AssertionError("no tool of a step that cannot be replayed is called")


def smell() -> str:
    raise AssertionError("no tool of a step that cannot be replayed is called")


async def begun(edition: Edition, records: int) -> JournalledHop:
    """Return a hop in which this version made so many calls before its worker died."""
    hop = JournalledHop()
    with hop.attempt(cut_after=records), suppress(HopLost):
        await edition.agent.run("go")
    assert len(hop.records) == records
    return hop


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "other"}, "the model call in step 1 of run 'worker:0' cannot be replayed: its model changed"),
        ({"tools": [look_otherwise]}, "cannot be replayed: its tools changed"),
        ({"tools": [look_otherwise, smell]}, "cannot be replayed: its tools changed"),
        ({"tools": []}, "cannot be replayed: its tools changed"),
        ({"output_type": Facts}, "cannot be replayed: its output changed"),
        ({"output_type": NativeOutput(Facts)}, "cannot be replayed: its output changed"),
        ({"validator": lambda ctx: None}, "the validator call 'look' in step 1 of run 'worker:0' cannot be"),
    ],
    ids=["model", "tool's arguments", "one more tool", "one tool less", "output", "way of output", "inserted call"],
)  # fmt: skip
async def test_code_that_asks_for_something_else_is_not_run(changes: dict[str, Any], said: str) -> None:
    """Half of one version's work and half of another's is worse than none; the text names step and call."""
    hop = await begun(Edition(), 3)
    changed = Edition(**changes)

    with hop.attempt() as journal, pytest.raises(NonDeterminismError) as caught:
        await changed.agent.run("go")

    assert said in str(caught.value)
    assert "step 'draft': " in str(caught.value)
    assert journal.fault is caught.value
    assert (journal.made, changed.asked, len(hop.records)) == (0, {}, 3)


async def test_the_fault_stays_where_the_code_of_the_step_survives_it() -> None:
    """A step that survives any error must not hide that its code changed: the hop is parked anyway."""
    hop, changed = await begun(Edition(), 3), Edition(model="other")

    with hop.attempt() as journal:
        try:
            output = (await changed.agent.run("go")).output
        except Exception:
            output = "a default"

    assert output == "a default"
    assert journal.fault is not None
    assert "its model changed" in str(journal.fault)


@pytest.mark.parametrize(
    "changes", [{"instructions": "Be brief."}, {"description": "Look about."}], ids=["instructions", "description"]
)
async def test_code_that_says_it_in_other_words_goes_on(
    changes: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """A typo is fixed while a workflow waits; one log line says that the old answers belong to the old words."""
    hop, reworded = await begun(Edition(), 3), Edition(**changes)

    with caplog.at_level(logging.WARNING), hop.attempt() as journal:
        result = await reworded.agent.run("go")

    assert (result.output, journal.replayed, journal.made) == ("done", 3, 2)
    [warning] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.action == "replay_drift"


async def test_a_call_that_comes_after_all_that_is_on_record_is_made() -> None:
    """A stricter validator asks once more; what was done before is not in doubt."""
    hop, stricter = await begun(Edition(), 5), Edition()

    @stricter.agent.output_validator
    def check(output: str) -> str:
        if output == "done":
            raise ModelRetry("more")
        return output

    with hop.attempt() as journal:
        result = await stricter.agent.run("go")

    assert (result.output, journal.replayed, journal.made) == ("more", 5, 1)


async def test_a_run_of_another_agent_may_be_added_to_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are known by their agents: a new one does not affect the others."""
    monkeypatch.setattr(turns, "PATIENCE", 0.05)
    hop, edition, other = await begun(Edition(), 3), Edition(), Edition(name="other")

    with hop.attempt() as journal:
        await other.agent.run("go")
        result = await edition.agent.run("go")

    assert (result.output, journal.replayed, journal.made) == ("done", 3, 2 + 5)


async def test_limits_of_usage_are_met_again_where_they_were_met() -> None:
    """Replayed calls count as paid for: an attempt does not get a budget of its own."""
    edition, hop, texts = Edition(), JournalledHop(), []
    for _ in range(2):
        with hop.attempt() as journal, pytest.raises(UsageLimitExceeded) as caught:
            await edition.agent.run("go", usage_limits=UsageLimits(request_limit=2))
        texts.append(str(caught.value))

    assert texts[0] == texts[1]
    assert journal.made == 0
    assert edition.asked == {"m": 2, "look": 2}
