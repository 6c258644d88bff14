"""Models that agents know by name: made once per event loop, with connections that last from hop to hop."""

from __future__ import annotations

import asyncio

from pydantic_ai.models import Model, infer_model

from paigeant_celery.activities.real_threads import real

__all__ = ["LoopModels"]


class LoopModels:
    """Keeps one model per name and event loop, because a connection of one loop fails or hangs on another.

    Most hops run on the one loop of their process. `run_sync` in a function's thread makes another loop for each
    thread. The models of loops that no longer run are dropped.
    """

    def __init__(self) -> None:
        self._lock = real().Lock()
        self._models: dict[asyncio.AbstractEventLoop, dict[str, Model]] = {}

    def get(self, name: str) -> Model:
        """Return the running loop's model of this name; raises what pydantic-ai raises if it knows none."""
        models = self._of(asyncio.get_running_loop())
        if name not in models:
            models[name] = infer_model(name)
        return models[name]

    def name_of(self, model: Model) -> str | None:
        """Return the name under which this instance was made, or None."""
        with self._lock:
            kept = [item for models in self._models.values() for item in models.items()]
        return next((name for name, found in kept if found is model), None)

    def _of(self, loop: asyncio.AbstractEventLoop) -> dict[str, Model]:
        with self._lock:
            if loop not in self._models:
                for other in [other for other in self._models if not other.is_running()]:
                    del self._models[other]
            return self._models.setdefault(loop, {})
