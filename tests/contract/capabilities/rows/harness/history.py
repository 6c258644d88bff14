"""What shortens the history, and what watches its size."""

from __future__ import annotations

from typing import Any

from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart

from paigeant_celery import CeleryDurability
from tests.contract.capabilities.row import Made
from tests.contract.capabilities.rows.capabilities import acting
from tests.contract.capabilities.rows.harness.offered import of, row
from tests.contract.capabilities.rows.tools import call
from tests.contract.capabilities.world import World

__all__ = ["ROWS"]

LONG = (call("act"), call("act"), call("act"), "done")


def long(world: World, *given: Any, answers: Any = LONG) -> Made:
    """Return an agent whose history grows beyond what these capabilities let pass."""
    return acting(world, *given, answers=answers)


def sliding(**more: Any) -> Any:
    return of("SlidingWindowCompaction")(max_messages=4, keep_messages=2, **more)


def summarizing(world: World, *answers: Any, **more: Any) -> Any:
    model = world.model(*(answers or ("it acted",)), name="summarizer")
    return of("SummarizingCompaction")(model, max_messages=4, keep_messages=2, **more)


def clamp(world: World) -> Made:
    prompt = [ToolCallPart("say", {"text": "a wren " * 100}, "say-1")]
    agent = acting(
        world,
        of("ClampOversizedMessages")(max_part_chars=100, keep_head_chars=20, keep_tail_chars=20),
        answers=(prompt, "done"),
    )
    agent.tool_plain(lambda text: text, name="say")
    return agent


def clear(world: World) -> Made:
    return long(world, of("ClearToolResults")(max_messages=3, keep_pairs=1))


def on_request(world: World) -> Made:
    asking = [ToolCallPart("compact_context", {}, "compact")]
    return long(world, of("CompactOnRequest")(sliding()), answers=(call("act"), call("act"), asking, "done"))


def on_request_summarizing(world: World) -> Made:
    asking = [ToolCallPart("compact_context", {"focus": "wrens"}, "compact")]
    answers = (call("act"), asking, call("act"), asking, "done")
    return long(world, of("CompactOnRequest")(summarizing(world)), answers=answers)


def deduplicate(world: World) -> Made:
    def key(part: ToolCallPart) -> str:
        return part.tool_name

    return long(world, of("DeduplicateFileReads")(file_key=key, max_messages=3))


def fallback(world: World) -> Made:
    away = ModelHTTPError(status_code=503, model_name="summarizer", body={"error": "away"})
    chain = [summarizing(world, away), sliding()]
    return long(world, of("FallbackCompaction")(chain, max_tokens=20))


def fallback_recorded(world: World) -> Made:
    """The agent that summarizes has a durability of its own."""
    away = ModelHTTPError(status_code=503, model_name="summarizer", body={"error": "away"})
    chain = [summarizing(world, away, summarization_capabilities=[CeleryDurability()]), sliding()]
    return long(world, of("FallbackCompaction")(chain, max_tokens=20))


def relevance(world: World) -> Made:
    judged = [ToolCallPart("final_result", {"needed_verbatim": 0.1, "still_matters": 0.9}, "judged")]
    judge = world.model(judged, name="judge")
    given = of("RelevanceCompaction")(
        judge, summarizer=summarizing(world), max_tokens=40, target_tokens=20, keep_tokens=10
    )
    return long(world, given)


def report(world: World) -> Made:
    return long(world, of("ReportContextUsage")())


def window(world: World) -> Made:
    return long(world, sliding())


def window_with_receipts(world: World) -> Made:
    return long(world, sliding(receipts=True))


def summary(world: World) -> Made:
    return long(world, summarizing(world))


def summary_by_the_same_model(world: World) -> Made:
    def act_or_summarize(messages: Any, info: Any) -> ModelResponse:
        return ModelResponse(parts=call("act") if info.function_tools else [TextPart("it acted")])

    answers = (act_or_summarize, *LONG[1:])
    return long(world, of("SummarizingCompaction")(max_messages=4, keep_messages=2), answers=answers)


def tiered(world: World, **more: Any) -> Made:
    tiers = [of("ClearToolResults")(max_messages=3, keep_pairs=1), summarizing(world, **more)]
    return long(world, of("TieredCompaction")(tiers, target_tokens=20))


def tiered_recorded(world: World) -> Made:
    return tiered(world, summarization_capabilities=[CeleryDurability()])


def warn(world: World) -> Made:
    return long(world, of("WarnNearLimits")(max_iterations=5, max_context_tokens=100))


def warn_of_cache(world: World) -> Made:
    return long(world, of("WarnOnCacheBusts")(min_missed_tokens=1))


WRITTEN = r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00"  # when a summary was written
CREATED = "pydantic-ai-harness.compaction.summary.created_at"
LATER = "a summary in a tier bears the time of the attempt"

ROWS = [
    row(name="`ClampOversizedMessages`", make=clamp, of=("ClampOversizedMessages",)),
    row(name="`ClearToolResults`", make=clear, of=("ClearToolResults",)),
    row(name="`CompactOnRequest`", make=on_request, of=("CompactOnRequest",)),
    row(
        name="`CompactOnRequest` with a summary",
        make=on_request_summarizing,
        of=("CompactOnRequest",),
        made_up=WRITTEN,
    ),
    row(name="`DeduplicateFileReads`", make=deduplicate, of=("DeduplicateFileReads",)),
    row(
        name="`FallbackCompaction` whose first strategy fails",
        make=fallback,
        of=("FallbackCompaction",),
        again=("request to summarizer",),
        runs_again="the requests of its strategies",
    ),
    row(
        name="`FallbackCompaction` whose strategy has `summarization_capabilities=[CeleryDurability()]`",
        make=fallback_recorded,
        of=("FallbackCompaction",),
    ),
    row(name="`RelevanceCompaction`", make=relevance, of=("RelevanceCompaction",)),
    row(
        name="`ReportContextUsage`",
        make=report,
        of=("ReportContextUsage",),
    ),
    row(name="`SlidingWindowCompaction`", make=window, of=("SlidingWindowCompaction",)),
    row(name="`SlidingWindowCompaction` with receipts", make=window_with_receipts, of=("SlidingWindowCompaction",)),
    row(name="`SummarizingCompaction`", make=summary, of=("SummarizingCompaction",), made_up=WRITTEN),
    row(
        name="`SummarizingCompaction` by the agent's model",
        make=summary_by_the_same_model,
        of=("SummarizingCompaction",),
        made_up=WRITTEN,
    ),
    row(
        name="`TieredCompaction`",
        make=tiered,
        of=("TieredCompaction",),
        anew=(CREATED,),
        again=("request to summarizer",),
        runs_again="the requests of its tiers",
        other=LATER,
    ),
    row(
        name="`TieredCompaction` whose tier has `summarization_capabilities=[CeleryDurability()]`",
        make=tiered_recorded,
        of=("TieredCompaction",),
        anew=(CREATED,),
        other=LATER,
    ),
    row(name="`WarnNearLimits`", make=warn, of=("WarnNearLimits",)),
    row(name="`WarnOnCacheBusts`", make=warn_of_cache, of=("WarnOnCacheBusts",)),
]
