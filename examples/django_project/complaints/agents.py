"""The agents and the function of the app: a worker finds this module as it finds `tasks.py`, the web server does not.

Sync tools and functions use Django's ORM as they are: each has a thread of its own, whose connections are closed.
"""

from __future__ import annotations

import os
from pathlib import Path

from django.conf import settings
from pydantic_ai import RunContext
from pydantic_ai.models import Model

from examples.approvals.refunds import Settled, euros
from examples.approvals.thinking import plan
from examples.django_project.complaints.models import Complaint, Payment
from examples.django_project.complaints.thinking import write_letter
from examples.local_models import Answering, local_model
from paigeant_celery import PaigeantAgent, WorkflowContext, activity, idempotency_key, workflow_context

__all__ = ["clerk", "correspondent", "file_letter"]


def model(local: Answering) -> Model | str:
    """Return the model that the environment names, since a worker has no command line; otherwise the local function."""
    return os.environ.get("COMPLAINTS_MODEL") or local_model(local)


clerk = PaigeantAgent(
    model(plan),
    output_type=Settled,
    instructions=(
        "Read the customer's complaint and refund each amount that it asks for, all in parallel and each once. Do not "
        "ask again for one that was refused. Then list those that were paid, and those that were refused and why."
    ),
)

correspondent = PaigeantAgent(
    model(write_letter),
    instructions="Write a short, friendly letter to the customer. Promise nothing that was not paid.",
)


@clerk.tool(requires_approval=True)
def refund(ctx: RunContext[object], reason: str, cents: int) -> str:
    """Pay money back, and say for what reason."""
    if settings.COMPLAINTS_BANK_CLOSED and Path(settings.COMPLAINTS_BANK_CLOSED).exists():
        raise ConnectionError("the bank is closed")
    # The key is the same in each attempt: if a worker dies here, the call is made again, and nobody is paid twice.
    paid = {"cents": cents, "reason": reason, "complaint_id": workflow_context().correlation_id}
    Payment.objects.get_or_create(key=idempotency_key(ctx), defaults=paid)
    return f"{euros(cents)} ({reason})"


@activity
def file_letter(context: WorkflowContext) -> int:
    """Keep the letter with its complaint; returns how long it is."""
    assert context.previous_output is not None
    letter = context.previous_output.output_as(str)
    Complaint.objects.filter(pk=context.correlation_id).update(letter=letter)
    return len(letter)
