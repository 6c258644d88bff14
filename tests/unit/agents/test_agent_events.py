"""What watchers are told, as the protocols of user interfaces: whatever broke off, all that begins ends."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from pydantic_ai import Agent
from pydantic_ai.exceptions import RunCancelled
from pydantic_ai.messages import (
    INTERRUPTED_TOOL_RETURN_CONTENT,
    FinalResultEvent,
    FunctionToolCallEvent,
    FunctionToolResultEvent,
    ModelMessage,
    ModelResponse,
    NativeToolCallPart,
    NativeToolReturnPart,
    PartDeltaEvent,
    PartEndEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
)
from pydantic_ai.models.function import AgentInfo, DeltaThinkingPart, DeltaToolCall, FunctionModel

from paigeant_celery.agents.agent_events import agent_events
from paigeant_celery.agents.durability import CeleryDurability
from paigeant_celery.core.errors import WorkflowFailed, WorkflowParked
from paigeant_celery.core.events import WorkflowEvent
from paigeant_celery.journal import event_feed
from tests.support.ui_protocols import Screen, ag_ui, vercel
from tests.support.watched_hop import WatchedHop, happened, shown, told

pytestmark = pytest.mark.anyio


class Essayist:
    """An agent of which everything is random: what it says, and where its model, its tools and its process break."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.answers = [self._answer(number) for number in range(self.dice.randint(0, 3))] + [[("say", self._words())]]
        self.fresh_ids = self.dice.random() < 0.5
        self.asked = 0
        self.break_at: int | None = None  # chunks until something breaks
        self.agent = Agent(
            FunctionModel(stream_function=self._stream, model_name="local"),
            name="essayist",
            capabilities=[CeleryDurability[None]()],
        )
        self.agent.tool_plain(self.look_up)
        self.agent.tool_plain(metadata={"paigeant": False})(self.glance)

    def _words(self) -> str:
        return "".join(self.dice.choice("abcdefgh ") for _ in range(self.dice.choice([1, 5, 40, 9000])))

    def _answer(self, number: int) -> list[tuple[str, str]]:
        answer = [(kind, self._words()) for kind in ("think", "say") if self.dice.random() < 0.5]
        return answer + [("call", self.dice.choice(["look_up", "glance"])) for _ in range(self.dice.randint(1, 3))]

    def _step(self) -> None:
        if self.break_at is not None:
            self.break_at -= 1
            if self.break_at < 0:
                raise ConnectionError("the line is cut")

    async def look_up(self, topic: str) -> str:
        self._step()
        return f"all about {topic}: " + "x" * self.dice.choice([0, 20_000])

    async def glance(self, topic: str) -> str:
        self._step()
        return f"a little about {topic}"

    async def _stream(self, messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
        number = sum(isinstance(message, ModelResponse) for message in messages)
        self.asked += 1
        id_ = self.asked if self.fresh_ids else number
        for index, (kind, text) in enumerate(self.answers[number]):
            if kind == "call":
                yield {index: DeltaToolCall(text, '{"topic": ', tool_call_id=f"call-{id_}-{index}")}
                self._step()
                yield {index: DeltaToolCall(json_args=f'"{number}.{index}"}}')}
                self._step()
                continue
            size = max(1, len(text) // 4)
            for start in range(0, len(text), size):
                chunk = text[start : start + size]
                yield {index: DeltaThinkingPart(content=chunk)} if kind == "think" else chunk
                self._step()


async def broken_off_and_gone_on(seed: int) -> tuple[Essayist, WatchedHop, Any]:
    """Run attempts, which break off anywhere, until one ends well."""
    essayist, hop = Essayist(seed), WatchedHop()
    dice = essayist.dice
    for _ in range(dice.randint(0, 4)):
        killed = dice.random() < 0.6
        essayist.break_at = None if killed else dice.randint(0, 20)
        try:
            await hop.watched(
                lambda: essayist.agent.run("go"),
                cut_after=dice.randint(0, 8) if killed else None,
                keep=(lambda sent: dice.randint(0, sent)) if killed else (lambda sent: sent),
            )
        except Exception:
            continue
    essayist.break_at = None
    result = await hop.watched(lambda: essayist.agent.run("go"))
    hop.complete()
    return essayist, hop, result


def seeds(brief: int, *, blocks: int) -> list[Any]:
    """Return a few seeds, and blocks of a hundred others for the proof."""
    starts = range(1000, 1000 + 100 * blocks, 100)
    return [range(brief), *(pytest.param(range(start, start + 100), marks=pytest.mark.proof) for start in starts)]


@pytest.mark.parametrize("seeds", seeds(4, blocks=10), ids=str)
async def test_whatever_breaks_off_screens_get_a_valid_stream_with_all_that_was_said(
    seeds: range, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A screen that misses an end spins for ever, and one that gets a second start mixes up texts."""
    monkeypatch.setattr(event_feed, "MOST_AT_ONCE", 1)
    for seed in seeds:
        _, hop, result = await broken_off_and_gone_on(seed)
        for read in (ag_ui, vercel):
            screen = await read(agent_events(told(hop.told())))

            assert screen.error is None, seed
            for message in result.all_messages():
                for part in message.parts:
                    assert is_shown(part, screen), seed


def is_shown(part: Any, screen: Screen) -> bool:
    """Say whether a part of the history of a run can be seen, and a result once."""
    match part:
        case TextPart(content=text):
            return text in screen.texts
        case ThinkingPart(content=text):
            return text in screen.thoughts
        case ToolCallPart(tool_call_id=id_):
            return part.args_as_dict() in [_parsed(given) for given in _of(screen.arguments, id_)]
        case ToolReturnPart(tool_call_id=id_, content=content):
            return _of(screen.results, id_).count(content) == 1
    return True


def _of(shown: Mapping[str, Any], id_: str) -> list[Any]:
    return [given for known, given in shown.items() if known.split("~")[0] == id_]


def _parsed(arguments: Any) -> Any:
    return json.loads(arguments) if isinstance(arguments, str) and arguments.endswith("}") else arguments


@pytest.mark.parametrize("seeds", seeds(5, blocks=1), ids=str)
async def test_what_is_told_has_an_end_for_each_start_itself(seeds: range, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads the events without our help finds what a killed process left open closed by the next one."""
    monkeypatch.setattr(event_feed, "MOST_AT_ONCE", 1)
    for seed in seeds:
        _, hop, _ = await broken_off_and_gone_on(seed)
        is_open = False
        for event in hop.told():
            match event.fields.get("event"):
                case "part_start":
                    assert not is_open, seed
                    is_open = True
                case "part_delta":
                    assert is_open, seed
                case "part_end":
                    assert is_open, seed
                    is_open = False
        assert not is_open, seed


@pytest.mark.parametrize("seeds", seeds(4, blocks=3), ids=str)
async def test_who_comes_late_or_misses_something_gets_a_valid_stream(
    seeds: range, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page is reloaded, and of a long workflow the oldest events are gone."""
    monkeypatch.setattr(event_feed, "MOST_AT_ONCE", 1)
    for seed in seeds:
        essayist, hop, _ = await broken_off_and_gone_on(seed)
        events, dice = hop.told(), essayist.dice
        for _ in range(5):
            first = dice.randint(0, len(events) - 1)
            last = dice.randint(first, min(first + 10, len(events) - 1))
            missed = [
                *events[:first],
                happened("events_dropped", count="1"),
                *(event for event in events[first:last] if event.type != "agent"),
                *events[last:],
            ]
            for given in (events[first:], events[:first], missed):
                for read in (ag_ui, vercel):
                    await read(agent_events(told(given)))


def text(content: str, *, index: int = 0, after: str | None = None, before: str | None = None) -> list[Any]:
    """The events of a text."""
    part = TextPart(content)
    return [
        PartStartEvent(index=index, part=TextPart(""), previous_part_kind=after),  # type: ignore[arg-type]
        *(PartDeltaEvent(index=index, delta=TextPartDelta(content_delta=letter)) for letter in content),
        PartEndEvent(index=index, part=part, next_part_kind=before),  # type: ignore[arg-type]
    ]


def call(id_: str, *, index: int = 0) -> list[Any]:
    part = ToolCallPart("search", {"q": 1}, tool_call_id=id_)
    return [PartStartEvent(index=index, part=part), PartEndEvent(index=index, part=part)]


def begun(id_: str) -> FunctionToolCallEvent:
    return FunctionToolCallEvent(ToolCallPart("search", {"q": 1}, tool_call_id=id_), args_valid=True)


def ended(id_: str, content: str = "found") -> FunctionToolResultEvent:
    return FunctionToolResultEvent(ToolReturnPart("search", content, tool_call_id=id_))


async def screens(*events: WorkflowEvent) -> list[Screen]:
    """Return what both protocols show."""
    return [await read(agent_events(told(events))) for read in (ag_ui, vercel)]


async def test_texts_that_follow_each_other_in_an_answer_are_one_as_in_a_plain_run() -> None:
    """Some providers cut a sentence at each citation."""
    parts = [*text("Foxes ", before="text"), *text("are red.", index=1, after="text")]

    for screen in await screens(*(shown(event) for event in parts)):
        assert screen.texts == ["Foxes are red."]


@pytest.mark.parametrize("left_out", range(1, 8))
async def test_a_text_that_was_to_go_on_ends_where_it_was_broken_off(left_out: int) -> None:
    """Its next part never came, or comes from an attempt that starts the answer again."""
    first = [*text("ab", before="text"), *text("c", index=1, after="text")][:-left_out]

    for screen in await screens(
        *(shown(event) for event in first), happened("claimed"), *(shown(event) for event in text("abc")),
        happened("workflow_completed"),
    ):  # fmt: skip
        assert screen.texts[-1] == "abc"
        assert "abc".startswith("".join(screen.texts[:-1]))


async def test_runs_at_the_same_time_take_turns_part_by_part() -> None:
    """A function may run several agents at once; their words must not mix."""
    one, two, three = text("one"), [*text("two"), *text("too", index=1)], [*call("a"), begun("a"), ended("a")]
    mixed = [
        shown(event, run=name)
        for number in range(10)
        for name, events in (("1", one), ("2", two), ("3", three))
        for event in events[number : number + 1]
    ]

    for screen in await screens(*mixed, happened("completed"), happened("workflow_completed")):
        assert sorted(screen.texts) == ["one", "too", "two"]
        assert list(screen.results.values()) == ["found"]


@pytest.mark.parametrize("type_", ["claimed", "retrying", "released", "completed", "events_dropped"])
async def test_a_text_ends_when_its_attempt_does_and_not_when_the_next_word_comes(type_: str) -> None:
    """A retry may be an hour away."""
    shown_so_far: list[str] = []

    async def telling() -> AsyncIterator[WorkflowEvent]:
        for event in text("half")[:-1]:
            yield shown(event)
        yield happened(type_, count="1")
        assert shown_so_far[-1] == "part_end"
        yield happened("workflow_completed")

    async for event in agent_events(telling()):
        shown_so_far.append(event.event_kind)

    assert shown_so_far.count("part_end") == 1


async def test_what_waits_for_a_part_that_was_broken_off_is_shown_when_that_is_known() -> None:
    """One of two runs was in the middle of a word when the process died."""
    broken, other = text("broken")[:-2], text("other")

    for screen in await screens(
        *(shown(event, run="1") for event in broken), *(shown(event, run="2") for event in other), happened("retrying"),
    ):  # fmt: skip
        assert screen.texts == ["broke", "other"]


async def test_agents_inside_tools_are_left_out() -> None:
    """A plain run shows the tool and not what happens in it."""
    for screen in await screens(
        *(shown(event) for event in [*call("a"), begun("a")]),
        *(shown(event, run="inner", within="r/a") for event in text("psst")),
        shown(ended("a")),
    ):
        assert screen.texts == []
        assert screen.results == {"a": "found"}


async def test_ids_that_models_give_again_are_told_apart() -> None:
    """A second call of an id would be taken for the first, whether another step, answer or run made it."""
    again = [*call("a"), begun("a"), ended("a")]

    for screen in await screens(
        *(shown(event, step=1) for event in again),
        *(shown(event, step=2) for event in again),
        *(shown(event, run="s", hop="w.1") for event in again),
    ):
        assert set(screen.results) == {"a", "a~2", "a~3"}


async def test_a_call_of_an_answer_that_is_given_again_was_interrupted() -> None:
    """Nothing will come of it, so nothing may spin."""
    for screen in await screens(
        *(shown(event) for event in call("a")), happened("claimed"),
        *(shown(event) for event in [*call("b"), begun("b"), ended("b")]),
        happened("workflow_completed"),
    ):  # fmt: skip
        assert list(screen.results.items()) == [("a", INTERRUPTED_TOOL_RETURN_CONTENT), ("b", "found")]


async def test_a_call_has_one_result_whichever_attempts_told_of_it() -> None:
    """Its tool was at work when the first attempt ended, and its result was sent twice."""
    for screen in await screens(
        *(shown(event) for event in [*call("a"), begun("a")]), happened("retrying"), happened("claimed"),
        *(shown(event) for event in [begun("a"), ended("a"), begun("a"), ended("a", "again")]),
    ):  # fmt: skip
        assert screen.results == {"a": "found"}


@pytest.mark.parametrize("told_of", range(5))
async def test_tools_that_providers_run_end_too(told_of: int) -> None:
    """Their calls and results are parts of the answer."""
    made = NativeToolCallPart("web_search", {"q": 1}, tool_call_id="n", provider_name="local")
    returned = NativeToolReturnPart("web_search", "found", tool_call_id="n", provider_name="local")
    parts = [PartStartEvent(index=0, part=made), PartEndEvent(index=0, part=made)]
    parts += [PartStartEvent(index=1, part=returned), PartEndEvent(index=1, part=returned)]

    for given in (parts[:told_of], parts[told_of:]):
        for screen in await screens(*(shown(event) for event in given), happened("claimed")):
            assert set(screen.results.values()) <= {
                "found",
                INTERRUPTED_TOOL_RETURN_CONTENT,
            }
            assert len(screen.results) == (1 if given else 0)


async def test_a_result_that_was_too_large_to_be_told_is_one() -> None:
    """The page says so, instead of waiting for it."""
    large = ended("a")
    about = {"event": large.event_kind, "run": "r", "step": "1", "attempt": "1"}
    for screen in await screens(
        *(shown(event) for event in [*call("a"), begun("a")]),
        happened("agent", **about, bytes="5000000", call_id="a", name="search"),
    ):
        assert screen.results == {"a": "The result has 5000000 bytes and is not shown."}


@pytest.mark.parametrize(("type_", "error"), [("workflow_failed", WorkflowFailed), ("parked", WorkflowParked)])
async def test_a_workflow_that_ends_badly_ends_the_stream_with_the_class_of_its_error(
    type_: str, error: type[WorkflowFailed]
) -> None:
    """What an error says may quote a prompt, and goes to no screen."""
    events = [
        *(shown(event) for event in [*call("a"), begun("a"), *text("half", index=1)[:-1]]),
        shown(FinalResultEvent(tool_name="search", tool_call_id="a")),
        happened(type_, step="draft", error="ValueError"),
    ]

    with pytest.raises(error) as raised:
        _ = [event async for event in agent_events(told(events))]

    assert (raised.value.error_class, raised.value.step_id) == ("ValueError", "draft")
    for screen in await screens(*events):
        assert screen.error is not None
        assert "ValueError" in screen.error
        assert set(screen.results) == {"a"}


async def test_a_workflow_that_is_cancelled_ends_the_stream_as_cancelled() -> None:
    """It is no error for a screen."""
    events = [*(shown(event) for event in text("half")[:-1]), happened("workflow_cancelled")]

    with pytest.raises(RunCancelled):
        _ = [event async for event in agent_events(told(events))]

    agui, sdk = await screens(*events)
    assert (agui.error, sdk.error, sdk.cancelled) == (None, None, True)
    assert agui.texts == sdk.texts == ["half"]


async def test_a_parked_workflow_that_was_redriven_goes_on() -> None:
    """Who watches it later sees it to its end."""
    for screen in await screens(
        *(shown(event) for event in text("half")[:-1]), happened("parked", error="ValueError"), happened("redriven"),
        happened("claimed"), *(shown(event) for event in text("whole")), happened("workflow_completed"),
    ):  # fmt: skip
        assert screen.error is None
        assert screen.texts == ["half", "whole"]


async def test_what_this_version_does_not_know_is_left_out() -> None:
    """A newer worker, or a newer pydantic-ai on it, may tell more."""
    about = {"run": "r", "step": "1", "attempt": "1"}
    unknown = happened("agent", event="telepathy", data='{"event_kind": "telepathy"}', **about)
    broken = happened("agent", event="part_start", data='{"index": 0, "part": {"part_kind": "smell"}}', **about)

    for screen in await screens(unknown, broken, *(shown(event) for event in text("seen")), unknown):
        assert screen.texts == ["seen"]
