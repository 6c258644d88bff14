"""What the README shows runs as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(marker: str) -> str:
    """Return the fenced block of Python that holds `marker`."""
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    return next(found for found in blocks if marker in found)


def test_the_quick_start_prints_the_outputs_of_both_agents(tmp_path: Path) -> None:
    """It is the first thing that anybody copies."""
    script = tmp_path / "quickstart.py"
    script.write_text(block("# quickstart.py"), encoding="utf-8")

    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stderr
    assert re.search(r"'researcher': .*'writer': ", done.stdout)


def test_the_harness_test_passes_as_it_is_shown(pytester: pytest.Pytester) -> None:
    """The test kit is learnt from this example."""
    pytester.makeconftest('pytest_plugins = ["paigeant_celery.testing"]')
    shown = block("workflow_harness")
    pytester.makepyfile(
        f"""
import asyncio
from pydantic_ai.models.test import TestModel
from paigeant_celery import PaigeantAgent

researcher, writer = PaigeantAgent(TestModel()), PaigeantAgent(TestModel())

{shown.replace("async def test_", "async def shown_")}

def test_shown(workflow_harness):
    asyncio.run(shown_the_writer_gets_the_facts(workflow_harness))
"""
    )

    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")

    result.assert_outcomes(passed=1)


def test_every_setting_stands_in_the_readme_and_in_the_configuration_file() -> None:
    """A setting that nobody can find is not there."""
    from paigeant_celery.config import Settings

    names = [f"paigeant_{name}" for name in Settings.model_fields]
    configuration = (ROOT / "celeryconfig.py").read_text(encoding="utf-8")

    assert [name for name in names if f"`{name}`" not in README] == []
    assert [name for name in names if f"{name} =" not in configuration] == []
