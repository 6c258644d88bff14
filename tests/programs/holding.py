"""A worker that holds the last answers of steps for long, however slow the machine is, if it loads this module."""

from __future__ import annotations

from paigeant_celery.journal import hop_journal

hop_journal.HELD_FOR = 60.0
