"""Search further than the tests do, from the command line: `python -m tests.proof.model --faults 3`."""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext

from tests.proof.model import block_mutants
from tests.proof.model.block_records import BlockRules
from tests.proof.model.block_search import TREES, search_blocks
from tests.proof.model.moves import Budget
from tests.proof.model.mutants import RULES, without
from tests.proof.model.records import Rules
from tests.proof.model.search import search


def main() -> int:
    """Print what was found. Return 1 if something does not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.proof.model", description=__doc__)
    parser.add_argument("--hops", type=int, default=Rules.hops)
    parser.add_argument("--faults", type=int, default=Budget.faults, help="in total; three take a minute and 600 MB")
    parser.add_argument("--tree", choices=TREES, help="blocks to search instead of the hops of one slip")
    rules_of_blocks = [rule for rule in block_mutants.RULES if rule not in RULES]
    parser.add_argument("--without", choices=(*RULES, *rules_of_blocks), help="a rule to leave out of the protocol")
    arguments = parser.parse_args()
    budget, rule = Budget(faults=arguments.faults), arguments.without
    if arguments.tree:
        tree = BlockRules(tree=TREES[arguments.tree])
        with block_mutants.without(rule, tree) if rule else nullcontext(tree) as of_blocks:
            report = search_blocks(of_blocks, budget)
    else:
        whole = Rules(hops=arguments.hops)
        with without(rule, whole) if rule else nullcontext(whole) as rules:
            report = search(rules, budget)
    print(report)
    return 0 if report.finding is None else 1


if __name__ == "__main__":
    sys.exit(main())
