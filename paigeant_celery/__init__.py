"""Durable, message-driven workflows of Pydantic AI agents on Celery.

The public names are loaded when they are first used, so that importing the package loads neither Celery nor
pydantic-ai and changes no application.
"""

from __future__ import annotations

from importlib import import_module
from sys import modules
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paigeant_celery.activities.celery_tasks import TaskActivity
    from paigeant_celery.activities.context import StepOutput, WorkflowContext, WorkflowDependencies, workflow_context
    from paigeant_celery.activities.functions import FunctionActivity, activity
    from paigeant_celery.activities.log_fields import WorkflowLogFilter
    from paigeant_celery.agents.agent import PaigeantAgent, Runway, register_agent
    from paigeant_celery.agents.agent_events import agent_events
    from paigeant_celery.agents.durability import CeleryDurability, idempotency_key
    from paigeant_celery.broker.port import Transport
    from paigeant_celery.broker.transport import CeleryTransport, get_transport
    from paigeant_celery.client.dead_letters import DeadLetters
    from paigeant_celery.client.dispatch import WorkflowDispatcher
    from paigeant_celery.client.document_forks import ForkedWorkflow, fork_workflow, fork_workflow_sync
    from paigeant_celery.client.documents import (
        diff_documents,
        dispatch_document,
        dispatch_document_sync,
        export_document,
        export_document_sync,
        lint_document,
    )
    from paigeant_celery.client.edits import EditedWorkflow, edit_workflow, edit_workflow_sync
    from paigeant_celery.client.handle import WorkflowHandle
    from paigeant_celery.client.inbox import Inbox
    from paigeant_celery.client.queries import (
        ActivityTimes,
        Histogram,
        WorkflowCounts,
        WorkflowPage,
        Workflows,
        WorkflowSummary,
    )
    from paigeant_celery.client.readings import (
        Answered,
        BranchStatus,
        GivenAnswer,
        PendingWait,
        Runner,
        WaitingFor,
        WorkflowResult,
        WorkflowStatus,
    )
    from paigeant_celery.core.about import AskedCall
    from paigeant_celery.core.block_errors import BlockFailed, JoinMissed
    from paigeant_celery.core.block_steps import for_each, parallel, sub_workflow
    from paigeant_celery.core.budget import WorkflowLimits
    from paigeant_celery.core.causes import Cause, Frame
    from paigeant_celery.core.document_changes import DocumentChange
    from paigeant_celery.core.document_errors import EditRefused, Finding, InvalidDocument
    from paigeant_celery.core.documents import read_document, write_document
    from paigeant_celery.core.errors import (
        ConfigurationError,
        DuplicateActivity,
        EmptyItinerary,
        HopFailed,
        InvalidInput,
        MessageError,
        NonDeterminismError,
        NotPublished,
        NotRecorded,
        NotSent,
        NotSerializable,
        NoWorkflow,
        OutdatedVersion,
        PaigeantError,
        ReplayedError,
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
    from paigeant_celery.core.events import WorkflowEvent
    from paigeant_celery.core.flow import Failure
    from paigeant_celery.core.flow_steps import SleepSpec, WaitSpec, sleep_for, sleep_until, wait_for
    from paigeant_celery.core.message import PaigeantMessage
    from paigeant_celery.core.policy import StepPolicy
    from paigeant_celery.core.settings import Settings
    from paigeant_celery.core.slip import (
        BranchOf,
        Earlier,
        ExecutedStep,
        Later,
        OutputRef,
        RegisteredActivity,
        RoutingSlip,
        TaskSpec,
    )
    from paigeant_celery.core.slip_document import SlipDocument
    from paigeant_celery.core.steps import ActivitySpec, BlockSpec, Branch, FunctionSpec
    from paigeant_celery.core.task_steps import TaskSignature
    from paigeant_celery.core.wait_errors import (
        InvalidAnswer,
        SignalRefused,
        UnknownWait,
        WaitFailed,
        WaitTimedOut,
        WorkflowWaits,
    )
    from paigeant_celery.store.port import DeadLetter, Store, WorkflowOrigin
    from paigeant_celery.worker.celery_tasks import register_task
    from paigeant_celery.worker.executor import ActivityExecutor
    from paigeant_celery.worker.install import install
    from paigeant_celery.worker.schedules import schedule_entry

__version__ = "0.1.0"

_HOME = {
    "ActivityExecutor": "worker.executor",
    "ActivitySpec": "core.steps",
    "ActivityTimes": "client.queries",
    "Answered": "client.readings",
    "AskedCall": "core.about",
    "BlockFailed": "core.block_errors",
    "BlockSpec": "core.steps",
    "Branch": "core.steps",
    "BranchOf": "core.slip",
    "BranchStatus": "client.readings",
    "Cause": "core.causes",
    "CeleryDurability": "agents.durability",
    "CeleryTransport": "broker.transport",
    "ConfigurationError": "core.errors",
    "DeadLetter": "store.port",
    "DeadLetters": "client.dead_letters",
    "DocumentChange": "core.document_changes",
    "DuplicateActivity": "core.errors",
    "Earlier": "core.slip",
    "EditRefused": "core.document_errors",
    "EditedWorkflow": "client.edits",
    "EmptyItinerary": "core.errors",
    "ExecutedStep": "core.slip",
    "Failure": "core.flow",
    "Finding": "core.document_errors",
    "ForkedWorkflow": "client.document_forks",
    "Frame": "core.causes",
    "FunctionActivity": "activities.functions",
    "FunctionSpec": "core.steps",
    "GivenAnswer": "client.readings",
    "Histogram": "client.queries",
    "HopFailed": "core.errors",
    "Inbox": "client.inbox",
    "InvalidAnswer": "core.wait_errors",
    "InvalidDocument": "core.document_errors",
    "InvalidInput": "core.errors",
    "JoinMissed": "core.block_errors",
    "Later": "core.slip",
    "MessageError": "core.errors",
    "NoWorkflow": "core.errors",
    "NonDeterminismError": "core.errors",
    "NotPublished": "core.errors",
    "NotRecorded": "core.errors",
    "NotSent": "core.errors",
    "NotSerializable": "core.errors",
    "OutdatedVersion": "core.errors",
    "OutputRef": "core.slip",
    "PaigeantAgent": "agents.agent",
    "PaigeantError": "core.errors",
    "PaigeantMessage": "core.message",
    "PendingWait": "client.readings",
    "RegisteredActivity": "core.slip",
    "ReplayedError": "core.errors",
    "RoutingSlip": "core.slip",
    "Runner": "client.readings",
    "Runway": "agents.agent",
    "Settings": "core.settings",
    "SignalRefused": "core.wait_errors",
    "SleepSpec": "core.flow_steps",
    "SlipDocument": "core.slip_document",
    "StepOutput": "activities.context",
    "StepPolicy": "core.policy",
    "Store": "store.port",
    "StoreCorrupt": "core.errors",
    "StoreRequired": "core.errors",
    "TaskActivity": "activities.celery_tasks",
    "TaskSignature": "core.task_steps",
    "TaskSpec": "core.slip",
    "TransientError": "core.errors",
    "Transport": "broker.port",
    "UnknownActivity": "core.errors",
    "UnknownTransport": "core.errors",
    "UnknownWait": "core.wait_errors",
    "UnknownWorkflow": "core.errors",
    "Unreachable": "core.errors",
    "UsageError": "core.errors",
    "WaitFailed": "core.wait_errors",
    "WaitInsideStep": "core.errors",
    "WaitSpec": "core.flow_steps",
    "WaitTimedOut": "core.wait_errors",
    "WaitingFor": "client.readings",
    "WorkerEnded": "core.errors",
    "WorkflowCancelled": "core.errors",
    "WorkflowConflict": "core.errors",
    "WorkflowContext": "activities.context",
    "WorkflowCounts": "client.queries",
    "WorkflowDependencies": "activities.context",
    "WorkflowDispatcher": "client.dispatch",
    "WorkflowError": "core.errors",
    "WorkflowEvent": "core.events",
    "WorkflowFailed": "core.errors",
    "WorkflowHandle": "client.handle",
    "WorkflowLimits": "core.budget",
    "WorkflowLogFilter": "activities.log_fields",
    "WorkflowOrigin": "store.port",
    "WorkflowPage": "client.queries",
    "WorkflowParked": "core.errors",
    "WorkflowResult": "client.readings",
    "WorkflowStatus": "client.readings",
    "WorkflowSummary": "client.queries",
    "WorkflowWaits": "core.wait_errors",
    "Workflows": "client.queries",
    "activity": "activities.functions",
    "agent_events": "agents.agent_events",
    "diff_documents": "client.documents",
    "dispatch_document": "client.documents",
    "dispatch_document_sync": "client.documents",
    "edit_workflow": "client.edits",
    "edit_workflow_sync": "client.edits",
    "export_document": "client.documents",
    "export_document_sync": "client.documents",
    "for_each": "core.block_steps",
    "fork_workflow": "client.document_forks",
    "fork_workflow_sync": "client.document_forks",
    "get_transport": "broker.transport",
    "idempotency_key": "agents.durability",
    "install": "worker.install",
    "lint_document": "client.documents",
    "parallel": "core.block_steps",
    "read_document": "core.documents",
    "register_agent": "agents.agent",
    "register_task": "worker.celery_tasks",
    "schedule_entry": "worker.schedules",
    "sleep_for": "core.flow_steps",
    "sleep_until": "core.flow_steps",
    "sub_workflow": "core.block_steps",
    "wait_for": "core.flow_steps",
    "workflow_context": "activities.context",
    "write_document": "core.documents",
}

__all__ = [
    "ActivityExecutor",
    "ActivitySpec",
    "ActivityTimes",
    "Answered",
    "AskedCall",
    "BlockFailed",
    "BlockSpec",
    "Branch",
    "BranchOf",
    "BranchStatus",
    "Cause",
    "CeleryDurability",
    "CeleryTransport",
    "ConfigurationError",
    "DeadLetter",
    "DeadLetters",
    "DocumentChange",
    "DuplicateActivity",
    "Earlier",
    "EditRefused",
    "EditedWorkflow",
    "EmptyItinerary",
    "ExecutedStep",
    "Failure",
    "Finding",
    "ForkedWorkflow",
    "Frame",
    "FunctionActivity",
    "FunctionSpec",
    "GivenAnswer",
    "Histogram",
    "HopFailed",
    "Inbox",
    "InvalidAnswer",
    "InvalidDocument",
    "InvalidInput",
    "JoinMissed",
    "Later",
    "MessageError",
    "NoWorkflow",
    "NonDeterminismError",
    "NotPublished",
    "NotRecorded",
    "NotSent",
    "NotSerializable",
    "OutdatedVersion",
    "OutputRef",
    "PaigeantAgent",
    "PaigeantError",
    "PaigeantMessage",
    "PendingWait",
    "RegisteredActivity",
    "ReplayedError",
    "RoutingSlip",
    "Runner",
    "Runway",
    "Settings",
    "SignalRefused",
    "SleepSpec",
    "SlipDocument",
    "StepOutput",
    "StepPolicy",
    "Store",
    "StoreCorrupt",
    "StoreRequired",
    "TaskActivity",
    "TaskSignature",
    "TaskSpec",
    "TransientError",
    "Transport",
    "UnknownActivity",
    "UnknownTransport",
    "UnknownWait",
    "UnknownWorkflow",
    "Unreachable",
    "UsageError",
    "WaitFailed",
    "WaitInsideStep",
    "WaitSpec",
    "WaitTimedOut",
    "WaitingFor",
    "WorkerEnded",
    "WorkflowCancelled",
    "WorkflowConflict",
    "WorkflowContext",
    "WorkflowCounts",
    "WorkflowDependencies",
    "WorkflowDispatcher",
    "WorkflowError",
    "WorkflowEvent",
    "WorkflowFailed",
    "WorkflowHandle",
    "WorkflowLimits",
    "WorkflowLogFilter",
    "WorkflowOrigin",
    "WorkflowPage",
    "WorkflowParked",
    "WorkflowResult",
    "WorkflowStatus",
    "WorkflowSummary",
    "WorkflowWaits",
    "Workflows",
    "activity",
    "agent_events",
    "diff_documents",
    "dispatch_document",
    "dispatch_document_sync",
    "edit_workflow",
    "edit_workflow_sync",
    "export_document",
    "export_document_sync",
    "for_each",
    "fork_workflow",
    "fork_workflow_sync",
    "get_transport",
    "idempotency_key",
    "install",
    "lint_document",
    "parallel",
    "read_document",
    "register_agent",
    "register_task",
    "schedule_entry",
    "sleep_for",
    "sleep_until",
    "sub_workflow",
    "wait_for",
    "workflow_context",
    "write_document",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        # With `obj`, the traceback suggests the name that was meant.
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name, obj=modules[__name__])
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
