"""The protocol of blocks without one of its rules, which the search must notice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from types import MappingProxyType, ModuleType
from typing import Any
from unittest import mock

from paigeant_celery.core import blocks, hops
from paigeant_celery.core.blocks import Block, Ends, Plan
from paigeant_celery.core.hops import Change, Hop, NotGranted
from tests.proof.model.block_records import ASKS, BlockRules

__all__ = ["RULES", "without"]

Function = Callable[..., Any]

# A rule of blocks: the function that keeps it, and that function without the rule.
OF_THE_PROTOCOL: Mapping[str, tuple[ModuleType, str, Callable[[Function], Function]]] = MappingProxyType(
    {
        # The rules of blocks.
        "counts once": (blocks, "end_branch", lambda end: lambda block, how: end(end(block, how).block, how)),
        "joined once": (blocks, "end_branch", lambda end: lambda block, how: end(_not_joined(block), how)),
        "marks the join": (blocks, "_joined", lambda _: lambda block: None),
        "counts the last": (blocks, "end_branch", lambda end: lambda block, how: _without_the_last(end(block, how))),
        "opens the next": (blocks, "_open_next", lambda _: lambda block: Ends(block=block)),
        "makes it live": (blocks, "end_branch", lambda end: lambda block, how: replace(end(block, how), opens=None)),
        "opens once": (blocks, "open_branches", lambda _: _opened_again),
        "keeps the window": (blocks, "_open_next", lambda _: _opened_beside),
        "leaves the window": (blocks, "leave_window", lambda _: lambda block: Ends(block=block)),
        "comes back": (blocks, "come_back", lambda _: lambda block: block),
        "writes once": (blocks, "write_page", lambda _: _written_again),
        # The rules of hops that blocks need.
        "held": (hops, "claim", lambda claim: lambda hop, **more: _claimed(claim, hop, **more)),
        "wakes": (hops, "wake", lambda _: lambda *_, **__: None),
        "live": (hops, "is_live", lambda is_live: lambda hop: is_live(replace(hop, on_branches=False))),
        "fence": (hops, "is_of", lambda _: lambda *_, **__: True),
        "once": (hops, "is_open", lambda _: lambda *_: True),
        "dedupe": (hops, "is_leased", lambda _: lambda *_, **__: False),
        "cap": (hops, "is_spent", lambda _: lambda *_, **__: False),
        "cuts off": (hops, "is_cut_off", lambda _: lambda *_: False),
    }
)
OF_ITS_USERS = tuple(field.name for field in fields(BlockRules) if field.type == "bool")
ASKING = {f"{operation} asks": operation for operation in ASKS}

RULES = (*OF_THE_PROTOCOL, *OF_ITS_USERS, *sorted(ASKING))


@contextmanager
def without(rule: str, rules: BlockRules) -> Iterator[BlockRules]:
    """Remove a rule for a while, and give the rules for a search meanwhile."""
    if rule in OF_ITS_USERS:
        changed: dict[str, Any] = {rule: False}
        yield replace(rules, **changed)
    elif rule in ASKING:
        yield replace(rules, asks=rules.asks - {ASKING[rule]})
    else:
        module, name, mutant = OF_THE_PROTOCOL[rule]
        with mock.patch.object(module, name, mutant(getattr(module, name))):
            yield rules


def _not_joined(block: Block) -> Block:
    return replace(block, joined=None)


def _without_the_last(ends: Ends) -> Ends:
    """The mark forgets the branch that has set it."""
    return replace(ends, block=replace(ends.block, ended=ends.block.ended - 1)) if ends.wakes else ends


def _opened_again(block: Block, plan: Plan, *, until: object) -> Block:
    opened = min(plan.at_once, plan.count)
    return replace(block, plan=plan, opened=opened, under_way=opened)


def _opened_beside(block: Block) -> Ends:
    """Whatever is under way, the next branch becomes live."""
    plan = block.plan
    if plan is None or block.opened >= plan.count:
        return Ends(block=block)
    return Ends(block=replace(block, opened=block.opened + 1, under_way=block.under_way + 1), opens=block.opened)


def _written_again(block: Block, *, first: int, count: int) -> Block:
    return replace(block, written=block.written + count)


def _claimed(claim: Function, hop: Hop, **more: Any) -> Change | NotGranted:
    answer: Change | NotGranted = claim(replace(hop, state="queued") if hop.state == "held" else hop, **more)
    return answer
