"""Workflows in Flower: `import paigeant_celery.flower` in `flowerconfig.py` adds their pages to Flower 2.

What they show comes from the store, so that nothing is lost when Flower restarts.
"""

from __future__ import annotations

try:
    from paigeant_celery.flower.pages import add_pages
except ModuleNotFoundError as error:
    if error.name is None or error.name.partition(".")[0] not in ("flower", "tornado"):
        raise
    raise ModuleNotFoundError(
        'Flower is not installed; install it with `pip install "paigeant_celery[flower]"`', name=error.name
    ) from error

__all__ = ["add_pages"]

add_pages()
