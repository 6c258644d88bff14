"""The example `django_project`, as people use it in a browser: a worker dies, the bank is closed, somebody decides."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from playwright.sync_api import Locator, Page, expect

from tests.support.browser import picture
from tests.support.processes import START_WITHIN, Process, eventually, script_environment

ROOT = Path(__file__).parents[2]
PROJECT = ROOT / "examples" / "django_project"
WITHIN = 90.0  # seconds; another worker has to start, on a machine that other tests use
COMPLAINT = "My <b>kettle</b> leaks: 39.90. I also want 180.00 back for the sofa. And 20.00 for a cup."

pytestmark = pytest.mark.together


class Desk:
    """The running example."""

    def __init__(self, process: Process) -> None:
        self.process = process
        (self.address,) = re.findall(r"^page +(http://127\.0\.0\.1:\d+)/", process.log(), re.MULTILINE)
        ((self.name, self.password),) = re.findall(r"'(.+)', whose password is '(.+)'", process.log())
        (closed,) = re.findall(r"until somebody deletes (.+)$", process.log(), re.MULTILINE)
        self.bank_closed = Path(closed)

    def kill_worker(self) -> None:
        """Kill the worker that runs, and wait for the next one."""
        before = re.findall(r"process (\d+) is started", self.process.log())
        os.kill(int(before[-1]), signal.SIGKILL)
        eventually(lambda: self.process.log().count("is started") > len(before), within=WITHIN, what="no other worker")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """The example as it is started by hand, while the bank is closed."""
    process = Process(
        [sys.executable, str(PROJECT), "--fail", "--port", "0"], folder=tmp_path_factory.mktemp("desk"),
        environment=script_environment(), name="desk", cold=True,
    )  # fmt: skip
    try:
        eventually(lambda: "decides " in process.log() or not process.running, within=WITHIN, what="there is no page")
        if "there is no Redis" in process.log() and not os.environ.get("CI"):
            pytest.skip(process.log())
        assert process.running, process.log()
        yield Desk(process)
        process.terminate(within=START_WITHIN)
    finally:
        process.kill()


def sent(page: Page, desk: Desk, text: str) -> None:
    """Send a complaint."""
    page.set_default_timeout(WITHIN * 1000)
    expect.set_options(timeout=WITHIN * 1000)
    page.goto(desk.address)
    page.get_by_label("Customer").fill("Ann <i>Other</i>")
    page.get_by_label("What happened?").fill(text)
    page.get_by_role("button", name="Send").click()


def sign_in(page: Page, desk: Desk) -> None:
    """Sign in as whoever may make payments."""
    page.get_by_role("main").get_by_role("link", name="Sign in").click()
    page.get_by_label("Name").fill(desk.name)
    page.get_by_label("Password").fill(desk.password)
    page.get_by_role("button", name="Sign in").click()


def question(page: Page, about: str) -> Locator:
    """Return the form that asks about a refund."""
    return page.locator(".question", has_text=about)


def test_a_refund_is_decided_while_workers_die_and_paid_once_the_bank_is_open(page: Page, desk: Desk) -> None:
    """Each thing that goes wrong stands on the page, and none of them is paid for twice."""
    desk.bank_closed.touch()
    sent(page, desk, COMPLAINT)
    expect(page.get_by_text("Whoever may make payments decides")).to_be_visible()
    expect(page.locator(".question")).to_have_count(0)
    desk.kill_worker()

    sign_in(page, desk)
    expect(page.locator(".question")).to_have_count(3)
    picture(page, "complaint-asks")
    about_sofa = question(page, "sofa")
    about_sofa.get_by_label("Amount").fill("much")
    about_sofa.get_by_role("button", name="Refund", exact=True).click()
    expect(page.get_by_role("alert")).to_have_text("That is no amount.")
    question(page, "sofa").get_by_label("Amount").fill("90")
    question(page, "sofa").get_by_role("button", name="Refund", exact=True).click()
    question(page, "cup").get_by_label("Reason").fill("too small")
    question(page, "cup").get_by_role("button", name="Refuse").click()
    expect(page.locator(".question")).to_have_count(1)
    page.reload()
    question(page, "kettle").get_by_role("button", name="Refund", exact=True).click()

    expect(page.get_by_role("status")).to_have_text("parked")
    expect(page.locator(".row", has_text="set aside at")).to_contain_text("ConnectionError: the bank is closed")
    expect(page.locator(".steps li", has_text="clerk")).to_contain_text("set aside")
    picture(page, "complaint-parked")
    desk.kill_worker()
    desk.bank_closed.unlink()
    page.get_by_role("button", name="Try again").click()

    expect(page.get_by_role("status")).to_have_text("completed")
    paid = page.locator(".entry", has_text="Paid").all_inner_texts()
    assert sorted(paid) == ["Paid 39.90 (My <b>kettle</b> leaks)", "Paid 90.00 (I also want back for the sofa)"]
    letter = page.locator(".letter")
    expect(letter).to_contain_text("Dear Ann <i>Other</i>,")
    expect(letter).to_contain_text("We cannot refund: 20.00 (for a cup): too small.")
    assert page.locator("main b, main i").all_inner_texts() == ["clerk", "correspondent", "file_letter"]
    expect(page.get_by_role("button", name="Cancel")).to_have_count(0)
    picture(page, "complaint-completed")


def test_a_person_cancels_and_the_page_says_so_after_a_reload(page: Page, desk: Desk) -> None:
    """What is cancelled asks nobody any more."""
    sent(page, desk, "Mia wants 300.00 back.")
    expect(page.get_by_role("status")).to_have_text("suspended")
    sign_in(page, desk)
    expect(page.locator(".question")).to_have_count(1)
    page.get_by_role("button", name="Cancel").click()

    for _ in range(2):
        expect(page.get_by_role("status")).to_have_text("cancelled")
        expect(page.locator(".question")).to_have_count(0)
        page.reload()
    picture(page, "complaint-cancelled")


def test_nobody_sends_or_decides_for_somebody_else(desk: Desk) -> None:
    """Another site's page may post to this one with the cookies of whoever looks at it."""
    nobody = "00000000-0000-4000-8000-000000000000"

    sent = requests.post(desk.address, data={"customer": "Ann", "text": COMPLAINT}, timeout=WITHIN)
    answered = requests.post(f"{desk.address}/{nobody}/answer/", data={"answer": "yes"}, timeout=WITHIN)
    unknown = requests.get(f"{desk.address}/{nobody}/", timeout=WITHIN)
    foreign = requests.get(desk.address, headers={"Host": "desk.example"}, timeout=WITHIN)

    assert [sent.status_code, answered.status_code, unknown.status_code, foreign.status_code] == [403, 403, 404, 400]


def test_the_tests_of_the_project_pass_without_a_server() -> None:
    """They are what a project would copy."""
    command = [sys.executable, "-W", "error", str(PROJECT / "manage.py"), "test", "examples.django_project"]
    environment = {**script_environment(), "PAIGEANT_REDIS_URL": "redis://127.0.0.1:1/0"}

    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=WITHIN, check=False
    )

    assert done.returncode == 0, done.stderr
    assert re.search(r"^Ran 8 tests in ", done.stderr, re.MULTILINE), done.stderr
    assert "paigeant_celery:" not in done.stderr


def test_the_project_has_a_migration_for_each_model() -> None:
    """Otherwise a table of the example is missing."""
    command = [sys.executable, str(PROJECT / "manage.py"), "makemigrations", "--check", "--dry-run"]

    done = subprocess.run(
        command, cwd=ROOT, env={**script_environment(), "COMPLAINTS_DB": ":memory:"}, capture_output=True, text=True,
        timeout=WITHIN, check=False,
    )  # fmt: skip

    assert (done.returncode, done.stdout) == (0, "No changes detected\n"), done
