"""The workflow of a complaint: what the web server knows of it, which loads no agent."""

from __future__ import annotations

from contextlib import suppress

from examples.django_project.complaints.models import Complaint
from examples.django_project.mysite.celery import app
from paigeant_celery import (
    ActivitySpec,
    AskedCall,
    FunctionSpec,
    NotPublished,
    WorkflowDispatcher,
    WorkflowHandle,
    get_transport,
)

__all__ = ["begin", "handle_of", "questions"]

dispatcher, transport = WorkflowDispatcher(), get_transport(app=app)


def begin(complaint: Complaint) -> None:
    """Begin the workflow of a complaint. It has the complaint's key, so a second call begins no second one."""
    steps: list[ActivitySpec | FunctionSpec] = [
        ActivitySpec("clerk", complaint.text),
        ActivitySpec("correspondent", f"Write to {complaint.customer}."),
        FunctionSpec("file_letter"),
    ]
    with suppress(NotPublished):  # then it is recorded, and will run
        dispatcher.dispatch_workflow_sync(transport, itinerary=steps, correlation_id=complaint.workflow)


def handle_of(complaint: Complaint) -> WorkflowHandle:
    """Return what the workflow of a complaint is watched and answered through."""
    return dispatcher.handle(complaint.workflow, transport)


def questions(handle: WorkflowHandle) -> dict[str, tuple[str, AskedCall]]:
    """Return the calls that wait for a person by their ids, each with the token that lets one answer."""
    waits = handle.pending_sync()
    return {call.id: (wait.token, call) for wait in waits for call in wait.calls if call.kind == "approval"}
