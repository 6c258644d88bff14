"""The protocol without one of its rules, which the search must notice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from types import MappingProxyType
from unittest import mock

from paigeant_celery.core import hops
from tests.proof.model.records import Rules

__all__ = ["RULES", "without"]

# A rule of the protocol: the function that keeps it, and its constant answer if the protocol lacks the rule.
OF_THE_PROTOCOL: Mapping[str, tuple[str, bool]] = MappingProxyType(
    {
        "fence": ("is_of", True),  # closing operations compare owner and fence
        "dedupe": ("is_leased", False),  # a claim respects the lease of the hop's owner
        "cap": ("is_spent", False),  # a claim after `max_attempts` may only close
        "idempotent": ("is_repeated", False),  # a claim repeated with its token gets the first answer again
        "once": ("is_open", True),  # a hop that is closed is not closed again
    }
)
OF_ITS_USERS = frozenset(
    field.name for field in fields(Rules) if field.type == "bool" and not field.metadata.get("size")
)

RULES = (*OF_THE_PROTOCOL, *sorted(OF_ITS_USERS))


@contextmanager
def without(rule: str, rules: Rules) -> Iterator[Rules]:
    """Remove a rule for a while, and give the rules for a search meanwhile."""
    if rule in OF_ITS_USERS:
        yield replace(rules, **{rule: False})
        return
    function, answer = OF_THE_PROTOCOL[rule]

    def lacking(*_: object, **__: object) -> bool:
        return answer

    with mock.patch.object(hops, function, lacking):
        yield rules
