"""A step that asks somebody and waits for the answer, without a worker."""

from __future__ import annotations

from pathlib import Path

from pydantic import JsonValue

from paigeant_celery import WorkflowContext, activity


@activity
async def asking(context: WorkflowContext, path: str, question: str) -> JsonValue:
    """Add the token to the file, and return what is answered."""

    def hand_over(token: str) -> None:
        with Path(path).open("a") as asked:
            asked.write(f"{token}\n")

    return await context.wait_for("approval", ask=hand_over, question=question)
