"""The messages of a conversation: read for a run that continues it, and written when the run has ended."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from pydantic import JsonValue
from pydantic_ai.messages import ModelMessage, ModelMessagesTypeAdapter, ModelResponse, TextPart, ToolCallPart
from pydantic_core import PydanticSerializationError

from paigeant_celery.core.conversations import FORMAT
from paigeant_celery.core.errors import NotSerializable, Paused
from paigeant_celery.core.jsonable import dumps

__all__ = ["is_said", "read_history", "said_by"]

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


def is_said(output: JsonValue, history: Sequence[ModelMessage], *, hop_id: str) -> bool:
    """Say whether the last answer of a hop's model, as the history has it, is what its step gave as its output.

    It is not if a function or a validator made something else of it.
    """
    own = (message for message in reversed(history) if (message.run_id or "").startswith(f"{hop_id}:"))
    answer = next((message for message in own if isinstance(message, ModelResponse)), None)
    wanted = dumps(output, canonical=True)
    with suppress(ValueError, RecursionError):  # what a model writes as JSON may be anything
        return answer is not None and any(dumps(form, canonical=True) == wanted for form in _forms_of(answer))
    return False


def said_by(messages: Sequence[ModelMessage]) -> str:
    """Return the messages of a run as one line of text.

    Raises `Paused` (`conversation_open`) if they end in a tool call without an answer: no step could continue after it.
    Raises `NotSerializable` (`result_not_serializable`) if something in them has no JSON form.
    """
    if waiting := _open_calls(messages):
        text = f"the run ended in calls of {', '.join(waiting)} that have no result, so no step could go on from there"
        raise Paused("conversation_open", text)
    try:
        tree = ModelMessagesTypeAdapter.dump_python(list(messages), mode="json", warnings=False)
    except (PydanticSerializationError, ValueError) as error:  # such as the metadata of a tool that is not recorded
        said = "something that the run says in its conversation, such as a tool's `metadata`, has no JSON form"
        raise NotSerializable("result_not_serializable", said) from error
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


def _forms_of(answer: ModelResponse) -> Iterator[Any]:
    """Yield what may be the output of a step as its model said it: texts, JSON in them, and arguments of calls."""
    texts = [part.content for part in answer.parts if isinstance(part, TextPart)]
    yield from ("".join(texts), "\n\n".join(texts), *texts[-1:])
    said = [part.args_as_dict() for part in answer.parts if isinstance(part, ToolCallPart)]
    with suppress(ValueError):
        said.append(json.loads("".join(texts)))
    for found in said:
        yield found
        if isinstance(found, dict) and found.keys() == {"response"}:  # how pydantic-ai asks for what is no object
            yield found["response"]


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
