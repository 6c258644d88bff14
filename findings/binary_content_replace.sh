#!/usr/bin/env bash
# pydantic-ai 2.68.0: `dataclasses.replace` of a `BinaryContent` forgets its `identifier`, and that of an `ImageUrl` keeps
# it. Both keep it in a field `_identifier` with the alias `identifier`. `replace` passes it by the field's name, which
# only the URLs take (`validate_by_name`); `BinaryContent` ignores it, and derives another identifier from the data.
#
# Seen on 2026-11-29 with Python 3.11.7 on Linux. Exits with 1 if this version behaves in another way.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q --disable-pip-version-check pydantic-ai-slim==2.68.0
"$work/env/bin/python" - <<'PYTHON'
import sys
from dataclasses import replace

from pydantic_ai import BinaryContent, ImageUrl

file = BinaryContent(b"1", media_type="image/png", identifier="mine")
link = ImageUrl("https://example.com/a.png", identifier="mine")
kept = [replace(part).identifier for part in (file, link)]
print(f"a file: {kept[0]}, a link: {kept[1]}; equal to the original all the same: {replace(file) == file}")
sys.exit(kept[0] == "mine" or kept[1] != "mine")
PYTHON
