"""What both stores say of branches."""

from __future__ import annotations

from paigeant_celery.core.errors import InvalidInput

__all__ = ["too_many_hops"]


def too_many_hops(most: int) -> InvalidInput:
    """Return what refuses branches of a workflow that would have too many hops."""
    return InvalidInput("too_many_hops", "", f"with its branches the workflow would have more than {most} hops")
