"""`install`: gives a Celery app one task per activity, and lets its workers serve the queues."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from celery import Celery
from celery.signals import celeryd_init

from paigeant_celery.activities.registry import registry
from paigeant_celery.broker.connection import broker_mistakes
from paigeant_celery.broker.transport import CeleryTransport, attach, attachment_of, imports_us, transport_of
from paigeant_celery.core.errors import ConfigurationError, InvalidInput, UsageError
from paigeant_celery.store.port import Store
from paigeant_celery.worker.app_state import Installation, installation_of
from paigeant_celery.worker.bootsteps import AgentQueues
from paigeant_celery.worker.embedded import EmbeddedWorker
from paigeant_celery.worker.hop_events import EventsTogether
from paigeant_celery.worker.runtime import HopRuntime
from paigeant_celery.worker.schedules import register_dispatch
from paigeant_celery.worker.shutdown import ending
from paigeant_celery.worker.start_errors import refused_start
from paigeant_celery.worker.task import register_tasks
from paigeant_celery.worker.task_log import show_asked_fields

__all__ = ["install", "install_importing_apps"]


def install(app: Celery, *, store: str | Store | None = None) -> CeleryTransport:
    """Add paigeant_celery to a Celery app; may be called again.

    Activities that are loaded now or later become tasks `paigeant.<name>`. Workers of the app consume their queues as
    `paigeant_consume` says. `agents.py` modules of Django apps are loaded like `tasks.py`. Nothing else in the app
    changes. Mistakes in its settings are reported when a worker starts or a workflow is dispatched. Raises
    `UsageError` if it is already installed with another store.
    """
    if not isinstance(app, Celery):
        raise InvalidInput("invalid_input", "app", f"must be a `Celery` app, not a {type(app).__name__}")
    transport = transport_of(app, store=store)
    known = attachment_of(app)
    if isinstance(known, Installation):
        installed = known.transport
        if store is not None and transport.store_address != installed.store_address:
            raise UsageError(
                f"already installed with the store {installed.store_address}, not {transport.store_address}"
            )
        transport = installed
    else:
        runtime = HopRuntime(transport)
        attach(app, Installation(transport, runtime=runtime, embedded=EmbeddedWorker(transport, runtime)))
        celeryd_init.connect(_refuse_unmade_broker)
        show_asked_fields()
        app.steps["worker"].add(ending(runtime.shutdown))
        app.steps["consumer"].update({AgentQueues, EventsTogether})
        # Not earlier: registering a task would finalize the host's app while its modules are still loading.
        app.on_after_finalize.connect(lambda **_: _register_known(app), weak=False)
        registry.subscribe(_registering(app))
        if _has_django(app):
            app.autodiscover_tasks(related_name="agents")
    _register_known(app)
    return transport


def install_importing_apps() -> None:
    """Install into the configured apps of this process that import `paigeant_celery.tasks`, and into later ones."""
    from celery._state import _get_active_apps, connect_on_app_finalize

    for app in _get_active_apps():
        if app.configured and imports_us(app):
            install(app)
            if _has_django(app):
                # The signal that `install` waits for was sent before this module was imported.
                app._autodiscover_tasks(None, "agents")
    connect_on_app_finalize(lambda app: install(app) if imports_us(app) else None)


def _refuse_unmade_broker(instance: Any, **_: object) -> None:
    """End a worker's start if its broker cannot be made; Celery would end it a moment later, with a traceback."""
    if isinstance(attachment_of(instance.app), Installation) and (mistakes := broker_mistakes(instance.app)):
        raise refused_start(instance, ConfigurationError(mistakes))


def _register_known(app: Celery) -> None:
    if app.finalized:
        register_tasks(app, installation_of(app).runtime)
        register_dispatch(app)


def _registering(app: Celery) -> Callable[[], None]:
    """Return a function that registers new activities with the app, as long as something else keeps the app alive."""
    kept = weakref.ref(app)

    def register() -> None:
        if (living := kept()) is not None:
            _register_known(living)

    return register


def _has_django(app: Celery) -> bool:
    return any(hasattr(fixup, "autodiscover_tasks") for fixup in app._fixups)
