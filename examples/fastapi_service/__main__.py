"""A web service whose page starts workflows, shows what their agents do, and lets a person decide.

It starts a Redis server (unless `PAIGEANT_REDIS_URL` names one), a Celery worker and the service, on this machine
alone. Open the page that it names. `--kill` (or `--fail`) puts a button on it that kills the worker with SIGKILL.
Whenever a worker has died, another one is started.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

# So that `python examples/fastapi_service` finds its neighbours, as `python -m examples.fastapi_service` does.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.console import checked_model, command_line, given_text, parse, reporting
from examples.processes import HOST, KeptWorker, listening, redis_server

EXAMPLE = (
    "Our office cat learned to open the fridge. It was seen on Monday, and again on Tuesday. The cheese is gone, the "
    "milk is safe. The office manager bought a lock. The cat was seen looking at the lock for an hour. Nobody knows "
    "who feeds the cat at the weekend. The lock was found on the floor this morning."
)
PORT = 8000
LOOK = 0.2  # seconds between two looks at the worker


async def main(notes: str, *, may_kill: bool, port: int, worker: KeptWorker) -> None:
    """Serve the page until somebody ends the program."""
    import uvicorn

    from examples.fastapi_service.service import Offer, web  # which reads the environment

    with listening(port) as listener:
        await asyncio.to_thread(worker.start)
        web.state.offer = Offer(notes=notes, may_kill=may_kill)
        if may_kill:
            web.add_api_route("/worker/kill", worker.kill, methods=["POST"], status_code=204)
        show("page", f"http://{HOST}:{listener.getsockname()[1]}/   (Ctrl-C ends everything)")
        # A browser that follows a workflow holds its connection; nobody waits for it to leave.
        server = uvicorn.Server(uvicorn.Config(web, log_level="error", timeout_graceful_shutdown=1))
        serving = asyncio.create_task(server.serve([listener]))
        while not serving.done():
            await asyncio.to_thread(worker.revive)
            await asyncio.wait({serving}, timeout=LOOK)
        await serving


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
        worker = KeptWorker(stack, "paigeant_celery", environment, "--include=examples.fastapi_service.agents")
        try:
            asyncio.run(main(text, may_kill=arguments.kill, port=arguments.port, worker=worker))
        except KeyboardInterrupt:
            show("page", "closed")
