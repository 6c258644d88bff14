"""Every public capability of `pydantic_ai.capabilities`."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from pydantic_ai import Agent, BinaryContent, RunContext, Tool
from pydantic_ai import capabilities as of
from pydantic_ai.exceptions import ContentFilterError
from pydantic_ai.messages import (
    FunctionToolResultEvent,
    ModelRequest,
    ModelResponse,
    NativeToolCallPart,
    NativeToolReturnPart,
    SystemPromptPart,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    UserPromptPart,
)
from pydantic_ai.models import Model
from pydantic_ai.models.instrumented import InstrumentationSettings
from pydantic_ai.native_tools import WebSearchTool
from pydantic_ai.profiles import ModelProfile
from pydantic_ai.tools import DeferredToolRequests, DeferredToolResults, ToolDefinition
from pydantic_ai.toolsets import FunctionToolset

from paigeant_celery import CeleryDurability
from tests.contract.capabilities.row import Made, Row
from tests.contract.capabilities.rows.tools import call
from tests.contract.capabilities.world import Answer, World

__all__ = ["ROWS", "acting"]


def acting(
    world: World, *given: Any, answers: tuple[Answer, ...] = (), model: Any = None, **arguments: Any
) -> Agent[Any, Any]:
    """Return an agent with these capabilities whose model calls the tool `act` once."""
    agent: Agent[Any, Any] = Agent(
        model or world.model(*(answers or (call("act"), "done"))), capabilities=list(given), **arguments
    )

    @agent.tool_plain
    def act() -> str:
        """Act once."""
        world.did("act")
        return "acted"

    return agent


def toolset_of(world: World, *names: str) -> FunctionToolset[Any]:
    """Return a toolset of tools that count their calls."""
    toolset: FunctionToolset[Any] = FunctionToolset()
    for name in names:
        toolset.add_function(tool_of(world, name), name=name)
    return toolset


def tool_of(world: World, name: str) -> Callable[[], str]:
    """Return a tool that counts its calls."""

    def tool() -> str:
        """Do what the name says."""
        world.did(name)
        return f"did {name}"

    return tool


# Given by the agent's author.


def capability(world: World) -> Made:
    tools = [Tool(tool_of(world, "look"), name="look")]
    given = of.Capability(instructions="Look first.", tools=tools, id="looking")
    return acting(world, given, answers=(call("look"), call("act"), "done"))


def deferred_capability(world: World) -> Made:
    tools = [Tool(tool_of(world, "look"), name="look")]
    given = of.Capability(
        instructions="Look first.", tools=tools, id="looking", description="To look.", defer_loading=True
    )
    loading = [ToolCallPart("load_capability", {"id": "looking"}, "load")]
    return acting(world, given, answers=(loading, call("look"), "done"))


def dynamic(world: World) -> Made:
    def choose(ctx: RunContext[Any]) -> of.AbstractCapability[Any]:
        return of.Capability(tools=toolset_of(world, "look").tools.values(), id="looking")

    return acting(world, of.DynamicCapability(choose, id="chosen"), answers=(call("look"), "done"))


def combined(world: World) -> Made:
    given = of.CombinedCapability([of.Thinking(), of.Toolset(toolset_of(world, "look"))])
    return acting(world, given, answers=(call("look"), "done"))


@dataclass
class Shouting(of.WrapperCapability[Any]):
    async def after_model_request(self, ctx: RunContext[Any], *, request_context: Any, response: ModelResponse) -> Any:
        parts = [TextPart(part.content.upper()) if isinstance(part, TextPart) else part for part in response.parts]
        return replace(response, parts=parts)


def wrapper(world: World) -> Made:
    return acting(world, Shouting(of.Toolset(toolset_of(world, "look"))), answers=(call("look"), "done"))


class Custom(of.AbstractCapability[Any]):
    """A capability of one's own: settings, instructions, a tool, a changed result."""

    def get_instructions(self) -> str:
        return "Be brief."

    def get_model_settings(self) -> Any:
        return {"temperature": 0.0}

    async def after_tool_execute(self, ctx: RunContext[Any], **given: Any) -> Any:
        return f"{given['result']}!"


def custom(world: World) -> Made:
    return acting(world, Custom())


# Tools.


def toolset(world: World) -> Made:
    return acting(world, of.Toolset(toolset_of(world, "look")), answers=(call("look", "act"), "done"))


def prefixed(world: World) -> Made:
    given = of.PrefixTools(wrapped=of.Toolset(toolset_of(world, "look")), prefix="my")
    return acting(world, given, answers=(call("my_look"), "done"))


