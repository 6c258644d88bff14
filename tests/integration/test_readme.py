"""What the READMEs show runs as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.processes import START_WITHIN, Process, run_script, script_environment
from tests.support.servers import RedisServer

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")

# A part of each block of Python that a test below runs.
QUICK_START = "# quickstart.py"
HOST_CONFIGURATION = "# celeryconfig.py of the host"
HOST_DISPATCH = "from shop.celery import app"
HARNESS_TEST = "workflow_harness"
IDEMPOTENT_TOOL = "cashier = "
EXAMPLE_DISPATCH = '("topic_finder", "joke_writer", "joke_judge")'
EXAMPLE_WATCH = ".events_sync()"
EXAMPLE_CONFIGURATION = '"examples.existing_celery_app.agents"'
RUN_BELOW = (
    QUICK_START,
    HOST_CONFIGURATION,
    HOST_DISPATCH,
    HARNESS_TEST,
    IDEMPOTENT_TOOL,
    EXAMPLE_DISPATCH,
    EXAMPLE_WATCH,
    EXAMPLE_CONFIGURATION,
)

# What the root README takes for granted: the host's package, with its app and its agents.
SHOP = {
    "__init__.py": "",
    "celery.py": """
import os
from celery import Celery
app = Celery("shop", broker=os.environ["SHOP_BROKER"])
app.config_from_object("celeryconfig")
""",
    "agents.py": """
from pydantic_ai.models.test import TestModel
from paigeant_celery import PaigeantAgent
researcher = PaigeantAgent(TestModel())
writer = PaigeantAgent(TestModel(custom_output_text="Thank you."))
""",
}


def blocks() -> list[str]:
    """Return all fenced blocks of Python."""
    readmes = [ROOT / "README.md", *sorted(ROOT.glob("examples/*/README.md"))]
    return [
        found
        for readme in readmes
        for found in re.findall(r"```python\n(.*?)```", readme.read_text(encoding="utf-8"), re.DOTALL)
    ]


def block(marker: str) -> str:
    """Return the block that holds `marker`."""
    return next(found for found in blocks() if marker in found)


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """Give the folder of a host application that is configured as the README says."""
    for name, source in SHOP.items():
        file = tmp_path / "shop" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(source, encoding="utf-8")
    (tmp_path / "celeryconfig.py").write_text(block(HOST_CONFIGURATION), encoding="utf-8")
    return tmp_path


@contextmanager
def worker(folder: Path, *arguments: str, **environment: str) -> Iterator[None]:
    """Run `celery … worker` in a folder for as long as the block, which begins when it takes messages."""
    process = Process(
        [sys.executable, "-m", "celery", *arguments, "--pool", "threads", "--loglevel", "INFO"],
        folder=folder, environment={**script_environment(), **environment}, name="worker",
    )  # fmt: skip
    try:
        process.wait_for_log(" ready.", within=START_WITHIN)
        yield
    finally:
        process.kill()


def run_pytest(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the tests of a folder as its owner does, with warnings as errors."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider"],
        cwd=folder, env=script_environment(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_each_block_of_python_is_run_by_one_test() -> None:
    """A new block is not forgotten."""
    assert [found for found in blocks() if sum(marker in found for marker in RUN_BELOW) != 1] == []


def test_the_quick_start_prints_the_outputs_of_both_agents(tmp_path: Path) -> None:
    """It is the first thing that anybody copies."""
    script = tmp_path / "quickstart.py"
    script.write_text(block(QUICK_START), encoding="utf-8")

    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stderr
    assert re.search(r"'researcher': .*'writer': ", done.stdout)


def test_a_host_that_is_configured_as_shown_runs_the_step_that_is_dispatched_as_shown(
    host: Path, own_redis: Callable[..., RedisServer]
) -> None:
    """These lines go into the deployment that people have."""
    url = own_redis().url

    with worker(host, "-A", "shop", "worker", PAIGEANT_CONSUME="only", SHOP_BROKER=url):
        printed = run_script(block(HOST_DISPATCH), cwd=host, SHOP_BROKER=url)

    assert printed == "Thank you.\n"


def test_the_harness_test_passes_as_it_is_shown(host: Path) -> None:
    """The test kit is learnt from this example."""
    (host / "conftest.py").write_text('pytest_plugins = ["paigeant_celery.testing"]\n', encoding="utf-8")
    (host / "test_shown.py").write_text(block(HARNESS_TEST), encoding="utf-8")

    done = run_pytest(host)

    assert re.search(r"^1 passed in ", done.stdout, re.MULTILINE), done


def test_the_harness_stops_half_way_as_the_readme_says(host: Path) -> None:
    """`dispatch` is a plain call, `deliver` is awaited."""
    shown = block(HARNESS_TEST)
    calls = ["workflow_harness.dispatch([…])", "await workflow_harness.deliver(2)"]
    half_way = """
