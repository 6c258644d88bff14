"""The messages of a conversation: read for a run that continues it, and written when the run has ended."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace

from pydantic_ai.messages import ModelMessage, ModelMessagesTypeAdapter, ModelResponse, ToolCallPart

from paigeant_celery.core.conversations import FORMAT
from paigeant_celery.core.errors import NotSerializable, Paused

__all__ = ["read_history", "said_by"]

_START, _END = f'{{"v":{FORMAT},"messages":', "}"


def read_history(batches: Iterable[str], *, hop_id: str) -> list[ModelMessage]:
    """Return the messages of a history.

    Raises `Paused` (`conversation_open`) if it ends in a tool call without an answer, and `NotSerializable`
    (`store_corrupt`) if it cannot be read.
    """
    messages = [_not_own(message, hop_id) for batch in batches for message in _messages_of(batch)]
    if waiting := _open_calls(messages):
        text = (
            f"its history ends in calls of {', '.join(waiting)} that have no result, so no prompt can follow; "
            "cancel the workflow, and continue in another conversation"
        )
        raise Paused("conversation_open", text)
    return messages


def said_by(messages: Sequence[ModelMessage]) -> str:
    """Return the messages of a run as one line of text.

    Raises `Paused` (`conversation_open`) if they end in a tool call without an answer: no step could continue after it.
    """
    if waiting := _open_calls(messages):
        text = f"the run ended in calls of {', '.join(waiting)} that have no result, so no step could go on from there"
        raise Paused("conversation_open", text)
    tree = ModelMessagesTypeAdapter.dump_python(list(messages), mode="json")
    text = json.dumps(tree, ensure_ascii=False, separators=(",", ":"))
    try:
        text.encode()
    except UnicodeEncodeError:  # lone surrogates, which models may write
        text = json.dumps(tree, separators=(",", ":"))
    return f"{_START}{text}{_END}\n"


def _messages_of(batch: str) -> list[ModelMessage]:
    try:
        if not (batch.startswith(_START) and batch.endswith(_END)):
            raise ValueError(batch[: len(_START)])
        return ModelMessagesTypeAdapter.validate_json(batch[len(_START) : -len(_END)])
    except ValueError:  # a `ValidationError` is one, which would quote the messages
        text = "its history is damaged, or a newer pydantic-ai wrote it; redrive the workflow on workers that have that"
    raise NotSerializable("store_corrupt", text)


def _not_own(message: ModelMessage, hop_id: str) -> ModelMessage:
    """Return a message without the id of its run if runs of this hop may have the same.

    They have that of a workflow that had the same correlation id, and expired before the conversation did.
    """
    run_id = message.run_id
    return replace(message, run_id=None) if run_id is not None and run_id.startswith(f"{hop_id}:") else message


def _open_calls(messages: Sequence[ModelMessage]) -> list[str]:
    """Return the names of the tools that the last answer of the model calls and that have no result."""
    answered: set[str] = set()
    for message in reversed(messages):
        if isinstance(message, ModelResponse):
            return [
                part.tool_name
                for part in message.parts
                if isinstance(part, ToolCallPart) and part.tool_call_id not in answered
            ]
        answered.update(call_id for part in message.parts if (call_id := getattr(part, "tool_call_id", None)))
    return []
