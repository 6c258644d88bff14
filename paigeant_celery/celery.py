"""The stand-alone app: `celery -A paigeant_celery worker -I your.agents`.

It reads `celeryconfig.py` in the working directory if there is one. What that does not set has our defaults: broker and
store are the Redis of `PAIGEANT_REDIS_URL`, or if that is not set, the Redis of this host.
"""

from __future__ import annotations

from paigeant_celery.broker.stand_alone import StandAloneApp
from paigeant_celery.worker.install import install

__all__ = ["app"]

app = StandAloneApp()
install(app)
