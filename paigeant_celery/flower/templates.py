"""Templates: Flower's own, ours beside them, and one more entry in Flower's navigation bar."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from tornado.template import Loader, Template

__all__ = ["Templates", "with_workflows"]

OURS = Path(__file__).parent / "html"
NAVBAR = "navbar.html"

# The entry of the tasks, in the words of whichever version of Flower it is.
ENTRY = re.compile(r"[ \t]*<li\b(?:(?!</li>).)*reverse_url\('tasks'\)(?:(?!</li>).)*</li>\n?", re.DOTALL)

logger = logging.getLogger(__name__)


class Templates(Loader):
    """Loads a template of ours if there is one of the name, else Flower's."""

    def __init__(self, flowers: str) -> None:
        super().__init__(flowers)

    def _create_template(self, name: str) -> Template:
        ours = OURS / name
        text = (ours if ours.is_file() else Path(self.root, name)).read_bytes()
        if name == NAVBAR:
            text = with_workflows(text.decode()).encode()
        return Template(text, name=name, loader=self)


def with_workflows(navbar: str) -> str:
    """Return Flower's navigation bar with an entry for workflows behind that of the tasks, and like it."""
    tasks = ENTRY.search(navbar)
    if tasks is None:
        text = "Flower's navigation bar has no entry for tasks; the workflows are at /workflows all the same"
        logger.warning(text, extra={"action": "navbar_unknown"})
        return navbar
    entry = tasks[0].replace("'tasks'", "'workflows'").replace("Tasks", "Workflows")
    return navbar[: tasks.end()] + entry + navbar[tasks.end() :]
