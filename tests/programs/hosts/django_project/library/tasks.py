"""A task that asks the database, as steps do."""

from __future__ import annotations

from celery import shared_task
from django.db import connection


@shared_task
def plain() -> int:
    with connection.cursor() as cursor:
        return int(cursor.execute("SELECT 1").fetchone()[0])