def prepared(world: World) -> Made:
    async def only_act(ctx: RunContext[Any], tools: list[ToolDefinition]) -> list[ToolDefinition]:
        world.did("prepare")
        return [tool for tool in tools if tool.name == "act"]

    return acting(world, of.Toolset(toolset_of(world, "look")), of.PrepareTools(only_act))


def prepared_output(world: World) -> Made:
    async def say(ctx: RunContext[Any], tools: list[ToolDefinition]) -> list[ToolDefinition]:
        world.did("prepare")
        return [replace(tool, description="the end") for tool in tools]

    answers = (call("act"), [ToolCallPart("final_result", {"response": [1, 2]}, "found")])
    return acting(world, of.PrepareOutputTools(say), answers=answers, output_type=list[int])


def metadata(world: World) -> Made:
    return acting(world, of.SetToolMetadata(kind="slow"))


def metadata_unrecorded(world: World) -> Made:
    return acting(world, of.SetToolMetadata(paigeant=False))


def return_schemas(world: World) -> Made:
    return acting(world, of.IncludeToolReturnSchemas())


def tool_search(world: World) -> Made:
    def hidden() -> str:
        """Find hidden things."""
        world.did("hidden")
        return "found"

    answers = ([ToolCallPart("search_tools", {"queries": ["hidden"]}, "search")], call("hidden"), "done")
    agent = acting(world, of.ToolSearch(), answers=answers)
    agent.tool_plain(hidden, defer_loading=True)
    return agent


def tool_search_of_ones_own(world: World) -> Made:
    def hidden() -> str:
        """Find hidden things."""
        world.did("hidden")
        return "found"

    def search(ctx: RunContext[Any], queries: Any, tools: Any) -> list[str]:
        world.did("search")
        return [tool.name for tool in tools]

    answers = ([ToolCallPart("search_tools", {"queries": ["hidden"]}, "search")], call("hidden"), "done")
    agent = acting(world, of.ToolSearch(strategy=search), answers=answers)
    agent.tool_plain(hidden, defer_loading=True)
    return agent


def native_search() -> list[Any]:
    asked = NativeToolCallPart("web_search", {"query": "wrens"}, "search", provider_name="function")
    told = NativeToolReturnPart("web_search", {"found": ["a wren"]}, "search", provider_name="function")
    return [asked, told, TextPart("done")]


def native(world: World) -> Made:
    return acting(world, of.NativeTool(WebSearchTool()), answers=(native_search(),))


def native_of_a_function(world: World) -> Made:
    return acting(world, of.NativeTool(lambda ctx: WebSearchTool()), answers=(native_search(),))


def without_native(world: World, *answers: Answer) -> Model:
    return world.model(*answers, profile=ModelProfile(supported_native_tools=frozenset()))


def searching(world: World) -> Any:
    def search(query: str) -> list[str]:
        """Search for something."""
        world.did(f"search for {query}")
        return [f"a {query}"]

    return search


def local_of(given: Any, world: World, name: str, **arguments: Any) -> Made:
    return acting(world, given, model=without_native(world, call(name, **arguments), "done"))


def native_or_local(world: World) -> Made:
    given = of.NativeOrLocalTool(native=WebSearchTool(), local=Tool(searching(world), name="search"))
    return local_of(given, world, "search", query="wren")


def web_search(world: World) -> Made:
    return acting(world, of.WebSearch(), answers=(native_search(),))


def web_search_local(world: World) -> Made:
    return local_of(of.WebSearch(local=Tool(searching(world), name="search")), world, "search", query="wren")


def web_fetch_local(world: World) -> Made:
    return local_of(of.WebFetch(local=Tool(searching(world), name="fetch")), world, "fetch", query="wren")


def x_search_local(world: World) -> Made:
    return local_of(of.XSearch(local=Tool(searching(world), name="ask_x")), world, "ask_x", query="wren")


def image_generation_local(world: World) -> Made:
    def draw(prompt: str) -> BinaryContent:
        """Draw something."""
        world.did("draw")
        return BinaryContent(b"png" * 10, media_type="image/png")

    return local_of(of.ImageGeneration(local=Tool(draw, name="draw")), world, "draw", prompt="wren")


# Models and settings.


def settings_of(given: Any) -> Any:
    return lambda world: acting(world, given())


def thinking(world: World) -> Made:
    thought = [ThinkingPart("hm", signature="s"), *call("act")]
    return acting(world, of.Thinking("high"), answers=(thought, "done"))


def selected(world: World) -> Made:
    def select(ctx: Any) -> Model:
        world.did("select")
        return world.model(call("act"), "done", name="selected")

    return Agent(
        world.model("unused"), capabilities=[of.SelectModel(select)], tools=toolset_of(world, "act").tools.values()
    )


