"""A task of the project's own."""

from __future__ import annotations

from celery import shared_task


@shared_task
def count_posts() -> int:
    return 3
