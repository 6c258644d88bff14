"""Durable, message-driven workflows of Pydantic AI agents on Celery.

The public names are loaded when they are first used, so that importing the package loads neither Celery nor
pydantic-ai and changes no application.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paigeant_celery.activities.context import StepOutput, WorkflowContext, WorkflowDependencies, workflow_context
    from paigeant_celery.activities.functions import activity
    from paigeant_celery.agents.agent import PaigeantAgent, register_agent
    from paigeant_celery.agents.durability import CeleryDurability, idempotency_key
    from paigeant_celery.broker.transport import get_transport
    from paigeant_celery.client.dead_letters import DeadLetters
    from paigeant_celery.client.dispatch import WorkflowDispatcher
    from paigeant_celery.client.handle import WorkflowEvent, WorkflowHandle, WorkflowResult, WorkflowStatus
    from paigeant_celery.core.budget import WorkflowLimits
    from paigeant_celery.core.errors import (
        ConfigurationError,
        DuplicateActivity,
        EmptyItinerary,
        InvalidInput,
        MessageError,
        NonDeterminismError,
        NotPublished,
        NotRecorded,
        NotSerializable,
        NoWorkflow,
        PaigeantError,
        StoreCorrupt,
        StoreRequired,
        TransientError,
        UnknownActivity,
        UnknownTransport,
        UnknownWorkflow,
        Unreachable,
        UsageError,
        WaitInsideStep,
        WorkerEnded,
        WorkflowCancelled,
        WorkflowConflict,
        WorkflowError,
        WorkflowFailed,
        WorkflowParked,
    )
    from paigeant_celery.core.message import PaigeantMessage
    from paigeant_celery.core.policy import StepPolicy
    from paigeant_celery.core.slip import ActivitySpec, FunctionSpec, RoutingSlip
    from paigeant_celery.worker.executor import ActivityExecutor
    from paigeant_celery.worker.install import install

__version__ = "0.1.0"

_HOME = {
    "ActivityExecutor": "worker.executor",
    "ActivitySpec": "core.slip",
    "CeleryDurability": "agents.durability",
    "ConfigurationError": "core.errors",
    "DeadLetters": "client.dead_letters",
    "DuplicateActivity": "core.errors",
    "EmptyItinerary": "core.errors",
    "FunctionSpec": "core.slip",
    "InvalidInput": "core.errors",
    "MessageError": "core.errors",
    "NoWorkflow": "core.errors",
    "NonDeterminismError": "core.errors",
    "NotPublished": "core.errors",
    "NotRecorded": "core.errors",
    "NotSerializable": "core.errors",
    "PaigeantAgent": "agents.agent",
    "PaigeantError": "core.errors",
    "PaigeantMessage": "core.message",
    "RoutingSlip": "core.slip",
    "StepOutput": "activities.context",
    "StepPolicy": "core.policy",
    "StoreCorrupt": "core.errors",
    "StoreRequired": "core.errors",
    "TransientError": "core.errors",
    "UnknownActivity": "core.errors",
    "UnknownTransport": "core.errors",
    "UnknownWorkflow": "core.errors",
    "Unreachable": "core.errors",
    "UsageError": "core.errors",
    "WaitInsideStep": "core.errors",
    "WorkerEnded": "core.errors",
    "WorkflowCancelled": "core.errors",
    "WorkflowConflict": "core.errors",
    "WorkflowContext": "activities.context",
    "WorkflowDependencies": "activities.context",
    "WorkflowDispatcher": "client.dispatch",
    "WorkflowError": "core.errors",
    "WorkflowEvent": "client.handle",
    "WorkflowFailed": "core.errors",
    "WorkflowHandle": "client.handle",
    "WorkflowLimits": "core.budget",
    "WorkflowParked": "core.errors",
    "WorkflowResult": "client.handle",
    "WorkflowStatus": "client.handle",
    "activity": "activities.functions",
    "get_transport": "broker.transport",
    "idempotency_key": "agents.durability",
    "install": "worker.install",
    "register_agent": "agents.agent",
    "workflow_context": "activities.context",
}

__all__ = [
    "ActivityExecutor",
    "ActivitySpec",
    "CeleryDurability",
    "ConfigurationError",
    "DeadLetters",
    "DuplicateActivity",
    "EmptyItinerary",
    "FunctionSpec",
    "InvalidInput",
    "MessageError",
    "NoWorkflow",
    "NonDeterminismError",
    "NotPublished",
    "NotRecorded",
    "NotSerializable",
    "PaigeantAgent",
    "PaigeantError",
    "PaigeantMessage",
    "RoutingSlip",
    "StepOutput",
    "StepPolicy",
    "StoreCorrupt",
    "StoreRequired",
    "TransientError",
    "UnknownActivity",
    "UnknownTransport",
    "UnknownWorkflow",
    "Unreachable",
    "UsageError",
    "WaitInsideStep",
    "WorkerEnded",
    "WorkflowCancelled",
    "WorkflowConflict",
    "WorkflowContext",
    "WorkflowDependencies",
    "WorkflowDispatcher",
    "WorkflowError",
    "WorkflowEvent",
    "WorkflowFailed",
    "WorkflowHandle",
    "WorkflowLimits",
    "WorkflowParked",
    "WorkflowResult",
    "WorkflowStatus",
    "activity",
    "get_transport",
    "idempotency_key",
    "install",
    "register_agent",
    "workflow_context",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
