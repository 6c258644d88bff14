"""Write `docs/capabilities.md` anew."""

from __future__ import annotations

from tests.contract.capabilities.page import PAGE, page

PAGE.write_text(page(), encoding="utf-8")
