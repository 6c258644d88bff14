"""What the suite leaves out, what it keeps together, and what it says at its end."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.servers import free_port

PLUGINS = ("-p", "xdist.plugin", "-p", "tests.support.running", "-p", "no:cacheprovider")
RunTests = Callable[..., pytest.RunResult]


@pytest.fixture
def run_tests(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> RunTests:
    """Run tests with our plugin, one after the other unless told otherwise."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # which would load those of other packages each time
    return lambda *options: pytester.runpytest_inprocess(*PLUGINS, "-n", "0", *options)


def passed(result: pytest.RunResult) -> set[str]:
    """Return the ids of the tests that passed."""
    return set(re.findall(r"^PASSED \S+::(\S+)", result.stdout.str(), re.MULTILINE))


def test_what_is_marked_as_proof_runs_only_when_it_is_asked_for(pytester: pytest.Pytester, run_tests: RunTests) -> None:
    """The command of the README ends in minutes, and what it leaves out is counted at its end."""
    pytester.makepyfile(
        """
        import pytest
        @pytest.mark.parametrize("size", [1, pytest.param(1000, marks=pytest.mark.proof)])
        def test_it(size): pass
        """
    )

    run_tests().assert_outcomes(passed=1, deselected=1)
    run_tests("--proof=full").assert_outcomes(passed=2)
    assert passed(run_tests("-rp", "--proof=full", "-m", "proof")) == {"test_it[1000]"}


def test_each_test_is_in_one_shard_and_in_the_same_at_each_run(pytester: pytest.Pytester, run_tests: RunTests) -> None:
    """A failure of a shard is repeated by its number."""
    pytester.makepyfile("import pytest\n@pytest.mark.parametrize('n', range(40))\ndef test_it(n): pass\n")

    first, again = ([passed(run_tests("-rp", f"--shard={n}/4")) for n in range(1, 5)] for _ in range(2))

    assert again == first
    assert all(first)
    assert sum(map(len, first)) == len(set[str]().union(*first)) == 40


def test_the_end_of_a_run_says_what_was_missing(pytester: pytest.Pytester, run_tests: RunTests) -> None:
    """A run without a browser or a broker passes; who reads only its end must know what it has not shown."""
    pytester.makepyfile(
        "import pytest\n@pytest.mark.parametrize('n', (1, 2))\ndef test_it(n): pytest.skip('no ship')\n"
    )

    assert "2 skipped: no ship" in run_tests("-q").stdout.str()


@pytest.mark.parametrize("shard", ["0/4", "5/4", "1/0", "2", "-1/4", "a/b"])
def test_a_shard_that_does_not_exist_is_refused(run_tests: RunTests, shard: str) -> None:
    """It would run nothing, and pass."""
    assert run_tests(f"--shard={shard}").ret == pytest.ExitCode.USAGE_ERROR


def test_the_tests_of_a_group_run_in_one_process(
    pytester: pytest.Pytester, run_tests: RunTests, tmp_path: Path
) -> None:
    """They share a worker; apart, each process of pytest would start one, and nobody would notice but the clock."""
    pytester.makepyfile(
        f"""
        import os, pytest
        def note(group): open({str(tmp_path / "notes")!r}, "a").write(f"{{group}} {{os.getpid()}}\\n")
        @pytest.mark.together("pool")
        @pytest.mark.parametrize("pool", ["prefork", "threads"])
        @pytest.mark.parametrize("n", range(6))
        def test_it(pool, n): note(pool)
        @pytest.mark.xdist_group("named")
        @pytest.mark.parametrize("n", range(6))
        def test_that(n): note("named")
        """
    )

    run_tests("-n", "2", "--dist", "loadgroup").assert_outcomes(passed=18)

    notes = set((tmp_path / "notes").read_text().splitlines())
    assert sorted(note.split()[0] for note in notes) == ["named", "prefork", "threads"]
    assert len({note.split()[1] for note in notes}) == 2


def test_the_end_says_which_files_took_longest_and_what_tests_told(
    pytester: pytest.Pytester, run_tests: RunTests
) -> None:
    """Whoever makes the suite slower sees it, also when tests run side by side."""
    pytester.makepyfile(
        test_slow="import threading\ndef test_it(): threading.Event().wait(0.3)\n",
        test_fast="def test_it(told): told('two kills')\n",
    )

    for options in ((), ("-n", "2", "--dist", "loadgroup")):
        said = run_tests(*options).stdout
        said.fnmatch_lines(
            ["two kills", "seconds of tests by file", "*0.3  test_slow.py", "*  test_fast.py", "*all 2*"]
        )


def test_no_port_is_given_twice() -> None:
    """Servers of tests that run side by side do not meet, not even while one of them is stopped."""
    ports = [free_port() for _ in range(50)]

    assert len(set(ports)) == 50
