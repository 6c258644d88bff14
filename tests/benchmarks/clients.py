"""The client of a contestant in its own process, which may load another revision of the package.

    python clients.py slip|chain|lean URL

Reads a JSON object on each line and answers it with one: `{"send": prompts}` with `{"sent": id}`,
`{"fan": prompts, "at_once": number}` with the same, and
`{"read": id, "timeout": seconds}` with `{"outputs": […]}` or, if they did not come in time, `{"late": text}`.
"""

from __future__ import annotations

import json
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import celery.exceptions
from celery import chain, chord
from celery.result import AsyncResult
from contestants import AGENT, ENDED, JOIN, STEP, chain_app, lean_app, slip_app
from kombu.simple import SimpleQueue

FAN = "fan"  # the id of the block
LOOK_AGAIN = 5.0  # seconds after which a result is looked at again, because its announcement may have been missed


class Client(Protocol):
    """How a contestant gets work, and how its outputs are read."""

    def send(self, prompts: Sequence[str]) -> str:
        """Send one workflow and return its id."""
        ...

    def fan(self, prompts: Sequence[str], at_once: int) -> str:
        """Send one workflow that asks all prompts side by side and joins the answers, and return its id."""
        ...

    def outputs(self, sent: str, *, timeout: float) -> Sequence[object]:
        """Wait for a workflow and return the outputs of all its steps; raises `TimeoutError`."""
        ...


class SlipClient:
    """Ours."""

    def __init__(self, url: str) -> None:
        from paigeant_celery import WorkflowDispatcher, get_transport

        self._transport, self._dispatcher = get_transport(app=slip_app(url)), WorkflowDispatcher()

    def send(self, prompts: Sequence[str]) -> str:
        from paigeant_celery import ActivitySpec

        itinerary = [ActivitySpec(AGENT, prompt) for prompt in prompts]
        return self._dispatcher.dispatch_workflow_sync(self._transport, itinerary=itinerary)

    def fan(self, prompts: Sequence[str], at_once: int) -> str:
        from paigeant_celery import ActivitySpec, parallel

        branches = {str(index): ActivitySpec(AGENT, prompt) for index, prompt in enumerate(prompts)}
        block = parallel(branches, max_at_once=at_once, step_id=FAN)
        return self._dispatcher.dispatch_workflow_sync(self._transport, itinerary=[block])

    def outputs(self, sent: str, *, timeout: float) -> Sequence[object]:
        result = self._dispatcher.handle(sent, self._transport).result_sync(timeout)
        if FAN in result.outputs:
            joined: Any = result.outputs[FAN]
            return list(joined.values())
        return [step.output for step in result.steps]


class ChainClient:
    """Celery's own, which knows the steps of a chain only in the process that sent it."""

    def __init__(self, url: str) -> None:
        self._app = chain_app(url)
        self._sent: dict[str, AsyncResult] = {}
        self._fans: set[str] = set()

    def send(self, prompts: Sequence[str]) -> str:
        first = self._app.signature(STEP, args=(None, prompts[0]))
        others = [self._app.signature(STEP, args=(prompt,)) for prompt in prompts[1:]]
        sent = chain(first, *others, app=self._app).apply_async()
        self._sent[sent.id] = sent
        return str(sent.id)

    def fan(self, prompts: Sequence[str], at_once: int) -> str:
        asked = [self._app.signature(STEP, args=(None, prompt)) for prompt in prompts]
        sent = chord(asked, app=self._app)(self._app.signature(JOIN))
        self._sent[sent.id], sent.parent = sent, None
        self._fans.add(sent.id)
        return str(sent.id)

    def outputs(self, sent: str, *, timeout: float) -> Sequence[object]:
        found: list[object] = []
        step: AsyncResult | None = self._sent.pop(sent)
        while step is not None:  # from the last one, which ends last, to the first
            found.append(self._output(step, timeout=timeout))
            step = step.parent
        return found[0] if sent in self._fans else found[::-1]  # type: ignore[return-value]

    def _output(self, step: AsyncResult, *, timeout: float) -> object:
        """Wait for a step; Celery looks once, subscribes on another connection, and may miss what comes in between."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                return step.get(timeout=LOOK_AGAIN)
            except celery.exceptions.TimeoutError as error:
                if time.monotonic() >= deadline:
                    raise TimeoutError(f"task {step.id} is {step.state} after {timeout:g} s") from error


class LeanClient:
    """The lean slip, which goes to a queue when it has ended."""

    def __init__(self, url: str) -> None:
        self._app = lean_app(url)
        self._queue: Any = SimpleQueue(self._app.connection_for_read(), ENDED)  # type: ignore[no-untyped-call]
        self._ended: dict[str, Sequence[object]] = {}

    def send(self, prompts: Sequence[str]) -> str:
        sent = uuid.uuid4().hex
        self._app.send_task(STEP, ({"id": sent, "prompts": prompts, "outputs": []},))
        return sent

    def fan(self, prompts: Sequence[str], at_once: int) -> str:
        raise TypeError("a lean slip joins nothing")

    def outputs(self, sent: str, *, timeout: float) -> Sequence[object]:
        deadline = time.monotonic() + timeout
        while sent not in self._ended:
            try:
                message = self._queue.get(timeout=max(deadline - time.monotonic(), 0.001))
            except self._queue.Empty as error:
                raise TimeoutError(f"slip {sent} did not end within {timeout:g} s") from error
            message.ack()
            (slip,), *_ = message.payload
            self._ended[slip["id"]] = slip["outputs"]
        return self._ended.pop(sent)


CLIENTS: dict[str, Callable[[str], Client]] = {"slip": SlipClient, "chain": ChainClient, "lean": LeanClient}


def main() -> None:
    """Answer until the input ends."""
    kind, url = sys.argv[1:]
    client: Client = CLIENTS[kind](url)
    for line in sys.stdin:
        print(json.dumps(_answer(client, **json.loads(line))), flush=True)


def _answer(
    client: Client,
    *,
    send: Sequence[str] = (),
    fan: Sequence[str] = (),
    at_once: int = 0,
    read: str = "",
    timeout: float = 0,
) -> dict[str, object]:
    if send:
        return {"sent": client.send(send)}
    if fan:
        return {"sent": client.fan(fan, at_once)}
    try:
        return {"outputs": client.outputs(read, timeout=timeout)}
    except TimeoutError as error:
        return {"late": str(error)}


if __name__ == "__main__":
    main()
