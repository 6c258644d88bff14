"""Run trials from the command line: `python -m tests.proof.chaos --seeds 1 2 3 --control`."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from pathlib import Path

from tests.proof.chaos.storm import ARMED, LARGE, SMALL
from tests.proof.chaos.trial import table_of, try_chain, try_slip
from tests.support.processes import own_pids


def main() -> int:
    """Print the figures of ours and, on request, of plain chains and chords; 1 if something does not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.proof.chaos", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], metavar="SEED")
    parser.add_argument("--workflows", type=int)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--large", action="store_true", help=f"{LARGE} and four times the faults, not {SMALL}")
    parser.add_argument("--control", action="store_true", help="the same faults on plain Celery chains and chords")
    parser.add_argument("--only-control", action="store_true")
    arguments = parser.parse_args()
    size = LARGE if arguments.large else SMALL
    given = {name: getattr(arguments, name) for name in ("workflows", "steps") if getattr(arguments, name) is not None}
    plan = dataclasses.replace(size, **given)
    wrong, reports = 0, []
    if not own_pids():
        print("`unshare` makes no pid namespace here: all workers share one")
    for seed in arguments.seeds:
        folder = Path(tempfile.mkdtemp(prefix="chaos-"))
        print(f"seed {seed}, files in {folder}", flush=True)
        if not arguments.only_control:
            reports.append(report := try_slip(seed, plan, folder / "slip"))
            print(report, dict(report.struck), flush=True)
            for violation in report.violations:
                print(f"  {violation.kind}: {violation.about}: {violation.seen}", flush=True)
            if missed := sorted(ARMED - report.points):
                print(f"  never struck: {', '.join(missed)}", flush=True)
            wrong += len(report.violations) + len(missed)
        if arguments.control or arguments.only_control:
            reports.append(report := try_chain(seed, plan, folder / "chain"))
            print(report, dict(report.struck), flush=True)
    print(table_of(reports))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
