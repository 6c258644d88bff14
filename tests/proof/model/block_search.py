"""The exhaustive search over blocks: the trees that are searched, and what is watched."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType

from paigeant_celery.core.blocks import plan_of
from tests.proof.model.block_invariants import MOVE_INVARIANTS, STATE_INVARIANTS
from tests.proof.model.block_moves import canonical, first, has_ended, moves, workflow_of
from tests.proof.model.block_records import BlockRules, Node
from tests.proof.model.moves import Budget
from tests.proof.model.search import ENDLESS, STRANDED, Model, Report, explore

__all__ = ["INVARIANTS", "TREES", "search_blocks"]

INVARIANTS = frozenset({*STATE_INVARIANTS, *MOVE_INVARIANTS, STRANDED, ENDLESS})

ALL = plan_of(2, join="all", collects=False, at_once=1)
COLLECTS = plan_of(2, join="all", collects=True, at_once=1)
ANY = plan_of(2, join=1, collects=True, at_once=2)
THREE = plan_of(3, join="all", collects=False, at_once=1)
ONE = plan_of(1, join="all", collects=False, at_once=1)

BODIES = (Node(above=0, number=0), Node(above=0, number=1))
TREES: Mapping[str, tuple[Node, ...]] = MappingProxyType(
    {
        "all": (Node(branches=(1, 2), plan=ALL), *BODIES),
        "collects": (Node(branches=(1, 2), plan=COLLECTS), *BODIES),
        "three": (Node(branches=(1, 2, 3), plan=THREE), *BODIES, Node(above=0, number=2)),
        "any": (Node(branches=(1, 2), plan=ANY), *BODIES),
        # A block that goes on without its second branch is itself the only branch of a block.
        "inner any": (
            Node(branches=(1,), plan=ONE),
            Node(above=0, branches=(2, 3), plan=ANY),
            Node(above=1, number=0),
            Node(above=1, number=1),
        ),
        # A block is one of two branches of which one counts.
        "outer any": (
            Node(branches=(1, 2), plan=ANY),
            Node(above=0, number=0, branches=(3,), plan=ONE),
            Node(above=0, number=1),
            Node(above=1, number=0),
        ),
        # A block is the first of two branches, one after the other.
        "nested": (
            Node(branches=(1, 2), plan=ALL),
            Node(above=0, number=0, branches=(3, 4), plan=ALL),
            Node(above=0, number=1),
            Node(above=1, number=0),
            Node(above=1, number=1),
        ),
    }
)


def search_blocks(rules: BlockRules, budget: Budget, *, watched: Collection[str] = INVARIANTS) -> Report:
    """Visit every state of a tree, and report the first of the `watched` invariants that does not hold."""
    model = Model(
        rules=rules,
        first=first(rules, budget),
        moves=moves,
        canonical=canonical,
        of_state=STATE_INVARIANTS,
        of_move=MOVE_INVARIANTS,
        has_ended=has_ended,
        workflow=workflow_of,
    )
    return explore(model, watched=watched)
