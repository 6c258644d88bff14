"""A web service whose page starts workflows, shows what their agents do, and lets a person decide.

It starts a Redis server (unless `PAIGEANT_REDIS_URL` names one), a Celery worker and the service, on this machine
alone. Open the page that it names. `--kill` (or `--fail`) puts a button on it that kills the worker with SIGKILL.
Whenever a worker has died, another one is started.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

# So that `python examples/fastapi_service` finds its neighbours, as `python -m examples.fastapi_service` does.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.console import Unexpected, checked_model, command_line, given_text, parse, reporting
from examples.processes import Process, redis_server, worker

EXAMPLE = (
    "Our office cat learned to open the fridge. It was seen on Monday, and again on Tuesday. The cheese is gone, the "
    "milk is safe. The office manager bought a lock. The cat was seen looking at the lock for an hour. Nobody knows "
    "who feeds the cat at the weekend. The lock was found on the floor this morning."
)
HOST = "127.0.0.1"
PORT = 8000
LOOK = 0.2  # seconds between two looks at the worker


class Workers:
    """One worker at a time: if it dies, another one is started."""

    def __init__(self, stack: ExitStack, environment: Mapping[str, str]) -> None:
        self._stack, self._environment = stack, environment
        self._process: Process | None = None

    async def start(self) -> None:
        """Start a worker, and wait until it takes messages; it has one process, so that nothing of it survives."""
        options = ("--include=examples.fastapi_service.agents", "--pool=threads")
        starting = worker("paigeant_celery", self._environment, *options)
        self._process = await asyncio.to_thread(self._stack.enter_context, starting)
        show("worker", f"process {self._process.pid} is started")

    async def keep(self) -> None:
        """Start another worker whenever one has died."""
        while True:
            await asyncio.sleep(LOOK)
            if self._process is not None and not self._process.running:
                show("worker", f"process {self._process.pid} has died")
                await self.start()

    def kill(self) -> None:
        """Kill the worker that runs, if one does."""
        if self._process is not None and self._process.running:
            self._process.kill()


async def main(text: str, *, port: int, may_kill: bool, environment: Mapping[str, str], stack: ExitStack) -> None:
    """Serve the page until somebody ends the program."""
    import uvicorn

    from examples.fastapi_service.service import Offer, web  # reads the environment

    listening = stack.enter_context(socket.socket())
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
        listening.listen()
    except OSError as error:
        raise Unexpected(f"port {port} is taken; name another one with `--port`, or 0 for any") from error

    workers = Workers(stack, environment)
    web.state.offer = Offer(notes=text, may_kill=may_kill)
    if may_kill:
        web.add_api_route("/worker/kill", workers.kill, methods=["POST"], status_code=204)
    await workers.start()
    show("page", f"http://{HOST}:{listening.getsockname()[1]}/   (Ctrl-C ends everything)")
    # A browser that follows a workflow holds its connection; nobody waits for it to leave.
    server = uvicorn.Server(uvicorn.Config(web, log_level="error", timeout_graceful_shutdown=1))
    serving, keeping = asyncio.create_task(server.serve([listening])), asyncio.create_task(workers.keep())
    done, _ = await asyncio.wait({serving, keeping}, return_when=asyncio.FIRST_COMPLETED)
    keeping.cancel()
    await done.pop()


def show(what: str, text: str) -> None:
    """Print a line."""
    print(f"{what:10}{text}", flush=True)


if __name__ == "__main__":
    parser = command_line(__doc__, EXAMPLE)
    parser.add_argument(
        "--kill", "--fail", action="store_true", help="let the page kill the worker; another one goes on"
    )
    parser.add_argument("--port", type=int, default=PORT, help=f"of the page; without it {PORT}, and 0 is any")
    arguments = parse(parser)
    text = given_text(arguments.text)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # ends what was started, too
    with reporting(), ExitStack() as stack:
        model = checked_model(arguments.model) if arguments.model else ""
        os.environ["PAIGEANT_REDIS_URL"] = url = stack.enter_context(redis_server())
        os.environ["NEWSROOM_FOLDER"] = folder = stack.enter_context(tempfile.TemporaryDirectory())
        environment = {"PAIGEANT_REDIS_URL": url, "NEWSROOM_FOLDER": folder, "NEWSROOM_MODEL": model}
        try:
            asyncio.run(main(text, port=arguments.port, may_kill=arguments.kill, environment=environment, stack=stack))
        except KeyboardInterrupt:
            show("page", "closed")