async def test_half_way(workflow_harness):
    steps = [writer.activity("one"), writer.activity("two"), writer.activity("three")]
    handle = workflow_harness.dispatch(steps)
    assert handle.status_sync().executed == ()
    assert await workflow_harness.deliver(2) == ["completed", "completed"]
    assert len(handle.status_sync().executed) == 2
"""
    (host / "conftest.py").write_text('pytest_plugins = ["paigeant_celery.testing"]\n', encoding="utf-8")
    (host / "test_shown.py").write_text(shown + half_way, encoding="utf-8")

    done = run_pytest(host)

    assert [call for call in calls if call not in README] == []
    assert re.search(r"^2 passed in ", done.stdout, re.MULTILINE), done


def test_the_tool_that_is_shown_gets_a_key(tmp_path: Path) -> None:
    """Whoever copies it hands the key to a service that moves money."""
    served = """
import asyncio
from paigeant_celery.testing import WorkflowHarness
print(asyncio.run(WorkflowHarness().run([cashier.activity("Refund it.")])).output)
"""

    printed = run_script(block(IDEMPOTENT_TOOL) + served, cwd=tmp_path)

    assert re.search(r"order 0: 0 cents, [0-9a-f-]{36}", printed)


def test_a_process_without_agents_dispatches_the_three_agents_as_shown(
    tmp_path: Path, own_redis: Callable[..., RedisServer]
) -> None:
    """The README of the example promises it of any process."""
    url = own_redis().url

    arguments = ("-A", "paigeant_celery", "worker", "-I", "examples.three_agents.agents")
    with worker(tmp_path, *arguments, PYTHONPATH=str(ROOT), PAIGEANT_REDIS_URL=url):
        printed = run_script(block(EXAMPLE_DISPATCH), cwd=tmp_path, PAIGEANT_REDIS_URL=url)

    assert re.match(r"\{'topic_finder': .*'joke_writer': .*'joke_judge': ", printed)


def test_any_process_may_watch_the_calls_of_an_examples_agent(
    tmp_path: Path, own_redis: Callable[..., RedisServer]
) -> None:
    """The events come from the worker's run, through the store."""
    there = {"PAIGEANT_REDIS_URL": own_redis().url, "RESEARCH_FOLDER": str(tmp_path)}

    arguments = ("-A", "paigeant_celery", "worker", "-I", "examples.durable_research.agents")
    with worker(tmp_path, *arguments, PYTHONPATH=str(ROOT), **there):
        printed = run_script(block(EXAMPLE_WATCH), cwd=tmp_path, **there).splitlines()

    assert printed[0].strip() == "started"
    assert printed[-1].strip() == "workflow_completed"
    assert sum(line == "agent call_made read" for line in printed) == 3
    assert len(list(tmp_path.glob("report-*.md"))) == 1


def test_the_configuration_that_an_example_shows_is_the_one_that_it_has() -> None:
    """A tuple in a tuple looks right, and no worker starts with it."""
    compared = """
from examples.existing_celery_app.celeryapp import app
assert (imports, paigeant_store_url) == (app.conf.imports, app.conf.paigeant_store_url), (imports, app.conf.imports)
"""

    run_script(block(EXAMPLE_CONFIGURATION) + compared, cwd=ROOT)


def test_every_setting_stands_in_the_readme_and_in_the_configuration_file() -> None:
    """A setting that nobody can find is not there."""
    from paigeant_celery.core.settings import Settings

    names = [f"paigeant_{name}" for name in Settings.model_fields]
    configuration = (ROOT / "celeryconfig.py").read_text(encoding="utf-8")

    assert [name for name in names if f"`{name}`" not in README] == []
    assert [name for name in names if f"{name} =" not in configuration] == []
