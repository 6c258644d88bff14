"""Replays of dumped hops: on recorded answers alone, with what differs in words."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic_ai import BinaryContent, RunContext, UserError
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, UserPromptPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from paigeant_celery import (
    FunctionSpec,
    PaigeantAgent,
    StepPolicy,
    WorkflowContext,
    WorkflowDependencies,
    activity,
    for_each,
    workflow_context,
)
from paigeant_celery.activities.registry import registry
from paigeant_celery.agents import keyless
from paigeant_celery.client.hop_dumps import dump_of
from paigeant_celery.core.errors import InvalidInput, UnknownWorkflow, UsageError
from paigeant_celery.core.replays import HopDump, read_dump
from paigeant_celery.replay import replay, replay_sync, run_script
from paigeant_celery.testing import WorkflowHarness

SAMPLES = Path(__file__).parents[1] / "data" / "replay"
LARGE = "x" * 3000


class Researcher:
    """An agent that looks something up and answers with it; counts what is really done."""

    def __init__(self, *, instructions: str = "Be brief.", **more: Any) -> None:
        self.asked, self.looked_up, self.fails = 0, list[str](), False
        self.agent: PaigeantAgent[Any, Any] = PaigeantAgent(
            FunctionModel(self.answer), name="researcher", instructions=instructions, **more
        )
        self.agent.tool_plain(self.look_up)

    def answer(self, messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
        self.asked += 1
        if len(messages) == 1:
            return ModelResponse(parts=[ToolCallPart("look_up", {"word": "cat"}, tool_call_id="1")])
        return ModelResponse(parts=[TextPart(f"a cat is {messages[-1].parts[-1].content}")])  # type: ignore[union-attr]

    def look_up(self, word: str) -> str:
        self.looked_up.append(word)
        if self.fails:
            raise LookupError("no such word")
        return f"the meaning of {word}"


def ran(harness: WorkflowHarness, *steps: Any, **more: Any) -> None:
    harness.dispatch(list(steps), correlation_id="w", **more)
    asyncio.run(harness.deliver())


def dumped(harness: WorkflowHarness, path: str | None = None) -> str:
    """The text of a dump: what a script holds."""
    return dump_of(harness.store, "w", path).encode()


def test_a_step_is_replayed_without_a_call(workflow_harness: WorkflowHarness) -> None:
    """Whoever debugs a step pays for nothing, and sends nothing twice."""
    researcher = Researcher()
    ran(workflow_harness, researcher.agent.activity("What is a cat?"))
    text = dumped(workflow_harness)
    before = (researcher.asked, list(researcher.looked_up))

    found = replay_sync(text)

    assert (found.completed, found.output, found.same) == (True, "a cat is the meaning of cat", True)
    assert (found.hop_id, found.path, found.calls) == ("w.0", "researcher", 3)
    assert (researcher.asked, researcher.looked_up) == before


def test_a_replay_says_what_text_has_changed(workflow_harness: WorkflowHarness) -> None:
    """The recorded answers belong to the earlier prompt, so they prove nothing of the new one."""
    ran(workflow_harness, (first := Researcher()).agent.activity("What is a cat?"))
    text = dumped(workflow_harness)
    del first

    with registry.isolated():
        changed = Researcher(instructions="Be verbose.")
        found = replay_sync(text)

    assert found.completed
    assert not found.same
    assert ["prompt" in difference for difference in found.differences] == [True]
    assert changed.asked == 0


@pytest.mark.parametrize("change", ["tool", "model", "output"])
def test_a_replay_ends_where_model_or_tools_have_changed(workflow_harness: WorkflowHarness, change: str) -> None:
    """A worker would park the hop for the same reason; here nobody has to wait for one."""
    ran(workflow_harness, (first := Researcher()).agent.activity("What is a cat?"))
    text = dumped(workflow_harness)
    del first

    with registry.isolated():
        changed = Researcher(**({"output_type": int} if change == "output" else {}))
        if change == "tool":
            changed.agent.tool_plain(lambda number: number, name="another")
        if change == "model":
            changed.agent.model = FunctionModel(changed.answer, model_name="another")
        found = replay_sync(text)

    assert not found.completed
    assert found.failure is not None
    assert {"tool": "tools", "model": "model", "output": "output"}[change] in found.failure
    assert changed.asked == 0


def test_a_call_that_is_not_on_record_ends_a_replay(workflow_harness: WorkflowHarness) -> None:
    """The tool that failed is named, and not called."""
    researcher = Researcher(policy=StepPolicy(max_attempts=1))
    researcher.fails = True
    ran(workflow_harness, researcher.agent.activity("What is a cat?"))
    text = dumped(workflow_harness)
    looked_up = len(researcher.looked_up)

    found = replay_sync(text)

    assert (found.completed, found.calls) == (False, 1)
    assert found.failure is not None
    assert "the tool call 'look_up' in step 1 of run 'researcher:0' is not on record" in found.failure
    assert "in flight or had failed" in found.failure
    assert len(researcher.looked_up) == looked_up


def test_code_that_swallows_a_missing_call_makes_no_other(workflow_harness: WorkflowHarness) -> None:
    """A fallback would otherwise ask the next model, for money."""
    researcher = Researcher(policy=StepPolicy(max_attempts=1))
    ran(workflow_harness, researcher.agent.activity("What is a cat?"))
    tree = json.loads(dumped(workflow_harness))
    tree["records"] = {key: text for key, text in tree["records"].items() if '"tool"' not in key}
    tree["records"] = {key: text for key, text in tree["records"].items() if not key.startswith('["researcher:0", 2')}

    with registry.isolated():
        other = Researcher()

        async def stubborn(ctx: RunContext[Any], *, call: Any, tool_def: Any, args: Any, handler: Any) -> Any:
            try:
                return await handler(args)
            except Exception:
                return "nothing"

        from pydantic_ai.capabilities import Hooks

        other.agent = PaigeantAgent(
            FunctionModel(other.answer),
            name="researcher",
            instructions="Be brief.",
            capabilities=[Hooks(tool_execute=stubborn)],
        )
        other.agent.tool_plain(other.look_up)
        found = replay_sync(tree)

    assert not found.completed
    assert "is not on record" in (found.failure or "")
    assert (other.asked, other.looked_up) == (0, [])


def test_a_step_in_the_middle_is_replayed_with_what_it_was_given(workflow_harness: WorkflowHarness) -> None:
    """Its prompt had the output before it, its deps and a file; none of them is asked of a store."""

    @activity
    def give(what: str) -> str:
        return what

    seen: list[Any] = []

    def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        return ModelResponse(parts=[TextPart("fine")])

    viewer = PaigeantAgent(FunctionModel(answer), name="viewer", deps_type=WorkflowDependencies)

    @viewer.instructions
    async def note(ctx: RunContext[WorkflowDependencies]) -> str:
        context = workflow_context()
        earlier = (await context.output("first")).output
        seen.append((earlier, ctx.deps.previous_output and ctx.deps.previous_output.output, dict(context.variables)))
        return "Look."

    picture = BinaryContent(b"\x89" * 4000, media_type="image/png")
    ran(
        workflow_harness,
        FunctionSpec("give", {"what": LARGE}, step_id="first"),
        FunctionSpec("give", {"what": "small"}, step_id="second"),
        viewer.activity(["What is this?", picture], WorkflowDependencies()),
        FunctionSpec("give", {"what": "after"}, step_id="last"),
        variables={"tone": "dry"},
    )
    text = dumped(workflow_harness, "viewer")
    before = list(seen)
    seen.clear()

    found = replay_sync(text)

    assert found.same, (found.failure, found.differences)
    assert seen == before == [(LARGE, "small", {"tone": "dry"})]
    assert "after" not in text


def test_a_step_of_a_conversation_is_replayed_with_what_it_heard(workflow_harness: WorkflowHarness) -> None:
    """And without what was said after it."""
    heard: list[list[str]] = []

    def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        return ModelResponse(parts=[TextPart(f"answer {len(messages)}")])

    clerk = PaigeantAgent(FunctionModel(answer), name="clerk")

    @clerk.instructions
    def note(ctx: RunContext[None]) -> str:
        parts = [part for message in ctx.messages for part in message.parts if isinstance(part, UserPromptPart)]
        heard.append([str(part.content) for part in parts])
        return ""

    ran(workflow_harness, *(clerk.activity(question, conversation="support") for question in ("one", "two", "three")))
    text = dumped(workflow_harness, "clerk-2")
    before = heard[1]
    heard.clear()

    found = replay_sync(text)

    assert found.same, (found.failure, found.differences)
    assert heard == [before]
    assert "three" not in text


def test_a_parked_step_is_replayed_and_mended(workflow_harness: WorkflowHarness) -> None:
    """The point of a dump: the code is changed until it does what it should, and then the workflow is redriven."""
    broken = [True]

    def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        return ModelResponse(parts=[TextPart("12")])

    counter: PaigeantAgent[None, str] = PaigeantAgent(
        FunctionModel(answer), name="counter", policy=StepPolicy(max_attempts=1)
    )

    @counter.output_validator
    def check(ctx: RunContext[None], output: str) -> str:
        if broken:
            raise ZeroDivisionError("a bug of ours")
        return output

    ran(workflow_harness, counter.activity("Count."))
    text = dumped(workflow_harness)

    failed = replay_sync(text)
    broken.clear()
    mended = replay_sync(text)

    assert (failed.completed, failed.failure) == (False, "ZeroDivisionError: a bug of ours")
    assert failed.cause is not None
    assert "check" in str(failed.cause)
    assert (mended.same, mended.output) == (True, "12")


def test_a_step_that_waits_is_replayed_to_its_wait(workflow_harness: WorkflowHarness) -> None:
    """Nobody is asked a second time, and what would answer the wait is in no dump."""
    asked: list[str] = []

    def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        if len(messages) == 1:
            return ModelResponse(parts=[ToolCallPart("refund", {}, tool_call_id="1")])
        return ModelResponse(parts=[TextPart("done")])

    clerk = PaigeantAgent(FunctionModel(answer), name="clerk")

    @clerk.tool_plain(metadata={"paigeant": False})
    async def refund() -> str:
        async def ask(token: str) -> None:
            asked.append(token)

        return str(await workflow_context().wait_for("amount", ask=ask, question="How much?"))

    handle = workflow_harness.dispatch([clerk.activity("Refund it.")], correlation_id="w")
    asyncio.run(workflow_harness.deliver())
    (token,) = asked
    waiting = dumped(workflow_harness)
    handle.resolve_sync(token, 17, by="ann")
    asyncio.run(workflow_harness.deliver())
    done = dumped(workflow_harness)

    at_wait, after = replay_sync(waiting), replay_sync(done)

    assert (at_wait.completed, at_wait.waits_for, at_wait.failure) == (False, ("amount",), None)
    assert after.same, (after.failure, after.differences)
    assert asked == [token]
    secret = token.partition("~")[2]
    assert secret not in waiting
    assert secret not in done


def test_a_step_in_a_branch_is_dumped_until_it_ends(workflow_harness: WorkflowHarness) -> None:
    """Journals of branches are not kept longer; that is said, and not an empty replay given."""
    researcher = Researcher(policy=StepPolicy(max_attempts=1))
    researcher.fails = True

    @activity
    async def item(context: WorkflowContext) -> Any:
        return context.previous_output.output if context.previous_output else None

    block = for_each([item.activity(), researcher.agent.activity("What is it?")], over=[LARGE, "b"], step_id="readings")
    ran(workflow_harness, block)

    text = dumped(workflow_harness, "readings/1/researcher")
    found = replay_sync(text)
    assert found.path == "readings/1/researcher"
    assert "'look_up' in step 1" in (found.failure or "")
    with pytest.raises(InvalidInput, match="nothing is left of 'readings/1/item'") as error:
        dumped(workflow_harness, "readings/1/item")
    assert error.value.reason == "unknown_path"


def test_deps_can_be_given_in_place_of_those_that_need_a_server(workflow_harness: WorkflowHarness) -> None:
    """A pool that is made on the worker cannot be made here, and no recorded tool uses it."""
    made: list[int] = []

    def pool(data: Any) -> Any:
        made.append(1)
        return {"pool": "real"}

    def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        return ModelResponse(parts=[TextPart("fine")])

    agent = PaigeantAgent(
        FunctionModel(answer), name="user", deps_type=dict, deps_factory=lambda data, context: pool(data)
    )
    used: list[Any] = []

    @agent.instructions
    def note(ctx: RunContext[dict[str, str]]) -> str:
        used.append(ctx.deps)
        return ""

    ran(workflow_harness, agent.activity("Use it."))
    text = dumped(workflow_harness)

    assert replay_sync(text, deps={"pool": "none"}).same
    assert (used[-1], made) == ({"pool": "none"}, [1])
    assert asyncio.run(replay(read_dump(text))).same
    assert made == [1, 1]


def test_a_model_that_is_known_by_name_needs_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever debugs a step need not have the key of production."""
    import os

    def infer(model: str) -> object:
        for name in ("WEATHER_API_KEY", "WEATHER_REGION"):
            if name not in os.environ:
                raise UserError(f"Set the `{name}` environment variable or pass it to use the provider.")
        return object()

    monkeypatch.setattr(keyless, "infer_model", infer)
    with keyless.without_keys("weather:one"):
        assert os.environ["WEATHER_API_KEY"] == keyless.STAND_IN
    assert "WEATHER_API_KEY" not in os.environ

    monkeypatch.setenv("WEATHER_API_KEY", "own")
    with keyless.without_keys("weather:one"):
        assert os.environ["WEATHER_API_KEY"] == "own"
    assert os.environ["WEATHER_API_KEY"] == "own"

    def unknown(model: str) -> object:
        raise UserError("Unknown model: weather:two")

    monkeypatch.setattr(keyless, "infer_model", unknown)
    with pytest.raises(UsageError, match="Unknown model"), keyless.without_keys("weather:two"):
        pass


