"""The pages: complaints come in, everybody sees where they stand, and whoever may make payments decides."""

from __future__ import annotations

from uuid import UUID

from django import forms
from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import permission_required
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST

from examples.approvals.refunds import euros
from examples.django_project.complaints.models import Complaint
from examples.django_project.complaints.workflows import begin, handle_of, questions
from paigeant_celery import TransientError, UnknownWait, UnknownWorkflow, WorkflowStatus

__all__ = ["again", "answer", "cancel", "complaint", "complaints"]

may_pay = permission_required("complaints.add_payment", raise_exception=True)


class ComplaintForm(forms.ModelForm):
    """What a customer writes."""

    class Meta:
        model = Complaint
        fields = ("customer", "text")


class AnswerForm(forms.Form):
    """What a person says to a refund: another amount may be typed."""

    call = forms.CharField(max_length=200)
    answer = forms.ChoiceField(choices=[("yes", "yes"), ("no", "no")])
    amount = forms.DecimalField(min_value=0, max_value=1_000_000, max_digits=9, decimal_places=2)
    reason = forms.CharField(max_length=500, required=False)


def complaints(request: HttpRequest) -> HttpResponse:
    """List complaints, and take a new one."""
    form = ComplaintForm(request.POST or None, initial={"customer": "Ann", "text": settings.COMPLAINTS_EXAMPLE})
    if request.method == "POST" and form.is_valid():
        with transaction.atomic():
            made = form.save()
            # Only when the complaint can be read by others: a worker may be faster than this transaction. If the
            # dispatch fails, the complaint stays, and its page has a button that begins its workflow. (No `partial`:
            # Django names in its log what failed, and a partial has no name.)
            transaction.on_commit(lambda: begin(made), robust=True)
        return redirect("complaint", made.pk)
    return render(request, "complaints/index.html", {"form": form, "complaints": Complaint.objects.all()[:50]})


def complaint(request: HttpRequest, key: UUID) -> HttpResponse:
    """Show where a complaint stands."""
    shown = get_object_or_404(Complaint, pk=key)
    context: dict[str, object] = {"complaint": shown}
    try:
        handle = handle_of(shown)
        status = handle.status_sync()
        shown.refresh_from_db()  # what a step of a completed workflow has written is there now
        context |= {"status": status, "steps": steps_of(status)}
        if status.state == "suspended" and request.user.has_perm("complaints.add_payment"):
            asked = [(call.id, dict(call.arguments)) for _, call in questions(handle).values()]
            context["questions"] = [(id_, euros(given["cents"]), given["reason"]) for id_, given in asked]
    except UnknownWorkflow:
        context["missing"] = True
    except TransientError:
        return away(request, shown)
    return render(request, "complaints/complaint.html", context)


def steps_of(status: WorkflowStatus) -> list[tuple[str, str]]:
    """Return each step with what it does now."""
    now = "waiting" if status.state == "suspended" else status.state
    ran = [(step, "done") for step in status.executed]
    if not status.remaining:
        return ran
    return [*ran, (status.remaining[0], now), *((step, "planned") for step in status.remaining[1:])]


@require_POST
@may_pay
def answer(request: HttpRequest, key: UUID) -> HttpResponse:
    """Approve or deny a refund."""
    asked_about = get_object_or_404(Complaint, pk=key)
    form = AnswerForm(request.POST)
    if not form.is_valid():
        return back(request, asked_about, "That is no amount.")
    given, handle = form.cleaned_data, handle_of(asked_about)
    try:
        token, call = questions(handle)[given["call"]]
        by = request.user.get_username()
        if given["answer"] == "yes":
            arguments = {**dict(call.arguments), "cents": int(given["amount"] * 100)}
            done = handle.approve_sync(token, call.id, override_args=arguments, by=by)
        else:
            done = handle.deny_sync(token, call.id, message=given["reason"] or "no reason was given", by=by)
    except (KeyError, UnknownWait, UnknownWorkflow):
        return back(request, asked_about, "Nobody asks this any more.")
    except TransientError:
        return away(request, asked_about)
    return back(request, asked_about, "" if done.taken else "Somebody else was faster.")


@require_POST
@may_pay
def cancel(request: HttpRequest, key: UUID) -> HttpResponse:
    """Cancel the workflow of a complaint."""
    cancelled = get_object_or_404(Complaint, pk=key)
    try:
        done = handle_of(cancelled).cancel_sync()
    except TransientError:
        return away(request, cancelled)
    return back(request, cancelled, "" if done else "It had ended before.")


@require_POST
@may_pay
def again(request: HttpRequest, key: UUID) -> HttpResponse:
    """Begin a workflow that was not begun, or let one that was set aside go on."""
    stuck = get_object_or_404(Complaint, pk=key)
    try:
        begin(stuck)
        handle_of(stuck).redrive_sync()
    except TransientError:
        return away(request, stuck)
    return back(request, stuck)


def away(request: HttpRequest, shown: Complaint) -> HttpResponse:
    """Say that the store does not answer; whether what was asked for is done is seen once it does."""
    return render(request, "complaints/complaint.html", {"complaint": shown, "away": True}, status=503)


def back(request: HttpRequest, shown: Complaint, problem: str = "") -> HttpResponse:
    """Lead back to the page of a complaint."""
    if problem:
        messages.error(request, problem)
    return redirect("complaint", shown.pk)
