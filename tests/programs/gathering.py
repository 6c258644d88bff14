"""A worker that gathers the events of its hops for long, however slow the machine is, if it loads this module."""

from __future__ import annotations

from paigeant_celery.worker import hop_events

hop_events.TOGETHER_WITHIN = 600.0
