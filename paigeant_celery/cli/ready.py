"""The command that asks workers whether they claim and sweep, for people and for the probes of an orchestrator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from paigeant_celery.cli.output import Exit, Refused, Table, command, tell
from paigeant_celery.cli.seconds import SECONDS

__all__ = ["ready"]


@command()
@click.option("-d", "--destination", metavar="NODE,…", help="Ask these workers alone (`celery@host`); all by default.")
@click.option(
    "-t",
    "--timeout",
    default=2.0,
    type=SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="Wait so long for workers to answer.",
)
@click.option(
    "--silence", default=15.0, type=SECONDS, show_default=True, metavar="SECONDS",
    help="A process that gave no sign of life for so long is not ready.",
)  # fmt: skip
@click.pass_context
def ready(context: click.Context, destination: str | None, timeout: float, silence: float) -> None:
    """Ask workers whether they claim and sweep; each worker's main process answers."""
    app = context.obj.app
    wanted = [name.strip() for name in (destination or "").split(",") if name.strip()]
    workers = _asked(app, wanted, timeout, silence)
    is_wrong = any(not worker["ready"] for worker in workers)
    unanswered = sorted({*wanted} - {worker["worker"] for worker in workers})
    workers += [{"worker": name, "ready": False, "serves": [], "pid": None, "findings": []} for name in unanswered]
    is_ready = bool(workers) and all(worker["ready"] for worker in workers)
    end = Exit.FINE if is_ready else Exit.FAILED if is_wrong else Exit.TIMEOUT
    tell(
        {"ready": is_ready, "workers": workers, "unanswered": unanswered},
        _lines(workers, unanswered, timeout),
        end=end,
    )


def _asked(app: Any, wanted: Sequence[str], timeout: float, silence: float) -> list[dict[str, Any]]:
    """Return the answers of workers, by their names; raises `Unreachable` if the broker is away."""
    from paigeant_celery.worker.readiness import read_file

    # A worker of the solo pool on this host, which does not answer while a step runs in it.
    told: dict[str, Any] = {name: found for name in wanted if (found := read_file(name, silence=silence)) is not None}
    left = [name for name in wanted if name not in told]
    if left or not wanted:
        told |= _heard(app, left, timeout, silence)
    return [_worker(name, told[name]) for name in sorted(told) if isinstance(told[name], Mapping)]


def _heard(app: Any, wanted: Sequence[str], timeout: float, silence: float) -> dict[str, Any]:
    from paigeant_celery.broker.reach import asking_broker
    from paigeant_celery.broker.transport import transport_of
    from paigeant_celery.worker.readiness import COMMAND

    transport = transport_of(app)
    if transport.in_memory:
        text = "the broker is `memory://`, which no other process can reach, so no worker of one can be asked"
        raise Refused(text, code="in_memory", ends=Exit.USAGE)
    with asking_broker(app, timeout=timeout) as connection:
        asked = list(wanted) or _serving(app, connection, timeout)
        if not asked:
            return {}
        replies = app.control.broadcast(
            COMMAND,
            arguments={"silence": silence},
            destination=asked,
            connection=connection,
            reply=True,
            timeout=timeout,
            limit=len(asked),
        )
    return {worker: answer for reply in replies or () for worker, answer in reply.items()}


def _serving(app: Any, connection: Any, timeout: float) -> list[str]:
    """Return the workers that read a queue of ours; others would log that they do not know what they are asked."""
    from paigeant_celery.broker.transport import transport_of

    names = transport_of(app).names
    read = app.control.inspect(timeout=timeout, connection=connection).active_queues() or {}
    return [
        worker
        for worker, queues in read.items()
        if isinstance(queues, list) and any(names.activity(queue.get("name", "")) is not None for queue in queues)
    ]


def _worker(name: str, told: Mapping[str, Any]) -> dict[str, Any]:
    """Return an answer in the documented shape; an older worker, or one without us, does not know the question."""
    if "ready" not in told:
        text = "the worker does not know the question: it has an older version, or none"
        told = {"ready": False, "findings": [{"code": "not_installed", "text": text}]}
    return {
        "worker": name,
        "ready": told["ready"] is True,
        "serves": told.get("serves") or [],
        "pid": told.get("pid"),
        "findings": told.get("findings") or [],
    }


def _lines(workers: Sequence[Mapping[str, Any]], unanswered: Sequence[str], timeout: float) -> Iterator[str | Table]:
    if not workers:
        yield f"no worker that serves activities answered within {timeout:g} s; `--timeout` waits longer"
        return
    rows = [(worker["worker"], _word(worker, unanswered), ", ".join(worker["serves"]) or "-") for worker in workers]
    yield Table(("worker", "ready", "serves"), rows)
    for worker in workers:
        for finding in worker["findings"]:
            yield f"{worker['worker']}: {finding['text']} ({finding['code']})"
    if unanswered:
        yield f"no answer within {timeout:g} s from {', '.join(unanswered)}"


def _word(worker: Mapping[str, Any], unanswered: Sequence[str]) -> str:
    return "yes" if worker["ready"] else "no answer" if worker["worker"] in unanswered else "no"
