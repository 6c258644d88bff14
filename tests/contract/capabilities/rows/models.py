"""Models that wrap others, and what they are asked with."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from pydantic_ai import Agent, RunContext, capabilities, direct
from pydantic_ai.exceptions import ModelAPIError, RetryModelRequest, SkipModelRequest
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, TextPart
from pydantic_ai.models.concurrency import ConcurrencyLimitedModel
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.models.instrumented import InstrumentationSettings, InstrumentedModel
from pydantic_ai.models.test import TestModel
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.usage import RequestUsage

from paigeant_celery import CeleryDurability
from tests.contract.capabilities.row import Made, Row
from tests.contract.capabilities.rows.capabilities import acting
from tests.contract.capabilities.rows.tools import call
from tests.contract.capabilities.world import World

__all__ = ["ROWS"]


def test_model(world: World) -> Made:
    return acting(world, model=TestModel())


def wrapped(world: World) -> Made:
    return acting(world, model=WrapperModel(world.model(call("act"), "done")))


def instrumented(world: World) -> Made:
    return acting(world, model=InstrumentedModel(world.model(call("act"), "done"), InstrumentationSettings()))


def limited(world: World) -> Made:
    return acting(world, model=ConcurrencyLimitedModel(world.model(call("act"), "done"), limiter=1))


def with_usage(world: World) -> Made:
    usage = RequestUsage(input_tokens=10, output_tokens=5, cache_read_tokens=3, details={"thinking": 2})
    answer = ModelResponse(
        parts=[TextPart("done")],
        usage=usage,
        provider_details={"fingerprint": "f"},
        provider_response_id="r-1",
        finish_reason="stop",
    )
    return acting(world, answers=(call("act"), answer))


def settings(world: World) -> Made:
    def choose(ctx: RunContext[Any]) -> Any:
        world.did("settings")
        return {"temperature": 0.1 * ctx.run_step}

    return acting(world, model_settings=choose)


def chosen_for_a_run(world: World) -> Made:
    agent = acting(world, CeleryDurability(), model=world.model("unused"), name="worker")
    return lambda: agent.run("go", model=world.model(call("act"), "done", name="chosen"))


def registered(world: World) -> Made:
    durable = CeleryDurability[Any](models={"cheap": world.model(call("act"), "done", name="cheap")})
    agent = acting(world, durable, model=world.model("unused"), name="worker")
    return lambda: agent.run("go", model="cheap")


def overridden(world: World) -> Made:
    agent = acting(world, CeleryDurability(), model=world.model("unused"), name="worker")

    async def run() -> Any:
        with agent.override(model=world.model(call("act"), "done", name="other")):
            return await agent.run("go")

    return run


def skipped(world: World) -> Made:
    async def skip(ctx: RunContext[Any], request_context: Any) -> Any:
        if ctx.run_step == 2:
            raise SkipModelRequest(ModelResponse(parts=[TextPart("from a cache")]))
        return request_context

    return acting(world, capabilities.Hooks(before_model_request=skip))


def asked_again(world: World) -> Made:
    async def again(ctx: RunContext[Any], *, request_context: Any, error: Exception) -> Any:
        raise RetryModelRequest(world.model("unused", "done by another", name="other"))

    given = capabilities.Hooks(model_request_error=again)
    return acting(world, given, answers=(call("act"), ModelAPIError("model", "overloaded")))


def rejected(world: World) -> Made:
    async def check(ctx: RunContext[Any], *, request_context: Any, response: ModelResponse) -> Any:
        if response.text == "bad":
            raise RetryModelRequest(world.model("unused", "good", name="other"))
        return response

    return acting(world, capabilities.Hooks(after_model_request=check), answers=(call("act"), "bad"))


def broken_stream(world: World) -> Made:
    """A model whose stream breaks off halfway; another one answers."""

    async def stream(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str]:
        world.did("request to broken")
        yield "half of"
        raise ModelAPIError("broken", "cut off")

    broken = FunctionModel(stream_function=stream, model_name="broken")

    async def handle(ctx: RunContext[Any], events: AsyncIterator[Any]) -> None:
        async for _ in events:
            pass

    other = world.model("the whole answer", "the whole answer", name="other")
    durability = CeleryDurability[Any](event_stream_handler=handle)
    return Agent(broken, capabilities=[capabilities.ModelFallback(other), durability], name="worker")


def asked_directly(world: World) -> Made:
    model = world.model("done")

    async def run() -> Any:
        response = await direct.model_request(model, [ModelRequest.user_text_prompt("go")])
        return response.text

    return run


ROWS = [
    Row(name="`TestModel`", make=test_model),
    Row(name="`WrapperModel`", make=wrapped),
    Row(name="`InstrumentedModel`", make=instrumented),
    Row(name="`ConcurrencyLimitedModel`", make=limited),
    Row(name="usage, ids and details of a provider", make=with_usage),
    Row(
        name="model settings of a function",
        make=settings,
        again=("settings",),
        runs_again="the function",
    ),
    Row(name="`run(model=…)`", make=chosen_for_a_run),
    Row(name="`CeleryDurability(models=…)`", make=registered),
    Row(name="`agent.override(model=…)`", make=overridden),
    Row(name="`SkipModelRequest`", make=skipped),
    Row(name="`RetryModelRequest` after an error", make=asked_again, since="2.68"),
    Row(name="`RetryModelRequest` after a bad response", make=rejected, since="2.68"),
    Row(name="`ModelFallback` after a stream that broke off", make=broken_stream, since="2.64", ends="ModelAPIError"),
    Row(
        name="`direct.model_request` in a function step",
        make=asked_directly,
        again=("request to model",),
        runs_again="the request, because no agent makes it",
    ),
]