def resolved(world: World) -> Made:
    def resolve(ctx: Any, model_id: str) -> Model | None:
        return world.model(call("act"), "done", name="resolved") if model_id == "mine:best" else None

    return Agent(
        "mine:best", capabilities=[of.ResolveModelId(resolve)], tools=toolset_of(world, "act").tools.values(),
        defer_model_check=True,
    )  # fmt: skip


def instrumented(world: World) -> Made:
    return acting(world, of.Instrumentation(InstrumentationSettings()))


def threads(world: World) -> Made:
    return acting(world, of.UseThreadExecutor(ThreadPoolExecutor(1)))


def filtered(world: World) -> Made:
    answer = ModelResponse(parts=[TextPart("no")], finish_reason="content_filter")
    agent = acting(world, of.RaiseContentFilterError(), CeleryDurability(), answers=(call("act"), answer), name="w")

    async def run() -> Any:
        try:
            return await agent.run("go")
        except ContentFilterError as error:  # its text holds times
            return [str(error.message), json.loads(error.body or "")[0]["parts"]]

    return run


def batched(world: World) -> Made:
    model = world.state.setdefault("model", world.model(call("act"), "done"))  # a provider's batches are kept there
    moment = timedelta(seconds=0.001)
    given = of.BatchModelRequests(max_wait=moment, poll_interval=moment, max_poll_interval=moment)
    return acting(world, given, model=model)


def file_understanding(world: World) -> Made:
    picture = BinaryContent(b"png" * 10, media_type="image/png")
    profile = ModelProfile(supports_image_input=False)
    model = world.model(call("act"), "done", profile=profile)
    reader = world.model("a wren", name="reader")
    agent = Agent(model, capabilities=[of.FileUnderstanding(reader), CeleryDurability()], name="worker")

    @agent.tool_plain
    def act() -> str:
        world.did("act")
        return "acted"

    return lambda: agent.run(["What is it?", picture])


# History and events.


def history(world: World) -> Made:
    def shorten(messages: list[Any]) -> list[Any]:
        world.did("process")
        return [*messages, ModelRequest(parts=[UserPromptPart("and be brief")])]

    return acting(world, of.ProcessHistory(shorten), answers=(call("act"), call("act"), "done"))


def reinjected(world: World) -> Made:
    agent = acting(world, of.ReinjectSystemPrompt(), CeleryDurability(), system_prompt="Be brief.", name="worker")
    earlier = [ModelRequest(parts=[UserPromptPart("hello")]), ModelResponse(parts=[TextPart("hello")])]
    return lambda: agent.run("go", message_history=[*earlier])


def replaced_prompt(world: World) -> Made:
    given = of.ReinjectSystemPrompt(replace_existing=True)
    agent = acting(world, given, CeleryDurability(), system_prompt="Be brief.", name="worker")
    earlier = [
        ModelRequest(parts=[SystemPromptPart("Be long."), UserPromptPart("hello")]),
        ModelResponse(parts=[TextPart("hello")]),
    ]
    return lambda: agent.run("go", message_history=[*earlier])


def watched(world: World) -> Made:
    async def watch(ctx: RunContext[Any], events: AsyncIterator[Any]) -> None:
        async for event in events:
            if isinstance(event, FunctionToolResultEvent):
                world.did("watch")

    return acting(world, of.ProcessEventStream(watch))


