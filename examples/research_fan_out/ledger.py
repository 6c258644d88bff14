"""Which documents were read, written outside the workers: a line when a reading begins and when it is answered.

The workers' own word does not prove that nothing was read twice, so the reader's model signs here itself.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models import Model, ModelRequestParameters
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings

from examples.local_models import previous_output
from examples.research_fan_out.documents import DOCUMENTS, Document

__all__ = ["CountedModel", "Entry", "entries", "new_page"]

HELD = 600.0  # seconds, unless the worker is killed first


@dataclass(frozen=True)
class Entry:
    """A line of the ledger."""

    document: str
    answered: bool
    process: int


def new_page() -> None:
    """Begin the ledger anew."""
    _file().unlink(missing_ok=True)


def entries() -> list[Entry]:
    """Return what has been written so far, without a line that is still being written."""
    try:
        whole, _, _ = _file().read_text(encoding="utf-8").rpartition("\n")
    except FileNotFoundError:
        return []
    return [Entry(**json.loads(line)) for line in whole.splitlines()]


class CountedModel(WrapperModel):
    """A reader's model whose readings are recorded.

    The readings of all but the first `FAN_OUT_HOLD` documents are held back, so that there is time to kill the workers
    while some are in flight.
    """

    def __init__(self, wrapped: Model | str) -> None:
        super().__init__(wrapped)

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """Record the reading and make it; a request to say it better belongs to the same reading."""
        if any(isinstance(message, ModelResponse) for message in messages):
            return await super().request(messages, model_settings, model_request_parameters)
        title = previous_output(messages, Document).title
        _write(Entry(title, answered=False, process=os.getpid()))
        if _is_held(title):
            await asyncio.sleep(HELD)
        response = await super().request(messages, model_settings, model_request_parameters)
        _write(Entry(title, answered=True, process=os.getpid()))
        return response


def _is_held(title: str) -> bool:
    first = os.environ.get("FAN_OUT_HOLD")
    return bool(first) and title not in [document.title for document in DOCUMENTS[: int(first or 0)]]


def _write(entry: Entry) -> None:
    with _file().open("a", encoding="utf-8") as ledger:  # a single write, so that several processes may write at once
        ledger.write(json.dumps(asdict(entry)) + "\n")


def _file() -> Path:
    folder = Path(os.environ.get("FAN_OUT_FOLDER") or Path(tempfile.gettempdir()) / "research_fan_out")
    folder.mkdir(parents=True, exist_ok=True)
    return folder / "ledger"
