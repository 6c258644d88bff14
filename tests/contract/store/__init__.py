"""What every store promises, tested on each of them, and what only the one on Redis can get wrong."""

from __future__ import annotations

import pytest

# After each call the bench checks where every hop is; a failure shows what it compared.
pytest.register_assert_rewrite("tests.contract.store.bench", "tests.contract.store.given")
