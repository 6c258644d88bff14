"""Search further than the tests do, from the command line: `python -m tests.proof.model --faults 3`."""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields

from tests.proof.model.moves import Budget
from tests.proof.model.records import Rules
from tests.proof.model.search import search

RULES = [field.name for field in fields(Rules) if field.type == "bool"]


def main() -> int:
    """Print what was seen; 1 where something does not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.proof.model", description=__doc__)
    parser.add_argument("--hops", type=int, default=Rules.hops)
    parser.add_argument("--faults", type=int, default=Budget.faults, help="in all; three need a minute and 600 MB")
    parser.add_argument("--without", choices=RULES, help="a rule that the protocol is to lack")
    arguments = parser.parse_args()
    lacking = {arguments.without: False} if arguments.without else {}
    report = search(Rules(hops=arguments.hops, **lacking), Budget(faults=arguments.faults))
    print(report)
    return 0 if report.finding is None else 1


if __name__ == "__main__":
    sys.exit(main())
