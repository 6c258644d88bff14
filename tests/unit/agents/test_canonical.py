"""Schemas in one form: what a set made is the same in every process, and what differs stays different."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from decimal import Decimal
from typing import Any

import pytest

from paigeant_celery.agents.canonical import canonical, canonical_schema
from tests.support.processes import PROGRAMS

SEEDS = "1", "2", "3"


def form(schema: object) -> bytes:
    return canonical(canonical_schema(schema))


def test_schemas_made_from_sets_are_the_same_whatever_the_hash_seed() -> None:
    """Every process has its own, so an attempt on another worker would otherwise be told that its tools changed."""
    processes = [
        subprocess.Popen(
            [sys.executable, PROGRAMS / "seeded_schemas.py"],
            env={**os.environ, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
        )
        for seed in SEEDS
    ]
    printed: list[dict[str, Any]] = [json.loads(process.communicate(timeout=60)[0]) for process in processes]

    as_printed = {name: len({json.dumps(schemas[name], sort_keys=True) for schemas in printed}) for name in printed[0]}
    assert min(as_printed.values()) > 1, as_printed  # each of them does differ
    assert [name for name in printed[0] if len({form(schemas[name]) for schemas in printed}) > 1] == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"enum": ["a", "b"]}, {"enum": ["b", "a"]}),
        ({"enum": ["a", 1, None]}, {"enum": {None, 1, "a"}}),
        ({"required": ["a", "b"]}, {"required": ["b", "a"]}),
        ({"type": ["string", "null"]}, {"type": ["null", "string"]}),
        ({"oneOf": [{"type": "null"}, {"enum": [1, 2]}]}, {"oneOf": [{"enum": [2, 1]}, {"type": "null"}]}),
        ({"dependentRequired": {"a": ["b", "c"]}}, {"dependentRequired": {"a": ["c", "b"]}}),
        ({"prefixItems": [{"enum": [1, 2]}]}, {"prefixItems": [{"enum": [2, 1]}]}),
        ({"minimum": 1, "multipleOf": 0.5}, {"multipleOf": 5e-1, "minimum": 1.0}),
        ({"maximum": 100}, {"maximum": 1e2}),
        ({"minimum": 0}, {"minimum": -0.0}),
        ({"default": Decimal("1.50")}, {"default": "1.50"}),
        ({"title": "A", "description": "a"}, {}),
        ({"properties": {"é": {}}}, {"properties": {"\u00e9": {"examples": [1]}}}),
    ],
)
def test_what_means_the_same_has_one_form(one: object, other: object) -> None:
    """Order, the writing of numbers and texts for people change nothing that a schema takes."""
    assert form(one) == form(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"enum": ["a", "b"]}, {"enum": ["a", "c"]}),
        ({"enum": ["1"]}, {"enum": [1]}),
        ({"enum": [True]}, {"enum": [1]}),
        ({"required": ["a"]}, {"required": ["a", "b"]}),
        ({"prefixItems": [{"enum": [1]}, {"enum": [2]}]}, {"prefixItems": [{"enum": [2]}, {"enum": [1]}]}),
        ({"items": [{"enum": [1]}, {"enum": [2]}]}, {"items": [{"enum": [2]}, {"enum": [1]}]}),
        ({"maximum": 2**63}, {"maximum": 2**63 - 1}),
        ({"default": {"title": "A"}}, {"default": {"title": "B"}}),
        ({"properties": {"title": {"type": "string"}}}, {"properties": {"title": {"type": "integer"}}}),
        ({"anyOf": [{"type": "null"}]}, {"allOf": [{"type": "null"}]}),
    ],
)  # fmt: skip
def test_what_means_something_else_has_another_form(one: object, other: object) -> None:
    """An answer may be recorded that no longer fits."""
    assert form(one) != form(other)


def test_values_without_a_form_are_known_by_their_class() -> None:
    """A schema may hold anything in keywords of one's own; nothing of it ends a run."""
    assert form({"x": object()}) == form({"x": object()}) != form({"x": Decimal(1)})


@pytest.mark.proof
def test_an_attempt_in_another_process_takes_up_an_agent_whose_types_were_made_from_sets() -> None:
    """The whole of it: tools and outputs as an agent declares them, and the journal in between."""
    records: Any = {}
    found = []
    for seed, cut_after in [("1", "2"), ("2", None)]:
        process = subprocess.run(
            [sys.executable, "-m", "tests.programs.seeded_agent", *filter(None, [cut_after])],
            cwd=PROGRAMS.parents[1],
            env={**os.environ, "PYTHONHASHSEED": seed},
            input=json.dumps(records),
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        attempt = json.loads(process.stdout)
        records = attempt["records"]
        found.append((attempt["asked"], attempt["replayed"], len(records)))

    assert found == [(2, 0, 2), (1, 2, 3)]  # the second attempt makes one request, the one that was not recorded