def rewritten(world: World) -> Made:
    async def drop(ctx: RunContext[Any], events: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for event in events:
            if not isinstance(event, FunctionToolResultEvent):
                yield event

    return acting(world, of.ProcessEventStream(drop))


# People.


def needing_approval(world: World, *given: Any, **arguments: Any) -> Agent[Any, Any]:
    """Return an agent whose tool `pay` needs an approval."""
    agent: Agent[Any, Any] = Agent(world.model(call("pay"), "done"), capabilities=list(given), **arguments)

    @agent.tool_plain(requires_approval=True)
    def pay() -> str:
        world.did("pay")
        return "paid"

    return agent


def handled(world: World) -> Made:
    def decide(ctx: RunContext[Any], requests: DeferredToolRequests) -> DeferredToolResults:
        world.did("decide")
        return requests.build_results(approve_all=world.count("pay") == 0)  # who is asked later may say no

    return needing_approval(world, of.HandleDeferredToolCalls(decide))


def asked(world: World) -> Made:
    def ask(ctx: RunContext[Any], requests: DeferredToolRequests, token: str) -> DeferredToolResults:
        world.did("ask")
        return requests.build_results(approve_all=True)

    return needing_approval(world, of.RequestInput(ask))


ROWS = [
    Row(name="`AbstractCapability`, one of your own", make=custom, of=("AbstractCapability",)),
    Row(
        name="`BatchModelRequests`",
        make=batched,
        of=("BatchModelRequests",),
        anew=("provider_details", "provider_response_id"),
    ),
    Row(name="`Caching`", make=settings_of(of.Caching), of=("Caching",)),
    Row(name="`Capability` with instructions and tools", make=capability, of=("Capability",)),
    Row(name="`Capability` with `defer_loading`", make=deferred_capability, of=("Capability",)),
    Row(name="`Citations`", make=settings_of(of.Citations), of=("Citations",)),
    Row(name="`CombinedCapability`", make=combined, of=("CombinedCapability",)),
    Row(name="`DynamicCapability`", make=dynamic, of=("DynamicCapability",)),
    Row(name="`FileUnderstanding`", make=file_understanding, of=("FileUnderstanding",)),
    Row(
        name="`HandleDeferredToolCalls`",
        make=handled,
        of=("HandleDeferredToolCalls",),
        brief=True,
        killed=True,
    ),
    Row(name="`ImageGeneration` with a local tool", make=image_generation_local, of=("ImageGeneration",)),
    Row(name="`IncludeToolReturnSchemas`", make=return_schemas, of=("IncludeToolReturnSchemas",)),
    Row(name="`Instrumentation`", make=instrumented, of=("Instrumentation",)),
    Row(name="`NativeOrLocalTool`, local", make=native_or_local, of=("NativeOrLocalTool",)),
    Row(name="`NativeTool`", make=native, of=("NativeTool",)),
    Row(name="`NativeTool` of a function", make=native_of_a_function, of=("NativeTool",)),
    Row(name="`PrefixTools`", make=prefixed, of=("PrefixTools",)),
    Row(
        name="`PrepareOutputTools`",
        make=prepared_output,
        of=("PrepareOutputTools",),
        again=("prepare",),
        runs_again="the function",
    ),
    Row(name="`PrepareTools`", make=prepared, of=("PrepareTools",), again=("prepare",), runs_again="the function"),
    Row(
        name="`ProcessEventStream`, a handler",
        make=watched,
        of=("ProcessEventStream",),
        again=("watch",),
        runs_again="the handler",
    ),
    Row(name="`ProcessEventStream`, a generator", make=rewritten, of=("ProcessEventStream",)),
    Row(
        name="`ProcessHistory`",
        make=history,
        of=("ProcessHistory",),
        again=("process",),
        runs_again="the function",
        brief=True,
    ),
    Row(name="`RaiseContentFilterError`", make=filtered, of=("RaiseContentFilterError",)),
    Row(name="`ReinjectSystemPrompt`", make=reinjected, of=("ReinjectSystemPrompt",)),
    Row(name="`ReinjectSystemPrompt(replace_existing=True)`", make=replaced_prompt, of=("ReinjectSystemPrompt",)),
    Row(
        name="`RequestInput`, answered at once",
        make=asked,
        of=("RequestInput",),
        since="2.68",
    ),
    Row(
        name="`RequestInput`",
        waits="tests/unit/agents/test_external_events.py::test_a_wait_keeps_its_contract_wherever_the_worker_dies",
        of=("RequestInput",),
        since="2.68",
    ),
    Row(name="`ResolveModelId`", make=resolved, of=("ResolveModelId",)),
    Row(name="`SelectModel`", make=selected, of=("SelectModel",), again=("select",), runs_again="the selector"),
    Row(name="`SetToolMetadata`", make=metadata, of=("SetToolMetadata",)),
    Row(
        name="`SetToolMetadata(paigeant=False)`",
        make=metadata_unrecorded,
        of=("SetToolMetadata",),
        again=("act",),
        runs_again="the tools",
    ),
    Row(name="`Thinking`", make=thinking, of=("Thinking",)),
    Row(name="`ToolSearch`", make=tool_search, of=("ToolSearch",)),
    Row(
        name="`ToolSearch` with a function",
        make=tool_search_of_ones_own,
        of=("ToolSearch",),
        again=("search",),
        runs_again="the function",
    ),
    Row(name="`Toolset`", make=toolset, of=("Toolset",)),
    Row(name="`UseThreadExecutor`", make=threads, of=("UseThreadExecutor",)),
    Row(name="`WebFetch` with a local tool", make=web_fetch_local, of=("WebFetch",)),
    Row(name="`WebSearch`", make=web_search, of=("WebSearch",)),
    Row(name="`WebSearch` with a local tool", make=web_search_local, of=("WebSearch",)),
    Row(name="`WrapperCapability`", make=wrapper, of=("WrapperCapability",)),
    Row(name="`XSearch` with a local tool", make=x_search_local, of=("XSearch",)),
]
