"""A library, a reader that is begun once for each document, three judges of whom two decide, and a writer."""

from __future__ import annotations

import os

from pydantic_ai.models.function import FunctionModel

from examples.local_models import local_model
from examples.research_fan_out.documents import DOCUMENTS
from examples.research_fan_out.ledger import CountedModel
from examples.research_fan_out.outputs import Answer, Finding, Library, Verdict
from examples.research_fan_out.thinking import judge_clarity, judge_evidence, judge_relevance, read, write
from paigeant_celery import ActivitySpec, BlockSpec, FunctionSpec, PaigeantAgent, activity, for_each, parallel

__all__ = ["AT_ONCE", "QUORUM", "clarity", "evidence", "library", "reader", "relevance", "slip_for", "writer"]

AT_ONCE = 3  # documents
QUORUM = 2  # judges

# A worker has no command line: the environment names its model.
MODEL = os.environ.get("FAN_OUT_MODEL")
JUDGE = "You judge quotes from several documents that are to answer the user's question. Choose up to three, best first"


@activity
def library() -> Library:
    """Return all documents."""
    return Library(documents=DOCUMENTS)


reader = PaigeantAgent(
    CountedModel(MODEL or local_model(read)),
    output_type=Finding,
    instructions=(
        "You get a question and one document. Copy up to two sentences of the document that help to answer the "
        "question, word for word; none if none does."
    ),
)

relevance = PaigeantAgent(
    MODEL or local_model(judge_relevance),
    output_type=Verdict,
    instructions=f"{JUDGE}: those that say most of what was asked.",
)

evidence = PaigeantAgent(
    MODEL or local_model(judge_evidence),
    output_type=Verdict,
    instructions=f"{JUDGE}: those that say how, why or how much.",
)

clarity = PaigeantAgent(
    MODEL or FunctionModel(judge_clarity, model_name="local:judge_clarity"),
    output_type=Verdict,
    instructions=f"{JUDGE}: those that are easiest to understand.",
)

writer = PaigeantAgent(
    MODEL or local_model(write),
    output_type=Answer,
    instructions=(
        "Answer the user's question from the verdicts of the judges alone, in up to four sentences, each with the "
        "title of its source in brackets. Name the sources, and the judges whose verdicts you got."
    ),
)


def slip_for(question: str) -> list[FunctionSpec | BlockSpec | ActivitySpec]:
    """Return the steps that answer a question."""
    return [
        library.activity(),
        for_each(reader.activity(question), over="library#/documents", max_at_once=AT_ONCE, step_id="readings"),
        parallel(
            {
                "relevance": relevance.activity(question),
                "evidence": evidence.activity(question),
                "clarity": clarity.activity(question),
            },
            join=QUORUM,
            step_id="verdicts",
        ),
        writer.activity(question),
    ]
