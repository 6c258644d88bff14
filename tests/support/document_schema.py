"""Writes the schema of documents into the docs: `python -m tests.support.document_schema`."""

from __future__ import annotations

import json
from pathlib import Path

from paigeant_celery.core.documents import document_schema

SCHEMA = Path(__file__).parents[2] / "docs" / "document.schema.json"

if __name__ == "__main__":
    SCHEMA.write_text(json.dumps(document_schema(), indent=2) + "\n", encoding="utf-8")
