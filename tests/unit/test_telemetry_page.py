"""What `docs/telemetry.md` and `docs/commands.md` list is what the code has."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import paigeant_celery
from paigeant_celery.activities.log_fields import FIELDS, OWN_FIELDS
from paigeant_celery.broker.metrics import METRICS
from paigeant_celery.broker.spans import ATTRIBUTES, SPANS
from paigeant_celery.hop.effects import ClosedAs
from paigeant_celery.hop.observed import OUTCOMES
from paigeant_celery.store.port import DropReason
from paigeant_celery.worker.readiness import FINDINGS

PACKAGE = Path(paigeant_celery.__file__).parent
DOCS = PACKAGE.parent / "docs"


def table(page: str, header: str) -> dict[str, list[str]]:
    """Return the cells behind the first one of each row of a table, by that one."""
    lines = iter((DOCS / page).read_text(encoding="utf-8").splitlines())
    found = {}
    for line in lines:
        if line.startswith(header):
            next(lines)
            for row in lines:
                if not row.startswith("|"):
                    return found
                name, *cells = (cell.strip() for cell in row.strip("|").split("|"))
                found[name.strip("`")] = cells
    raise AssertionError(f"{page} has no table {header!r}")


def logged() -> Iterator[ast.Call]:
    """Yield each call that logs something."""
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "logger"
            ):
                yield node


def test_the_page_has_each_metric_with_its_unit_and_attributes() -> None:
    """Dashboards are made from it."""
    shown = {
        name: (kind, unit.strip("`"), [each.strip("` ") for each in attributes.split(",")], about)
        for name, (kind, unit, attributes, about) in table("telemetry.md", "| metric |").items()
    }

    assert shown == {
        name: (metric.kind, metric.unit, list(metric.attributes), metric.about) for name, metric in METRICS.items()
    }
    assert list(METRICS) == sorted(METRICS)


def test_the_page_has_each_span_and_each_attribute() -> None:
    """Whoever looks for a workflow by its id has to know where the id stands."""
    assert table("telemetry.md", "| span |") == {name: [about] for name, about in SPANS.items()}
    assert table("telemetry.md", "| attribute |") == {name: [about] for name, about in ATTRIBUTES.items()}
    assert list(ATTRIBUTES) == sorted(ATTRIBUTES)


def test_the_page_has_each_outcome() -> None:
    """Alerts match on them."""
    shown = table("telemetry.md", "| outcome |")

    assert shown.keys() == {*ClosedAs, *OUTCOMES}
    assert {name: [about] for name, about in OUTCOMES.items()}.items() <= shown.items()
    assert not {*ClosedAs} & OUTCOMES.keys()
    assert list(shown) == sorted(shown)


def test_the_page_has_each_reason_why_a_copy_is_dropped() -> None:
    """An alert that leaves one out misses what it is about."""
    shown = table("telemetry.md", "| `paigeant.reason` |")

    assert shown.keys() == {*get_args(DropReason)}
    assert list(shown) == sorted(shown)


def test_the_page_has_each_field_of_the_log() -> None:
    """They are what a search goes by."""
    assert table("telemetry.md", "| field of each line |") == {name: [about] for name, about in FIELDS.items()}
    assert table("telemetry.md", "| field of our lines |") == {name: [about] for name, about in OWN_FIELDS.items()}


def test_each_line_of_ours_has_fields_and_none_that_is_not_on_the_page() -> None:
    """A line without an action is found by its text alone, which may change."""
    without, unknown = [], set[str]()
    for call in logged():
        extra = next((keyword.value for keyword in call.keywords if keyword.arg == "extra"), None)
        if extra is None:
            without.append(ast.unparse(call))
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Dict):
                keys = {key.value for key in node.keys if isinstance(key, ast.Constant)}
                unknown |= {str(key) for key in keys} - {*FIELDS, *OWN_FIELDS} if "action" in keys else set()

    assert without == []
    assert unknown == set()


def test_the_page_of_commands_has_each_reason_why_a_worker_is_not_ready() -> None:
    """A script acts on them."""
    shown = table("commands.md", "| code of a finding |")

    assert shown == {code: [about] for code, about in FINDINGS.items()}
    source = (PACKAGE / "worker" / "readiness.py").read_text(encoding="utf-8")
    yielded = {
        node.value.elts[0].value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Yield) and isinstance(node.value, ast.Tuple)
        if isinstance(node.value.elts[0], ast.Constant)
    }
    assert yielded | {"not_installed"} == {*FINDINGS}
