"""A Django project gets agents: a complaint is answered by them, and a person decides about each refund.

It starts a Redis server (unless `PAIGEANT_REDIS_URL` names one), a Celery worker and Django's own server, on this
machine alone, with a database that is deleted at the end. Open the page that it names. `--fail` closes the bank: a
step fails until its workflow is set aside, and goes on when the bank is open. Whenever a worker has died, another one
is started.
"""

from __future__ import annotations

import os
import secrets
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

# So that `python examples/django_project` finds its neighbours, as `python -m examples.django_project` does.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.console import Unexpected, checked_model, command_line, given_text, parse, reporting
from examples.processes import HOST, KeptWorker, listening, redis_server, web_server

EXAMPLE = "My kettle leaks: 39.90. I also want 180.00 back for the sofa, which came broken."
PORT = 8000
LOOK = 0.2  # seconds between two looks at the worker
PROJECT = "examples.django_project"
NAME, PASSWORD = "ben", "refund"  # who may decide; only this machine can sign in


def main(*, port: int, worker: KeptWorker) -> None:
    """Serve the pages until somebody ends the program."""
    with listening(port) as listener:
        port = listener.getsockname()[1]
    set_up()
    worker.start()
    server = [sys.executable, str(Path(__file__).with_name("manage.py")), "runserver", "--noreload", f"{HOST}:{port}"]
    with web_server(server, port, {"PYTHONUNBUFFERED": "1"}) as process:
        show("page", f"http://{HOST}:{port}/   (Ctrl-C ends everything)")
        show("decides", f"{NAME!r}, whose password is {PASSWORD!r}")
        while process.running:
            worker.revive()
            time.sleep(LOOK)
    raise Unexpected(f"the web server has ended; the end of its log:\n{process.log()[-2000:]}")


def set_up() -> None:
    """Make the tables, and a person who may pay."""
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0)
    from django.contrib.auth.models import Permission, User

    person = User.objects.create_user(NAME, password=PASSWORD)
    person.user_permissions.add(Permission.objects.get(codename="add_payment"))


def show(what: str, text: str) -> None:
    """Print a line."""
    print(f"{what:10}{text}", flush=True)


if __name__ == "__main__":
    parser = command_line(__doc__, EXAMPLE)
    parser.add_argument("--fail", action="store_true", help="close the bank, so that refunds fail until it is open")
    parser.add_argument("--port", type=int, default=PORT, help=f"of the pages; without it {PORT}, and 0 is any")
    arguments = parse(parser)
    text = given_text(arguments.text)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # ends what was started, too
    with reporting(), ExitStack() as stack:
        model = checked_model(arguments.model) if arguments.model else ""
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        os.environ |= {
            "DJANGO_SETTINGS_MODULE": f"{PROJECT}.mysite.settings",
            "DJANGO_SECRET_KEY": secrets.token_urlsafe(),
            "PAIGEANT_REDIS_URL": stack.enter_context(redis_server()),
            "COMPLAINTS_DB": str(folder / "db.sqlite3"),
            "COMPLAINTS_MODEL": model,
            "COMPLAINTS_EXAMPLE": text,
        }
        if arguments.fail:
            (closed := folder / "bank-is-closed").touch()
            os.environ["COMPLAINTS_BANK_CLOSED"] = str(closed)
            show("bank", f"closed until somebody deletes {closed}")
        worker = KeptWorker(stack, f"{PROJECT}.mysite", {"PAIGEANT_CONSUME": "only"})
        try:
            main(port=arguments.port, worker=worker)
        except KeyboardInterrupt:
            show("page", "closed")
