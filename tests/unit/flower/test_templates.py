"""How workflows come into Flower's navigation bar."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import flower
import pytest

from paigeant_celery.client.queries import INCOMPLETE
from paigeant_celery.flower import words
from paigeant_celery.flower.listing import AGES, STATES, _Asked
from paigeant_celery.flower.templates import Templates, with_workflows

FLOWERS = Path(flower.__file__).parent / "templates"

# As in Flower 2.0.
OLD = """    <ul class="navbar-nav mr-auto">
      <li class="nav-item active">
        <a class="nav-link text-dark" href="{{ reverse_url('workers') }}">Workers</a>
      </li>
      <li class="nav-item">
        <a class="nav-link text-dark" href="{{ reverse_url('tasks') }}">Tasks</a>
      </li>
    </ul>
"""


def test_the_new_entry_stands_behind_that_of_the_tasks_and_looks_like_it() -> None:
    """Nobody should see that two projects made the page."""
    entry = """      <li class="nav-item">
        <a class="nav-link text-dark" href="{{ reverse_url('workflows') }}">Workflows</a>
      </li>
"""

    assert with_workflows(OLD) == OLD.replace("    </ul>", f"{entry}    </ul>")


def test_the_entry_is_in_the_bar_of_the_flower_that_is_installed() -> None:
    """A version with another bar would hide the page."""
    before = (FLOWERS / "navbar.html").read_text()

    after = with_workflows(before)

    assert after.count("reverse_url('workflows')") == before.count("reverse_url('tasks')") == 1
    assert after.count("active_tab == 'workflows'") == before.count("active_tab == 'tasks'")
    assert after.count("<li") == before.count("<li") + 1
    Templates(str(FLOWERS)).load("navbar.html")


def test_a_bar_of_another_form_is_left_as_it_is_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Flower must not break because of us, and somebody should know where the page is."""
    with caplog.at_level(logging.WARNING):
        assert with_workflows("<nav></nav>") == "<nav></nav>"

    assert [record.action for record in caplog.records] == ["navbar_unknown"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "name", ["paigeant_workflows.html", "paigeant_workflow.html", "paigeant_error.html", "base.html"]
)
def test_all_templates_can_be_read(name: str) -> None:
    """Ours extend Flower's, and find them."""
    assert Templates(str(FLOWERS)).load(name).name == name


def shown(**changed: object) -> str:
    """Return the list without workflows as Flower shows it."""
    asked = _Asked(**dict.fromkeys(_Asked.__dataclass_fields__, ""))
    given: dict[str, object] = {
        "asked": asked, "items": (), "next_page": None, "refused": "", "unreadable": "", "incomplete": "", "counts": {},
        "states": STATES, "total": 0, "activities": [], "ages": AGES, "words": words, "now": datetime.now(UTC),
    }  # fmt: skip
    text = (
        Templates(str(FLOWERS))
        .load("paigeant_workflows.html")
        .generate(
            **{**given, **changed},
            **{
                name: lambda *_, **__: ""
                for name in ("absolute_url", "asset", "reverse_url", "static_url", "url_prefix")
            },
            _tt_modules=SimpleNamespace(Template=lambda *_, **__: ""),
            handler=SimpleNamespace(),
        )
    )
    return text.decode()


def test_a_list_says_what_it_lacks() -> None:
    """Right after an upgrade, or beside a damaged record, nobody believes that there is nothing else."""
    assert "There are no workflows yet." in shown()
    assert 'class="alert' not in shown()
    assert "Not all workflows are here: those that an older version recorded are being added" in shown(
        incomplete=INCOMPLETE
    )
    assert "Left out, because their records cannot be read: order-3." in shown(unreadable="order-3")
    assert "No match among the workflows searched so far." in shown(next_page="0:order-1")
