"""The pages by their addresses, and how they come into Flower, which has no place for plug-ins."""

from __future__ import annotations

from pathlib import Path

from flower import urls
from tornado.web import StaticFileHandler, url

from paigeant_celery.flower.acting import Act
from paigeant_celery.flower.listing import WorkflowList
from paigeant_celery.flower.live import Events
from paigeant_celery.flower.templates import Templates
from paigeant_celery.flower.workflow import Output, Workflow

__all__ = ["PAGES", "add_pages"]

STATIC = Path(__file__).parent / "static"
ID = "([A-Za-z0-9_-]{1,128})"

PAGES = (
    url("/workflows", WorkflowList, name="workflows"),
    url(f"/workflows/{ID}", Workflow, name="workflow"),
    url(f"/workflows/{ID}/events", Events, name="workflow_events"),
    url(f"/workflows/{ID}/output", Output, name="workflow_output"),
    url(f"/workflows/{ID}/(cancel|retry|approve|deny|answer)", Act, name="workflow_act"),
    url("/workflows/static/(.*)", StaticFileHandler, {"path": str(STATIC)}, name="workflows_static"),
)


def add_pages() -> None:
    """Add the pages to each Flower that is made after this call; a second call changes nothing.

    Flower reads `flowerconfig.py` before it makes its application of these addresses and settings.
    """
    if any(page in urls.handlers for page in PAGES):
        return
    urls.handlers[:0] = PAGES  # before the last one, which takes every address
    urls.settings.setdefault("template_loader", Templates(urls.settings["template_path"]))
