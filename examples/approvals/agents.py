"""A clerk that pays refunds, and may pay those above the limit only if a person agrees."""

from __future__ import annotations

import os

from pydantic_ai import ApprovalRequired, RunContext

from examples.approvals import ledger
from examples.approvals.refunds import LIMIT, Settled, euros
from examples.approvals.thinking import plan
from examples.local_models import local_model
from paigeant_celery import PaigeantAgent

__all__ = ["clerk"]

clerk = PaigeantAgent(
    # A worker has no command line: the environment names its model.
    os.environ.get("APPROVALS_MODEL") or local_model(plan),
    name="clerk",
    output_type=Settled,
    instructions=(
        "Read what the user writes and pay each refund that it asks for, all in parallel and each once. Do not ask "
        "again for one that was refused. Then list those that were paid, and those that were refused and why."
    ),
)


@clerk.tool
def refund(ctx: RunContext[object], reason: str, cents: int) -> str:
    """Pay money back, and say for what reason."""
    if cents > LIMIT and not ctx.tool_call_approved:
        raise ApprovalRequired
    ledger.pay(call=ctx.tool_call_id or "", cents=cents)
    return f"{euros(cents)} ({reason})"