def test_a_script_prints_what_came_of_it(
    workflow_harness: WorkflowHarness, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The exit code is what a loop of `git bisect` needs."""
    researcher = Researcher()
    ran(workflow_harness, researcher.agent.activity("What is a cat?"))
    file = tmp_path / "dump.json"
    file.write_text(dumped(workflow_harness))

    assert run_script(file) == 0
    assert capsys.readouterr().out.splitlines() == [
        "step researcher of hop w.0: 3 recorded calls answered, none made",
        '  output: "a cat is the meaning of cat"',
    ]
    with registry.isolated():
        assert run_script(str(file)) == 2
        assert "cannot be replayed: no activity 'researcher'" in capsys.readouterr().err.replace("agent", "activity")
    assert run_script(file, modules=["no_such_module"]) == 2
    assert "no_such_module" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("path", "reason"),
    [("give", "not_recorded"), ("nothing", "unknown_path"), ("last", "not_recorded"), ("a/b/c", "not_recorded")],
)
def test_what_cannot_be_dumped_is_refused(workflow_harness: WorkflowHarness, path: str, reason: str) -> None:
    """Steps of functions record no calls, and a step that has not begun has nothing."""

    @activity
    def give() -> str:
        return "a"

    ran(workflow_harness, give.activity(), give.activity())

    with pytest.raises(InvalidInput) as error:
        dumped(workflow_harness, {"last": "give-2"}.get(path, path))
    assert error.value.reason == reason
    with pytest.raises(UnknownWorkflow):
        dump_of(workflow_harness.store, "nobody")


def test_a_dump_of_an_earlier_version_is_read(workflow_harness: WorkflowHarness) -> None:
    """A script outlives the version that wrote it."""
    researcher = Researcher()
    text = (SAMPLES / "v1.json").read_text()

    found = replay_sync(text)

    assert (found.completed, found.output) == (True, "a cat is the meaning of cat")
    assert not [difference for difference in found.differences if "output" in difference]
    assert set(json.loads(text)) == set(HopDump.model_fields)
    assert researcher.asked == 0


@pytest.mark.parametrize(
    ("dump", "text"),
    [
        ("{", "JSON of a dump"),
        ({"format": 2}, "format 2"),
        ({"format": 1}, "Field required"),
        ("no/such/file.json", "cannot be read"),
        ({"format": 1, "hop_id": 7}, "valid string"),
    ],
)
def test_what_is_no_dump_is_refused(dump: Any, text: str) -> None:
    with pytest.raises(InvalidInput, match=text):
        replay_sync(dump)
